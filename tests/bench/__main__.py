"""`make bench`: run every bench of this folder, or those named on the command line, one after the other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main(names: list[str]) -> int:
    """Run the benches; return 1 if one of them failed."""
    known = sorted(path.parent.name for path in HERE.glob("*/__main__.py"))
    unknown = set(names) - set(known)
    if unknown:
        print(f"no bench is called {', '.join(sorted(unknown))}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    failed = [name for name in names or known if subprocess.call([sys.executable, "-m", f"tests.bench.{name}"])]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
