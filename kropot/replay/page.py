"""A page of the elements at a position. Its cost depends on what is on the page, not on the number of elements."""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from kropot.replay.fold import PAGE, Standing, image, pages
from ledger.events import StreamKey
from ledger.rows import StoredFact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ledger.events import Element
    from ledger.log import Ledger

LOOKED_AT: Final = 20_000
"""How many elements to look at for one page. Few of them might have existed at an early moment."""


class StandingsPage(Struct, frozen=True, kw_only=True):
    """Some elements at a position, in bytewise key order, and the stored key to continue after; None at the end."""

    standings: tuple[Standing, ...]
    after: bytes | None


def page_at(
    ledger: Ledger,
    position: int,
    *,
    source: bytes | None = None,
    after: bytes = b"",
    count: int = PAGE,
    since: int = 0,
    wanted: Callable[[Element], bool] = lambda _: True,
) -> StandingsPage:
    """Return at most `count` elements after the stored key `after` that are `wanted`, as they were at `position`.

    Only those whose last event is after the position `since` are returned.

    A page can be shorter, or empty, and still name a key to continue after.

    Raises: UnknownCriticalEventError, MalformedEventError: as `image`.
    """
    found: list[Standing] = []
    seen = 0
    for some in pages(_streams(ledger, source, after), PAGE):
        for key, standing in _standings(ledger, some, position):
            after = key
            if standing is not None and standing.position > since and wanted(standing.element):
                found.append(standing)
                if len(found) == count:
                    return StandingsPage(standings=tuple(found), after=after)
        seen += len(some)
        if seen >= LOOKED_AT:
            return StandingsPage(standings=tuple(found), after=after)
    return StandingsPage(standings=tuple(found), after=None)


def _streams(ledger: Ledger, source: bytes | None, after: bytes) -> Iterator[tuple[bytes, int]]:
    """Yield (stored key, stream) of the elements after a key, of one source or of all."""
    streams = ledger.log.streams_by_key(after=max(after, source or b""))
    if source is not None:
        streams = takewhile(lambda each: each[0][:16] == source, streams)
    # The ledger's own streams have an "@" where an element has its type.
    return (each for each in streams if each[0][16:17] != b"@")


def _standings(ledger: Ledger, some: list[tuple[bytes, int]], position: int) -> Iterator[tuple[bytes, Standing | None]]:
    last = {stream: at for at, stream in ledger.log.last_positions(position, [stream for _, stream in some])}
    facts = {fact.seq: fact for fact in map(StoredFact._make, ledger.log.facts_at(sorted(last.values())))}
    for key, stream in some:
        fact = facts.get(last.get(stream, 0))
        element = None if fact is None else image(ledger, fact)
        if fact is None or element is None:
            yield key, None
            continue
        yield (
            key,
            Standing(key=StreamKey.parse(key), element=element, position=fact.seq, recorded_us=fact.recorded_us),
        )
