"""`python -m kropot`: the same as `kropotcli`."""

from __future__ import annotations

from kropot.cli.main import main

main()
