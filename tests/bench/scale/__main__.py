"""Whether rate and memory stay as the number of elements grows: python -m tests.bench.scale [COUNT ...] [--events N].

Each size is listed and collected from a server in the same process, through the program's own loop, object store and
ledger (SQLite); then `kropotcli replay` and `kropotcli verify` run over it, each in a process of its own. `--events`
adds a ledger alone, without objects.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

KROPOT = str(Path(sys.executable).with_name("kropotcli"))
SIZES = (10_000, 100_000, 1_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Took:
    """One process: wall and CPU seconds, and peak memory in MiB."""

    seconds: float
    cpu: float
    peak: float


def run(folder: Path, *command: str) -> Took:
    """Run a command to its end in `folder`. Raises: RuntimeError unless it succeeds."""
    began = time.monotonic()
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    with (folder / "output").open("ab") as output:
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=output)
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if status != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return Took(seconds=time.monotonic() - began, cpu=used.ru_utime + used.ru_stime, peak=used.ru_maxrss / 1024)


def work(folder: Path, what: str, count: int) -> Took:
    """Run one of the bench's own works in a process of its own."""
    return run(folder, sys.executable, "-m", "tests.bench.scale.work", what, str(folder), str(count))


def show(what: str, count: int, took: Took, note: str = "") -> None:
    """Print one line of the table."""
    figures = f"{took.seconds:>9.1f} {took.cpu:>9.1f} {count / took.seconds:>11,.0f} {took.peak:>8.0f}"
    print(f"{what:<18} {count:>10,} {figures}  {note}".rstrip())
    sys.stdout.flush()


def size_of(folder: Path) -> int:
    """Return the bytes of the ledger's database."""
    return sum(path.stat().st_size for path in folder.glob("database.db*"))


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scale", description=__doc__)
    parser.add_argument("counts", nargs="*", type=int, default=SIZES, help="so many elements; a line each")
    parser.add_argument("--events", type=int, default=0, help="also so many events in a ledger alone, e.g. 10000000")
    parser.add_argument("--folder", type=Path, default=None, help="where to work; a temporary folder unless named")
    asked = parser.parse_args()
    print(f"{'what':<18} {'count':>10} {'seconds':>9} {'CPU s':>9} {'count/s':>11} {'MiB':>8}")
    with tempfile.TemporaryDirectory(prefix="kropot-scale-", dir=asked.folder) as place:
        for count in asked.counts:
            folder = Path(place) / f"elements-{count}"
            folder.mkdir()
            show("list and collect", count, work(folder, "collect", count))
            bytes_each = size_of(folder) / count
            show("replay", count, run(folder, KROPOT, "replay", "--json"), f"ledger {bytes_each:,.0f} bytes an element")
            show("replay --list", count, run(folder, KROPOT, "replay", "--list", "--json"))
            show("verify", count, run(folder, KROPOT, "verify"))
        if asked.events:
            folder = Path(place) / "events"
            folder.mkdir()
            show("append", asked.events, work(folder, "events", asked.events))
            each = size_of(folder) / asked.events
            show("rebuild", asked.events, run(folder, KROPOT, "rebuild"), f"ledger {each:,.0f} bytes an event")
            show("replay", asked.events, run(folder, KROPOT, "replay", "--json", "--no-digest"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
