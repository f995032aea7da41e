"""A LedgerStore in lists and dictionaries, for tests and simulations. Nothing outlives the process."""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

from ledger.events import PayloadErased
from ledger.memory_places import MemoryPlaces
from ledger.memory_tables import MemoryWriting, Tables
from ledger.rows import FEW_EVENTS, FORGOTTEN_US, Image, StoredFact, VolumeRow, is_held

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from ledger.rows import (
        CommitRow,
        CopyState,
        EntryRow,
        FurtherRow,
        InstanceRow,
        LeaseRequest,
        SourceRow,
        StoredEvent,
        StoredHead,
        TallyRow,
    )


class MemoryStore:
    """A LedgerStore in memory: one process, any number of threads."""

    def __init__(self, now_us: Callable[[], int] | None = None) -> None:
        """Start empty. `now_us` stands in for a database's own clock."""
        self._clock = now_us
        self._lock = threading.RLock()
        self._tables = Tables()
        self.log = MemoryLog(self._tables)
        self.projection = MemoryProjection(self._tables, self._lock)
        self.work = MemoryWorkQueue(self._tables, self._lock)
        self.blobs = MemoryBlobs(self._tables, self._lock)
        self.places = MemoryPlaces(self._lock)

    @contextmanager
    def writing(self) -> Iterator[MemoryWriting]:
        """Lock the head and begin a transaction. Nothing changes unless the block succeeds."""
        with self._lock:
            tx = MemoryWriting(self._tables, self.now_us())
            yield tx
            erased_from = tx.commit()
            if erased_from is not None:
                self.blobs.forget_snapshots(erased_from)
            self.places.take_over(tx.placed)
            for session, streams in tx.released:
                self.work.end_leases(session, streams)

    def damage(self) -> Iterator[str]:
        """Yield nothing: there are no pages and no indexes."""
        yield from ()

    def now_us(self) -> int | None:
        """Return the time of the clock that was passed in, or None without one."""
        return None if self._clock is None else self._clock()

    def free_files(self) -> None:
        """Return None: memory holds no files."""

    def fold_log(self) -> bool:
        """There is no log."""
        return True

    def free_bytes(self) -> None:
        """Return None: this is not known."""
        return

    def reopener(self) -> None:
        """Return None: another process cannot see this memory."""
        return

    def close(self) -> None:
        """Do nothing: there are no connections."""


