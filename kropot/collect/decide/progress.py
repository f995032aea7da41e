"""The counts of a run, which grow while it works."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ledger.events import Unserved


@dataclass(slots=True, kw_only=True)
class Progress:
    """Counts of one run, as they grow: what progress bars show and the summary says.

    `seen` is how many elements the longest listing showed, because a window shows again what others showed before.
    """

    listings: int = 0
    seen: int = 0
    new: int = 0
    changed: int = 0
    reappeared: int = 0
    vanished: int = 0
    rejected: int = 0
    unserved: Unserved | None = None
    unscanned_since: int | None = None
    taken: int = 0
    copied: int = 0
    bytes: int = 0
    failed: int = 0
    reasons: dict[str, int] = field(default_factory=dict)

    @property
    def unreadable(self) -> int:
        """How many folders and files the server says it cannot read."""
        return 0 if self.unserved is None else self.unserved.unreadable

    @property
    def is_half_served(self) -> bool:
        """Whether the server says that it does not serve all of its source."""
        return self.unreadable > 0 or self.unscanned_since is not None
