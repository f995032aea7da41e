"""Turns facts into a batch: plans an append's versions, bytes, leaves and projection without touching a store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from ledger.codec import (
    FLAG_CRITICAL,
    FORMAT,
    NONCE_BYTES,
    SOURCE_BYTES,
    encode_header,
    encode_payload,
    keyed_digest,
    leaf_hash,
    payload_digest,
)
from ledger.errors import ClockAheadError, ConflictError, DamagedRowError, LedgerError
from ledger.events import (
    AUDIT_KIND,
    INSTANCE_KIND,
    LEDGER_KIND,
    MAX_KEY_BYTES,
    NO_SOURCE,
    SOURCE_KIND,
    Fact,
    LedgerBegan,
    SourceFact,
    StreamKey,
    Subject,
)
from ledger.merkle import Frontier
from ledger.projection import Happened, project
from ledger.rows import Batch, CommitRow, SourceRow, StoredEvent, StoredHead

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ledger.rows import StreamRow

LEDGER_KEY = StreamKey(source=NO_SOURCE, kind=LEDGER_KIND, id="")
AUDIT_KEY = StreamKey(source=NO_SOURCE, kind=AUDIT_KIND, id="")

MAX_WRITER_BYTES = 255
MAX_AHEAD_US = 24 * 3600 * 1_000_000
"""How far an observation's time may be ahead of the ledger's. Clocks differ, but not by days."""


def source_key(source: bytes) -> StreamKey:
    """Return the key of the source's own stream."""
    return StreamKey(source=source, kind=SOURCE_KIND, id="")


def instance_key(name: str) -> StreamKey:
    """Return the key of the stream of the collector with this name."""
    return StreamKey(source=NO_SOURCE, kind=INSTANCE_KIND, id=name)


class NewFact(Struct, frozen=True, kw_only=True):
    """A fact to append: its stream, when it was observed, and the version of the stream that it expects.

    `expected` counts the stream's events: 0 means that there is none yet, and None accepts any version. `observed_us`
    is in microseconds since 1970 UTC.
    """

    key: StreamKey
    fact: Fact
    observed_us: int
    expected: int | None = None


class AppendContext(Struct, frozen=True, kw_only=True):
    """What an append depends on. All of it is read under the head's lock.

    `keys` are the facts' stored keys, in the order of the facts. `streams` has a row for each key that exists.
    `sources` and `salts` are keyed by source id. `salts` has the ledger's own salt under NO_SOURCE.
    """

    head: StoredHead
    recorded_us: int
    keys: Sequence[bytes]
    streams: Mapping[bytes, StreamRow]
    sources: Mapping[bytes, SourceRow]
    salts: Mapping[bytes, bytes]


