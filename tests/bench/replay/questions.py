"""The questions that the bench asks of a ledger, each in a process of its own so that its memory can be told."""

from __future__ import annotations

import json
import resource
import sqlite3
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from kropot.processes import processors
from kropot.replay.check import SnapshotAudit
from kropot.replay.marks import state_at
from kropot.replay.sd1 import digest_at
from kropot.replay.snapshots import drop_snapshots, maybe_snapshot, pointers_at, take_snapshot
from ledger.log import Ledger
from ledger.sql import open_store

if TYPE_CHECKING:
    from collections.abc import Callable

ROWS = 1000


def ask(name: str, path: str, position: int) -> None:
    """Answer one question, and print as JSON its time in seconds and peak memory in MiB, with those that helped.

    The memory of several helpers is the largest one's times their number, what they share with this process included:
    it was less.
    """
    began, cpu = time.perf_counter(), time.process_time()
    answer = QUESTIONS[name](path, position)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    helpers = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu += helpers.ru_utime + helpers.ru_stime
    # The high-water mark of getrusage would count the parent's memory from before the exec.
    status = Path("/proc/self/status").read_text()
    peak = (int(status.partition("VmHWM:")[2].split()[0]) + processors() * helpers.ru_maxrss) / 1024
    print(json.dumps({"seconds": seconds, "cpu": cpu, "peak": peak, "answer": answer}))


def _raw(path: str, position: int, columns: str) -> str:
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    cursor = connection.execute(f"SELECT {columns} FROM event WHERE seq <= ? ORDER BY seq", (position,))
    count = 0
    while rows := cursor.fetchmany(ROWS):
        count += len(rows)
    connection.close()
    return f"{count:,} rows"


def _opened(path: str, *, read_only: bool = True) -> Ledger:
    return Ledger(open_store(f"sqlite:///{path}", read_only=read_only))


def _pointers(path: str, position: int, *, snapshots: bool) -> str:
    with pointers_at(_opened(path), position, snapshots=snapshots) as pointers:
        return f"{len(pointers):,} streams"


def _counts(path: str, position: int, *, snapshots: bool) -> str:
    return f"{state_at(_opened(path), position, snapshots=snapshots, digest=False).counts.elements:,} elements"


def _digest(path: str, position: int, *, snapshots: bool) -> str:
    state = state_at(_opened(path), position, snapshots=snapshots)
    return f"{state.digest.text[:12]}... of {state.counts.elements:,}"


def _sd1(path: str, position: int, *, snapshots: bool) -> str:
    counts, text = digest_at(_opened(path), position, snapshots=snapshots)
    return f"{text[:12]}... of {counts.elements:,}"


def _check(path: str, position: int) -> str:
    audit = SnapshotAudit(_opened(path), position)
    findings = len(list(audit.findings()))
    return f"{audit.state.digest.text[:12]}..., {findings} of {audit.compared} snapshots unsound"


def _root(path: str, position: int) -> str:
    return _opened(path).frontier_at(position).root.hex()[:8] + "..."


def _snapshot(path: str, position: int) -> str:
    ledger = _opened(path, read_only=False)
    drop_snapshots(ledger)
    taken = 0
    while step := maybe_snapshot(ledger):
        taken += len(step)
    return f"{taken + len(take_snapshot(ledger, position))} snapshots"


QUESTIONS: dict[str, Callable[[str, int], str]] = {
    "raw sqlite3, all columns": lambda path, at: _raw(path, at, "*"),
    "raw sqlite3, position and stream": lambda path, at: _raw(path, at, "seq, stream"),
    "fold: pointers": lambda path, at: _pointers(path, at, snapshots=False),
    "fold: counts": lambda path, at: _counts(path, at, snapshots=False),
    "fold: counts and sd1": lambda path, at: _sd1(path, at, snapshots=False),
    "fold: counts and digest": lambda path, at: _digest(path, at, snapshots=False),
    "taking every snapshot": _snapshot,
    "root": _root,
    "snapshot and delta: pointers": lambda path, at: _pointers(path, at, snapshots=True),
    "snapshot and delta: counts": lambda path, at: _counts(path, at, snapshots=True),
    "snapshot and delta: counts and sd1": lambda path, at: _sd1(path, at, snapshots=True),
    "snapshot and delta: counts and digest": lambda path, at: _digest(path, at, snapshots=True),
    "comparing every snapshot": _check,
}

if __name__ == "__main__":
    ask(sys.argv[1], sys.argv[2], int(sys.argv[3]))
