"""What a ledger demands of a store: the EventStore protocol, held by `tests/contract/` over every implementation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from ledger.rows import (
        Batch,
        Changes,
        CommitRow,
        CopyRow,
        CopyState,
        EntryRow,
        Image,
        InstanceRow,
        LeaseRequest,
        SourceRow,
        StoredEvent,
        StoredHead,
        StreamRow,
        TallyRow,
    )


class Writing(Protocol):
    """One write transaction, which holds the head: no other writer is between its reading and its writing."""

    @property
    def head(self) -> StoredHead:
        """The head as it is now, until `write`."""

    @property
    def now_us(self) -> int | None:
        """The store's own time, None where it has no clock of its own."""

    def commit_of(self, batch_key: bytes) -> CommitRow | None:
        """Return the commit that carries this idempotency key."""

    def leaf(self, seq: int) -> bytes | None:
        """Return the leaf hash stored at this position."""

    def streams(self, keys: Collection[bytes]) -> dict[bytes, StreamRow]:
        """Return the streams that exist among these stored keys."""

    def sources(self) -> list[SourceRow]:
        """Return all sources, in the order in which they began."""

    def entries(self, streams: Collection[int]) -> dict[int, EntryRow]:
        """Return the entries that exist among these streams."""

    def write(self, batch: Batch) -> None:
        """Write the batch: events, erasures, projection, commit row and head."""

    def release(self, name: str, session: bytes, streams: Collection[int]) -> None:
        """Give back the session's leases on these streams, together with what is written."""

    def clear_projection(self) -> None:
        """Remove every row of the projection."""

    def change(self, changes: Changes) -> None:
        """Write changes of the projection alone."""


