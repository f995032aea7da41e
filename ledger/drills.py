"""Drills: when a person last opened copies of a source with its kit, and how that went.

Each source has a stream of its own for this. A drill changes nothing about the source, and collectors never read it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ledger.append import NewFact
from ledger.decoding import fact_of
from ledger.events import DrillHeld, StreamKey, Subject

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ledger.log import Ledger


class Drill(NamedTuple):
    """The newest drill of a source: its time (microseconds since 1970 UTC), and how many copies opened and did not."""

    at_us: int
    opened: int
    failed: int


def drill_key(source: bytes) -> StreamKey:
    """Return the key of the stream that says when copies of the source were opened with its kit."""
    return StreamKey(source=source, kind=Subject.DRILL.value, id="")


def drill_of(ledger: Ledger, source: bytes) -> Drill | None:
    """Return the newest drill of a source, or None if there was none."""
    for event in ledger.log.stream_events(drill_key(source).stored, newest_first=True):
        fact = fact_of(event)
        if isinstance(fact, DrillHeld):
            # After a clock was far ahead, recorded time stands still. Then the observed time is the better one.
            return Drill(min(event.recorded_us, event.observed_us), fact.opened, fact.failed)
    return None


def record_drills(ledger: Ledger, drills: Mapping[bytes, DrillHeld]) -> None:
    """Record how a drill went, for each source that it covered."""
    now = ledger.clock_us()
    ledger.append([NewFact(key=drill_key(id_), fact=fact, observed_us=now) for id_, fact in drills.items()])
