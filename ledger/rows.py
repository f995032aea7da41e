"""The rows that a store keeps, as plain tuples: what a batch writes and what reading gives back (docs/format.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

SOUND: Final = "sound"
DAMAGED: Final = "damaged"
LOST: Final = "lost"
RELEASED: Final = "released"


class StoredEvent(NamedTuple):
    """One event as stored; `header` is what the tree commits to, the fields beside it repeat it for the database.

    `nonce` and `payload` are None once erased. `leaf` is 32 bytes. Times are microseconds since 1970 UTC.
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
    """What a fold reads of an event: a `StoredEvent` without its proof, observation time and writer."""

    seq: int
    stream: int
    stream_version: int
    type: str
    schema_version: int
    flags: int
    recorded_us: int
    payload: bytes | None


class StoredHead(NamedTuple):
    """The head row: last position, its recorded time, the last stream number, and the nodes of the tree's frontier."""

    position: int
    recorded_us: int
    streams: int
    frontier: bytes


class EntryRow(NamedTuple):
    """The projection of one element: a pointer to its newest event (`seq`) and what queries select by.

    `version` is the stream's. `due_us` is None when nothing is to be fetched. `claimed` is the size that the server
    claims, `size` and `sha256` are the copy's; each None where there is none.
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
    """What an append needs to know of a stream: its number, its version, and its entry if it is about an element."""

    stream: int
    version: int
    entry: EntryRow | None


class SourceRow(NamedTuple):
    """The projection of a source: its small number, its 128-bit id, its stream, version, and newest event."""

    no: int
    id: bytes
    stream: int
    version: int
    seq: int


class CopyState(NamedTuple):
    """A copy of a stream named by an event: `seq` is where it was stored, `state` what was said of it last."""

    sha256: bytes
    stream: int
    size: int
    seq: int
    state: str


class CopyRow(NamedTuple):
    """One object that an element's event names, as `Ledger.copies` gives it; `key` is the element's stored key."""

    sha256: bytes
    size: int
    key: bytes
    position: int
    state: str


class CommitRow(NamedTuple):
    """One batch: its positions, time, idempotency key, and the tree's frontier at its end (None: it was lost)."""

    last: int
    first: int
    recorded_us: int
    batch_key: bytes | None
    frontier: bytes | None


class TallyRow(NamedTuple):
    """How many elements of a source are in a state, and the bytes of their copies; or how much both change."""

    source: int
    state: str
    elements: int
    bytes: int


class Image(NamedTuple):
    """An entry joined with the event that it points to; `key` is the stored stream key."""

    key: bytes
    stream: int
    version: int
    seq: int
    type: str
    schema_version: int
    flags: int
    payload: bytes


class InstanceRow(NamedTuple):
    """A collector registered under `name`; `session` tells two processes apart, `place` is where its files are."""

    name: str
    session: bytes
    place: str
    started_us: int
    beat_us: int
    expires_us: int


LONGEST_US = 86_400_000_000
"""No lease or reservation lasts longer. One that ends later was taken by a clock that was far ahead."""

FORGOTTEN_US = 30 * LONGEST_US
"""How long after its last lease an instance that never came back is forgotten."""


def is_held(until_us: int, now_us: int) -> bool:
    """Return whether a lease or reservation until then still holds."""
    return now_us < until_us <= now_us + LONGEST_US


class LeaseRequest(NamedTuple):
    """A request for work: at most `limit` entries due at `due_us`, of at most `max_bytes` together or one larger one.

    Sizes are what the server claims, or the last copy's; `source` is an id, None for every source. Leases of others
    that end after `now_us` are respected.
    """

    name: str
    session: bytes
    now_us: int
    expires_us: int
    limit: int
    max_bytes: int
    source: bytes | None
    due_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What a batch does to the projection.

    `entries` and `sources` replace the rows of their streams and numbers, `dropped` are streams whose entry and copies
    go. `copies` replace rows, `judged` give an existing copy (state, SHA-256, stream) a new state. `tallies` are to be
    added.
    """

    entries: list[EntryRow]
    dropped: list[int]
    copies: list[CopyState]
    judged: list[tuple[str, bytes, int]]
    sources: list[SourceRow]
    tallies: list[TallyRow]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Everything that one append writes, in one transaction; a copy of a ledger writes several `commits` at once.

    `streams` are new streams as (number, stored key), the key None once it is erased; `erased` are (stream, position
    of its PayloadErased): the stream's key, and payload and nonce of every earlier event of it, become null.
    """

    head: StoredHead
    streams: list[tuple[int, bytes | None]]
    events: list[StoredEvent]
    erased: list[tuple[int, int]]
    changes: Changes
    commits: list[CommitRow]
