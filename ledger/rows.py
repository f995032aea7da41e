"""The rows that a store keeps, as plain tuples: what a batch writes and what a read returns (docs/format.md)."""

from __future__ import annotations

from typing import Final, NamedTuple

from msgspec import Struct

SOUND: Final = "sound"
DAMAGED: Final = "damaged"
LOST: Final = "lost"
RELEASED: Final = "released"

FEW_EVENTS: Final = 2
"""An element with this many events was seen and stored once, so it has no older version."""


class StoredEvent(NamedTuple):
    """One event as stored. The tree commits to `header`; most other fields repeat it for the database.

    `nonce` and `payload` are None once erased. `leaf` has 32 bytes. Times are in microseconds since 1970 UTC.
    """

    seq: int
    stream: int
    stream_version: int
    type: str
    schema_version: int
    flags: int
    recorded_us: int
    observed_us: int
    writer: str
    header: bytes
    nonce: bytes | None
    payload: bytes | None
    leaf: bytes


class StoredFact(NamedTuple):
    """The part of an event that a fold reads: a `StoredEvent` without its proof, observation time and writer."""

    seq: int
    stream: int
    stream_version: int
    type: str
    schema_version: int
    flags: int
    recorded_us: int
    payload: bytes | None


class StoredHead(NamedTuple):
    """The head row: the last position, its recorded time, the last stream number, and the frontier's nodes."""

    position: int
    recorded_us: int
    streams: int
    frontier: bytes


class EntryRow(NamedTuple):
    """The projection of one element: a pointer to its newest event (`seq`), and the columns that queries select by.

    `version` is the stream's. `due_us` is None if no copy is wanted. `claimed` is the size that the server claims.
    `size` and `sha256` are the copy's. Each of these is None if there is none. Sizes are in bytes.
    """

    stream: int
    source: int
    version: int
    seq: int
    state: str
    due_us: int | None
    date: int
    claimed: int | None
    size: int | None
    sha256: bytes | None


class StreamRow(NamedTuple):
    """What an append needs to know about a stream: its number, its version, and its entry if it is an element's."""

    stream: int
    version: int
    entry: EntryRow | None


class SourceRow(NamedTuple):
    """The projection of a source: its number, its 128-bit id, its stream, version and newest event."""

    no: int
    id: bytes
    stream: int
    version: int
    seq: int


class CopyState(NamedTuple):
    """A copy that an event of a stream names. `seq` is the position where it was stored, `state` its newest state."""

    sha256: bytes
    stream: int
    size: int
    seq: int
    state: str


class CopyRow(NamedTuple):
    """One object that an element's event names, as `Ledger.copies` returns it. `key` is the element's stored key."""

    sha256: bytes
    size: int
    key: bytes
    position: int
    state: str


class VolumeRow(NamedTuple):
    """How many copies of a source were stored at the positions of a block, and their bytes."""

    source: int
    block: int
    copies: int
    bytes: int


class CommitRow(NamedTuple):
    """One batch: its positions, time, idempotency key, and the frontier at its end (None if it was lost)."""

    last: int
    first: int
    recorded_us: int
    batch_key: bytes | None
    frontier: bytes | None


class TallyRow(NamedTuple):
    """How many elements of a source are in a state, and the bytes of their copies; or the change of both."""

    source: int
    state: str
    elements: int
    bytes: int


class Image(NamedTuple):
    """An entry joined with the event that it points to. `key` is the stored stream key."""

    key: bytes
    stream: int
    version: int
    seq: int
    type: str
    schema_version: int
    flags: int
    payload: bytes


class InstanceRow(NamedTuple):
    """A collector registered as `name`. `session` identifies its process, and `place` is where its files are."""

    name: str
    session: bytes
    place: str
    started_us: int
    beat_us: int
    expires_us: int


class FurtherRow(NamedTuple):
    """A further storage: its `id` (16 bytes), as it states itself, and the `address` where it was last seen.

    It has every object that events up to `position` name, and nothing that was released and freed up to `freed`.
    `kept_us` is when it was last in step, or when it began if it never was.
    """

    id: bytes
    address: str
    position: int
    freed: int
    kept_us: int


LONGEST_US = 86_400_000_000
"""The longest lease or reservation. One that ends later was made by a clock that was far ahead."""

FORGOTTEN_US = 30 * LONGEST_US
"""How long an instance that stopped is remembered after its last lease."""


def is_held(until_us: int, now_us: int) -> bool:
    """Return whether a lease or reservation until `until_us` is still valid."""
    return now_us < until_us <= now_us + LONGEST_US


class LeaseRequest(NamedTuple):
    """A request for at most `limit` entries due at `due_us`, with at most `max_bytes` together, or one larger entry.

    Sizes are the server's claims, or else the last copy's. `source` is an id, or None for every source. Leases of other
    sessions that end after `now_us` are respected.
    """

    name: str
    session: bytes
    now_us: int
    expires_us: int
    limit: int
    max_bytes: int
    source: bytes | None
    due_us: int


class Changes(Struct, frozen=True, kw_only=True):
    """What a batch does to the projection.

    `entries` and `sources` replace the rows of their streams and numbers. `dropped` are streams whose entry and copies
    are removed. `copies` replace rows. `judged` (state, SHA-256, stream) gives an existing copy a new state. `tallies`
    are added to the sums.
    """

    entries: list[EntryRow]
    dropped: list[int]
    copies: list[CopyState]
    judged: list[tuple[str, bytes, int]]
    sources: list[SourceRow]
    tallies: list[TallyRow]


class Batch(Struct, frozen=True, kw_only=True):
    """Everything that one append writes in one transaction. Copying a ledger writes several `commits` at once.

    `streams` are new streams as (number, stored key); the key is None once it is erased. `erased` are (stream, position
    of its PayloadErased): the stream's key becomes null, and so do payload and nonce of each of its earlier events.
    """

    head: StoredHead
    streams: list[tuple[int, bytes | None]]
    events: list[StoredEvent]
    erased: list[tuple[int, int]]
    changes: Changes
    commits: list[CommitRow]
