"""A folder at one end and a backup of it at the other, next to the programs that people know.

`python -m tests.bench.endtoend [--sets small large] [--peers "kropotcli cbc" restic] [--repeat N]`

The peers whose names end in "s3" keep their backup in a bucket of SeaweedFS, which runs on this machine meanwhile.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from tests.bench.collect.measure import measure
from tests.bench.endtoend import bucket as buckets
from tests.bench.endtoend.dataset import SETS, change, count_links, differs, regular_files
from tests.bench.endtoend.peers import PEERS, STEPS, KropotCli, Peer, Place, Step

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.bench.endtoend.bucket import Bucket
    from tests.bench.endtoend.dataset import DataSet

_TITLES = {"first": "first backup", "idle": "nothing changed", "changed": "1 % changed", "restore": "restore"}
_MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One step: seconds, processor seconds and peak bytes of the program, and the same of its other side, if any."""

    took_s: float
    cpu_s: float
    peak: int
    scan_s: float | None = None
    server_cpu_s: float | None = None
    server_peak: int | None = None


class FailedError(Exception):
    """A peer did not do what was asked, so none of its numbers count."""


def main(arguments: Sequence[str]) -> int:
    """Measure, and print a table for each data set; return 1 if kropotcli itself failed."""
    options = _options(arguments)
    peers = [peer for peer in PEERS if not options.peers or peer.name in options.peers]
    _say_where(options, peers)
    peers = [peer for peer in peers if not peer.missing]
    failed = set[str]()
    with ExitStack() as stack:
        bucket = None
        if any(peer.in_bucket for peer in peers):
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="endtoend-bucket-", dir=options.data))
            bucket = stack.enter_context(buckets.running(Path(folder)))
        for data in SETS:
            if not options.sets or data.name in options.sets:
                if data.copied is not None and not data.copied.is_dir():
                    print(f"\n{data.title}: there is no such folder here")
                    continue
                failed |= _bench(data.times(options.times).divided(options.divide), peers, options, bucket)
    return 1 if any(isinstance(peer, KropotCli) and peer.name in failed for peer in peers) else 0


def _bench(data: DataSet, peers: list[Peer], options: argparse.Namespace, bucket: Bucket | None) -> set[str]:
    taken: dict[tuple[str, Step], list[Result]] = {}
    failed: dict[str, str] = {}
    links: dict[str, int] = {}
    with tempfile.TemporaryDirectory(prefix=f"endtoend-{data.name}-", dir=options.data) as folder:
        source = Path(folder) / "source"
        data.make(source)
        for repeat in range(options.repeat):
            # Whoever comes first meets the quietest machine: everyone does once.
            turn = repeat % len(peers)
            for peer in peers[turn:] + peers[:turn]:
                work = Path(folder) / f"{repeat}-{peers.index(peer)}"
                place = Place(source=source, work=work, in_bucket=bucket)
                try:
                    for step, result in _life(peer, place, seed=repeat):
                        taken.setdefault((peer.name, step), []).append(result)
                    links[peer.name] = count_links(peer.restored(place))
                except (FailedError, RuntimeError) as error:
                    failed[peer.name] = str(error)
                except subprocess.CalledProcessError as error:
                    failed[peer.name] = " ".join(str(error.stderr).strip().splitlines()[-1:])
                shutil.rmtree(place.work, ignore_errors=True)
        _print(data, peers, taken, failed)
        if linked := count_links(source):
            print("symlinks: " + ", ".join(f"{name} {number:,} of {linked:,}" for name, number in links.items()))
    return set(failed)


def _life(peer: Peer, place: Place, *, seed: int) -> Iterator[tuple[Step, Result]]:
    """Back up, back up what did not change, change it, back up again, and restore."""
    for folder in (place.work, place.kept, place.back, place.work / "home"):
        folder.mkdir()
    peer.prepare(place)
    for step in STEPS:
        if step == "changed":
            change(place.source, seed)
        for path in regular_files(place.source):  # everyone finds the files in the page cache
            with path.open("rb", buffering=0) as file:
                while file.read(_MIB):
                    pass
        with peer.serving(place, step) as gateway:
            log = place.work / f"{step}.txt"
            ran = measure(peer.command(place, step), into=place.work, cwd=place.back, env=place.env, log=log)
        if ran.problem is not None:
            raise FailedError(f"{_TITLES[step]}: {ran.problem}")
        served = None if gateway is None else gateway.served
        yield (
            step,
            Result(
                took_s=ran.wall_s if step in peer.syncs else ran.synced_s,
                cpu_s=ran.cpu_s,
                peak=ran.peak,
                scan_s=None if served is None else served.scan_s,
                server_cpu_s=None if served is None else served.cpu_s,
                server_peak=None if served is None else served.peak,
            ),
        )
    wrong = differs(place.source, peer.restored(place))
    if wrong is not None:
        raise FailedError(f"what was restored is not the folder: {wrong}")


def _print(
    data: DataSet, peers: list[Peer], taken: dict[tuple[str, Step], list[Result]], failed: dict[str, str]
) -> None:
    print(f"\n{data.title}\n{'':33}{'seconds':>9}{'to it':>8}{'CPU s':>8}{'MiB':>7}{'scan s':>9}{'CPU s':>8}{'MiB':>7}")
    for step in STEPS:
        first = None if peers[0].name in failed else taken.get((peers[0].name, step))
        for peer in peers:
            results = taken.get((peer.name, step))
            if results is None or peer.name in failed:
                continue
            took_s = median(each.took_s for each in results)
            ratio = "" if not first else f"{took_s / median(each.took_s for each in first):.2f}x"
            line = f"{_TITLES[step]:16}{peer.name:17}{took_s:9.2f}{ratio:>8}{median(e.cpu_s for e in results):8.2f}"
            line += f"{median(e.peak for e in results) / _MIB:7.0f}"
            served = [e for e in results if e.scan_s is not None]
            if served:
                line += f"{median(e.scan_s or 0 for e in served):9.2f}"
                line += f"{median(e.server_cpu_s or 0 for e in served):8.2f}"
                line += f"{median(e.server_peak or 0 for e in served) / _MIB:7.0f}"
            print(line, flush=True)
    for name, why in failed.items():
        print(f"{name} does not count: {why}", flush=True)


def _say_where(options: argparse.Namespace, peers: list[Peer]) -> None:
    load = os.getloadavg()[0]
    print(f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}, load {load:.1f}")
    print(f"medians of {options.repeat}; everything on one machine, the files in the page cache")
    for peer in peers:
        print(f"  {peer.name}: {'not installed, and left out' if peer.missing else peer.does}")
    print("columns: seconds of the program (with a final sync for what does not sync by itself), against the first")
    print("(above 1: the first is faster by that factor), CPU seconds and peak memory of all its processes; then the")
    print("gateway's: seconds from its start until it had scanned the folder and everything in it had settled (not in")
    print("the first column; the others look for changes within it), CPU seconds with that scan, and peak memory")


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.endtoend")
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()), help="where to write (%(default)s)")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each (%(default)s)")
    parser.add_argument("--times", type=int, default=1, help="have so many times the files (%(default)s)")
    parser.add_argument("--divide", type=int, default=1, help="make everything so many times smaller (%(default)s)")
    parser.add_argument("--sets", nargs="*", choices=[one.name for one in SETS], help="only these")
    parser.add_argument("--peers", nargs="*", choices=[peer.name for peer in PEERS], help="only these")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
