"""A replica's whole life as a few bars: what the rounds in each stretch of time found, and what they stored.

This reads the events about sources, but not those about elements. For copies, it reads only sums (`StoredVolumes`).
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from ledger.append import source_key
from ledger.decoding import fact_of
from ledger.events import ListingCompleted, ListingHeldBack

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kropot.query.volumes import StoredVolumes
    from ledger.log import Ledger

MOST_BARS: Final = 400

_LISTED: Final = frozenset({ListingCompleted.TYPE, ListingHeldBack.TYPE})


@dataclass(slots=True, kw_only=True)
class Bar:
    """The rounds whose listing ended in [`start_us`, `end_us`) (microseconds since 1970), and what they found.

    `position` is the end of the last of them: @`position` is the state then. `held` counts listings that were held
    back, and `seen` is the most elements that one listing saw. `copies` and `stored` (bytes) count what was
    stored, and `spans` the positions of the rounds of each source.
    """

    start_us: int
    end_us: int
    rounds: int = 0
    new: int = 0
    changed: int = 0
    gone: int = 0
    held: int = 0
    seen: int = 0
    copies: int = 0
    stored: int = 0
    position: int = 0
    at_us: int = 0
    spans: dict[bytes, tuple[int, int]] = field(default_factory=dict)


class Timeline(Struct, frozen=True, kw_only=True):
    """Bars without gaps or overlaps, the earliest first, and the times of the ledger's first and last event."""

    began_us: int
    ended_us: int
    bars: list[Bar]


def timeline(
    ledger: Ledger,
    sources: Iterable[bytes],
    volumes: StoredVolumes,
    *,
    bars: int,
    from_us: int | None = None,
    to_us: int | None = None,
) -> Timeline:
    """Return the life of these sources between two times, by default all of it, as at most `bars` bars.

    `volumes` are those of the ledger. Memory does not grow with the number of rounds. A round belongs to the time at
    which its listing was completed.
    """
    head = ledger.log.head()
    began_us = next((event.recorded_us for event in ledger.log.events_at([1])), 0)
    start = began_us if from_us is None else from_us
    end = max(head.recorded_us + 1 if to_us is None else to_us, start + 1)
    bars = max(1, min(bars, MOST_BARS, end - start))
    edges = [start + (end - start) * at // bars for at in range(bars + 1)]
    found = [Bar(start_us=one, end_us=other) for one, other in pairwise(edges)]
    for source in sources:
        _add(ledger, source, head.position, found)
    for bar in found:
        for source, (after, until) in bar.spans.items():
            copies, size = volumes.between(source, after, until)
            bar.copies, bar.stored = bar.copies + copies, bar.stored + size
    return Timeline(began_us=began_us, ended_us=head.recorded_us, bars=found)


def _add(ledger: Ledger, source: bytes, head: int, bars: list[Bar]) -> None:
    start, end = bars[0].start_us, bars[-1].end_us
    open_: tuple[Bar, int] | None = None
    for event in ledger.log.stream_events(source_key(source).stored):
        if event.type not in _LISTED or event.seq > head:
            continue
        if open_ is not None:
            _close(*open_, source, event.seq - 1)
            open_ = None
        if event.recorded_us >= end:
            return
        fact = fact_of(event) if event.recorded_us >= start else None
        if not isinstance(fact, ListingCompleted | ListingHeldBack):
            continue
        bar = bars[bisect_right(bars, event.recorded_us, key=_start) - 1]
        listing = fact.listing
        bar.rounds += 1
        bar.new += listing.new + listing.reappeared
        bar.changed += listing.changed
        bar.gone += listing.vanished
        bar.held += isinstance(fact, ListingHeldBack)
        bar.seen = max(bar.seen, listing.seen)
        bar.at_us = max(bar.at_us, event.recorded_us)
        open_ = bar, event.seq
    if open_ is not None:
        _close(*open_, source, head)


def _close(bar: Bar, listed: int, source: bytes, until: int) -> None:
    after, _ = bar.spans.get(source, (listed - 1, 0))
    bar.spans[source] = after, until
    bar.position = max(bar.position, until)


def _start(bar: Bar) -> int:
    return bar.start_us
