"""What a listing says and is told: the words of the conversation between a lister and whoever asks the server."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import TypeAlias, TypeVar

    from kropot.securecopy.wire import Listed, Page, Rejected

    T = TypeVar("T")
    Talk: TypeAlias = "Generator[Ask | Brought, Page | Trouble | None, T]"

# A Talk is one side of the conversation: it yields `Ask`, answered by a page or `Trouble`, or `Brought`, by None.

FAR = 253_370_764_800
"""The year 9999: no row is behind it, so a server that is alive answers with an empty page."""


class ListingFailedError(Exception):
    """The server cannot be listed just now; `reason` is a stable word."""

    def __init__(self, reason: str) -> None:
        """Remember the reason."""
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """Ask the server for at most `limit` entries behind `since` (its wall clock as text, None: from the first on)."""

    since: str | None
    limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """A page did not come: why, as a stable word, and the HTTP status where there was an answer."""

    reason: str
    status: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Brought:
    """Entries that came and were not handed on before in this listing, save at its joints; lines that are none."""

    entries: tuple[Listed, ...]
    rejected: tuple[Rejected, ...] = ()


@dataclass(slots=True, kw_only=True)
class Drained:
    """What a listing came to.

    `seen` and `rejected` count lines, repeated ones too. `unlistable` are seconds at which the server had to be helped
    over rows that it cannot list; elements dated within `spared` (first and last second) cannot be missed by this
    listing. `closed` is the last second that the server says it will not add to.
    """

    zone: str | None = None
    seen: int = 0
    rejected: int = 0
    unlistable: list[int] = field(default_factory=list)
    spared: list[tuple[int, int]] = field(default_factory=list)
    is_misordered: bool = False
    closed: int | None = None