class EventStore(Protocol):
    """Where the ledger's rows are kept.

    Whatever `writing` wrote is durable and visible as a whole once its block ends, or not at all. Events are seen in
    the order of their positions, without gaps, by every reader at every moment. Iterators read page by page, each page
    in a short transaction of its own. Every method may raise LedgerUnavailableError.
    """

    def writing(self) -> AbstractContextManager[Writing]:
        """Lock the head and begin; commit when the block ends, undo everything when it raises."""

    def close(self) -> None:
        """Let go of every connection."""

    def now_us(self) -> int | None:
        """Return the store's own time, None where it has no clock of its own."""

    def head(self) -> StoredHead:
        """Return the head; position 0 before the first event."""

    def stored(self, *, after: int = 0, until: int | None = None) -> Iterator[StoredEvent]:
        """Yield the events at positions in (`after`, `until`], in order."""

    def stored_page(self, after: int, until: int, count: int) -> Sequence[tuple[Any, ...]]:
        """Return the first `count` events in (`after`, `until`] as plain tuples, for audits that read millions."""

    def pointers(self, *, after: int = 0, until: int | None = None) -> Iterator[tuple[int, int]]:
        """Yield (position, stream) of the events in (`after`, `until`], in order."""

    def leaves(self, after: int, until: int) -> list[bytes]:
        """Return the leaf hashes of the events in (`after`, `until`], in order."""

    def events_at(self, seqs: Sequence[int]) -> list[StoredEvent]:
        """Return the events at these positions, in the order of positions."""

    def facts_at(self, seqs: Sequence[int]) -> list[tuple[Any, ...]]:
        """Return StoredFacts of the events at these positions, in their order; plain tuples, for folds of millions."""

    def elsewhere(self) -> Callable[[], EventStore] | None:
        """Return what opens this store for reading in a process that is about to be forked, None if none could.

        This one lets go of the connections that it reads with, so that none is inherited.
        """

    def stream_events(self, key: bytes) -> Iterator[StoredEvent]:
        """Yield the events of the stream with this stored key, in order."""

    def newest_event(self, key: bytes) -> StoredEvent | None:
        """Return the last event of the stream with this stored key."""

    def stream_keys(self, streams: Collection[int]) -> dict[int, bytes | None]:
        """Return the stored key of each stream that exists, None once it is erased."""

    def streams(self, *, after: int = 0) -> Iterator[tuple[int, bytes | None]]:
        """Yield (number, stored key) of every stream numbered above `after`, in order."""

    def streams_by_key(self, *, after: bytes = b"") -> Iterator[tuple[bytes, int]]:
        """Yield (stored key, number) of every stream that has a key above `after`, in bytewise order of the keys."""

    def last_at(self, streams: Collection[int], position: int) -> dict[int, int]:
        """Return the position of each stream's last event up to `position`, for those that have one."""

    def last_positions(self, position: int) -> Iterator[tuple[int, int]]:
        """Yield (position, stream) of every stream's last event up to `position`, in the order of streams."""

    def images(self, keys: Collection[bytes]) -> list[Image]:
        """Return the entries that exist among these stored keys, in no order."""

    def scan(
        self,
        *,
        source: bytes | None,
        states: Collection[str] | None,
        after: bytes | None,
        wanted: bool | None,
    ) -> Iterator[Image]:
        """Yield entries in the order of their stored keys, those after `after` that match every given filter."""

    def due(self, *, now_us: int, limit: int, source: bytes | None) -> list[Image]:
        """Return entries due at `now_us`, the longest due first, at most `limit`."""

    def next_due_us(self, source: bytes | None) -> int | None:
        """Return the earliest moment at which an entry is due, None when nothing is wanted."""

    def sources(self) -> list[SourceRow]:
        """Return all sources, in the order in which they began."""

    def tallies(self) -> list[TallyRow]:
        """Return the maintained sums in the order of source and state, without empty ones."""

    def copies(self, *, start: bytes, end: bytes | None) -> Iterator[CopyRow]:
        """Yield copies with `start` <= SHA-256 <= `end`, ordered by SHA-256 and stream."""

    def projection_rows(self) -> Iterator[tuple[bytes, EntryRow]]:
        """Yield (stored key, entry) in the order of the keys."""

    def projection_page(self, after: bytes, count: int) -> Sequence[tuple[Any, ...]]:
        """Return the first `count` entries with keys above `after`, in their order, as plain tuples.

        Stored key, the columns of the EntryRow, and of the event that it points to: stream, type, schema_version,
        recorded_us and payload; five times None where there is no such event.
        """

    def copy_states(self, *, start: bytes = b"", end: bytes | None = None) -> Iterator[CopyState]:
        """Yield copies' rows with `start` <= SHA-256 <= `end`, ordered by SHA-256 and stream."""

    def commits(self, *, after: int = 0) -> Iterator[CommitRow]:
        """Yield the commit rows of batches that end above position `after`, in order."""

    def position_before(self, us: int) -> int:
        """Return the last position whose recorded time is before `us`; 0 if there is none."""

    def frontier_before(self, position: int) -> tuple[int, bytes]:
        """Return the last kept (position, frontier nodes) at or before `position`; (0, b"") if there is none."""

    def save_snapshot(self, kind: str, position: int, chunks: Iterable[bytes]) -> None:
        """Keep an opaque snapshot of `kind` at `position`, in the place of an earlier one there.

        Writing a batch with erasures removes every snapshot: they were made of what is no longer known.
        """

    def load_snapshot(self, kind: str, position: int) -> Iterator[bytes]:
        """Yield the chunks of a snapshot, in order; none if there is no such snapshot."""

    def list_snapshots(self) -> list[tuple[str, int]]:
        """Return (kind, position) of every complete snapshot, in that order."""

    def drop_snapshots(self, kind: str, *, position: int | None = None) -> None:
        """Remove all snapshots of a kind, or the one at `position`."""

    def save_checkpoint(self, size: int, note: str) -> None:
        """Keep a signed note about the tree of this size; the same note twice is kept once."""

    def checkpoints(self) -> Iterator[tuple[int, str]]:
        """Yield (size, note), the smallest trees first, and in the order in which they were kept."""

    def instances(self) -> list[InstanceRow]:
        """Return the instances at work, by name."""

    def enroll(self, row: InstanceRow, *, now_us: int, here: bool) -> InstanceRow | None:
        """Register an instance; return the living one that holds its name, or None when registered.

        One whose time has run out is replaced, and with `here` one of the same place too: who asks holds the lock on
        that place's files. What the dead have left is swept away.
        """

    def beat(self, name: str, session: bytes, *, now_us: int, expires_us: int) -> bool:
        """Move the expiry of the instance and of its leases; False if the name is no longer this session's.

        Leases and claims whose time has run out are swept away, and instances that have been dead for a month: nobody
        else may ever ask for what those held.
        """

    def retire(self, name: str, session: bytes) -> None:
        """Remove the instance with its leases and claims."""

    def take(self, lease: LeaseRequest) -> list[Image] | None:
        """Lease due entries that no living session leases, the longest due first.

        Returns None if another session has the instance's name.
        """

    def release(self, name: str, session: bytes, keys: Collection[bytes] | None) -> None:
        """Give back the session's leases on these stored keys, or all of them."""

    def claim(self, name: str, session: bytes, *, now_us: int, expires_us: int) -> bool:
        """Take or prolong the claim `name`; False while another session has it."""

    def unclaim(self, name: str, session: bytes) -> None:
        """Give the claim back, if it is this session's."""
