"""Events appended per second on each database, next to the raw driver: `python -m tests.bench.append --help`."""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import statistics
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ledger.log import Ledger
from ledger.sql import open_store
from tests.bench.append.writers import Task, run
from tests.ledger.databases import SQL_KINDS, fresh_url
from tests.ledger.world import began

if TYPE_CHECKING:
    from collections.abc import Sequence

WRITERS = (1, 4)
SIZES = {1000: 40_000, 1: 2_000}
"""Events in a batch -> events appended in a run, by all writers together."""


def main(arguments: Sequence[str]) -> int:
    """Measure, and print a line for each database, number of writers and batch size."""
    options = _options(arguments)
    print(f"# {platform.machine()}, Python {platform.python_version()}; medians of {options.repeat} runs, turn about")
    print(f"{'database':12}{'writers':>8}{'batch':>7}{'events/s':>11}{'raw driver':>12}{'ratio':>8}")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for kind in options.databases:
            try:
                _bench(kind, Path(folder), options.repeat)
            except pytest.skip.Exception as reason:
                print(f"{kind:12}left out: {reason}")
    return 0


def _bench(kind: str, folder: Path, repeat: int) -> None:
    for count in WRITERS:
        for size, events in SIZES.items():
            rates: dict[str, list[float]] = {"program": [], "raw": []}
            for turn in range(repeat):
                for who in ("program", "raw") if turn % 2 else ("raw", "program"):
                    task = Task(who=who, writers=count, events=events, size=size)
                    rates[who].append(_run(kind, folder, task))
            mine, theirs = (statistics.median(rates[who]) for who in ("program", "raw"))
            print(f"{kind:12}{count:>8}{size:>7}{mine:>11,.0f}{theirs:>12,.0f}{mine / theirs:>8.2f}", flush=True)


def _run(kind: str, folder: Path, task: Task) -> float:
    """Let the writers append to a fresh ledger; return events per second from the first start to the last end."""
    with fresh_url(kind, folder) as url:
        store = open_store(url, create=True)
        Ledger(store).append([began()])
        store.close()
        context = multiprocessing.get_context("spawn")
        with context.Manager() as manager, context.Pool(task.writers) as pool:
            gate = manager.Barrier(task.writers)
            spans = pool.starmap(run, [(task, url, writer, gate) for writer in range(task.writers)], chunksize=1)
        store = open_store(url, read_only=True)
        position = store.log.head().position
        store.close()
    if position != 2 + task.events:
        raise RuntimeError(f"{position} events are there, and {2 + task.events} should be")
    return task.events / (max(end for _, end in spans) - min(start for start, _ in spans))


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.append", description=__doc__)
    parser.add_argument("--databases", nargs="*", choices=SQL_KINDS, default=SQL_KINDS)
    parser.add_argument("--repeat", type=int, default=3, help="runs of each; the median counts")
    parser.add_argument("--folder", type=Path, help="where the SQLite files go: on the disk that is to be measured")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
