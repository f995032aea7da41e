"""The restore points: the ends of rounds, each with a time that `--until` accepts, in the order of their ends.

A round is one listing of a source and the fetching that follows it. It ends where the source's next listing begins, or
for now at the end of the ledger. This reads the events about sources and the commits, but no events about elements.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec import Struct

from ledger.append import source_key
from ledger.decoding import fact_of
from ledger.events import ListingAdvanced, ListingCompleted, ListingHeldBack

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from ledger.events import Listing
    from ledger.log import Ledger
    from ledger.rows import CommitRow, StoredEvent

_LISTED = frozenset({ListingCompleted.TYPE, ListingHeldBack.TYPE})
_LISTING = _LISTED | {ListingAdvanced.TYPE}


class Round(Struct, frozen=True, kw_only=True):
    """A round of one source (16 bytes): its events are in (`after`, `position`], among those of other sources.

    `until_us` (microseconds since 1970) is the earliest time for which `--until` gives the state at `position`.
    `listing` says what the listing found. `is_held` is whether it was held back. `is_open` is whether no later listing
    of the source has begun, so that more can follow.
    """

    source: bytes
    after: int
    position: int
    until_us: int
    listing: Listing
    is_held: bool
    is_open: bool


@dataclass(slots=True)
class _Begun:
    """A round whose end is not known yet.

    `first` is the position of its first event about the source, `after` the end of the round before it, if it is known.
    `event` says what the listing found.
    """

    first: int
    after: int | None = None
    event: StoredEvent | None = None


def rounds(ledger: Ledger, *, since_us: int | None = None, sources: Collection[bytes] | None = None) -> Iterator[Round]:
    """Yield the rounds that ended at `since_us` or later, of these sources or of all, in the order of their ends.

    Memory does not grow with the number of rounds or events.
    """
    head = ledger.log.head()
    wanted = [row.id for row in ledger.projection.sources() if sources is None or row.id in sources]
    start = 0 if since_us is None else ledger.position_at(since_us)
    times = _Times(ledger.log.commits(after=max(start - 1, 0)))
    listings = (_listing_events(ledger, source, head.position) for source in wanted)
    begun: dict[bytes, _Begun] = {}
    for position, source, event in heapq.merge(*listings, key=lambda each: each[0]):
        last = begun.setdefault(source, _Begun(first=position))
        if last.event is not None:
            begun[source] = _Begun(first=position)
            if position > start:
                end, until_us = times.before(position)
                begun[source].after = end
                if since_us is None or until_us > since_us:
                    yield from _round(ledger, source, last, end, until_us)
        if event.type in _LISTED:
            begun[source].event = event
    if since_us is None or head.recorded_us >= since_us:
        for source, last in sorted(begun.items(), key=lambda each: each[1].first):
            yield from _round(ledger, source, last, head.position, head.recorded_us + 1, is_open=True)


def _round(
    ledger: Ledger, source: bytes, begun: _Begun, end: int, until_us: int, *, is_open: bool = False
) -> Iterator[Round]:
    """Yield the round, or nothing if this version does not know its listing."""
    fact = None if begun.event is None else fact_of(begun.event)
    if not isinstance(fact, ListingCompleted | ListingHeldBack):
        return
    after = begun.after
    if after is None:
        batch = next(ledger.log.commits(after=begun.first - 1), None)
        after = begun.first - 1 if batch is None else batch.first - 1
    yield Round(
        source=source,
        after=after,
        position=end,
        until_us=until_us,
        listing=fact.listing,
        is_held=isinstance(fact, ListingHeldBack),
        is_open=is_open,
    )


def _listing_events(ledger: Ledger, source: bytes, until: int) -> Iterator[tuple[int, bytes, StoredEvent]]:
    """Yield (position, source, event) for events about listings: of a listing in pages, only the first and the last."""
    is_within = False
    for event in ledger.log.stream_events(source_key(source).stored):
        if event.seq > until:
            return
        if event.type in _LISTED or (event.type in _LISTING and not is_within):
            yield event.seq, source, event
            is_within = event.type not in _LISTED


class _Times:
    """Finds a time that cuts the ledger just before the batch of an event.

    A time cannot tell apart batches that were recorded in the same microsecond, so they are taken as one.
    """

    def __init__(self, commits: Iterator[CommitRow]) -> None:
        self._commits = commits
        self._row = next(commits, None)
        self._before = (0, 0)

    def before(self, position: int) -> tuple[int, int]:
        """Return the last position before the moment of this event's batch, and the earliest time that means it.

        The position must not decrease from call to call.
        """
        while (row := self._row) is not None and row.last < position:
            self._row = next(self._commits, None)
            if self._row is None or self._row.recorded_us != row.recorded_us:
                self._before = (row.last, row.recorded_us + 1)
        return self._before
