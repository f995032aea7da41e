"""The program, as `kropotcli` and as `python -m kropot`. Ctrl-C during the start ends it without a traceback."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the program."""
    try:
        from kropot.cli.main import main as run  # takes tenths of a second

        run()
    except KeyboardInterrupt:
        sys.exit(130)  # Exit.INTERRUPTED, whose module might not be loaded yet


if __name__ == "__main__":
    main()
