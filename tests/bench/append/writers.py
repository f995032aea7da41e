"""The two who write: the program, and the raw driver that runs the same statements on rows made ready before."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ledger.log import Ledger
from ledger.sql import open_store, parse_place
from ledger.sql.dialects import LOCK_HEAD, writer_engine
from ledger.sql.statements import Statements
from ledger.sql.writing import put_rows, slices
from tests.bench.append.workload import batches, planned

if TYPE_CHECKING:
    from collections.abc import Callable

    from ledger.rows import Batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """`who` ("program" or "raw") appends `events` in batches of `size`, by so many `writers` together."""

    who: str
    writers: int
    events: int
    size: int


def run(task: Task, url: str, writer: int, gate: Any) -> tuple[float, float]:
    """Make one writer's part ready, wait at the gate for the others, and write. Return when that began and ended."""
    write = program if task.who == "program" else raw
    return write(url, writer, task.events // task.writers, task.size, gate.wait)


def program(url: str, writer: int, events: int, size: int, ready: Callable[[], Any]) -> tuple[float, float]:
    """Append through the ledger: hashing, index, projection."""
    work = batches(writer, events, size)
    store = open_store(url)
    ledger = Ledger(store, writer=f"writer-{writer}")
    ledger.begin()
    ready()
    began = time.monotonic()
    for facts in work:
        ledger.append(facts)
    ended = time.monotonic()
    store.close()
    return began, ended


def raw(url: str, writer: int, events: int, size: int, ready: Callable[[], Any]) -> tuple[float, float]:
    """Run the statements of the same batches on the driver's own cursor.

    Several writers share the positions, so that each batch is moved to where the head stands: all that is left of the
    program is that addition.
    """
    work = planned(writer, events, size)
    engine = writer_engine(parse_place(url))
    statements = Statements(engine)
    connection = engine.raw_connection()
    cursor: Any = connection.cursor()
    keys: dict[int, bytes] = {stream: key for batch in work for stream, key in batch.streams if key is not None}
    moved: dict[int, int] = {}
    ready()
    began = time.monotonic()
    for batch in work:
        _write(cursor, statements, batch, keys, moved)
        connection.commit()
    ended = time.monotonic()
    connection.close()
    engine.dispose()
    return began, ended


def _write(cursor: Any, statements: Statements, batch: Batch, keys: dict[int, bytes], moved: dict[int, int]) -> None:
    sqlite = statements.mark == "?"
    if sqlite:
        cursor.execute("BEGIN IMMEDIATE")
    kind = "sqlite" if sqlite else "postgresql" if statements.insert_event.copy else "mysql"
    cursor.execute(LOCK_HEAD[kind])
    position, recorded_us, streams, *_ = cursor.fetchone()
    for part in slices([keys[event.stream] for event in batch.events]):
        cursor.execute(statements.select_streams(len(part)), part)
        cursor.fetchall()
    up = position + 1 - batch.events[0].seq
    if batch.streams:
        along = streams + 1 - batch.streams[0][0]
        moved.update((stream, stream + along) for stream, _ in batch.streams)
    changes, commit = batch.changes, batch.commits[-1]
    put_rows(cursor, statements.insert_stream, [(moved[stream], key) for stream, key in batch.streams])
    put_rows(cursor, statements.insert_event, [(row[0] + up, moved[row[1]], *row[2:]) for row in batch.events])
    entries = [(moved[row[0]], row[1], row[2], row[3] + up, *row[4:]) for row in changes.entries]
    put_rows(cursor, statements.put_entry, entries)
    copies = [(row[0], moved[row[1]], row[2], row[3] + up, row[4]) for row in changes.copies]
    put_rows(cursor, statements.put_copy, copies)
    put_rows(cursor, statements.add_tally, changes.tallies)
    last, first = commit.last + up, commit.first + up
    # The guards demand that the head ends where the batch does, with its time and frontier.
    at_us = max(recorded_us, commit.recorded_us)
    put_rows(cursor, statements.insert_batch, [(last, first, at_us, None, commit.frontier)])
    head = (last, at_us, streams + len(batch.streams), commit.frontier)
    cursor.execute(statements.move_head, head)
