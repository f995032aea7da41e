"""The older versions in a bucket that an erasure removed, and those that wait until their locks end. Pure."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from kropot.wording import SECOND_US, instant


class LockedVersions(NamedTuple):
    """How many versions with erased content are still locked; the last lock ends at `until_s` (seconds since 1970)."""

    versions: int = 0
    until_s: float = 0.0

    @property
    def until_us(self) -> int:
        """When the last lock ends, in microseconds since 1970."""
        return int(self.until_s * SECOND_US)

    @property
    def json(self) -> dict[str, Any]:
        """The fields of a JSON answer."""
        return {"versions": self.versions, "until": instant(self.until_us) if self.versions else None}

    def __add__(self, other: object) -> LockedVersions:
        """Add up the versions, and take the later end."""
        if not isinstance(other, LockedVersions):
            return NotImplemented
        return LockedVersions(self.versions + other.versions, max(self.until_s, other.until_s))


NOTHING_WAITS: Final = LockedVersions()


class Purged(NamedTuple):
    """How many versions were removed, and which ones wait."""

    removed: int = 0
    waiting: LockedVersions = NOTHING_WAITS

    def __add__(self, other: object) -> Purged:
        """Add up both."""
        if not isinstance(other, Purged):
            return NotImplemented
        return Purged(self.removed + other.removed, self.waiting + other.waiting)
