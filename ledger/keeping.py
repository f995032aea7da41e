"""What persons decided about sources: labels, and which sources retired or are in use.

Each source has a second stream for this, apart from its own, so that a collector at work and a person do not get into
each other's way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ledger.append import NewFact
from ledger.decoding import fact_of
from ledger.events import Keeping, KeepingFact, StreamKey, Subject

if TYPE_CHECKING:
    from ledger.log import Ledger


class Kept(NamedTuple):
    """What persons decided about a source, the version of the stream that says so, and the last decision's position.

    Version and position are 0 where nothing was decided.
    """

    keeping: Keeping
    version: int = 0
    position: int = 0


def keeping_key(source: bytes) -> StreamKey:
    """Return the key of the stream that says what persons decided about the source."""
    return StreamKey(source=source, kind=Subject.KEEPING.value, id="")


def keeping_of(ledger: Ledger, source: bytes, *, until: int | None = None) -> Kept:
    """Return what persons have decided about a source, by the position `until` if that is given."""
    version = 0
    for event in ledger.log.stream_events(keeping_key(source).stored, newest_first=True):
        version = version or event.stream_version
        fact = fact_of(event) if until is None or event.seq <= until else None
        if isinstance(fact, KeepingFact):
            return Kept(fact.keeping, version, event.seq)
    return Kept(Keeping(), version)


def keep(ledger: Ledger, source: bytes, fact: KeepingFact, *, version: int) -> None:
    """Record a decision about a source whose stream of decisions is at `version`. Raises: ConflictError."""
    ledger.append(
        [NewFact(key=keeping_key(source), fact=fact, observed_us=ledger.now_us(), expected=version)],
    )
