"""Reads and records what people decided about retention, and how far bytes were freed."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from ledger.append import NewFact
from ledger.decoding import newest_fact
from ledger.retention import (
    FREEING_KEY,
    RETENTION_KEY,
    Freed,
    FreeingFact,
    Retention,
    RetentionFact,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ledger.log import Ledger

NOTHING = Retention(rules=(), pins=(), signature=None)


class Decided(NamedTuple):
    """What was decided about retention, by the event at `position`, and the stream's `version`. Both are 0 at first."""

    retention: Retention = NOTHING
    position: int = 0
    version: int = 0


class Freeing(NamedTuple):
    """How far bytes were freed, whether that is under way, and the position and version of the event that says so."""

    freed: Freed = Freed(to=0, objects=0, bytes=0)
    is_open: bool = False
    position: int = 0
    version: int = 0


def decided_of(ledger: Ledger, *, until: int | None = None) -> Decided:
    """Return what was decided about retention, up to the position `until` if that is given."""
    fact, position, version = newest_fact(ledger.log, RETENTION_KEY, RetentionFact, until=until)
    return Decided(NOTHING if fact is None else fact.retention, position, version)


def decide(ledger: Ledger, fact: RetentionFact, before: Decided) -> int:
    """Record a decision that follows `before`, and return its position. Raises: ConflictError."""
    new = NewFact(key=RETENTION_KEY, fact=fact, observed_us=ledger.clock_us(), expected=before.version)
    return ledger.append([new]).last


def freeing_of(ledger: Ledger) -> Freeing:
    """Return how far bytes were freed."""
    fact, position, version = newest_fact(ledger.log, FREEING_KEY, FreeingFact)
    return Freeing(version=version) if fact is None else Freeing(fact.freed, fact.IS_OPEN, position, version)


def say_freed(
    ledger: Ledger, fact: FreeingFact, before: Freeing, *, check: Callable[[], object] | None = None
) -> Freeing:
    """Record how far bytes were freed. Raises: ConflictError if another process did so meanwhile."""
    new = NewFact(key=FREEING_KEY, fact=fact, observed_us=ledger.clock_us(), expected=before.version)
    at = ledger.append([new], check=check).last
    return Freeing(fact.freed, fact.IS_OPEN, at, before.version + 1)


@contextmanager
def head_locked(ledger: Ledger) -> Iterator[None]:
    """Hold the head's lock, so that nobody appends before the block ends. What the block reads stays true until then.

    Other threads of this process MUST NOT write meanwhile.
    """
    with ledger.store.writing():
        yield


def is_freed_since(ledger: Ledger, position: int) -> bool:
    """Return whether objects that no event names can have vanished after `position`."""
    freeing = freeing_of(ledger)
    return freeing.is_open or freeing.position > position
