"""How long files written to a bucket stay locked, and what follows from that. Pure."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

DAY_S: Final = 86_400


class LockRule(Struct, frozen=True):
    """A bucket locks each written file for this many `days`. Times are in seconds since 1970."""

    days: int

    @property
    def margin_s(self) -> float:
        """How long before its lock ends a file is put again: a quarter of the time, at least a day, at most half."""
        return DAY_S * min(max(self.days / 4, 1), self.days / 2)

    def until_s(self, changed_s: float) -> float:
        """Return when the lock of a file written at `changed_s` ends."""
        return changed_s + self.days * DAY_S

    def is_locked(self, changed_s: float, now_s: float) -> bool:
        """Whether a file is still locked."""
        return now_s < self.until_s(changed_s)

    def is_due(self, changed_s: float, now_s: float) -> bool:
        """Whether a file must be put again, so that its bytes are never without a lock."""
        return now_s >= self.until_s(changed_s) - self.margin_s

    def is_spared(self, changed_s: float, now_s: float) -> bool:
        """Whether not to rewrite a pack yet: its bytes would be stored twice for more than half of the time."""
        return self.until_s(changed_s) - now_s > self.days * DAY_S / 2
