"""One listing while it runs: what must still be recorded, what was counted, what looks strange, what may be missing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kropot.bitmap import Bitmap
from kropot.collect.decide.chunks import ChunksOnTheWay
from kropot.collect.decide.zone_change import Moves

if TYPE_CHECKING:
    from kropot.lister.conversation import Conversation, ListingResult, PageRequest
    from kropot.securecopy.wire import Listed
    from ledger.events import ListingMode

MAX_MOVED = 1000
"""At most this many entries with moved dates are kept until it is clear whether the server's time zone changed."""


@dataclass(slots=True, kw_only=True)
class ListingCounts:
    """What the entries of a listing turned out to be; `refused` counts plain entries of an encrypted source."""

    new: int = 0
    changed: int = 0
    reappeared: int = 0
    vanished: int = 0
    refused: int = 0


@dataclass(slots=True, kw_only=True)
class Shift:
    """Entries whose dates moved and nothing else.

    They are `kept` aside until it is clear whether the server's zone changed, unless the listing `is_believing`, that
    is, takes them as changed. `offsets` are the seconds by which a changed zone moved the dates.
    """

    is_believing: bool
    moved: Moves = field(default_factory=Moves)
    kept: list[Listed] = field(default_factory=list)
    is_kept_whole: bool = True
    is_settled: bool = False
    offsets: tuple[int, ...] = ()

    def keep(self, listed: Listed) -> None:
        """Set an entry aside, if there is room."""
        if len(self.kept) < MAX_MOVED:
            self.kept.append(listed)
        else:
            self.is_kept_whole = False


@dataclass(slots=True, kw_only=True)
class Missing:
    """What a full listing did not show: `count` of `known` elements; `hold` says why that is not believed.

    Elements dated within `exempt` are not missing: the listing could not see them.
    """

    count: int = 0
    known: int = 0
    exempt: tuple[tuple[int, int], ...] = ()
    hold: str = ""


@dataclass(slots=True, kw_only=True)
class ListingRun:
    """One listing under way.

    `is_closed` says that everything before `start` is known to be complete. `position` is the ledger's head when it
    began and `known` counts the elements that the source had then. `seen` has the streams of those that it has shown;
    `present` counts the present ones. `request` is a page request that waits until fewer entries wait. `result` is set
    once the server has nothing more to show. `lines` counts the lines shown, unreadable ones included, and `growth` is
    about how many bytes of them are new in the ledger. `vault` is the one that all pages must name. If the source has
    none, the first page decides it (`is_vault_known`). `is_vault_named` says that the ledger names it too, and
    `is_blank` that the source had never had an element when the listing began.
    """

    mode: ListingMode
    start: int | None
    position: int
    known: int
    began_us: int
    conversation: Conversation[ListingResult]
    shift: Shift
    is_closed: bool = False
    vault: bytes | None = None
    is_vault_known: bool = False
    is_vault_named: bool = False
    is_blank: bool = False
    request: PageRequest | None = None
    result: ListingResult | None = None
    lines: int = 0
    growth: int = 0
    seen: Bitmap = field(default_factory=Bitmap)
    present: int = 0
    chunks: ChunksOnTheWay = field(default_factory=ChunksOnTheWay)
    counts: ListingCounts = field(default_factory=ListingCounts)
    missing: Missing = field(default_factory=Missing)

    @property
    def rejected(self) -> int:
        """Lines that could not be taken in."""
        return self.counts.refused + (0 if self.result is None else self.result.rejected)
