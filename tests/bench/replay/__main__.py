"""Going back in long histories: `python -m tests.bench.replay --help`.

Fold rates stand next to the rate at which raw sqlite3 reads the same rows in the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kropot.replay.kept import MARKS_EVERY
from tests.bench.replay.history import make
from tests.bench.replay.questions import QUESTIONS

if TYPE_CHECKING:
    from collections.abc import Sequence

_WHOLE = ("raw sqlite3, all columns", "raw sqlite3, position and stream")
_ONCE = ("taking every snapshot", "comparing every snapshot")
_ROOM = 1_600
"""Bytes of disk for each event: what it takes in the end, the write-ahead log, and some more."""
_READ_BYTES = 1 << 23


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
    free = shutil.disk_usage(path.parent).free
    if free < events * _ROOM:
        raise SystemExit(
            f"{events:,} events need {events * _ROOM / 1e9:.0f} GB in {path.parent}, which has {free / 1e9:.0f}"
        )
    draft = path.with_suffix(".part")
    for left in path.parent.glob(f"{draft.name}*"):
        left.unlink()
    began = time.perf_counter()
    make(draft, events, say=lambda text: print(f"  writing: {text}", file=sys.stderr, flush=True))
    seconds = time.perf_counter() - began
    draft.rename(path)
    size = path.stat().st_size / 1e9
    rate = f"{events / seconds:,.0f} events/s"
    print(f"wrote {events:,} events ({size:.1f} GB) through the ledger's own append in {seconds:,.0f} s: {rate}")


def _read_once(path: Path) -> None:
    """Read the ledger's file, so that whoever is asked first need not wait for the disk more than the others."""
    buffer = bytearray(_READ_BYTES)
    began = time.perf_counter()
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
    seconds = time.perf_counter() - began
    print(f"read the file ({path.stat().st_size / 1e9:.1f} GB) once before, in {seconds:.0f} s", flush=True)


def _bench(path: Path, events: int, options: argparse.Namespace) -> bool:
    print(f"\n{events:,} events; {options.repeat} runs of each question, the median counts")
    _read_once(path)
    print(f"{'':42}{'until':>12}{'seconds':>10}{'events/s':>13}{'CPU s':>8}{'peak MiB':>10}  of raw  answer")
    answers: dict[tuple[str, int], set[str]] = {}
    raw: dict[int, float] = {}
    unanswered = False
    for name in QUESTIONS:
        # The first moment is as far from every mark as a moment can be.
        positions = (events,) if name in _ONCE else (events // 2 + MARKS_EVERY // 2, events)
        for position in positions:
            times = 1 if name in _ONCE else options.repeat
            runs: list[dict[str, Any]] = []
            while len(runs) < times and (run := _ask(name, path, position, options.patience)) is not None:
                runs.append(run)
            if len(runs) < times:
                print(f"{name:42}{position:>12,}  not answered within {options.patience:,} s", flush=True)
                unanswered = True
                continue
            seconds = statistics.median(run["seconds"] for run in runs)
            cpu = statistics.median(run["cpu"] for run in runs)
            if name == _WHOLE[0]:
                raw[position] = seconds
            share = "" if name in _ONCE or name == "root" or position not in raw else f"{raw[position] / seconds:.2f}"
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
    return bool(differing) or unanswered


def _ask(name: str, path: Path, position: int, patience: float) -> dict[str, Any] | None:
    """Return what a process of its own answered, None where it took longer than `patience` seconds."""
    line = [sys.executable, "-m", "tests.bench.replay.questions", name, str(path), str(position)]
    try:
        ran = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True, timeout=patience)
    except subprocess.TimeoutExpired:
        return None
    answer: dict[str, Any] = json.loads(ran.stdout)
    return answer


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.replay", description=__doc__)
    parser.add_argument("--events", type=int, nargs="+", default=[1_000_000], help="sizes of the histories")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each question; the median counts")
    parser.add_argument("--patience", type=float, default=1800, help="seconds that one answer may take")
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(tempfile.gettempdir()) / f"kropot-bench-{os.getuid()}" / "replay",
        help="where the ledgers are made, and kept for the next run (1 GB per million events)",
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
