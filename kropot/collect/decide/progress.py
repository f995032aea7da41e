"""What a run comes to: counts that grow while it works."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True, kw_only=True)
class Progress:
    """Counts of one run, as they grow: what progress bars show and the summary says.

    `seen` is how many elements the longest listing showed: a window shows again what others showed before.
    """

    listings: int = 0
    seen: int = 0
    new: int = 0
    changed: int = 0
    reappeared: int = 0
    vanished: int = 0
    rejected: int = 0
    unreadable: int = 0
    taken: int = 0
    copied: int = 0
    bytes: int = 0
    failed: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
