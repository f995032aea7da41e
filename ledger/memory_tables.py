"""The tables of the memory store, and a write to them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ledger.rows import Image, StoredHead, StreamRow, TallyRow

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from ledger.places import Placement
    from ledger.rows import Batch, Changes, CommitRow, CopyState, EntryRow, SourceRow, StoredEvent


@dataclass(slots=True)
class Projection:
    """The tables that a fold of the events can rebuild."""

    entries: dict[int, EntryRow] = field(default_factory=dict)
    copies: dict[tuple[bytes, int], CopyState] = field(default_factory=dict)
    sources: dict[int, SourceRow] = field(default_factory=dict)
    tallies: dict[tuple[int, str], TallyRow] = field(default_factory=dict)


@dataclass(slots=True)
class Tables:
    """The log and its projection. Lists are indexed by position or stream number, minus one."""

    head: StoredHead = field(default_factory=lambda: StoredHead(0, 0, 0, b""))
    keys: list[bytes | None] = field(default_factory=list)
    streams: dict[bytes, int] = field(default_factory=dict)
    events: list[StoredEvent] = field(default_factory=list)
    by_stream: list[list[int]] = field(default_factory=list)
    commits: list[CommitRow] = field(default_factory=list)
    projection: Projection = field(default_factory=Projection)

    def image(self, row: EntryRow) -> Image:
        """Return the entry joined with the event that it points to."""
        event, key = self.events[row.seq - 1], self.keys[row.stream - 1]
        if key is None or event.payload is None:
            raise AssertionError("an erased stream has no entry")
        return Image(
            key, row.stream, row.version, row.seq, event.type, event.schema_version, event.flags, event.payload
        )

    def wanted(self, source: bytes | None) -> Iterator[EntryRow]:
        """Yield the wanted entries of the source with this id, or of all sources."""
        numbers = {row.no for row in self.projection.sources.values() if source in (None, row.id)}
        return (row for row in self.projection.entries.values() if row.due_us is not None and row.source in numbers)

    def erase(self, stream: int, position: int) -> None:
        """Remove the stream's key, and the payloads of its events before `position`."""
        key = self.keys[stream - 1]
        if key is not None:
            del self.streams[key]
        self.keys[stream - 1] = None
        for seq in self.by_stream[stream - 1]:
            if seq < position:
                self.events[seq - 1] = self.events[seq - 1]._replace(nonce=None, payload=None)


class MemoryWriting:
    """One write. It collects changes, and `commit` puts all of them into the tables at once."""

    def __init__(self, tables: Tables, now_us: int | None) -> None:
        """Begin at the current head. `now_us` is the time of the store's clock, or None."""
        self.now_us = now_us
        self.head = tables.head
        self._tables = tables
        self._batch: Batch | None = None
        self._fresh: Projection | None = None
        self.placed: list[tuple[str, Placement]] = []
        self.released: list[tuple[bytes, Collection[int]]] = []

    def commit_of(self, batch_key: bytes) -> CommitRow | None:
        """Return the commit with this idempotency key, or None."""
        return next((row for row in self._tables.commits if row.batch_key == batch_key), None)

    def leaf(self, position: int) -> bytes | None:
        """Return the leaf hash stored at this position, or None."""
        return self._tables.events[position - 1].leaf if 0 < position <= len(self._tables.events) else None

    def streams(self, keys: Collection[bytes]) -> dict[bytes, StreamRow]:
        """Return the streams that exist among these stored keys."""
        tables, found = self._tables, {}
        for key in keys:
            stream = tables.streams.get(key)
            if stream is not None:
                version = len(tables.by_stream[stream - 1])
                found[key] = StreamRow(stream, version, tables.projection.entries.get(stream))
        return found

    def sources(self) -> list[SourceRow]:
        """Return all sources, in the order in which they began."""
        return list((self._fresh or self._tables.projection).sources.values())

    def entries(self, streams: Collection[int]) -> dict[int, EntryRow]:
        """Return the entries that exist among these streams."""
        entries = (self._fresh or self._tables.projection).entries
        return {stream: entries[stream] for stream in streams if stream in entries}

    def stored(self, copies: Collection[tuple[bytes, int]]) -> set[tuple[bytes, int]]:
        """Return which of these (SHA-256, stream) were ever stored as copies, whatever became of them."""
        return copies & self._tables.projection.copies.keys()

    def write(self, batch: Batch) -> None:
        """Keep the batch, to write it at the end."""
        self._batch = batch

    def place(self, places: Sequence[Placement], *, place: str = "") -> None:
        """Keep placements, to add them at the end."""
        self.placed += [(place, one) for one in places]

    def release(self, name: str, session: bytes, streams: Collection[int]) -> None:  # noqa: ARG002  # the session is enough
        """Keep a note of leases to give back at the end."""
        self.released.append((session, streams))

    def clear_projection(self) -> None:
        """Begin a fresh projection. It replaces the old one at the end."""
        self._fresh = Projection()

    def change(self, changes: Changes) -> None:
        """Change the fresh projection."""
        if self._fresh is None:
            raise AssertionError("clear the projection before changing it on its own")
        _apply(self._fresh, changes)

    def commit(self) -> int | None:
        """Make all changes visible. Return the first position at which payloads were erased, or None if none were."""
        tables, batch = self._tables, self._batch
        if self._fresh is not None:
            tables.projection = self._fresh
        if batch is None:
            return None
        for stream, key in batch.streams:
            if key is not None:
                tables.streams[key] = stream
            tables.keys.append(key)
            tables.by_stream.append([])
        for event in batch.events:
            tables.events.append(event)
            tables.by_stream[event.stream - 1].append(event.seq)
        for stream, position in batch.erased:
            tables.erase(stream, position)
        _apply(tables.projection, batch.changes)
        tables.commits.extend(batch.commits)
        tables.head = batch.head
        return min((tables.by_stream[stream - 1][0] for stream, _ in batch.erased), default=None)


def _apply(projection: Projection, changes: Changes) -> None:
    for row in changes.entries:
        projection.entries[row.stream] = row
    for stream in changes.dropped:
        projection.entries.pop(stream, None)
    for copy in changes.copies:
        projection.copies[copy.sha256, copy.stream] = copy
    for state, sha256, stream in changes.judged:
        judged = projection.copies.get((sha256, stream))
        if judged is not None:
            projection.copies[sha256, stream] = judged._replace(state=state)
    if changes.dropped:
        gone = set(changes.dropped)
        projection.copies = {pair: row for pair, row in projection.copies.items() if pair[1] not in gone}
    for source in changes.sources:
        projection.sources[source.no] = source
    for tally in changes.tallies:
        before = projection.tallies.get((tally.source, tally.state), TallyRow(tally.source, tally.state, 0, 0))
        projection.tallies[tally.source, tally.state] = before._replace(
            elements=before.elements + tally.elements, bytes=before.bytes + tally.bytes
        )
