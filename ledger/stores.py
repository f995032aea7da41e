"""What a `Ledger` needs from a database, in small protocols: log, projection, work queue and blobs.

The fifth one, the places of objects in packs, is in `ledger/places.py`.

`tests/contract/` has a suite for each protocol and runs it over every implementation: `ledger/memory.py` and
`ledger/sql/`. Every method can raise LedgerUnavailableError.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from ledger.rows import StoredEvent

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from ledger.places import Placement, PlaceStore
    from ledger.rows import (
        Batch,
        Changes,
        CommitRow,
        CopyState,
        EntryRow,
        FurtherRow,
        Image,
        InstanceRow,
        LeaseRequest,
        SourceRow,
        StoredHead,
        StreamRow,
        TallyRow,
        VolumeRow,
    )


class Database(Protocol):
    """Operations on the database itself."""

    def damage(self) -> Iterator[str]:
        """Yield what the database finds damaged in its own pages and indexes, or nothing if it has no such check.

        An index that disagrees with its table gives answers that no event explains.
        """

    def fold_log(self) -> bool:
        """Empty the database's own log, which can still hold erased bytes. Return False while somebody reads it.

        Return True also if the database has no log that its users can empty.
        """

    def free_bytes(self) -> int | None:
        """Return how many more bytes the database can take, or None if that is not known."""

    def free_files(self) -> int | None:
        """Return how many more files can be made next to the database, or None if that is not known or not limited."""


class LedgerStore(Database, Protocol):
    """The whole database of a ledger: its parts, and transactions that write to several of them at once."""

    @property
    def log(self) -> EventLog:
        """The events."""

    @property
    def projection(self) -> ProjectionStore:
        """The rows that result from folding the events."""

    @property
    def work(self) -> WorkQueue:
        """The collectors and what they are doing, and the further storages."""

    @property
    def blobs(self) -> BlobStore:
        """Snapshots and checkpoint notes."""

    @property
    def places(self) -> PlaceStore:
        """Where objects are in packs."""

    def writing(self) -> AbstractContextManager[Writing]:
        """Lock the head and begin a transaction. Commit when the block ends; undo everything if it raises.

        The block's writes MUST become durable and visible as a whole, or not at all.
        """

    def now_us(self) -> int | None:
        """Return the database's own time, or None if it has no clock."""

    def reopener(self) -> Callable[[], LedgerStore] | None:
        """Return a function that opens this store for reading in a forked process, or None if that is impossible.

        This store first closes its reading connections, so that the new process does not inherit them.
        """

    def close(self) -> None:
        """Close every connection."""


class Writing(Protocol):
    """One write transaction. It holds the head's lock, so no other writer comes between its reads and its writes."""

    @property
    def head(self) -> StoredHead:
        """The head as it was when the transaction began."""

    @property
    def now_us(self) -> int | None:
        """The database's own time, or None if it has no clock."""

    def commit_of(self, batch_key: bytes) -> CommitRow | None:
        """Return the commit with this idempotency key, or None."""

    def leaf(self, position: int) -> bytes | None:
        """Return the leaf hash stored at this position, or None."""

    def streams(self, keys: Collection[bytes]) -> dict[bytes, StreamRow]:
        """Return the streams that exist among these stored keys."""

    def sources(self) -> list[SourceRow]:
        """Return all sources, in the order in which they began."""

    def entries(self, streams: Collection[int]) -> dict[int, EntryRow]:
        """Return the entries that exist among these streams."""

    def stored(self, copies: Collection[tuple[bytes, int]]) -> set[tuple[bytes, int]]:
        """Return which of these (SHA-256, stream) were ever stored as copies, whatever became of them."""

    def write(self, batch: Batch) -> None:
        """Write the batch: events, erasures, projection, commit row and head.

        A batch with erasures MUST also remove every snapshot at or after the first event of an erased stream, because
        it was made from the erased data.
        """

    def place(self, places: Sequence[Placement], *, place: str = "") -> None:
        """Add placements in the same transaction. A dropped one counts again."""

    def release(self, name: str, session: bytes, streams: Collection[int]) -> None:
        """Give back the session's leases on these streams in the same transaction."""

    def clear_projection(self) -> None:
        """Remove every row of the projection."""

    def change(self, changes: Changes) -> None:
        """Write changes of the projection only."""


