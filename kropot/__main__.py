"""The program, as `kropotcli` and as `python -m kropot`. Ctrl-C while it starts ends it without a traceback."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the program."""
    try:
        from kropot.cli.main import main as run  # the first tenths of a second

        run()
    except KeyboardInterrupt:
        sys.exit(130)  # Exit.INTERRUPTED, whose module may not be there yet


if __name__ == "__main__":
    main()
