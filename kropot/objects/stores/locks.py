"""How long what is written in a bucket stays locked, and what follows from it. Pure."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

DAY_S: Final = 86_400


class LockRule(Struct, frozen=True):
    """A bucket locks what is written for so many `days`. Times are in seconds since 1970."""

    days: int

    @property
    def margin_s(self) -> float:
        """So long before its lock ends, a file is put again: a quarter of the time, at least a day, at most half."""
        return DAY_S * min(max(self.days / 4, 1), self.days / 2)

    def until_s(self, changed_s: float) -> float:
        """Return when the lock of a file ends that was written at `changed_s`."""
        return changed_s + self.days * DAY_S

    def is_locked(self, changed_s: float, now_s: float) -> bool:
        """Whether it is locked still."""
        return now_s < self.until_s(changed_s)

    def is_due(self, changed_s: float, now_s: float) -> bool:
        """Whether it is to be put again, so that its bytes are never without a lock."""
        return now_s >= self.until_s(changed_s) - self.margin_s

    def is_spared(self, changed_s: float, now_s: float) -> bool:
        """Whether a pack is not to be rewritten yet: its bytes would lie there twice for more than half of the time."""
        return self.until_s(changed_s) - now_s > self.days * DAY_S / 2
