"""What `prune --dry-run` costs as a ledger grows: python -m tests.bench.retention [ELEMENTS ...] [--data FOLDER].

Each ledger holds a year of monthly rounds, each of which changes 3 percent of all elements and finds some gone. So a
third of the elements have older versions, and the policy lets most of those go. Each line is a process of its own, with
its wall and CPU seconds and the peak memory of its largest process. Making a ledger takes 2.3 kB of disk an element.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.retention.history import make

SIZES = (100_000, 1_000_000)
ELEMENT_BYTES = 2_300
POLICY = "[retention]\nkeep-daily = 7\nkeep-weekly = 4\nkeep-monthly = 3\n"


def main() -> int:
    """Make each ledger, decide about it, and print a line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.retention", description=__doc__)
    parser.add_argument("elements", nargs="*", type=int, default=SIZES, metavar="ELEMENTS")
    parser.add_argument("--data", type=Path, help="where to keep ledgers for the next time (default: nowhere)")
    options = parser.parse_args()
    print(f"{'elements':>12} {'events':>12} {'seconds':>9} {'CPU s':>9} {'MiB':>6} {'would go':>10}")
    with tempfile.TemporaryDirectory(prefix="kropot-bench-") as scratch:
        for count in options.elements:
            folder = Path(scratch) if options.data is None else options.data
            path = folder / f"retention-{count}.db"
            if not path.exists():
                _make(path, count)
            _measure(path, count, Path(scratch))
            if options.data is None:
                path.unlink()
    return 0


def _make(path: Path, count: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if free < count * ELEMENT_BYTES:
        raise SystemExit(f"{count:,} elements need {count * ELEMENT_BYTES / 1e9:.0f} GB in {path.parent}")
    print(f"making a ledger of {count:,} elements", file=sys.stderr, flush=True)
    draft = path.with_suffix(".part")
    draft.unlink(missing_ok=True)
    # In a process of its own: this one's memory would count as that of those that it starts.
    maker = multiprocessing.get_context("spawn").Process(target=make, args=(draft, count))
    maker.start()
    maker.join()
    if maker.exitcode:
        raise SystemExit(f"the ledger of {count:,} elements could not be made")
    draft.rename(path)


def _measure(path: Path, count: int, scratch: Path) -> None:
    config = scratch / "kropot.toml"
    config.write_text(POLICY)
    options = ("--config", str(config), "--db-string", f"sqlite:///{path}", "prune", "--dry-run", "--json")
    began = time.monotonic()
    with (scratch / "output").open("w+b") as output:
        process = subprocess.Popen([sys.executable, "-m", "kropot", *options], stdout=output)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - began
        if process.returncode:
            raise SystemExit(f"prune ended with {process.returncode}")
        output.seek(0)
        said = json.loads(output.read())
    cpu = used.ru_utime + used.ru_stime
    events, copies = said["position"], said["copies"]
    print(f"{count:>12,} {events:>12,} {seconds:>9.1f} {cpu:>9.1f} {used.ru_maxrss / 1024:>6.0f} {copies:>10,}")


if __name__ == "__main__":
    raise SystemExit(main())
