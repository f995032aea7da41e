"""Whether rate and memory stay as the number of elements grows: python -m tests.bench.scale [COUNT ...] [--events N].

Each size is listed and collected from a server that the collector's own process makes up, through the program's own
loop, object store, ledger (SQLite, or the server that `--database` names) and upkeep; then `kropotcli replay` and
`kropotcli verify` run over it. `--events` adds a ledger alone, without objects: appended, audited, replayed. Each line
is a process of its own, printed when it ends, with its wall and CPU seconds and its peak memory; how far it is, and
what each one cost since the last time, goes to the standard error meanwhile. A database server's own work is in the
wall time alone.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ledger.sql import parse_place
from ledger.sql.rights import describe_server
from tests.ledger.databases import SQL_KINDS, fresh_url

if TYPE_CHECKING:
    from collections.abc import Mapping

KROPOT = str(Path(sys.executable).with_name("kropotcli"))
SIZES = (10_000, 100_000, 1_000_000)

ELEMENT_BYTES = 8000
EVENT_BYTES = 1100
"""What an element, or an event alone, takes on the disk at most: for what is said before it begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Took:
    """One process: wall and CPU seconds, and peak memory in MiB."""

    seconds: float
    cpu: float
    peak: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """One ledger: where its files are, and its URL."""

    folder: Path
    url: str

    def run(self, *command: str) -> Took:
        """Run a command to its end. Raises: RuntimeError unless it succeeds."""
        paths = {"PYTHONPATH": str(Path(__file__).parents[3]), "KROPOT_DB_STRING": self.url}
        return run(self.folder, {**os.environ, **paths}, *command)

    def work(self, what: str, count: int) -> Took:
        """Run one of the bench's own works in a process of its own."""
        return self.run(sys.executable, "-m", "tests.bench.scale.work", what, str(self.folder), str(count))

    def ledger_bytes(self) -> int:
        """Return what the database takes."""
        return describe_server(parse_place(self.url))[1]


def run(folder: Path, env: Mapping[str, str], *command: str) -> Took:
    """Run a command to its end in `folder`. Raises: RuntimeError unless it succeeds."""
    began = time.monotonic()
    with (folder / "output").open("ab") as output:
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=output)
        try:
            _, status, used = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
    process.returncode = os.waitstatus_to_exitcode(status)
    if status != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return Took(seconds=time.monotonic() - began, cpu=used.ru_utime + used.ru_stime, peak=used.ru_maxrss / 1024)


def show(what: str, count: int, took: Took, note: str = "") -> None:
    """Print one line of the table."""
    figures = f"{took.seconds:>9.1f} {took.cpu:>9.1f} {count / took.seconds:>11,.0f} {took.peak:>8.0f}"
    print(f"{what:<18} {count:>10,} {figures}  {note}".rstrip())
    sys.stdout.flush()


def tell(text: str) -> None:
    """Say how it goes to whoever waits."""
    print(f"{time.strftime('%H:%M:%S', time.gmtime())}  {text}", file=sys.stderr, flush=True)


def elements(bench: Bench, count: int) -> None:
    """Print the lines of one number of elements."""
    tell(f"{count:,} elements: list and collect")
    took = bench.work("collect", count)
    ledger = bench.ledger_bytes() / count
    segments = sum(path.stat().st_size for path in (bench.folder / "storage" / "ledger").iterdir()) / count
    show("list and collect", count, took, f"an element: ledger {ledger:,.0f} bytes, segments {segments:,.0f}")
    for what, command in (
        ("replay", ("replay", "--json")),
        ("replay --list", ("replay", "--list", "--json")),
        ("verify", ("verify",)),
    ):
        tell(f"{count:,} elements: {what}")
        show(what, count, bench.run(KROPOT, *command))


def events(bench: Bench, count: int) -> None:
    """Print the lines of a ledger alone."""
    tell(f"{count:,} events: append")
    took = bench.work("append", count)
    show("append", count, took, f"an event: {bench.ledger_bytes() / count:,.0f} bytes")
    tell(f"{count:,} events: audit")
    show("audit", count, bench.work("audit", count))
    for what, options in (("replay", ()), ("replay --no-digest", ("--no-digest",))):
        tell(f"{count:,} events: {what}")
        show(what, count, bench.run(KROPOT, "replay", "--json", *options))


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scale", description=__doc__)
    parser.add_argument("counts", nargs="*", type=int, help=f"so many elements; {' '.join(map(str, SIZES))} by default")
    parser.add_argument("--events", type=int, default=0, help="so many events in a ledger alone, e.g. 10000000")
    parser.add_argument("--database", choices=SQL_KINDS, default="sqlite", help="where the ledger is kept")
    parser.add_argument("--folder", type=Path, default=None, help="where to work; a temporary folder unless named")
    asked = parser.parse_args()
    counts = asked.counts or (() if asked.events else SIZES)
    # Whoever stops this gets the disk back, too.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    with tempfile.TemporaryDirectory(prefix="kropot-scale-", dir=asked.folder) as place:
        needs = sum(counts) * ELEMENT_BYTES + asked.events * EVENT_BYTES
        free = shutil.disk_usage(place).free
        tell(f"at work below {place}, which will take up to {needs / 1e9:.1f} GB of {free / 1e9:.1f} that are free")
        if needs > free:
            sys.exit("that is too much: name another place with --folder, or fewer elements")
        print(f"{'what':<18} {'count':>10} {'seconds':>9} {'CPU s':>9} {'count/s':>11} {'MiB':>8}", flush=True)
        # Nothing is removed before the end: ext4 makes new files far slower for minutes after that.
        with ExitStack() as stack:
            for name, count in [*((f"elements-{count}", count) for count in counts), ("events", asked.events)]:
                folder = Path(place) / name
                folder.mkdir()
                if count:
                    bench = Bench(folder=folder, url=stack.enter_context(fresh_url(asked.database, folder)))
                    (events if name == "events" else elements)(bench, count)
        tell("done: removing everything")
    return 0


if __name__ == "__main__":
    sys.exit(main())
