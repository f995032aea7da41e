"""An EventStore on a SQL database: events are read page by page, each page in a short transaction of its own."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import Select, delete, func, insert, select

from ledger.rows import (
    CommitRow,
    CopyRow,
    CopyState,
    EntryRow,
    Image,
    SourceRow,
    StoredEvent,
    StoredHead,
    TallyRow,
)
from ledger.sql import schema as t
from ledger.sql.connections import Connections
from ledger.sql.dialects import NOW
from ledger.sql.statements import Statements
from ledger.sql.work import IMAGE, WorkTables
from ledger.sql.writing import SqlWriting, slices

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from ledger.rows import InstanceRow, LeaseRequest
    from ledger.sql.dialects import Place

PAGE = 1000
_END = 1 << 62
_BELOW, _ABOVE = -1, b"\xff" * 64
"""Less than every stream number, and more than every SHA-256."""


class SqlStore:
    """An EventStore on SQLite, PostgreSQL, MySQL or MariaDB; one object a process, any number of threads."""

    def __init__(self, place: Place, *, read_only: bool = False) -> None:
        """Take over a database that `open_store` has looked at; nothing is connected yet."""
        self.place = place
        self._connections = Connections(place, read_only=read_only)
        self._statements = Statements(self._connections.writers)
        self._work = WorkTables(self._connections, self._statements)

    @contextmanager
    def writing(self) -> Iterator[SqlWriting]:
        """Lock the head and begin; commit when the block ends, undo everything when it raises."""
        with self._connections.head_locked() as (connection, locked):
            yield SqlWriting(connection, self._statements, locked)

    def close(self) -> None:
        """Let go of every connection."""
        self._connections.close()

    def now_us(self) -> int | None:
        """Return the database server's time; None on SQLite, which has none of its own."""
        kind = self._connections.kind
        if kind == "sqlite":
            return None
        return int(self._connections.raw_rows(NOW.get(kind, NOW["mysql"]), ())[0][0])

    # --- the log ---

    def head(self) -> StoredHead:
        """Return the head; position 0 before the first event."""
        rows = self._connections.raw_rows("SELECT position, recorded_us, streams, frontier FROM head WHERE id = 1", ())
        return StoredHead(*rows[0])

    def stored(self, *, after: int = 0, until: int | None = None) -> Iterator[StoredEvent]:
        """Yield the events at positions in (`after`, `until`], in order."""
        for page in self._pages(self._statements.page_events, after, until):
            yield from map(StoredEvent._make, page)

    def stored_page(self, after: int, until: int, count: int) -> Sequence[tuple[Any, ...]]:
        """Return the first `count` events in (`after`, `until`] as plain tuples."""
        return self._connections.raw_rows(self._statements.page_events, (after, until, count))

    def pointers(self, *, after: int = 0, until: int | None = None) -> Iterator[tuple[int, int]]:
        """Yield (position, stream) of the events in (`after`, `until`], in order."""
        for page in self._pages(self._statements.page_pointers, after, until, size=10 * PAGE):
            yield from page

    def leaves(self, after: int, until: int) -> list[bytes]:
        """Return the leaf hashes of the events in (`after`, `until`], in order."""
        return [row[0] for row in self._connections.raw_rows(self._statements.page_leaves, (after, until))]

    def events_at(self, seqs: Sequence[int]) -> list[StoredEvent]:
        """Return the events at these positions, in the order of positions."""
        found: list[StoredEvent] = []
        for part in slices(sorted(set(seqs))):
            rows = self._connections.raw_rows(self._statements.select_events(len(part)), part)
            found.extend(map(StoredEvent._make, rows))
        return found

    def facts_at(self, seqs: Sequence[int]) -> list[tuple[Any, ...]]:
        """Return StoredFacts of the events at these positions, in their order; plain tuples, for folds of millions."""
        found: list[tuple[Any, ...]] = []
        for part in slices(sorted(set(seqs))):
            found += self._connections.raw_rows(self._statements.select_facts(len(part)), part)
        return found

    def elsewhere(self) -> Callable[[], SqlStore] | None:
        """Return what opens this store for reading in a process that is about to be forked, None while it writes."""
        if not self._connections.let_go():
            return None
        return partial(SqlStore, self.place, read_only=True)

    def stream_events(self, key: bytes) -> Iterator[StoredEvent]:
        """Yield the events of the stream with this stored key, in order."""
        c, version = t.event.c, 0
        wanted = select(t.event).join(t.stream, t.stream.c.id == c.stream).where(t.stream.c.key == key)
        while page := self._connections.rows(
            wanted.where(c.stream_version > version).order_by(c.stream_version).limit(PAGE)
        ):
            yield from (StoredEvent(*row) for row in page)
            version = page[-1].stream_version

    def newest_event(self, key: bytes) -> StoredEvent | None:
        """Return the last event of the stream with this stored key."""
        wanted = select(t.event).join(t.stream, t.stream.c.id == t.event.c.stream).where(t.stream.c.key == key)
        rows = self._connections.rows(wanted.order_by(t.event.c.stream_version.desc()).limit(1))
        return StoredEvent(*rows[0]) if rows else None

    def stream_keys(self, streams: Collection[int]) -> dict[int, bytes | None]:
        """Return the stored key of each stream that exists, None once it is erased."""
        if not streams:
            return {}
        first, last = min(streams), max(streams)
        if last - first < 2 * len(streams):  # close together, as new streams are: a walk is faster than probes
            wanted = set(streams)
            rows = self._connections.raw_rows(self._statements.page_numbered, (first, last))
            return {stream: key for stream, key in rows if stream in wanted}
        found: dict[int, bytes | None] = {}
        for part in slices(streams):
            found.update(self._connections.raw_rows(self._statements.select_keys(len(part)), part))
        return found

    def streams(self, *, after: int = 0) -> Iterator[tuple[int, bytes | None]]:
        """Yield (number, stored key) of every stream numbered above `after`, in order."""
        c = t.stream.c
        while page := self._connections.rows(select(c.id, c.key).where(c.id > after).order_by(c.id).limit(PAGE)):
            yield from (tuple(row) for row in page)
            after = page[-1].id

    def streams_by_key(self, *, after: bytes = b"") -> Iterator[tuple[bytes, int]]:
        """Yield (stored key, number) of every stream that has a key above `after`, in bytewise order of the keys."""
        while page := self._connections.raw_rows(self._statements.page_keys, (after, 10 * PAGE)):
            yield from page
            after = page[-1][0]

    def last_at(self, streams: Collection[int], position: int) -> dict[int, int]:
        """Return the position of each stream's last event up to `position`, for those that have one."""
        c = t.event.c
        found: dict[int, int] = {}
        # A probe of the index a stream, newest first: asked for max(seq), a planner may walk all positions instead.
        last = select(c.seq).where(c.stream == t.stream.c.id, c.seq <= position).order_by(c.stream_version.desc())
        for part in slices(streams):
            wanted = select(t.stream.c.id, last.limit(1).scalar_subquery()).where(t.stream.c.id.in_(part))
            found.update((row[0], row[1]) for row in self._connections.rows(wanted) if row[1] is not None)
        return found

    def last_positions(self, position: int) -> Iterator[tuple[int, int]]:
        """Yield (position, stream) of every stream's last event up to `position`, in the order of streams."""
        first, width = 1, 10 * PAGE
        # Streams are numbered as they begin: behind those that had not begun at `position` there are no others.
        while page := self._connections.raw_rows(self._statements.page_last, (first, first + width - 1, position)):
            yield from page
            first += width

    def commits(self, *, after: int = 0) -> Iterator[CommitRow]:
        """Yield the commit rows of batches that end above position `after`, in order."""
        c = t.batch.c
        while page := self._connections.rows(select(t.batch).where(c.last > after).order_by(c.last).limit(PAGE)):
            yield from (CommitRow(*row) for row in page)
            after = page[-1].last

    def position_before(self, us: int) -> int:
        """Return the last position whose recorded time is before `us`; 0 if there is none."""
        c = t.batch.c
        wanted = select(c.last).where(c.recorded_us < us).order_by(c.recorded_us.desc(), c.last.desc()).limit(1)
        rows = self._connections.rows(wanted)
        return int(rows[0][0]) if rows else 0

    def frontier_before(self, position: int) -> tuple[int, bytes]:
        """Return the last kept (position, frontier nodes) at or before `position`; (0, b"") if there is none."""
        c = t.batch.c
        wanted = select(c.last, c.frontier).where(c.last <= position, c.frontier.is_not(None))
        rows = self._connections.rows(wanted.order_by(c.last.desc()).limit(1))
        return (int(rows[0][0]), rows[0][1]) if rows else (0, b"")

    # --- the projection ---

    def images(self, keys: Collection[bytes]) -> list[Image]:
        """Return the entries that exist among these stored keys, in no order."""
        return [
            Image._make(row)
            for part in slices(keys)
            for row in self._connections.raw_rows(self._statements.select_images_by_key(len(part)), part)
        ]

    def scan(
        self, *, source: bytes | None, states: Collection[str] | None, after: bytes | None, wanted: bool | None
    ) -> Iterator[Image]:
        """Yield entries in the order of their stored keys, those after `after` that match every given filter."""
        # In key order by walking the index of the keys: sorting the whole replica for a page would be absurd.
        chosen: Select[Any] = IMAGE
        for name in ("mysql", "mariadb"):
            chosen = chosen.prefix_with("STRAIGHT_JOIN", dialect=name)
        if source is not None:
            chosen = chosen.where(t.stream.c.key >= source, t.stream.c.key < source + b"\xff")
        if states is not None:
            chosen = chosen.where(t.entry.c.state.in_(sorted(states)))
        if wanted is not None:
            chosen = chosen.where(t.entry.c.due_us.is_not(None) if wanted else t.entry.c.due_us.is_(None))
        while True:
            here = chosen if after is None else chosen.where(t.stream.c.key > after)
            page = self._connections.rows(here.order_by(t.stream.c.key).limit(PAGE))
            yield from (Image(*row) for row in page)
            if len(page) < PAGE:
                return
            after = page[-1].key

    def due(self, *, now_us: int, limit: int, source: bytes | None) -> list[Image]:
        """Return entries due at `now_us`, the longest due first, at most `limit`."""
        return self._work.due(now_us=now_us, limit=limit, source=source)

    def next_due_us(self, source: bytes | None) -> int | None:
        """Return the earliest moment at which an entry is due, None when nothing is wanted."""
        return self._work.next_due_us(source)

    def sources(self) -> list[SourceRow]:
        """Return all sources, in the order in which they began."""
        return [SourceRow(*row) for row in self._connections.rows(select(t.source).order_by(t.source.c.no))]

    def tallies(self) -> list[TallyRow]:
        """Return the maintained sums in the order of source and state, without empty ones."""
        c = t.tally.c
        rows = self._connections.rows(select(t.tally).where(c.elements != 0).order_by(c.source, c.state))
        return [TallyRow(*row) for row in rows]

    def copies(self, *, start: bytes, end: bytes | None) -> Iterator[CopyRow]:
        """Yield copies with `start` <= SHA-256 <= `end`, ordered by SHA-256 and stream."""
        for page in self._copy_pages(start, end):
            keys = self.stream_keys({row.stream for row in page})
            for row in page:
                key = keys.get(row.stream)
                if key is not None:
                    yield CopyRow(row.sha256, row.size, key, row.seq, row.state)

    def projection_rows(self) -> Iterator[tuple[bytes, EntryRow]]:
        """Yield (stored key, entry) in the order of the keys."""
        c, after = t.stream.c, b""
        chosen = select(c.key, t.entry).join(t.entry, t.entry.c.stream == c.id).order_by(c.key).limit(PAGE)
        while page := self._connections.rows(chosen.where(c.key > after)):
            for key, *columns in page:
                yield key, EntryRow._make(columns)
            after = page[-1].key

    def projection_page(self, after: bytes, count: int) -> Sequence[tuple[Any, ...]]:
        """Return the first `count` entries with keys above `after`, each with the event that it points to."""
        return self._connections.raw_rows(self._statements.page_projection, (after, count))

    def copy_states(self, *, start: bytes = b"", end: bytes | None = None) -> Iterator[CopyState]:
        """Yield copies' rows with `start` <= SHA-256 <= `end`, ordered by SHA-256 and stream."""
        for page in self._copy_pages(start, end):
            yield from page

    # --- what others keep beside the log ---

    def save_snapshot(self, kind: str, position: int, chunks: Iterable[bytes]) -> None:
        """Keep an opaque snapshot of `kind` at `position`, in the place of an earlier one there.

        A chunk is a transaction, so that a large snapshot does not hold up writers; the row that makes it complete
        comes last.
        """
        self.drop_snapshots(kind, position=position)
        count = 0
        for count, data in enumerate(chunks, start=1):
            with self._connections.transaction() as connection:
                values = {"kind": kind, "position": position, "no": count, "data": data}
                connection.execute(insert(t.snapshot_chunk).values(values))
        with self._connections.transaction() as connection:
            connection.execute(insert(t.snapshot).values(kind=kind, position=position, chunks=count))

    def load_snapshot(self, kind: str, position: int) -> Iterator[bytes]:
        """Yield the chunks of a snapshot, in order; none if there is no such snapshot."""
        c = t.snapshot_chunk.c
        if (kind, position) not in self.list_snapshots():
            return
        wanted = select(c.data).where(c.kind == kind, c.position == position)
        no = 1
        while rows := self._connections.rows(wanted.where(c.no == no)):
            yield rows[0][0]
            no += 1

    def list_snapshots(self) -> list[tuple[str, int]]:
        """Return (kind, position) of every complete snapshot, in that order."""
        c = t.snapshot.c
        return [
            (row[0], row[1]) for row in self._connections.rows(select(c.kind, c.position).order_by(c.kind, c.position))
        ]

    def drop_snapshots(self, kind: str, *, position: int | None = None) -> None:
        """Remove all snapshots of a kind, or the one at `position`."""
        with self._connections.transaction() as connection:
            for table in (t.snapshot, t.snapshot_chunk):
                gone = delete(table).where(table.c.kind == kind)
                connection.execute(gone if position is None else gone.where(table.c.position == position))

    def save_checkpoint(self, size: int, note: str) -> None:
        """Keep a signed note about the tree of this size; the same note twice is kept once."""
        digest = hashlib.sha256(note.encode()).digest()
        c = t.checkpoint.c
        with self._connections.head_locked() as (connection, _):
            if connection.execute(select(c.id).where(c.digest == digest)).scalar() is None:
                last = connection.execute(select(func.coalesce(func.max(c.id), 0))).scalar_one()
                connection.execute(insert(t.checkpoint).values(id=last + 1, size=size, digest=digest, note=note))

    def checkpoints(self) -> Iterator[tuple[int, str]]:
        """Yield (size, note), the smallest trees first, and in the order in which they were kept."""
        c, at = t.checkpoint.c, (-1, 0)
        wanted = select(c.size, c.note, c.id).order_by(c.size, c.id).limit(PAGE)
        while page := self._connections.rows(wanted.where((c.size > at[0]) | ((c.size == at[0]) & (c.id > at[1])))):
            yield from ((row.size, row.note) for row in page)
            at = (page[-1].size, page[-1].id)

    # --- working state ---

    def instances(self) -> list[InstanceRow]:
        """Return the instances at work, by name."""
        return self._work.instances()

    def enroll(self, row: InstanceRow, *, now_us: int, here: bool) -> InstanceRow | None:
        """Register an instance; return the living one that holds its name, or None when registered."""
        return self._work.enroll(row, now_us=now_us, here=here)

    def beat(self, name: str, session: bytes, *, now_us: int, expires_us: int) -> bool:
        """Move the expiry of the instance and of its leases; False if the name is no longer this session's."""
        return self._work.beat(name, session, now_us=now_us, expires_us=expires_us)

    def retire(self, name: str, session: bytes) -> None:
        """Remove the instance with its leases and claims."""
        self._work.retire(name, session)

    def take(self, lease: LeaseRequest) -> list[Image] | None:
        """Lease due entries that no living session leases; None if another session has the instance's name."""
        return self._work.take(lease)

    def release(self, name: str, session: bytes, keys: Collection[bytes] | None) -> None:
        """Give back the session's leases on these stored keys, or all of them."""
        self._work.release(name, session, keys)

    def claim(self, name: str, session: bytes, *, now_us: int, expires_us: int) -> bool:
        """Take or prolong the claim `name`; False while another session has it."""
        return self._work.claim(name, session, now_us=now_us, expires_us=expires_us)

    def unclaim(self, name: str, session: bytes) -> None:
        """Give the claim back, if it is this session's."""
        self._work.unclaim(name, session)

    # --- helpers ---

    def _pages(
        self, statement: str, after: int, until: int | None, size: int = PAGE
    ) -> Iterator[Sequence[tuple[Any, ...]]]:
        last = _END if until is None else until
        while after < last:
            page = self._connections.raw_rows(statement, (after, last, size))
            if page:
                yield page
                after = page[-1][0]
            if len(page) < size:
                return

    def _copy_pages(self, start: bytes, end: bytes | None) -> Iterator[list[CopyState]]:
        last, stream = start, _BELOW
        highest = _ABOVE if end is None else end
        while page := self._connections.raw_rows(self._statements.page_copies, (last, last, stream, highest, PAGE)):
            yield list(map(CopyState._make, page))
            last, stream = page[-1][:2]
