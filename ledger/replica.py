"""What the facts mean: `evolve` handles one element's entry, `fold` a whole ledger; both are pure."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, assert_never

from ledger.events import (
    AlarmsAccepted,
    AuditAdvanced,
    CopyDamaged,
    CopyLost,
    CopyReleased,
    CopyStored,
    Element,
    ElementFact,
    ErasedFact,
    FetchFailed,
    InstanceBegan,
    LedgerBegan,
    ListingAdvanced,
    ListingCompleted,
    ListingHeldBack,
    PayloadErased,
    RemoteChanged,
    RemoteObserved,
    RemoteReappeared,
    RemoteVanished,
    Source,
    SourceBegan,
    SourceRenamed,
    StreamKey,
    UnknownFact,
    ZoneChanged,
)
from ledger.fast_init import fast_init

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ledger.events import AuditRange, Fact


@fast_init
@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event as read back: its place, its header's fields, and the fact it holds.

    `key` is None once the stream's payloads are erased; `stream` is the store's small integer for the stream.
    """

    position: int
    stream: int
    key: StreamKey | None
    stream_version: int
    recorded_us: int
    observed_us: int
    writer: str
    fact: Fact | UnknownFact | ErasedFact


@fast_init
@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """The projection of one element: its newest state, the stream's version, and the position it came from.

    `element` is None once its payloads are erased.
    """

    key: StreamKey
    stream: int
    version: int
    position: int
    element: Element | None


def evolve(element: Element | None, fact: ElementFact) -> Element | None:  # noqa: ARG001 - see below
    """Return the element's state after `fact`; None after an erasure.

    Facts are post-images, hence the state before is not looked at; it is a parameter so that a later fact that is no
    post-image cannot be added without every caller being ready for it.
    """
    match fact:
        # The two that a ledger is full of come first: each pattern before them costs every append and replay.
        case CopyStored():
            return fact.element
        case RemoteObserved():
            return fact.element
        case RemoteChanged() | RemoteVanished() | RemoteReappeared() | FetchFailed():
            return fact.element
        case CopyDamaged() | CopyLost() | CopyReleased():
            return fact.element
        case PayloadErased():
            return None
        case _:
            assert_never(fact)


def evolve_source(fact: object) -> Source | None:
    """Return the source's state after `fact`, or None if the fact is not about a source."""
    match fact:
        case (
            SourceBegan()
            | SourceRenamed()
            | ListingAdvanced()
            | ListingCompleted()
            | ListingHeldBack()
            | AlarmsAccepted()
            | ZoneChanged()
        ):
            return fact.source
        case _:
            return None


@dataclass(slots=True)
class Replica:
    """The fold of a ledger in memory: for tests, simulations and small ledgers; big ones are folded by the store."""

    position: int = 0
    recorded_us: int = 0
    ledger: LedgerBegan | None = None
    sources: dict[bytes, Source] = field(default_factory=dict)
    entries: dict[StreamKey, Entry] = field(default_factory=dict)
    audit: tuple[AuditRange, ...] = ()
    skipped: int = 0

    def apply(self, record: Event) -> None:
        """Take one record in; records MUST come in the order of their positions."""
        self.position = record.position
        self.recorded_us = record.recorded_us
        fact, key = record.fact, record.key
        match fact:
            case LedgerBegan():
                self.ledger = fact
            case InstanceBegan() | ErasedFact():
                pass
            case AuditAdvanced():
                self.audit = fact.ranges
            case UnknownFact():
                self.skipped += 1
            case PayloadErased():
                for known in [k for k, e in self.entries.items() if e.stream == record.stream]:
                    del self.entries[known]
            case (
                SourceBegan()
                | SourceRenamed()
                | ListingAdvanced()
                | ListingCompleted()
                | ListingHeldBack()
                | AlarmsAccepted()
                | ZoneChanged()
            ):
                if key is not None:
                    self.sources[key.source] = fact.source
            case _:
                if key is not None:
                    before = self.entries.get(key)
                    after = evolve(None if before is None else before.element, fact)
                    self.entries[key] = Entry(
                        key=key,
                        stream=record.stream,
                        version=record.stream_version,
                        position=record.position,
                        element=after,
                    )


def fold(records: Iterable[Event]) -> Replica:
    """Fold records, in the order of their positions, into the state they lead to."""
    replica = Replica()
    for record in records:
        replica.apply(record)
    return replica


def damaged(element: Element, sha256: bytes, *, lost: bool) -> Element:
    """Return the element after its object `sha256` was found damaged or lost: it is fetched again if it is the copy."""
    if element.copy is None or element.copy.sha256 != sha256:
        return element
    return replace(element, damage="lost" if lost else "damaged", failure=None)
