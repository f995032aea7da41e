"""Going back in long histories: `python -m tests.bench.replay --help`.

Fold rates stand next to the rate at which raw sqlite3 reads the same rows in the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.bench.replay.history import make
from tests.bench.replay.questions import QUESTIONS

if TYPE_CHECKING:
    from collections.abc import Sequence

_WHOLE = ("raw sqlite3, all columns", "raw sqlite3, position and stream")
_ONCE = ("taking every snapshot",)


def main(arguments: Sequence[str]) -> int:
    """Make the ledgers that are missing, ask every question of each, print a table."""
    options = _options(arguments)
    versions = f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
    print(f"{platform.machine()}, {os.cpu_count()} cores, {versions}")
    failed = False
    for events in options.events:
        path = options.data / f"{events}.db"
        if not path.exists():
            _make(path, events)
        failed |= _bench(path, events, options)
    return 1 if failed else 0


def _make(path: Path, events: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".part")
    for left in path.parent.glob(f"{draft.name}*"):
        left.unlink()
    began = time.perf_counter()
    make(draft, events, say=lambda text: print(f"  writing: {text}", file=sys.stderr, flush=True))
    seconds = time.perf_counter() - began
    draft.rename(path)
    size = path.stat().st_size / 1e9
    print(f"wrote {events:,} events ({size:.1f} GB) through the ledger's own append: {events / seconds:,.0f} events/s")


def _bench(path: Path, events: int, options: argparse.Namespace) -> bool:
    print(f"\n{events:,} events")
    print(f"{'':42}{'until':>12}{'seconds':>10}{'events/s':>13}{'CPU s':>8}{'peak MiB':>10}  of raw  answer")
    answers: dict[tuple[str, int], set[str]] = {}
    raw: dict[int, float] = {}
    for name in QUESTIONS:
        positions = (events,) if name in _ONCE else (events // 2, events)
        for position in positions:
            runs = [_ask(name, path, position) for _ in range(1 if name in _ONCE else options.repeat)]
            seconds = statistics.median(run["seconds"] for run in runs)
            cpu = statistics.median(run["cpu"] for run in runs)
            if name == _WHOLE[0]:
                raw[position] = seconds
            share = "" if name in _ONCE or name == "root" else f"{raw[position] / seconds:.2f}"
            print(
                f"{name:42}{position:>12,}{seconds:>10.2f}{position / seconds:>13,.0f}{cpu:>8.2f}"
                f"{max(run['peak'] for run in runs):>10.0f}  {share:>6}  {runs[0]['answer']}",
                flush=True,
            )
            kind = name.split(": ")[-1]
            answers.setdefault((kind, position), set()).update(run["answer"] for run in runs)
    differing = [kind for (kind, _), found in answers.items() if len(found) > 1]
    if differing:
        print(f"the answers with and without snapshots differ: {', '.join(differing)}", file=sys.stderr)
    return bool(differing)


def _ask(name: str, path: Path, position: int) -> dict[str, Any]:
    line = [sys.executable, "-m", "tests.bench.replay.questions", name, str(path), str(position)]
    ran = subprocess.run(line, capture_output=True, text=True, check=True)
    answer: dict[str, Any] = json.loads(ran.stdout)
    return answer


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.replay", description=__doc__)
    parser.add_argument("--events", type=int, nargs="+", default=[1_000_000], help="sizes of the histories")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each question; the median counts")
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(tempfile.gettempdir()) / f"kropot-bench-{os.getuid()}" / "replay",
        help="where the ledgers are made, and kept for the next run (1 GB per million events)",
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
