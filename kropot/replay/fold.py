"""Fold a ledger up to a position in constant memory: first the pointers, then the events that they point to.

Each fact carries the whole state of its stream, so the last event of a stream is its state. A fold reads the position
and stream of every event, and then one complete event for each stream.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from msgspec import Struct

from kropot.errors import IntegrityError
from kropot.replay.pointers import Pointers
from ledger.decoding import fact_of
from ledger.errors import DamagedRowError, UnknownCriticalEventError
from ledger.events import Element, StreamKey, UnknownFact
from ledger.rows import StoredEvent, StoredFact

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ledger.log import Ledger

T = TypeVar("T")
PAGE = 1000
"""How many streams to read at a time when the whole events are kept."""

LARGE_PAGE = 4_000
"""How many streams to read at a time when only a few fields are kept. Larger pages touch fewer database pages."""


class StalePointersError(IntegrityError):
    """A pointer misses its stream's last event: a snapshot is wrong, or the ledger's streams were altered."""


class Standing(Struct, frozen=True, kw_only=True):
    """An element's state at a position, and the position and time of the event that gave it that state.

    `event` is that event, if it was read whole.
    """

    key: StreamKey
    element: Element
    position: int
    recorded_us: int
    event: StoredEvent | None = None


def pointers_for(ledger: Ledger) -> Pointers:
    """Return empty pointers with room for every stream that the ledger has now.

    Raises: DamagedRowError if the head counts more streams than there are, since the room is reserved at once.
    """
    streams = ledger.log.head().streams
    if streams and next(ledger.log.streams(after=streams - 1), None) is None:
        raise DamagedRowError(f"the head counts {streams} streams, and there are fewer")
    return Pointers(streams)


def walk(
    ledger: Ledger, pointers: Pointers, position: int, *, sources: Sequence[bytes] = (), whole: bool = False
) -> Iterator[Standing]:
    """Yield every element's state at `position`, with its event if `whole`. `pointers` must be those at `position`.

    The elements come in bytewise key order, but those of `sources` before all others, one source after the other.

    Raises:
        StalePointersError, UnknownCriticalEventError, MalformedEventError: as `last_events` and `image`.

    """
    for key, event in last_events(ledger, pointers, position, sources=sources, whole=whole):
        element = image(ledger, event)
        if element is not None:
            yield Standing(
                key=StreamKey.parse(key),
                element=element,
                position=event.seq,
                recorded_us=event.recorded_us,
                event=event if isinstance(event, StoredEvent) else None,
            )


def last_events(
    ledger: Ledger, pointers: Pointers, position: int, *, sources: Sequence[bytes] = (), whole: bool = False
) -> Iterator[tuple[bytes, StoredFact | StoredEvent]]:
    """Yield (stored key, last event) of every element known at `position`, in the order that `walk` promises.

    Events that are read `whole` are each a `StoredEvent`.

    `pointers` must be those at `position`. The fold checks this: each event has its number in its stream, so the
    numbers of all last events add up to the position. Wrong pointers give a smaller sum.

    Raises:
        StalePointersError: if `pointers` are not those at `position`. It is raised at the end, or earlier.

    """
    events_seen = 0
    for page in pages(_streams(ledger, sources), PAGE if whole else LARGE_PAGE):
        last = [(key, stream, at) for key, stream in page if (at := pointers[stream])]
        positions = [at for _, _, at in last]
        found: Sequence[StoredFact | StoredEvent] = (
            ledger.log.events_at(positions) if whole else _facts_at(ledger, positions)
        )
        facts = {fact.seq: fact for fact in found}
        for key, stream, at in last:
            fact = facts.get(at)
            if fact is None or fact.stream != stream or at > position:
                raise stale(position)
            events_seen += fact.stream_version
            # The ledger's own streams have an "@" where an element has its type.
            if key[16:17] != b"@":
                yield key, fact
    prove(ledger, pointers, position, events_seen)


def _streams(ledger: Ledger, sources: Sequence[bytes]) -> Iterator[tuple[bytes, int]]:
    """Yield (stored key, number) of every stream that has a key: those of `sources` first, in this order."""
    for source in sources:
        for stored, stream in ledger.log.streams_by_key(after=source):
            if stored[:16] != source:
                break
            yield stored, stream
    start = b""
    for source in sorted(sources):
        for stored, stream in ledger.log.streams_by_key(after=start):
            if stored > source:
                break
            yield stored, stream
        # No key of the source follows this: a kind is text, and no text has the byte 0xff.
        start = source + b"\xff"
    yield from ledger.log.streams_by_key(after=start)


def prove(ledger: Ledger, pointers: Pointers, position: int, events: int) -> None:
    """Check that the streams with a key have `events` events in all, as their last events say.

    Raises: StalePointersError if these and the erased streams do not add up to the position.
    """
    if events != position and events + _erased(ledger, pointers) != position:
        raise stale(position)


def image(ledger: Ledger, event: StoredEvent | StoredFact) -> Element | None:
    """Return the element's state after `event`, None if the event is not about an element or its payload was erased.

    An event of an unknown type that can be skipped does not change the state.

    Raises:
        UnknownCriticalEventError: an event that must not be skipped is of a type unknown here.
        MalformedEventError: the event cannot be read.

    """
    if event.payload is None:
        return None
    fact = fact_of(event)
    if isinstance(fact, UnknownFact):
        if fact.critical:
            raise UnknownCriticalEventError(event.seq, fact.type_name, fact.schema_version)
        return _before(ledger, event)
    element: object = getattr(fact, "element", None)
    return element if isinstance(element, Element) else None


def pages(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield the items in lists of `size`. The last list can be shorter."""
    source = iter(items)
    while page := list(islice(source, size)):
        yield page


def _before(ledger: Ledger, event: StoredEvent | StoredFact) -> Element | None:
    """Return the state before an event of an unknown type. Such events are rare."""
    if event.stream_version == 1:
        return None
    earlier = ledger.log.last_positions(event.seq - 1, [event.stream])
    found = _facts_at(ledger, [at for at, _ in earlier])
    return image(ledger, found[0]) if found else None


def _facts_at(ledger: Ledger, positions: list[int]) -> list[StoredFact]:
    return list(map(StoredFact._make, ledger.log.facts_at(positions)))


def _erased(ledger: Ledger, pointers: Pointers) -> int:
    """Return how many events the erased streams have up to the position of `pointers`. These streams have no key."""
    total = 0
    keyless = (stream for stream, key in ledger.log.streams() if key is None)
    for page in pages(keyless, PAGE):
        total += sum(fact.stream_version for fact in _facts_at(ledger, [pointers[stream] for stream in page]))
    return total


def stale(position: int) -> StalePointersError:
    """Return the error for pointers that are not those at this position."""
    return StalePointersError(
        f"the state at position {position} contradicts the events: run the command again with --no-snapshots, "
        "and run `kropotcli verify` to see what was altered"
    )
