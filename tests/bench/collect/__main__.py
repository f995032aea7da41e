"""Collecting from nginx, next to the downloaders that people know: `python -m tests.bench.collect --help`."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.collect.dataset import SETS
from tests.bench.collect.measure import Run, check, measure, middle
from tests.bench.collect.peers import PEERS, Peer, Task
from tests.bench.collect.servers import nginx_path, serving

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.bench.collect.dataset import DataSet

_DEFAULT_DATA = Path(tempfile.gettempdir()) / f"kropot-bench-{os.getuid()}"
_SETTLED_S = 8
_HEADLINE = (
    f"{'':24}{'files/s':>10}{'synced':>10}{'MB/s':>9}{'synced':>9}{'CPU s':>8}{'peak MiB':>10}{'to it':>9}{'synced':>9}"
)


def main(arguments: Sequence[str]) -> int:
    """Measure, and print a table for each data set; return 1 if the program itself failed."""
    options = _options(arguments)
    if nginx_path() is None:
        print("nginx is not installed: nothing was measured")
        return 0
    _say_where(options)
    failed = False
    for data in SETS:
        if options.sets and data.name not in options.sets:
            continue
        data.make(options.data)
        failed |= _bench(data, options)
    return 1 if failed else 0


def _bench(data: DataSet, options: argparse.Namespace) -> bool:
    peers = [peer for peer in PEERS if not options.peers or peer.name in options.peers]
    for peer in peers:
        if peer.missing:
            print(f"{peer.name} is not installed, and is left out")
    peers = [peer for peer in peers if not peer.missing]
    runs: dict[str, list[Run]] = {peer.name: [] for peer in peers}
    folder = Path(tempfile.mkdtemp(prefix=f"run-{data.name}-", dir=options.data))
    try:
        with serving(data, options.data) as url:
            data.warm(options.data)
            for repeat in range(options.repeat):
                # Whoever comes first meets the quietest machine: everyone does once.
                turn = repeat % len(peers)
                for peer in peers[turn:] + peers[:turn]:
                    runs[peer.name].append(_run(peer, data, url, folder / f"{repeat}-{peers.index(peer)}"))
        _print(data, peers, {name: middle(measured) for name, measured in runs.items()})
    finally:
        # Removed only when all is measured: a file system that has just deleted many files is slow to make new ones.
        shutil.rmtree(folder)
    return any(run.problem for run in runs.get(PEERS[0].name, []))


def _run(peer: Peer, data: DataSet, url: str, folder: Path) -> Run:
    task = Task(data=data, url=url, out=folder / "out", work=folder / "work")
    task.out.mkdir(parents=True)
    task.work.mkdir()
    run = measure(peer.command(task), into=task.out, cwd=task.work)
    wrong = check(task.out, files=data.files, size=data.size)
    if data.bytes > 1 << 30:
        shutil.rmtree(task.out)
        # A virtual machine gives freed memory back within seconds: whoever starts sooner than that has it for nothing.
        time.sleep(_SETTLED_S)
    if run.problem is None and wrong is not None:
        return Run(wall_s=run.wall_s, synced_s=run.synced_s, cpu_s=run.cpu_s, peak=run.peak, problem=wrong)
    return run


def _print(data: DataSet, peers: list[Peer], runs: dict[str, Run]) -> None:
    print(f"\n{data.title}\n{_HEADLINE}")
    first = runs.get(PEERS[0].name)
    for peer in peers:
        run = runs[peer.name]
        if run.problem is not None:
            print(f"{peer.name:24}  does not count: {run.problem}")
            continue
        # What syncs by itself is as durable before the final sync as after it.
        ours = None if first is None else first.wall_s
        own = "" if ours is None else f"{run.wall_s / ours:8.2f}x"
        synced = "" if ours is None else f"{(run.wall_s if peer.durable else run.synced_s) / ours:8.2f}x"
        print(
            f"{peer.name:24}{data.files / run.wall_s:10,.0f}{data.files / run.synced_s:10,.0f}"
            f"{data.bytes / run.wall_s / 1e6:9,.0f}{data.bytes / run.synced_s / 1e6:9,.0f}"
            f"{run.cpu_s:8.2f}{run.peak / (1 << 20):10,.0f}{own:>9}{synced:>9}",
            flush=True,
        )


def _say_where(options: argparse.Namespace) -> None:
    free = shutil.disk_usage(options.data).free / 1e9
    print(f"{platform.platform()}, {os.cpu_count()} processors, Python {platform.python_version()}, {free:.0f} GB free")
    print(f"medians of {options.repeat}; nginx with one worker on the same machine, its files in the page cache")
    print("columns: files/s, the same with a final sync of the file system; MB/s likewise; the time that it took")
    print("against kropotcli's, without and with the sync (above 1: kropotcli is faster by that factor)")


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.collect")
    parser.add_argument("--data", type=Path, default=_DEFAULT_DATA, help="where files are made (%(default)s)")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each (%(default)s)")
    parser.add_argument("--sets", nargs="*", choices=[one.name for one in SETS], help="only these")
    parser.add_argument("--peers", nargs="*", choices=[peer.name for peer in PEERS], help="only these")
    options = parser.parse_args(arguments)
    options.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    return options


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
