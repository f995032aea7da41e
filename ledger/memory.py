"""A store in lists and dictionaries: a working one, for tests and simulations, that forgets everything in the end."""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

from ledger.memory_tables import MemoryWriting, Tables
from ledger.rows import FORGOTTEN_US, CopyRow, Image, StoredFact, is_held

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from ledger.rows import (
        CommitRow,
        CopyState,
        EntryRow,
        InstanceRow,
        LeaseRequest,
        SourceRow,
        StoredEvent,
        StoredHead,
        TallyRow,
    )


class MemoryStore:
    """An EventStore in memory: one process, any number of threads."""

    def __init__(self, now_us: Callable[[], int] | None = None) -> None:
        """Begin empty; `now_us` plays the part of a database's own clock."""
        self._clock = now_us
        self._lock = threading.RLock()
        self._tables = Tables()
        self._snapshots: dict[tuple[str, int], list[bytes]] = {}
        self._checkpoints: dict[tuple[int, str], None] = {}
        self._instances: dict[str, InstanceRow] = {}
        self._leases: dict[int, tuple[bytes, int]] = {}
        self._claims: dict[str, tuple[bytes, int]] = {}

    @contextmanager
    def writing(self) -> Iterator[MemoryWriting]:
        """Lock the head and begin; nothing is changed before the block ends well."""
        with self._lock:
            tx = MemoryWriting(self._tables, self.now_us())
            yield tx
            if tx.commit():
                # Snapshots count what is no longer known.
                self._snapshots.clear()
            for session, stream in tx.released:
                self._end_lease(session, stream)

    def close(self) -> None:
        """Nothing is held open."""

    def now_us(self) -> int | None:
        """Return the time of the clock that was passed in, if one was."""
        return None if self._clock is None else self._clock()

    # --- the log ---

    def head(self) -> StoredHead:
        """Return the head; position 0 before the first event."""
        return self._tables.head

    def stored(self, *, after: int = 0, until: int | None = None) -> Iterator[StoredEvent]:
        """Yield the events at positions in (`after`, `until`], in order."""
        while after < (self._tables.head.position if until is None else min(until, self._tables.head.position)):
            yield self._tables.events[after]
            after += 1

    def stored_page(self, after: int, until: int, count: int) -> Sequence[tuple[Any, ...]]:
        """Return the first `count` events in (`after`, `until`] as plain tuples."""
        return self._tables.events[after : min(until, self._tables.head.position, after + count)]

    def pointers(self, *, after: int = 0, until: int | None = None) -> Iterator[tuple[int, int]]:
        """Yield (position, stream) of the events in (`after`, `until`], in order."""
        return ((event.seq, event.stream) for event in self.stored(after=after, until=until))

    def leaves(self, after: int, until: int) -> list[bytes]:
        """Return the leaf hashes of the events in (`after`, `until`], in order."""
        return [event.leaf for event in self._tables.events[after : max(after, until)]]

    def events_at(self, seqs: Sequence[int]) -> list[StoredEvent]:
        """Return the events at these positions, in the order of positions."""
        return [self._tables.events[seq - 1] for seq in sorted(set(seqs)) if 0 < seq <= self._tables.head.position]

    def facts_at(self, seqs: Sequence[int]) -> list[tuple[Any, ...]]:
        """Return StoredFacts of the events at these positions, in their order; plain tuples, for folds of millions."""
        return [tuple(getattr(event, name) for name in StoredFact._fields) for event in self.events_at(seqs)]

    def elsewhere(self) -> None:
        """Return None: no other process sees this one's memory."""
        return

    def stream_events(self, key: bytes) -> Iterator[StoredEvent]:
        """Yield the events of the stream with this stored key, in order."""
        stream = self._tables.streams.get(key)
        return (
            iter(()) if stream is None else (self._tables.events[seq - 1] for seq in self._tables.by_stream[stream - 1])
        )

    def newest_event(self, key: bytes) -> StoredEvent | None:
        """Return the last event of the stream with this stored key."""
        stream = self._tables.streams.get(key)
        return None if stream is None else self._tables.events[self._tables.by_stream[stream - 1][-1] - 1]

    def stream_keys(self, streams: Collection[int]) -> dict[int, bytes | None]:
        """Return the stored key of each stream that exists, None once it is erased."""
        return {stream: self._tables.keys[stream - 1] for stream in streams if 0 < stream <= len(self._tables.keys)}

    def streams(self, *, after: int = 0) -> Iterator[tuple[int, bytes | None]]:
        """Yield (number, stored key) of every stream numbered above `after`, in order."""
        return ((stream, self._tables.keys[stream - 1]) for stream in range(after + 1, len(self._tables.keys) + 1))

    def streams_by_key(self, *, after: bytes = b"") -> Iterator[tuple[bytes, int]]:
        """Yield (stored key, number) of every stream that has a key above `after`, in bytewise order of the keys."""
        return iter(sorted(pair for pair in self._tables.streams.items() if pair[0] > after))

    def last_at(self, streams: Collection[int], position: int) -> dict[int, int]:
        """Return the position of each stream's last event up to `position`, for those that have one."""
        known = self._tables.by_stream
        held = {stream: known[stream - 1] for stream in streams if 0 < stream <= len(known)}
        found = {stream: bisect_right(positions, position) for stream, positions in held.items()}
        return {stream: held[stream][at - 1] for stream, at in found.items() if at}

    def last_positions(self, position: int) -> Iterator[tuple[int, int]]:
        """Yield (position, stream) of every stream's last event up to `position`, in the order of streams."""
        found = self.last_at(range(1, len(self._tables.by_stream) + 1), position)
        return ((at, stream) for stream, at in sorted(found.items()))

    def commits(self, *, after: int = 0) -> Iterator[CommitRow]:
        """Yield the commit rows of batches that end above position `after`, in order."""
        return iter(self._tables.commits[bisect_right(self._tables.commits, after, key=lambda row: row.last) :])

    def position_before(self, us: int) -> int:
        """Return the last position whose recorded time is before `us`; 0 if there is none."""
        at = bisect_left(self._tables.commits, us, key=lambda row: row.recorded_us)
        return self._tables.commits[at - 1].last if at else 0

    def frontier_before(self, position: int) -> tuple[int, bytes]:
        """Return the last kept (position, frontier nodes) at or before `position`; (0, b"") if there is none."""
        at = bisect_right(self._tables.commits, position, key=lambda row: row.last)
        kept = ((row.last, row.frontier) for row in reversed(self._tables.commits[:at]) if row.frontier is not None)
        return next(kept, (0, b""))

    # --- the projection ---

    def images(self, keys: Collection[bytes]) -> list[Image]:
        """Return the entries that exist among these stored keys, in no order."""
        with self._lock:
            rows = [self._tables.projection.entries.get(self._tables.streams.get(key, 0)) for key in keys]
            return [self._image(row) for row in rows if row is not None]

    def scan(
        self, *, source: bytes | None, states: Collection[str] | None, after: bytes | None, wanted: bool | None
    ) -> Iterator[Image]:
        """Yield entries in the order of their stored keys, those after `after` that match every given filter."""
        for key in sorted(self._tables.streams):
            row = self._tables.projection.entries.get(self._tables.streams.get(key, 0))
            if row is None or (after is not None and key <= after) or (source is not None and key[:16] != source):
                continue
            if (states is None or row.state in states) and (wanted is None or wanted == (row.due_us is not None)):
                yield self._image(row)

    def due(self, *, now_us: int, limit: int, source: bytes | None) -> list[Image]:
        """Return entries due at `now_us`, the longest due first, at most `limit`."""
        with self._lock:
            return [self._image(row) for row in self._due(now_us, source)[:limit]]

    def next_due_us(self, source: bytes | None) -> int | None:
        """Return the earliest moment at which an entry is due, None when nothing is wanted."""
        no = self._no(source)
        with self._lock:
            rows = self._tables.projection.entries.values()
            return min(
                (row.due_us for row in rows if row.due_us is not None and no in (None, row.source)), default=None
            )

    def sources(self) -> list[SourceRow]:
        """Return all sources, in the order in which they began."""
        return list(self._tables.projection.sources.values())

    def tallies(self) -> list[TallyRow]:
        """Return the maintained sums in the order of source and state, without empty ones."""
        return [row for _, row in sorted(self._tables.projection.tallies.items()) if row.elements]

    def copies(self, *, start: bytes, end: bytes | None) -> Iterator[CopyRow]:
        """Yield copies with `start` <= SHA-256 <= `end`, ordered by SHA-256 and stream."""
        for row in self.copy_states(start=start, end=end):
            key = self._tables.keys[row.stream - 1]
            if key is not None:
                yield CopyRow(row.sha256, row.size, key, row.seq, row.state)

    def projection_rows(self) -> Iterator[tuple[bytes, EntryRow]]:
        """Yield (stored key, entry) in the order of the keys."""
        rows = (
            (key, self._tables.projection.entries.get(self._tables.streams[key]))
            for key in sorted(self._tables.streams)
        )
        return ((key, row) for key, row in rows if row is not None)

    def projection_page(self, after: bytes, count: int) -> Sequence[tuple[Any, ...]]:
        """Return the first `count` entries with keys above `after`, each with the event that it points to."""
        page = []
        for key, row in islice((pair for pair in self.projection_rows() if pair[0] > after), count):
            found = self.events_at([row.seq])
            event = found[0] if found else None
            about = (
                (None,) * 5
                if event is None
                else (event.stream, event.type, event.schema_version, event.recorded_us, event.payload)
            )
            page.append((key, *row, *about))
        return page

    def copy_states(self, *, start: bytes = b"", end: bytes | None = None) -> Iterator[CopyState]:
        """Yield copies' rows with `start` <= SHA-256 <= `end`, ordered by SHA-256 and stream."""
        for _, row in sorted(self._tables.projection.copies.items()):
            if start <= row.sha256 and (end is None or row.sha256 <= end):
                yield row

    # --- what others keep beside the log ---

    def save_snapshot(self, kind: str, position: int, chunks: Iterable[bytes]) -> None:
        """Keep an opaque snapshot of `kind` at `position`, in the place of an earlier one there."""
        self._snapshots[kind, position] = list(chunks)

    def load_snapshot(self, kind: str, position: int) -> Iterator[bytes]:
        """Yield the chunks of a snapshot, in order; none if there is no such snapshot."""
        return iter(self._snapshots.get((kind, position), ()))

    def list_snapshots(self) -> list[tuple[str, int]]:
        """Return (kind, position) of every complete snapshot, in that order."""
        return sorted(self._snapshots)

    def drop_snapshots(self, kind: str, *, position: int | None = None) -> None:
        """Remove all snapshots of a kind, or the one at `position`."""
        for pair in [pair for pair in self._snapshots if pair[0] == kind and position in (None, pair[1])]:
            del self._snapshots[pair]

    def save_checkpoint(self, size: int, note: str) -> None:
        """Keep a signed note about the tree of this size; the same note twice is kept once."""
        self._checkpoints[size, note] = None

    def checkpoints(self) -> Iterator[tuple[int, str]]:
        """Yield (size, note), the smallest trees first, and in the order in which they were kept."""
        return iter(sorted(self._checkpoints, key=lambda pair: pair[0]))

    # --- working state ---

    def instances(self) -> list[InstanceRow]:
        """Return the instances at work, by name."""
        return [row for _, row in sorted(self._instances.items())]

    def enroll(self, row: InstanceRow, *, now_us: int, here: bool) -> InstanceRow | None:
        """Register an instance; return the living one that holds its name, or None when registered."""
        with self._lock:
            holder = self._instances.get(row.name)
            if holder is not None and holder.session != row.session:
                if is_held(holder.expires_us, now_us) and not (here and holder.place == row.place):
                    return holder
                self._let_go(holder.session)
            self._instances[row.name] = row
            self._sweep(now_us)
            return None

    def beat(self, name: str, session: bytes, *, now_us: int, expires_us: int) -> bool:
        """Move the expiry of the instance and of its leases; False if the name is no longer this session's."""
        with self._lock:
            holder = self._instances.get(name)
            if holder is None or holder.session != session:
                return False
            self._instances[name] = holder._replace(beat_us=now_us, expires_us=expires_us)
            self._leases |= {s: (owner, expires_us) for s, (owner, _) in self._leases.items() if owner == session}
            self._claims |= {n: (owner, expires_us) for n, (owner, _) in self._claims.items() if owner == session}
            self._sweep(now_us)
            return True

    def retire(self, name: str, session: bytes) -> None:
        """Remove the instance with its leases and claims."""
        with self._lock:
            holder = self._instances.get(name)
            if holder is not None and holder.session == session:
                del self._instances[name]
            self._let_go(session)

    def take(self, lease: LeaseRequest) -> list[Image] | None:
        """Lease due entries that no living session leases; None if another session has the instance's name."""
        with self._lock:
            holder = self._instances.get(lease.name)
            if holder is not None and holder.session != lease.session:
                return None
            taken: list[EntryRow] = []
            total = 0
            for row in self._due(lease.due_us, lease.source):
                if len(taken) == lease.limit:
                    break
                if self._leases.get(row.stream, (b"", 0))[1] > lease.now_us:
                    continue
                size = row.claimed if row.claimed is not None else row.size or 0
                if taken and total + size > lease.max_bytes:
                    break
                total += size
                taken.append(row)
            self._leases |= {row.stream: (lease.session, lease.expires_us) for row in taken}
            return [self._image(row) for row in taken]

    def release(self, name: str, session: bytes, keys: Collection[bytes] | None) -> None:  # noqa: ARG002  # the session says it all
        """Give back the session's leases on these stored keys, or all of them."""
        with self._lock:
            streams = set(self._leases) if keys is None else {self._tables.streams.get(key, 0) for key in keys}
            for stream in streams:
                self._end_lease(session, stream)

    def claim(self, name: str, session: bytes, *, now_us: int, expires_us: int) -> bool:
        """Take or prolong the claim `name`; False while another session has it."""
        with self._lock:
            owner, until_us = self._claims.get(name, (session, 0))
            if owner != session and is_held(until_us, now_us):
                return False
            self._claims[name] = (session, expires_us)
            return True

    def unclaim(self, name: str, session: bytes) -> None:
        """Give the claim back, if it is this session's."""
        with self._lock:
            if self._claims.get(name, (b"", 0))[0] == session:
                del self._claims[name]

    # --- helpers ---

    def _sweep(self, now_us: int) -> None:
        self._leases = {s: lease for s, lease in self._leases.items() if is_held(lease[1], now_us)}
        self._claims = {n: claim for n, claim in self._claims.items() if is_held(claim[1], now_us)}
        living = {n: row for n, row in self._instances.items() if row.expires_us > now_us - FORGOTTEN_US}
        self._instances = living

    def _image(self, row: EntryRow) -> Image:
        event = self._tables.events[row.seq - 1]
        key = self._tables.keys[row.stream - 1]
        if key is None or event.payload is None:
            raise AssertionError("an erased stream has no entry")
        return Image(
            key, row.stream, row.version, row.seq, event.type, event.schema_version, event.flags, event.payload
        )

    def _no(self, source: bytes | None) -> int | None:
        """Return the number of a source, None for all of them, 0 for one that does not exist."""
        if source is None:
            return None
        return next((row.no for row in self._tables.projection.sources.values() if row.id == source), 0)

    def _due(self, now_us: int, source: bytes | None) -> list[EntryRow]:
        no = self._no(source)
        due = [
            (row.due_us, row.stream, row)
            for row in self._tables.projection.entries.values()
            if row.due_us is not None and row.due_us <= now_us and no in (None, row.source)
        ]
        return [row for _, _, row in sorted(due)]

    def _end_lease(self, session: bytes, stream: int) -> None:
        if self._leases.get(stream, (b"", 0))[0] == session:
            del self._leases[stream]

    def _let_go(self, session: bytes) -> None:
        self._leases = {stream: held for stream, held in self._leases.items() if held[0] != session}
        self._claims = {name: held for name, held in self._claims.items() if held[0] != session}