def plan_batch(
    facts: Sequence[NewFact], ground: AppendContext, *, writer: str, nonces: bytes, batch_key: bytes | None = None
) -> Batch:
    """Return everything that appending `facts` writes. `nonces` holds 16 random bytes for each fact.

    Raises:
        ConflictError: if an `expected` version is not the stream's. The error names every such stream.
        ClockAheadError: if a fact claims to be observed more than a day after the ledger's time.
        LedgerError: if a fact contradicts itself or does not belong on its stream, or its key is too long.
    """
    head = ground.head
    salts = dict(ground.salts)
    known = {stored: (row.stream, row.version) for stored, row in ground.streams.items()}
    fresh: list[tuple[int, bytes | None]] = []
    events: list[StoredEvent] = []
    happened: list[Happened] = []
    conflicts: dict[bytes, None] = {}
    erased: dict[int, int] = {}
    leaves: list[bytes] = []
    # Making a named tuple without its `__new__` costs half as much, and all of this runs while the head is locked.
    row = tuple.__new__
    seq, streams, recorded_us = head.position, head.streams, ground.recorded_us
    latest_us = recorded_us + MAX_AHEAD_US
    for new, stored in zip(facts, ground.keys, strict=True):
        key, fact, observed_us, expected = new.key, new.fact, new.observed_us, new.expected
        found = known.get(stored)
        if found is None:
            if len(stored) > MAX_KEY_BYTES:
                raise LedgerError(f"a stream key has {len(stored)} bytes, but at most {MAX_KEY_BYTES} are allowed")
            streams += 1
            fresh.append((streams, stored))
            stream, version = streams, 0
        else:
            stream, version = found
        if expected is not None and expected != version:
            conflicts[stored] = None
        if observed_us > latest_us:
            raise ClockAheadError(observed_us, recorded_us)
        if stream in erased:
            raise LedgerError("a fact follows the erasure of its stream within one batch")
        digest = keyed_digest(_salt(key, fact, salts), stored[SOURCE_BYTES:])
        seq, version = seq + 1, version + 1
        known[stored] = (stream, version)
        payload = encode_payload(fact)
        at = NONCE_BYTES * len(events)
        nonce = nonces[at : at + NONCE_BYTES]
        name, schema = fact.TYPE, fact.VERSION
        flags = FLAG_CRITICAL if fact.IS_CRITICAL else 0
        hidden = payload_digest(nonce, payload)
        header = encode_header(
            (FORMAT, seq, digest, version, name, schema, flags, recorded_us, observed_us, writer, hidden)
        )
        leaf = leaf_hash(header)
        leaves.append(leaf)
        columns = (name, schema, flags, recorded_us, observed_us, writer, header, nonce, payload, leaf)
        events.append(row(StoredEvent, (seq, stream, version, *columns)))
        happened.append(row(Happened, (seq, stream, version, recorded_us, key.source, fact)))
        if fact.ERASES:
            erased[stream] = seq
    if conflicts:
        raise ConflictError(tuple(conflicts))
    entries = {row.stream: row.entry for row in ground.streams.values() if row.entry is not None}
    frontier = frontier_of(head).extend(leaves).stored
    return Batch(
        head=StoredHead(seq, recorded_us, streams, frontier),
        streams=fresh,
        events=events,
        erased=list(erased.items()),
        changes=project(happened, entries, ground.sources),
        commits=[CommitRow(seq, head.position + 1, recorded_us, batch_key, frontier)],
    )


def frontier_of(head: StoredHead) -> Frontier:
    """Return the tree's frontier at the head. Raises: DamagedRowError if the head cannot be one."""
    try:
        return Frontier.parse(head.position, head.frontier)
    except ValueError as error:
        raise DamagedRowError(f"the head is damaged: {error}") from None


def check_writer(writer: str) -> None:
    """Check that a writer's name fits into a row. Raises: LedgerError if it is too long."""
    if len(writer.encode()) > MAX_WRITER_BYTES:
        raise LedgerError(f"the writer's name has more than {MAX_WRITER_BYTES} bytes: choose a shorter one")


# --- helpers ---------------------------------------------------------------------------------------------------------


def _salt(key: StreamKey, fact: Fact, salts: dict[bytes, bytes]) -> bytes:
    """Return the salt of a stream's digest. Refuse a fact that contradicts itself or does not belong on the stream."""
    wrong = fact.contradiction()
    if wrong is not None:
        raise LedgerError(f"cannot record a {fact.TYPE} that contradicts itself: {wrong}")
    subject = fact.SUBJECT
    if subject is Subject.ELEMENT:
        _demand(key.is_element, key, fact)
    elif subject is Subject.SOURCE:
        _demand(key == source_key(key.source) and key.source != NO_SOURCE, key, fact)
        if isinstance(fact, SourceFact):
            _check_source(key, fact, salts)
    else:
        id_ = key.id if subject is Subject.INSTANCE else ""
        of_ledger = subject not in {Subject.KEEPING, Subject.VAULT, Subject.DRILL}
        _demand((key.kind, key.id, key.source == NO_SOURCE) == (subject.value, id_, of_ledger), key, fact)
        if isinstance(fact, LedgerBegan):
            salts.setdefault(NO_SOURCE, fact.salt)
    salt = salts.get(key.source)
    if salt is None:
        raise LedgerError(f"the source {key.source.hex()} has not begun")
    return salt


def _check_source(key: StreamKey, fact: SourceFact, salts: dict[bytes, bytes]) -> None:
    began = key.source in salts
    if began == fact.BEGINS:
        raise LedgerError(f"the source {key.source.hex()} {'has begun already' if began else 'has not begun'}")
    if salts.setdefault(key.source, fact.source.salt) != fact.source.salt:
        raise LedgerError(f"the salt of source {key.source.hex()} cannot change")


def _demand(holds: bool, key: StreamKey, fact: Fact) -> None:  # noqa: FBT001  # reads as a sentence where it is used
    if not holds:
        raise LedgerError(f"a {type(fact).__name__} does not belong on a stream of kind {key.kind!r}")