class MemoryLog:
    """The events, their streams and their commits."""

    def __init__(self, tables: Tables) -> None:
        """Read these tables."""
        self._tables = tables

    def head(self) -> StoredHead:
        """Return the head; position 0 before the first event."""
        return self._tables.head

    def page(self, after: int, until: int | None, count: int) -> Sequence[tuple[Any, ...]]:
        """Return the first `count` events in (`after`, `until`] with the columns of a StoredEvent, in order."""
        return self._tables.events[after : min(self._until(until), after + count)]

    def bodies(self, after: int, until: int | None, count: int) -> Sequence[tuple[Any, ...]]:
        """Return (position, stored key, header, nonce, payload) of the same events."""
        keys = self._tables.keys
        page = self._tables.events[after : min(self._until(until), after + count)]
        return [(each.seq, keys[each.stream - 1], each.header, each.nonce, each.payload) for each in page]

    def pointers(self, *, after: int = 0, until: int | None = None) -> Iterator[tuple[int, int]]:
        """Yield (position, stream) of the events in (`after`, `until`], in order."""
        while after < self._until(until):
            event = self._tables.events[after]
            yield event.seq, event.stream
            after += 1

    def leaves(self, after: int, until: int) -> list[bytes]:
        """Return the leaf hashes of the events in (`after`, `until`], in order."""
        return [event.leaf for event in self._tables.events[after : max(after, until)]]

    def events_at(self, positions: Sequence[int]) -> list[StoredEvent]:
        """Return the events at these positions, in order."""
        return [self._tables.events[at - 1] for at in sorted(set(positions)) if 0 < at <= self._tables.head.position]

    def facts_at(self, positions: Sequence[int]) -> list[tuple[Any, ...]]:
        """Return the columns of a StoredFact for the events at these positions, for folds over millions of events."""
        return [tuple(getattr(event, name) for name in StoredFact._fields) for event in self.events_at(positions)]

    def histories(self, streams: Collection[int], until: int) -> Iterator[tuple[Any, ...]]:
        """Yield the columns of a StoredFact for every event of these streams up to `until`, stream by stream."""
        known = self._tables.by_stream
        for stream in sorted(set(streams)):
            yield from self.facts_at([at for at in known[stream - 1] if at <= until] if stream <= len(known) else [])

    def of_types(self, types: Collection[str], after: int, until: int, count: int) -> list[tuple[Any, ...]]:
        """Return the columns of a StoredFact for the first `count` events of these types in (`after`, `until`]."""
        events = self._tables.events[after : self._until(until)]
        return self.facts_at([event.seq for event in events if event.type in types][:count])

    def stream_events(self, key: bytes, *, newest_first: bool = False) -> Iterator[StoredEvent]:
        """Yield the events of the stream with this stored key, in order or in reverse order."""
        stream = self._tables.streams.get(key)
        positions = [] if stream is None else self._tables.by_stream[stream - 1]
        return (self._tables.events[at - 1] for at in (positions[::-1] if newest_first else positions))

    def streams(
        self, numbers: Collection[int] | None = None, *, after: int = 0, erased: bool = False
    ) -> Iterator[tuple[int, bytes | None]]:
        """Yield (number, stored key) of every stream numbered above `after`, or of those among `numbers`."""
        keys = self._tables.keys
        wanted = range(after + 1, len(keys) + 1) if numbers is None else numbers
        found = ((stream, keys[stream - 1]) for stream in wanted if 0 < stream <= len(keys))
        return (pair for pair in found if not erased or pair[1] is None)

    def streams_by_key(self, *, after: bytes = b"") -> Iterator[tuple[bytes, int]]:
        """Yield (stored key, number) of every stream that has a key above `after`, in bytewise order of the keys."""
        return iter(sorted(pair for pair in self._tables.streams.items() if pair[0] > after))

    def last_positions(self, until: int, streams: Collection[int] | None = None) -> Iterator[tuple[int, int]]:
        """Yield (position, stream) of the last event up to `until` of every stream, or of those among `streams`."""
        known = self._tables.by_stream
        for stream in range(1, len(known) + 1) if streams is None else streams:
            positions = known[stream - 1] if 0 < stream <= len(known) else []
            at = bisect_right(positions, until)
            if at:
                yield positions[at - 1], stream

    def commits(self, *, after: int = 0, until: int | None = None, newest_first: bool = False) -> Iterator[CommitRow]:
        """Yield the commit rows of the batches that end in (`after`, `until`], in order or in reverse order."""
        rows = self._tables.commits
        end = len(rows) if until is None else bisect_right(rows, until, key=lambda row: row.last)
        found = rows[bisect_right(rows, after, key=lambda row: row.last) : end]
        return reversed(found) if newest_first else iter(found)

    def position_before(self, us: int) -> int:
        """Return the last position whose recorded time is before `us`; 0 if there is none."""
        at = bisect_left(self._tables.commits, us, key=lambda row: row.recorded_us)
        return self._tables.commits[at - 1].last if at else 0

    def _until(self, until: int | None) -> int:
        return self._tables.head.position if until is None else min(until, self._tables.head.position)


