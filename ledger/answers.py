"""The values that a ledger returns: the head, a commit, sources, sums and reports."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from msgspec import Struct

if TYPE_CHECKING:
    from ledger.events import Source
    from ledger.merkle import Frontier


class Head(Struct, frozen=True, kw_only=True):
    """The end of the log: the last position (0 if empty), its recorded time, and the frontier over all events.

    `recorded_us` is in microseconds since 1970 UTC.
    """

    position: int
    recorded_us: int
    frontier: Frontier


class Commit(Struct, frozen=True, kw_only=True):
    """One append: the positions `first` to `last`, both included. All have the same recorded time.

    `recorded_us` is in microseconds since 1970 UTC.
    """

    first: int
    last: int
    recorded_us: int


class Erasure(NamedTuple):
    """An event that erased the `payloads` earlier events of its stream.

    `recorded_us` is in microseconds since 1970 UTC.
    """

    position: int
    recorded_us: int
    payloads: int


class SourceEntry(Struct, frozen=True, kw_only=True):
    """A source: its 128-bit id, its stream's version (which an append expects), and its newest state."""

    id: bytes
    version: int
    source: Source


class Tally(Struct, frozen=True, kw_only=True):
    """How many elements of a source are in a state, and the bytes of their stored copies."""

    source: bytes
    state: str
    elements: int
    bytes: int


class RebuildReport(Struct, frozen=True, kw_only=True):
    """What a rebuild did: events read up to `position`, entries made, and events of unknown types skipped."""

    position: int
    events: int
    entries: int
    skipped: int