class EventLog(Protocol):
    """The events, their streams and their commits.

    Every reader always sees events in the order of their positions and without gaps. Iterators read page by page, each
    page in its own short transaction.
    """

    def head(self) -> StoredHead:
        """Return the head; position 0 before the first event."""

    def page(self, after: int, until: int | None, count: int) -> Sequence[tuple[Any, ...]]:
        """Return the first `count` events in (`after`, `until`] with the columns of a StoredEvent, in order.

        They are plain tuples because audits read millions of them.
        """

    def bodies(self, after: int, until: int | None, count: int) -> Sequence[tuple[Any, ...]]:
        """Return (position, stored key, header, nonce, payload) of the same events, which is what a segment holds.

        The key is None if it is erased, and so are nonce and payload.
        """

    def pointers(self, *, after: int = 0, until: int | None = None) -> Iterator[tuple[int, int]]:
        """Yield (position, stream) of the events in (`after`, `until`], in order."""

    def leaves(self, after: int, until: int) -> list[bytes]:
        """Return the leaf hashes of the events in (`after`, `until`], in order."""

    def events_at(self, positions: Sequence[int]) -> list[StoredEvent]:
        """Return the events at these positions, in order."""

    def facts_at(self, positions: Sequence[int]) -> list[tuple[Any, ...]]:
        """Return the columns of a StoredFact for the events at these positions, for folds over millions of events."""

    def stream_events(self, key: bytes, *, newest_first: bool = False) -> Iterator[StoredEvent]:
        """Yield the events of the stream with this stored key, in order or in reverse order."""

    def histories(self, streams: Collection[int], until: int) -> Iterator[tuple[Any, ...]]:
        """Yield the columns of a StoredFact for every event of these streams up to `until`, stream by stream."""

    def of_types(self, types: Collection[str], after: int, until: int, count: int) -> list[tuple[Any, ...]]:
        """Return the columns of a StoredFact for the first `count` events of these types in (`after`, `until`]."""

    def streams(
        self, numbers: Collection[int] | None = None, *, after: int = 0, erased: bool = False
    ) -> Iterator[tuple[int, bytes | None]]:
        """Yield (number, stored key) of every stream numbered above `after`, in order. An erased stream's key is None.

        With `numbers`, yield only the streams among them that exist, in any order. With `erased`, yield only erased
        streams, which costs nothing if nothing was erased.
        """

    def streams_by_key(self, *, after: bytes = b"") -> Iterator[tuple[bytes, int]]:
        """Yield (stored key, number) of every stream that has a key above `after`, in bytewise order of the keys."""

    def last_positions(self, until: int, streams: Collection[int] | None = None) -> Iterator[tuple[int, int]]:
        """Yield (position, stream) of every stream's last event up to position `until`, in the order of streams.

        With `streams`, yield only the streams among them that have such an event, in any order.
        """

    def commits(self, *, after: int = 0, until: int | None = None, newest_first: bool = False) -> Iterator[CommitRow]:
        """Yield the commit rows of the batches that end in (`after`, `until`], in order or in reverse order."""

    def position_before(self, us: int) -> int:
        """Return the last position whose recorded time is before `us`; 0 if there is none."""


class ProjectionStore(Protocol):
    """The rows that result from folding the events: entries, copies, sources and sums."""

    def images(self, keys: Collection[bytes]) -> list[Image]:
        """Return the entries that exist among these stored keys, in any order."""

    def scan(
        self,
        *,
        source: bytes | None,
        states: Collection[str] | None,
        after: bytes | None,
        wanted: bool | None,
    ) -> Iterator[Image]:
        """Yield the entries after the stored key `after` that match every given filter, in the order of the keys."""

    def page(self, after: bytes, count: int) -> Sequence[tuple[Any, ...]]:
        """Return the first `count` entries with keys above `after`, in the order of the keys, as plain tuples.

        A tuple holds the stored key, the columns of the EntryRow, and five columns of the event that it points to:
        stream, type, schema_version, recorded_us and payload. If there is no such event, these five are None.
        """

    def next_due_us(self, source: bytes | None) -> int | None:
        """Return the earliest time at which an entry is due, or None if nothing is wanted."""

    def due(self, source: bytes, *, last_first: bool) -> Iterator[Image]:
        """Yield the wanted entries of a source, in the order of their due times, or in the opposite order.

        The cost depends only on how much is read, because wanted entries have an index.
        """

    def wanted_in(self, source: bytes, states: Collection[str]) -> int:
        """Return how many wanted entries of a source are in these states. This reads the index of wanted entries."""

    def sources(self) -> list[SourceRow]:
        """Return all sources, in the order in which they began."""

    def tallies(self) -> list[TallyRow]:
        """Return the maintained sums, without empty ones, in the order of source and state."""

    def copies(self, *, start: bytes = b"", end: bytes | None = None) -> Iterator[CopyState]:
        """Yield the copies with `start` <= SHA-256 <= `end`, in the order of SHA-256 and stream."""

    def named(self, sha256s: Collection[bytes]) -> list[CopyState]:
        """Return the copies with these SHA-256, in any order."""

    def revisited(self, after: int, until: int) -> Iterator[tuple[int, int]]:
        """Yield (stream, its source's number) of each entry in (`after`, `until`] that can have an older version.

        These are the ones with more than two events, and vanished ones. They come in the order of streams.
        """

    def volumes(self, block: int) -> list[VolumeRow]:
        """Return the sums over all copies, by source and by the position where each was stored divided by `block`.

        Copies of erased elements are left out. The order is that of source and block.
        """


