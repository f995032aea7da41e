"""The moments that a policy keeps: the last round of each day, week, month or year, the last rounds, and pins; pure.

A round is one listing and the fetching after it. Its state is that of its end: when the next listing was completed.
"""

from __future__ import annotations

from bisect import bisect_left
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from msgspec import Struct

from kropot.wording import SECOND_US

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ledger.retention import KeepRules

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class RoundSpan(NamedTuple):
    """A round: the position where its listing was completed, the one where it ended, and the listing's time (us)."""

    listed: int
    ended: int
    at_us: int


class KeptMoments(Struct, frozen=True, kw_only=True):
    """The kept moments of one source, in order: positions of listings, and of the ends of their rounds."""

    listed: list[int]
    ended: list[int]

    def need(self, start: int, end: int | None, *, vanished: bool) -> bool:
        """Return whether a version that was current from position `start` to before `end` is part of a kept moment.

        The listing after an element vanished found it missing, so the element was part of the round before.
        """
        at = bisect_left(self.ended, start)
        if at == len(self.ended):
            return False
        return end is None or (self.listed if vanished else self.ended)[at] < end


def kept_moments(newest_first: Iterable[RoundSpan], pins: Iterable[int], rules: KeepRules, now_us: int) -> KeptMoments:
    """Return the moments that the rules keep. Days, weeks (from Monday), months and years are those of UTC."""
    kept: list[RoundSpan] = []
    periods = [_Period(rules.daily, _day), _Period(rules.weekly, _week)]
    periods += [_Period(rules.monthly, _month), _Period(rules.yearly, _year)]
    since_us = now_us - rules.within_s * SECOND_US
    for number, each in enumerate(newest_first):
        within = rules.within_s > 0 and each.at_us >= since_us
        day = _EPOCH + timedelta(microseconds=each.at_us)
        wanted = [period.takes(day) for period in periods]
        if number < rules.last or within or any(wanted):
            kept.append(each)
        elif all(period.is_full for period in periods):
            break
    kept += [RoundSpan(position, position, 0) for position in pins]
    # A pin can be within a round. Both lists MUST rise, so such a pin gets the listing of its round.
    kept.sort(key=lambda each: (each.ended, each.listed))
    listed = [each.listed for each in kept]
    for at in range(len(listed) - 2, -1, -1):
        listed[at] = min(listed[at], listed[at + 1])
    return KeptMoments(listed=listed, ended=[each.ended for each in kept])


# --- helpers ---------------------------------------------------------------------------------------------------------


class _Period:
    """Takes the last round of each of `count` days, weeks, ..., if rounds come newest first."""

    def __init__(self, count: int, name: Callable[[datetime], tuple[int, ...]]) -> None:
        self._left = count
        self._name = name
        self._last: tuple[int, ...] | None = None

    @property
    def is_full(self) -> bool:
        return self._left == 0

    def takes(self, at: datetime) -> bool:
        if self._left == 0:
            return False
        found = self._name(at)
        if found == self._last:
            return False
        self._last = found
        self._left -= 1
        return True


def _day(at: datetime) -> tuple[int, ...]:
    return at.year, at.month, at.day


def _week(at: datetime) -> tuple[int, ...]:
    return tuple(at.isocalendar()[:2])


def _month(at: datetime) -> tuple[int, ...]:
    return at.year, at.month


def _year(at: datetime) -> tuple[int, ...]:
    return (at.year,)
