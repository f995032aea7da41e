"""What the facts mean: `fold` turns events into the resulting state. All functions are pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from ledger.events import (
    AuditAdvanced,
    ElementFact,
    ErasedFact,
    Fact,
    KeepingFact,
    LedgerBegan,
    SourceFact,
    UnknownFact,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ledger.events import AuditRange, Element, Keeping, Source, StreamKey


class Event(Struct, frozen=True, kw_only=True):
    """One event as read back: its position, its header's fields and its fact.

    `key` is None once the stream's payloads are erased. `stream` is the store's number of the stream. Times are in
    microseconds since 1970 UTC.
    """

    position: int
    stream: int
    key: StreamKey | None
    stream_version: int
    recorded_us: int
    observed_us: int
    writer: str
    fact: Fact | UnknownFact | ErasedFact


class Entry(Struct, frozen=True, kw_only=True):
    """The projection of one element: its newest state, the stream's version, and the position of its newest event.

    `element` is None once its payloads are erased. `is_dismissed`: it raises no alarm (`ElementFact.IS_DISMISSED`).
    """

    key: StreamKey
    stream: int
    version: int
    position: int
    element: Element | None
    is_dismissed: bool = False


def evolve_source(fact: object) -> Source | None:
    """Return the source's state after `fact`, or None if the fact is not about a source."""
    return fact.source if isinstance(fact, SourceFact) else None


@dataclass(slots=True)
class Replica:
    """The fold of a ledger in memory, for tests, simulations and small ledgers. The store folds large ones."""

    position: int = 0
    recorded_us: int = 0
    ledger: LedgerBegan | None = None
    sources: dict[bytes, Source] = field(default_factory=dict)
    keepings: dict[bytes, Keeping] = field(default_factory=dict)
    entries: dict[StreamKey, Entry] = field(default_factory=dict)
    audit: tuple[AuditRange, ...] = ()
    skipped: int = 0

    def apply(self, event: Event) -> None:
        """Apply one event. Events MUST come in the order of their positions."""
        self.position = event.position
        self.recorded_us = event.recorded_us
        fact, key = event.fact, event.key
        if isinstance(fact, UnknownFact):
            self.skipped += 1
        elif isinstance(fact, ErasedFact) or key is None:
            pass
        elif isinstance(fact, LedgerBegan):
            self.ledger = fact
        elif isinstance(fact, AuditAdvanced):
            self.audit = fact.ranges
        elif isinstance(fact, SourceFact):
            self.sources[key.source] = fact.source
        elif isinstance(fact, KeepingFact):
            self.keepings[key.source] = fact.keeping
        elif isinstance(fact, ElementFact):
            self.entries[key] = Entry(
                key=key,
                stream=event.stream,
                version=event.stream_version,
                position=event.position,
                element=fact.element,
                is_dismissed=fact.IS_DISMISSED,
            )
        if isinstance(fact, Fact) and fact.ERASES:
            for known in [k for k, e in self.entries.items() if e.stream == event.stream]:
                del self.entries[known]


def fold(events: Iterable[Event]) -> Replica:
    """Fold events, in the order of their positions, into the resulting state."""
    replica = Replica()
    for event in events:
        replica.apply(event)
    return replica


def damaged(element: Element, sha256: bytes, *, lost: bool) -> Element:
    """Return the element after its object `sha256` was found damaged or lost. If it is the copy, it becomes wanted."""
    if element.copy is None or element.copy.sha256 != sha256:
        return element
    return replace(element, damage="lost" if lost else "damaged", failure=None)
