"""What people decided about sources: labels, and which sources are retired or in use.

Each source has a second stream for this, apart from its own, so that a working collector and a person do not get in
each other's way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ledger.append import NewFact
from ledger.decoding import newest_fact
from ledger.events import Keeping, KeepingFact, StreamKey, Subject

if TYPE_CHECKING:
    from ledger.log import Ledger


class Kept(NamedTuple):
    """What people decided about a source, the version of the stream that says so, and the last decision's position.

    Version and position are 0 if nothing was decided.
    """

    keeping: Keeping
    version: int = 0
    position: int = 0


def keeping_key(source: bytes) -> StreamKey:
    """Return the key of the stream that holds people's decisions about the source."""
    return StreamKey(source=source, kind=Subject.KEEPING.value, id="")


def keeping_of(ledger: Ledger, source: bytes, *, until: int | None = None) -> Kept:
    """Return what people decided about a source, up to the position `until` if that is given."""
    fact, position, version = newest_fact(ledger.log, keeping_key(source), KeepingFact, until=until)
    return Kept(Keeping() if fact is None else fact.keeping, version, position)


def keep(ledger: Ledger, source: bytes, fact: KeepingFact, *, version: int) -> None:
    """Record a decision about a source whose stream of decisions is at `version`. Raises: ConflictError."""
    ledger.append(
        [NewFact(key=keeping_key(source), fact=fact, observed_us=ledger.now_us(), expected=version)],
    )
