"""The messages between a lister and the code that asks the server for pages.

The lister is a generator. It yields a `PageRequest` and is sent the `Page` that came, or a `Trouble`. It yields
`NewEntries` and is sent None. In the end it returns a `ListingResult`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import TypeAlias, TypeVar

    from kropot.securecopy.wire import Listed, Page, Rejected
    from ledger.events import Unserved

    T = TypeVar("T")
    Conversation: TypeAlias = "Generator[PageRequest | NewEntries, Page | Trouble | None, T]"

FAR = 253_370_764_800
"""A second in the year 9999. No row is later, so a server that works answers with an empty page."""


class ListingFailedError(Exception):
    """The server cannot be listed at the moment; `reason` is a stable word."""

    def __init__(self, reason: str) -> None:
        """Keep the reason."""
        super().__init__(reason)
        self.reason = reason


class PageRequest(Struct, frozen=True, kw_only=True):
    """Asks for at most `limit` entries after `since` (the server's wall clock as text; None: from the first entry)."""

    since: str | None
    limit: int


class Trouble(Struct, frozen=True, kw_only=True):
    """The page did not come: the reason as a stable word, and the HTTP status if the server answered."""

    reason: str
    status: int | None = None


class NewEntries(Struct, frozen=True, kw_only=True):
    """Entries of a page, and lines that could not be read.

    A listing passes each entry on once, except where two pages meet: there an entry can come twice.
    """

    entries: tuple[Listed, ...]
    rejected: tuple[Rejected, ...] = ()


@dataclass(slots=True, kw_only=True)
class ListingResult:
    """What a whole listing found.

    `seen` counts entries, except those that a page repeats from the one before; `rejected` counts lines. `unlistable`
    holds the seconds whose rows the server cannot list completely. `exempt` holds ranges of dates (first and last
    second) that this listing could not see, so an element dated in one of them is not missing. After `closed`, the
    server may still add rows; up to it, never. `unserved` and `unscanned_since` are what the server says about itself
    (`Page`).
    """

    zone: str | None = None
    seen: int = 0
    rejected: int = 0
    unlistable: list[int] = field(default_factory=list)
    exempt: list[tuple[int, int]] = field(default_factory=list)
    is_misordered: bool = False
    closed: int | None = None
    unserved: Unserved | None = None
    unscanned_since: int | None = None