class WorkQueue(Protocol):
    """Instances, their leases on due entries, reserved names, and further storages.

    This is working state, not history.
    """

    def instances(self) -> list[InstanceRow]:
        """Return the registered instances, by name."""

    def enroll(self, row: InstanceRow, *, now_us: int, here: bool) -> InstanceRow | None:
        """Register an instance and return None, or return the active instance that holds its name.

        This replaces an instance whose time has run out. With `here`, it also replaces one with the same place, because
        the caller holds the lock on that place's files. It also removes the leases of instances that stopped.
        """

    def beat(self, name: str, session: bytes, *, now_us: int, expires_us: int) -> bool:
        """Extend the instance, its leases and its reservations. False if another session has the name.

        This also removes expired leases and reservations, and instances that stopped a month ago. Otherwise they could
        stay forever if nobody asks for what they held.
        """

    def retire(self, name: str, session: bytes) -> None:
        """Remove the instance with its leases and reservations."""

    def take(self, lease: LeaseRequest) -> list[Image] | None:
        """Lease due entries that no active session leases, the longest due first.

        Returns None if another session has the instance's name.
        """

    def release(self, name: str, session: bytes, keys: Collection[bytes] | None) -> None:
        """Give back the session's leases on these stored keys, or all of them."""

    def further(self) -> list[FurtherRow]:
        """Return the further storages that are known, in any order."""

    def keep_further(self, row: FurtherRow) -> None:
        """Record this further storage, and replace what was known about it."""

    def forget_further(self, id_: bytes) -> None:
        """Forget a further storage."""

    def reserve(self, name: str, session: bytes, *, now_us: int, expires_us: int) -> bool:
        """Reserve `name`, or extend its reservation. False while another session has it."""

    def unreserve(self, name: str, session: bytes) -> None:
        """Give back the reservation, if this session has it."""


class BlobStore(Protocol):
    """Data that other parts keep next to the log: snapshots, which are opaque here, and signed checkpoint notes."""

    def save_snapshot(self, kind: str, position: int, chunks: Iterable[bytes], *, as_of: int | None = None) -> bool:
        """Keep a snapshot of `kind` at `position`, and return True. It replaces an earlier one there.

        With `as_of`, it MUST return False and keep none if there is an erasure after this position, because the
        snapshot might have been made from the erased data. No erasure can come between this check and the saving.
        """

    def load_snapshot(self, kind: str, position: int) -> Iterator[bytes]:
        """Yield the chunks of a snapshot in order, or nothing if there is no such snapshot."""

    def list_snapshots(self) -> list[tuple[str, int]]:
        """Return (kind, position) of every complete snapshot, in that order."""

    def drop_snapshots(self, kind: str, *, position: int | None = None) -> None:
        """Remove all snapshots of a kind, or the one at `position`."""

    def save_checkpoint(self, size: int, note: str) -> None:
        """Keep a signed note about the tree of this size. The same note is kept only once."""

    def checkpoints(self) -> Iterator[tuple[int, str]]:
        """Yield (size, note) in the order of size, then in the order in which the notes were kept."""

    def checkpoint_faults(self) -> Iterator[str]:
        """Yield what is wrong with the numbers and digests under which notes are kept, and with their order."""


# --- helpers ---------------------------------------------------------------------------------------------------------

_PAGE = 1000


def stored_events(log: EventLog, *, after: int = 0, until: int | None = None) -> Iterator[StoredEvent]:
    """Yield the events at positions in (`after`, `until`], in order."""
    while page := log.page(after, until, _PAGE):
        yield from map(StoredEvent._make, page)
        if len(page) < _PAGE:
            return
        after = page[-1][0]
