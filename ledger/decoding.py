"""Decodes stored rows into facts, events and entries."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from ledger.codec import decode_payload
from ledger.errors import BrokenChainError, MalformedEventError
from ledger.events import NO_SOURCE, ElementFact, ErasedFact, Fact, StreamKey
from ledger.projection import Happened
from ledger.replica import Entry, Event

if TYPE_CHECKING:
    from ledger.events import UnknownFact
    from ledger.rows import Image, StoredEvent, StoredFact
    from ledger.stores import EventLog

_F = TypeVar("_F", bound=Fact)


def happened(event: StoredEvent, key: bytes | None) -> Happened:
    """Return an event as the projection needs it. `key` is its stream's stored key, or None once erased."""
    source = NO_SOURCE if key is None else key[:16]
    return Happened(event.seq, event.stream, event.stream_version, event.recorded_us, source, fact_of(event))


def key_of(stored: bytes | None) -> StreamKey | None:
    """Return a stored key as a StreamKey, or None once it is erased."""
    return None if stored is None else StreamKey.parse(stored)


def fact_of(event: StoredEvent | StoredFact) -> Fact | UnknownFact | ErasedFact:
    """Return the fact of a stored event. Raises: MalformedEventError, which names the position."""
    if event.payload is None:
        return ErasedFact(type_name=event.type, schema_version=event.schema_version)
    try:
        return decode_payload(event.type, event.schema_version, event.flags, event.payload)
    except MalformedEventError as error:
        raise MalformedEventError(error.why, position=event.seq) from None


def newest_fact(
    log: EventLog, key: StreamKey, kind: type[_F], *, until: int | None = None
) -> tuple[_F | None, int, int]:
    """Return a stream's newest fact of a kind, the fact's position, and the version that the stream is at.

    If `until` is given, facts after that position do not count. If there is no such fact, return None and position 0.
    """
    version = 0
    for event in log.stream_events(key.stored, newest_first=True):
        version = version or event.stream_version
        fact = fact_of(event) if until is None or event.seq <= until else None
        if isinstance(fact, kind):
            return fact, event.seq, version
    return None, 0, version


def event_of(event: StoredEvent, key: StreamKey | None) -> Event:
    """Return a decoded stored event. `key` is its stream's key."""
    return Event(
        position=event.seq,
        stream=event.stream,
        key=key,
        stream_version=event.stream_version,
        recorded_us=event.recorded_us,
        observed_us=event.observed_us,
        writer=event.writer,
        fact=fact_of(event),
    )


def entry_of(image: Image) -> Entry:
    """Return an entry with its element.

    Raises:
        BrokenChainError: if the entry points to an event that is not about an element, so the projection is wrong.
        MalformedEventError: if that event cannot be decoded.
    """
    try:
        fact = decode_payload(image.type, image.schema_version, image.flags, image.payload)
    except MalformedEventError as error:
        raise MalformedEventError(error.why, position=image.seq) from None
    if not isinstance(fact, ElementFact):
        raise BrokenChainError(image.seq, "the projection treats it as an event about an element, but it is not")
    return Entry(
        key=StreamKey.parse(image.key),
        stream=image.stream,
        version=image.version,
        position=image.seq,
        element=fact.element,
        is_dismissed=fact.IS_DISMISSED,
    )
