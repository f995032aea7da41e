"""Verifying, next to sha256sum, restic and borg over the same files: `python -m tests.bench.verify --help`.

The replica is verified by `kropotcli verify` itself. Its own summary tells how long reading the copies took, which is
what the peers do; the audit of ledger and index, which they have nothing like, is told apart. Files are in the page
cache, as the warm figures of docs/performance.md are.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.bench.verify.replica import make

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SETS = {"small": (20_000, 4 << 10), "packed": (20_000, 4 << 10), "large": (4, 256 << 20)}
"""Name -> number of objects and bytes of each; those of "packed" lie in packs."""

AUDIT = "audit"
"""The part that reads no copies."""

SECRET = {"RESTIC_PASSWORD": "bench", "BORG_PASSPHRASE": "bench", "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes"}


def main(arguments: Sequence[str]) -> int:
    """Measure and print."""
    options = _options(arguments)
    print(f"# {platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}; medians of")
    print(f"# {options.repeat} runs, turn about, files in the page cache; load before: {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for name, (count, size) in SETS.items():
            if name in options.only:
                _copies(Path(folder) / name, name, count // options.divide or 1, size, options.repeat)
        if AUDIT in options.only:
            _audit(Path(folder) / "audit", options.events // options.divide, options.repeat)
    return 0


# --- copies ----------------------------------------------------------------------------------------------------------


def _copies(folder: Path, name: str, count: int, size: int, repeat: int) -> None:
    folder.mkdir()
    make(folder, count=count, size=size, packed=name == "packed")
    files = sorted((folder / "storage" / ("packs" if name == "packed" else "objects")).glob("*/*"))
    summed = subprocess.run(["sha256sum", *files], capture_output=True, check=True).stdout
    (folder / "sums").write_bytes(summed)
    runs: dict[str, Callable[[], float]] = {
        "sha256sum -c": lambda: _timed("sha256sum", "--quiet", "-c", str(folder / "sums")),
        "kropotcli verify": lambda: _verify(folder),
        **_restic(folder),
        **_borg(folder),
    }
    times: dict[str, list[float]] = {who: [] for who in runs}
    for turn in range(repeat):
        for who in list(runs) if turn % 2 else reversed(list(runs)):
            times[who].append(runs[who]())
    base = statistics.median(times["sha256sum -c"])
    print(f"\n{name}: {count:,} x {size:,} bytes")
    print(f"{'':30}{'objects/s':>12}{'MB/s':>9}{'x sha256sum':>13}")
    for who, found in times.items():
        seconds = statistics.median(found)
        print(
            f"{who:30}{count / seconds:>12,.0f}{count * size / seconds / 1e6:>9,.0f}{base / seconds:>13.2f}", flush=True
        )


def _verify(folder: Path) -> float:
    return float(_summary(folder)["covered"]["copies"]["seconds"])


def _summary(folder: Path, *more: str) -> dict[str, Any]:
    """Verify, and return the summary; a replica that is not sound makes no bench."""
    program = Path(sys.executable).with_name("kropotcli")
    where = ["--db-string", f"sqlite:///{folder}/ledger.db", "--storage-path", str(folder / "storage")]
    done = subprocess.run([program, "--json", *where, "verify", "--no-record", *more], capture_output=True, check=True)
    summary: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if not summary["sound"] or not summary["complete"]:
        raise RuntimeError(summary)
    return summary


def _restic(folder: Path) -> dict[str, Callable[[], float]]:
    """Put the same files into a restic repository, where restic is installed."""
    if shutil.which("restic") is None:
        return {}
    repository = ["restic", "--no-cache", "-q", "-r", str(folder / "restic")]
    _timed(*repository, "init")
    _timed(*repository, "backup", str(folder / "storage"))
    return {"restic check --read-data": lambda: _timed(*repository, "check", "--read-data")}


def _borg(folder: Path) -> dict[str, Callable[[], float]]:
    """Put the same files into a borg repository, where borg is installed."""
    if shutil.which("borg") is None:
        return {}
    repository = str(folder / "borg")
    _timed("borg", "init", "-e", "repokey", repository)
    _timed("borg", "create", "-C", "none", f"{repository}::one", str(folder / "storage"))
    return {"borg check --verify-data": lambda: _timed("borg", "check", "--verify-data", repository)}


def _timed(*command: str) -> float:
    began = time.perf_counter()
    subprocess.run(
        command, check=True, env={**os.environ, **SECRET}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    return time.perf_counter() - began


# --- ledger and index ------------------------------------------------------------------------------------------------


def _audit(folder: Path, events: int, repeat: int) -> None:
    """Audit ledgers of two sizes: rate in one process and in all, and how much memory the larger one takes more."""
    heads = f"{'one process':>12}{'a CPU s':>9}{'everywhere':>12}{'index rows/s':>14}{'peak MiB':>10}"
    print(f"\n{'ledger: events/s':30}{heads}")
    for count in (events // 4, events):
        place = folder / str(count)
        place.mkdir(parents=True)
        make(place, count=count // 2, size=None)
        rates, cpu_rates, all_rates, rows, peaks = [], [], [], [], []
        for _ in range(repeat):
            script = (sys.executable, "-m", "tests.bench.verify", "--audit-one", str(place / "ledger.db"))
            found = json.loads(subprocess.run(script, capture_output=True, check=True).stdout)
            rates.append(found["events"] / found["wall_s"])
            cpu_rates.append(found["events"] / found["cpu_s"])
            all_rates.append(found["events"] / found["everywhere_s"])
            rows.append(found["rows"] / found["index_s"])
            peaks.append(found["peak"])
        one, cpu, everywhere, row = (statistics.median(each) for each in (rates, cpu_rates, all_rates, rows))
        shown = f"{one:>12,.0f}{cpu:>9,.0f}{everywhere:>12,.0f}{row:>14,.0f}{max(peaks) / 2**20:>10,.0f}"
        print(f"{f'{count:,} events':30}{shown}", flush=True)


def _audit_one(database: str) -> None:
    """Audit one ledger in this process, and again on every processor; print what it took as JSON."""
    import gc

    from kropot.processes import processors
    from kropot.replay.processes import in_processes
    from ledger.audit import IndexAudit, LogAudit
    from ledger.log import Ledger
    from ledger.sql import open_store

    gc.set_threshold(50_000, 20, 50)
    store = open_store(f"sqlite:///{database}", read_only=True)
    began, cpu = time.perf_counter(), time.process_time()
    log = LogAudit(store.log)
    flaws = list(log.findings())
    wall_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    began = time.perf_counter()
    index = IndexAudit(store, log)
    flaws += index.findings()
    ledger, began, rows_s = Ledger(store), time.perf_counter(), time.perf_counter() - began
    again = LogAudit(
        store.log,
        run_ranges=lambda read, ranges: in_processes(
            lambda there, _, each: read(there.log, each), ledger, 0, ranges, processes=processors()
        ),
    )
    flaws += again.findings()
    everywhere_s = time.perf_counter() - began
    if flaws or again.frontier != log.frontier:
        raise RuntimeError(flaws[:3])
    found = {"events": log.position, "wall_s": wall_s, "cpu_s": cpu_s}
    found |= {"rows": index.rows, "index_s": rows_s, "everywhere_s": everywhere_s}
    print(json.dumps({**found, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.verify", description=__doc__)
    parser.add_argument("--repeat", type=int, default=3, help="runs of each (%(default)s)")
    parser.add_argument("--divide", type=int, default=1, help="make everything so many times smaller (%(default)s)")
    parser.add_argument("--events", type=int, default=400_000, help="events of the larger ledger (%(default)s)")
    every = [*SETS, AUDIT]
    parser.add_argument("--only", nargs="+", choices=every, default=every, help="parts to measure (all)")
    parser.add_argument("--folder", help="where to put several GB for the while")
    parser.add_argument("--audit-one", metavar="DATABASE", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    if "--audit-one" in sys.argv:
        _audit_one(_options(sys.argv[1:]).audit_one)
        raise SystemExit(0)
    raise SystemExit(main(sys.argv[1:]))