class MemoryProjection:
    """The rows that result from folding the events: entries, copies, sources and sums."""

    def __init__(self, tables: Tables, lock: threading.RLock) -> None:
        """Read these tables, under the store's lock."""
        self._tables = tables
        self._lock = lock

    def images(self, keys: Collection[bytes]) -> list[Image]:
        """Return the entries that exist among these stored keys, in any order."""
        with self._lock:
            rows = [self._tables.projection.entries.get(self._tables.streams.get(key, 0)) for key in keys]
            return [self._tables.image(row) for row in rows if row is not None]

    def scan(
        self, *, source: bytes | None, states: Collection[str] | None, after: bytes | None, wanted: bool | None
    ) -> Iterator[Image]:
        """Yield the entries after `after` that match every given filter, in the order of their stored keys."""
        for key in sorted(self._tables.streams):
            row = self._tables.projection.entries.get(self._tables.streams.get(key, 0))
            if row is None or (after is not None and key <= after) or (source is not None and key[:16] != source):
                continue
            if (states is None or row.state in states) and (wanted is None or wanted == (row.due_us is not None)):
                yield self._tables.image(row)

    def page(self, after: bytes, count: int) -> Sequence[tuple[Any, ...]]:
        """Return the first `count` entries with keys above `after`, each with the event that it points to."""
        page = []
        for key, row in islice(((key, row) for key, row in self._rows() if key > after), count):
            event = self._tables.events[row.seq - 1] if 0 < row.seq <= len(self._tables.events) else None
            about = (
                (None,) * 5
                if event is None
                else (event.stream, event.type, event.schema_version, event.recorded_us, event.payload)
            )
            page.append((key, *row, *about))
        return page

    def next_due_us(self, source: bytes | None) -> int | None:
        """Return the earliest time at which an entry is due, or None if nothing is wanted."""
        with self._lock:
            return min((row.due_us for row in self._tables.wanted(source) if row.due_us is not None), default=None)

    def due(self, source: bytes, *, last_first: bool) -> Iterator[Image]:
        """Yield the wanted entries of a source, in the order of their due times, or in the opposite order."""
        with self._lock:
            rows = sorted(self._tables.wanted(source), key=lambda row: (row.due_us, row.stream), reverse=last_first)
            images = [self._tables.image(row) for row in rows]
        yield from images

    def wanted_in(self, source: bytes, states: Collection[str]) -> int:
        """Return how many wanted entries of a source are in these states."""
        with self._lock:
            return sum(row.state in states for row in self._tables.wanted(source))

    def sources(self) -> list[SourceRow]:
        """Return all sources, in the order in which they began."""
        return list(self._tables.projection.sources.values())

    def tallies(self) -> list[TallyRow]:
        """Return the maintained sums, without empty ones, in the order of source and state."""
        return [row for _, row in sorted(self._tables.projection.tallies.items()) if row.elements]

    def copies(self, *, start: bytes = b"", end: bytes | None = None) -> Iterator[CopyState]:
        """Yield the copies with `start` <= SHA-256 <= `end`, in the order of SHA-256 and stream."""
        for _, row in sorted(self._tables.projection.copies.items()):
            if start <= row.sha256 and (end is None or row.sha256 <= end):
                yield row

    def named(self, sha256s: Collection[bytes]) -> list[CopyState]:
        """Return the copies with these SHA-256, in any order."""
        return [row for row in self._tables.projection.copies.values() if row.sha256 in sha256s]

    def revisited(self, after: int, until: int) -> Iterator[tuple[int, int]]:
        """Yield (stream, its source's number) of each entry in (`after`, `until`] that can have an older version."""
        for stream, row in sorted(self._tables.projection.entries.items()):
            if after < stream <= until and (row.version > FEW_EVENTS or row.state == "vanished"):
                yield stream, row.source

    def volumes(self, block: int) -> list[VolumeRow]:
        """Return the sums over all copies, by source and by the position where each was stored divided by `block`."""
        sums: dict[tuple[int, int], tuple[int, int]] = {}
        for row in self._tables.projection.copies.values():
            entry = self._tables.projection.entries.get(row.stream)
            if entry is not None:
                at = (entry.source, row.seq // block)
                copies, size = sums.get(at, (0, 0))
                sums[at] = (copies + 1, size + row.size)
        return [VolumeRow(*at, *found) for at, found in sorted(sums.items())]

    def _rows(self) -> Iterator[tuple[bytes, EntryRow]]:
        for key in sorted(self._tables.streams):
            row = self._tables.projection.entries.get(self._tables.streams[key])
            if row is not None:
                yield key, row


class MemoryWorkQueue:
    """Instances, their leases on due entries, and reserved names."""

    def __init__(self, tables: Tables, lock: threading.RLock) -> None:
        """Lease entries of these tables, under the store's lock."""
        self._tables = tables
        self._lock = lock
        self._instances: dict[str, InstanceRow] = {}
        self._leases: dict[int, tuple[bytes, int]] = {}
        self._reservations: dict[str, tuple[bytes, int]] = {}
        self._further: dict[bytes, FurtherRow] = {}

    def instances(self) -> list[InstanceRow]:
        """Return the registered instances, by name."""
        return [row for _, row in sorted(self._instances.items())]

    def enroll(self, row: InstanceRow, *, now_us: int, here: bool) -> InstanceRow | None:
        """Register an instance and return None, or return the active instance that holds its name."""
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
        """Extend the instance, its leases and its reservations. False if another session has the name."""
        with self._lock:
            holder = self._instances.get(name)
            if holder is None or holder.session != session:
                return False
            self._instances[name] = holder._replace(beat_us=now_us, expires_us=expires_us)
            self._leases |= {s: (owner, expires_us) for s, (owner, _) in self._leases.items() if owner == session}
            self._reservations |= {
                n: (owner, expires_us) for n, (owner, _) in self._reservations.items() if owner == session
            }
            self._sweep(now_us)
            return True

    def retire(self, name: str, session: bytes) -> None:
        """Remove the instance with its leases and reservations."""
        with self._lock:
            holder = self._instances.get(name)
            if holder is not None and holder.session == session:
                del self._instances[name]
            self._let_go(session)

    def take(self, lease: LeaseRequest) -> list[Image] | None:
        """Lease due entries that no active session leases. None if another session has the instance's name."""
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
            return [self._tables.image(row) for row in taken]

    def release(self, name: str, session: bytes, keys: Collection[bytes] | None) -> None:  # noqa: ARG002  # the session is enough
        """Give back the session's leases on these stored keys, or all of them."""
        with self._lock:
            streams = set(self._leases) if keys is None else {self._tables.streams.get(key, 0) for key in keys}
            self.end_leases(session, streams)

    def further(self) -> list[FurtherRow]:
        """Return the further storages that are known, in any order."""
        with self._lock:
            return list(self._further.values())

    def keep_further(self, row: FurtherRow) -> None:
        """Record this further storage, and replace what was known about it."""
        with self._lock:
            self._further[row.id] = row

    def forget_further(self, id_: bytes) -> None:
        """Forget a further storage."""
        with self._lock:
            self._further.pop(id_, None)

    def reserve(self, name: str, session: bytes, *, now_us: int, expires_us: int) -> bool:
        """Reserve `name`, or extend its reservation. False while another session has it."""
        with self._lock:
            owner, until_us = self._reservations.get(name, (session, 0))
            if owner != session and is_held(until_us, now_us):
                return False
            self._reservations[name] = (session, expires_us)
            return True

    def unreserve(self, name: str, session: bytes) -> None:
        """Give back the reservation, if this session has it."""
        with self._lock:
            if self._reservations.get(name, (b"", 0))[0] == session:
                del self._reservations[name]

    def end_leases(self, session: bytes, streams: Iterable[int]) -> None:
        """Give back the session's leases on these streams."""
        for stream in streams:
            if self._leases.get(stream, (b"", 0))[0] == session:
                del self._leases[stream]

    # --- helpers ---

    def _due(self, now_us: int, source: bytes | None) -> list[EntryRow]:
        wanted = self._tables.wanted(source)
        due = [(row.due_us, row.stream, row) for row in wanted if row.due_us is not None and row.due_us <= now_us]
        return [row for _, _, row in sorted(due)]

    def _sweep(self, now_us: int) -> None:
        self._leases = {s: lease for s, lease in self._leases.items() if is_held(lease[1], now_us)}
        self._reservations = {n: held for n, held in self._reservations.items() if is_held(held[1], now_us)}
        living = {n: row for n, row in self._instances.items() if row.expires_us > now_us - FORGOTTEN_US}
        self._instances = living

    def _let_go(self, session: bytes) -> None:
        self._leases = {stream: held for stream, held in self._leases.items() if held[0] != session}
        self._reservations = {name: held for name, held in self._reservations.items() if held[0] != session}


class MemoryBlobs:
    """Snapshots and checkpoint notes."""

    def __init__(self, tables: Tables, lock: threading.RLock) -> None:
        """Share the store's tables, and the lock under which they change."""
        self._tables = tables
        self._lock = lock
        self._snapshots: dict[tuple[str, int], list[bytes]] = {}
        self._checkpoints: dict[tuple[int, str], None] = {}

    def forget_snapshots(self, first: int) -> None:
        """Remove every snapshot from this position on, because it was made from data that an erasure has removed."""
        self._snapshots = {pair: chunks for pair, chunks in self._snapshots.items() if pair[1] < first}

    def save_snapshot(self, kind: str, position: int, chunks: Iterable[bytes], *, as_of: int | None = None) -> bool:
        """Keep an opaque snapshot of `kind` at `position`, unless something was erased after `as_of`."""
        made = list(chunks)
        with self._lock:
            self._snapshots.pop((kind, position), None)
            if as_of is not None and any(event.type == PayloadErased.TYPE for event in self._tables.events[as_of:]):
                return False
            self._snapshots[kind, position] = made
        return True

    def load_snapshot(self, kind: str, position: int) -> Iterator[bytes]:
        """Yield the chunks of a snapshot in order, or nothing if there is no such snapshot."""
        return iter(self._snapshots.get((kind, position), ()))

    def list_snapshots(self) -> list[tuple[str, int]]:
        """Return (kind, position) of every complete snapshot, in that order."""
        return sorted(self._snapshots)

    def drop_snapshots(self, kind: str, *, position: int | None = None) -> None:
        """Remove all snapshots of a kind, or the one at `position`."""
        for pair in [pair for pair in self._snapshots if pair[0] == kind and position in (None, pair[1])]:
            del self._snapshots[pair]

    def save_checkpoint(self, size: int, note: str) -> None:
        """Keep a signed note about the tree of this size. The same note is kept only once."""
        self._checkpoints[size, note] = None

    def checkpoint_faults(self) -> Iterator[str]:
        """Yield nothing: notes have no numbers and digests here."""
        yield from ()

    def checkpoints(self) -> Iterator[tuple[int, str]]:
        """Yield (size, note) in the order of size, then in the order in which the notes were kept."""
        return iter(sorted(self._checkpoints, key=lambda pair: pair[0]))
