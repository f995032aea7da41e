"""The rule for a single stored event: header, columns, payload, stream and type (docs/format.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ledger.audit.finding import finding_in
from ledger.codec import (
    NONCE_BYTES,
    decode_header,
    flags_of,
    keyed_digest,
    leaf_hash,
    payload_digest,
    read_payload,
)
from ledger.errors import MalformedEventError
from ledger.events import FACTS, MAX_KEY_BYTES, NO_SOURCE, Fact, LedgerBegan, SourceFact, Subject, UnknownFact
from ledger.replica import evolve_source

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ledger.audit.finding import Finding
    from ledger.codec import Header
    from ledger.rows import StoredEvent

_COLUMNS = (
    "seq",
    "stream_version",
    "type",
    "schema_version",
    "flags",
    "recorded_us",
    "observed_us",
    "writer",
)


class Examined(NamedTuple):
    """The result of examining an event: the findings, and the fact and the header if they could be read."""

    findings: list[Finding]
    fact: Fact | UnknownFact | None
    header: Header | None


def examine(event: StoredEvent, key: bytes | None, salts: dict[bytes, bytes], *, exists: bool) -> Examined:
    """Examine one event. `key` is its stream's stored key, or None if the stream is erased or does not exist.

    `salts` are keyed by source id, with the ledger's own under NO_SOURCE. This adds a salt that the event carries.
    """
    header: Header | None = None
    fact: Fact | UnknownFact | None = None
    faults: list[tuple[str, str]] = []
    try:
        header = decode_header(event.header)
        faults += _column_faults(event, header)
    except MalformedEventError as error:
        faults.append(("bad_header", f"the stored header cannot be read: {error.why}"))
    if leaf_hash(event.header) != event.leaf:
        faults.append(("leaf_mismatch", "the stored leaf is not the hash of the stored header"))
    faults += _payload_faults(event, header)
    if event.payload is not None:
        try:
            fact, canonical = read_payload(event.type, event.schema_version, event.flags, event.payload)
            faults += _fact_faults(event, fact, canonical=canonical)
        except MalformedEventError as error:
            faults.append(("bad_payload", f"the payload cannot be read: {error.why}"))
    faults += _stream_faults(event, key, header, fact, salts, exists=exists)
    findings = [finding_in(key, kind=kind, detail=detail, position=event.seq) for kind, detail in faults]
    return Examined(findings, fact, header)


# --- helpers ---------------------------------------------------------------------------------------------------------


def _column_faults(event: StoredEvent, header: Header) -> Iterator[tuple[str, str]]:
    wrong = [column for column in _COLUMNS if getattr(event, column) != getattr(header, column)]
    if wrong:
        yield "column_mismatch", f"these columns differ from the header: {', '.join(wrong)}"


def _fact_faults(event: StoredEvent, fact: Fact | UnknownFact, *, canonical: bool) -> Iterator[tuple[str, str]]:
    if not canonical:
        yield "not_canonical", "the payload's bytes are not canonical"
    if isinstance(fact, Fact) and (wrong := fact.contradiction()) is not None:
        yield "contradiction", f"the {fact.TYPE} contradicts itself: {wrong}"
    if isinstance(fact, UnknownFact) and fact.critical:
        name = f"{fact.type_name} (schema {fact.schema_version})"
        yield "unknown_critical", f"it is a critical {name}, which this version does not know"
    if event.type in FACTS and event.flags != flags_of(event.type):
        yield "bad_flags", f"a {event.type} has the wrong flags {event.flags}"


def _payload_faults(event: StoredEvent, header: Header | None) -> Iterator[tuple[str, str]]:
    if event.payload is None or event.nonce is None:
        if event.payload is not event.nonce:
            yield "payload_mismatch", "only one of payload and nonce is missing: an erasure removes both"
    elif len(event.nonce) != NONCE_BYTES:
        yield "bad_nonce", f"its nonce has {len(event.nonce)} bytes instead of {NONCE_BYTES}"
    elif header is not None and payload_digest(event.nonce, event.payload) != header.payload_digest:
        yield "payload_mismatch", "the payload and nonce are not those that the header commits to"


def _stream_faults(
    event: StoredEvent,
    key: bytes | None,
    header: Header | None,
    fact: Fact | UnknownFact | None,
    salts: dict[bytes, bytes],
    *,
    exists: bool,
) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with the event's stream or position. Add the salt that the event carries."""
    if not exists:
        yield "stream_missing", f"its stream {event.stream} is missing from the table of streams"
        return
    if (event.seq == 1) != (event.type == LedgerBegan.TYPE):
        yield "misplaced", f"it is a {event.type}, but the first event, and no other, must be a LedgerBegan"
    if key is None:
        return
    yield from _place_faults(event, key, fact)
    source = key[:16]
    if isinstance(fact, LedgerBegan):
        salts.setdefault(NO_SOURCE, fact.salt)
    began = evolve_source(fact)
    if began is not None and salts.setdefault(source, began.salt) != began.salt:
        yield "misplaced", "the salt of a source has changed"
    salt = salts.get(source)
    if salt is None:
        yield "unknown_source", f"its source {source.hex()} has not begun yet"
    elif header is not None and keyed_digest(salt, key[16:]) != header.stream_digest:
        yield "stream_mismatch", "the header commits to another stream than the one that holds the event"
    if isinstance(fact, Fact) and fact.ERASES:
        yield "not_erased", "its stream was erased, but the stream's key is still there"


def _place_faults(event: StoredEvent, key: bytes, fact: Fact | UnknownFact | None) -> Iterator[tuple[str, str]]:
    """Yield why the event does not belong on the stream with this stored key."""
    if len(key) > MAX_KEY_BYTES:
        yield "misplaced", f"its stream's key has {len(key)} bytes, but at most {MAX_KEY_BYTES} are allowed"
    if isinstance(fact, SourceFact) and (event.stream_version == 1) != fact.BEGINS:
        yield "misplaced", f"a {event.type} is event {event.stream_version} of its source's stream"
    kind = key[16:].partition(b"\x00")[0].decode(errors="replace")
    known = FACTS.get(event.type)
    if known is not None and (
        kind.startswith("@") if known.SUBJECT is Subject.ELEMENT else kind != known.SUBJECT.value
    ):
        yield "misplaced", f"a {event.type} on a stream of kind {kind!r}"
