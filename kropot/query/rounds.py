"""The rounds of collecting that are restore points: a completed listing each, and what it found."""

from __future__ import annotations

from dataclasses import dataclass
from heapq import merge
from typing import TYPE_CHECKING

from ledger.append import source_key
from ledger.events import ListingCompleted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ledger.events import Listing
    from ledger.log import Ledger


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectedRound:
    """A completed listing of a source: the event's position and time (microseconds since 1970), and what it found."""

    source: bytes
    position: int
    recorded_us: int
    listing: Listing


def rounds(ledger: Ledger, sources: Iterable[bytes], *, before: int | None = None) -> Iterator[CollectedRound]:
    """Yield the rounds of these sources before a position, the newest first. It reads as many events as it yields."""
    yield from merge(*(_of(ledger, source, before) for source in sources), key=lambda each: -each.position)


def _of(ledger: Ledger, source: bytes, before: int | None) -> Iterator[CollectedRound]:
    for event in ledger.history(source_key(source), newest_first=True):
        if isinstance(event.fact, ListingCompleted) and (before is None or event.position < before):
            yield CollectedRound(
                source=source,
                position=event.position,
                recorded_us=event.recorded_us,
                listing=event.fact.listing,
            )
