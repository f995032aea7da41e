"""How much may be received per second: one rate, or a timetable in rclone's syntax, and a limiter that enforces it.

A timetable says when in the week each rate begins: `08:00,512k 19:00,off`, or `Mon-08:00,1M Sat-00:00,off`.
Times are local. A rate has a unit, because a bare number means bytes to some programs and KiB to others.
"""

from __future__ import annotations

import re
import threading
import time
from typing import TYPE_CHECKING, Final

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Callable

_UNITS: Final = {"b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_RATE: Final = re.compile(r"(\d+(?:\.\d+)?)([bkmgt])(?:i?b)?(?:/s)?", re.IGNORECASE)
_ENTRY: Final = re.compile(r"(?:(mon|tue|wed|thu|fri|sat|sun)[a-z]*-)?(\d\d):(\d\d),(\S+)", re.IGNORECASE)
_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY_MINUTES: Final = 24 * 60
_WEEK_MINUTES: Final = 7 * _DAY_MINUTES
_LEAST: Final = 1 << 10

STEP_S: Final = 0.1
"""About how long a thread waits at a time. A new rate, or a closed connection, takes effect within this time."""

_LEAST_S: Final = 1e-4
"""Shorter waits are not worth it."""

_BURST_S: Final = 0.25
"""Unused time counts for this long, so that small contents do not wait for each other."""


class Timetable(Struct, frozen=True, kw_only=True):
    """Rates by the minute of the week at which each begins, in order. Rates are bytes per second; None: no limit."""

    rates: tuple[tuple[int, int | None], ...]

    def at(self, local: time.struct_time) -> int | None:
        """Return the rate at a local time."""
        minute = local.tm_wday * _DAY_MINUTES + local.tm_hour * 60 + local.tm_min
        # Before the first entry of a week, the last one of the previous week still applies.
        found = self.rates[-1][1]
        for begins, rate in self.rates:
            if begins > minute:
                break
            found = rate
        return found


def parse_timetable(text: str) -> Timetable:
    """Parse a timetable such as `2M`, `off` or `08:00,512k 19:00,off`.

    Raises: ValueError, whose message says which word is wrong.
    """
    words = text.split()
    if not words:
        raise ValueError("the rate is empty")
    if len(words) == 1 and "," not in words[0]:
        return Timetable(rates=((0, _rate(words[0])),))
    rates: dict[int, int | None] = {}
    for word in words:
        found = _ENTRY.fullmatch(word)
        if found is None or int(found[2]) > 23 or int(found[3]) > 59:  # noqa: PLR2004 - hours and minutes
            raise ValueError(f"{word!r} is not a time and a rate")
        at = int(found[2]) * 60 + int(found[3])
        days = range(7) if found[1] is None else (_DAYS.index(found[1].lower()),)
        for day in days:
            begins = day * _DAY_MINUTES + at
            if begins in rates:
                raise ValueError(f"{word!r} begins at the same time as another entry")
            rates[begins] = _rate(found[4])
    return Timetable(rates=tuple(sorted(rates.items())))


def _rate(word: str) -> int | None:
    """Return bytes per second, None for `off`. Raises: ValueError."""
    if word.lower() == "off":
        return None
    found = _RATE.fullmatch(word)
    if found is None:
        raise ValueError(f"{word!r} is not a rate with a unit")
    rate = int(float(found[1]) * _UNITS[found[2].lower()])
    if rate < _LEAST:
        raise ValueError(f"{word!r} is less than 1k")
    return rate


class RateLimiter:
    """Makes threads wait, so that together they receive no more than the timetable allows. Any thread can use it.

    Received bytes are a debt that time pays off. So a thread first reads, then reports how much, then waits.
    """

    def __init__(
        self,
        timetable: Timetable,
        *,
        clock: Callable[[], float] = time.monotonic,
        local: Callable[[], time.struct_time] = time.localtime,
        rest: Callable[[float], None] = time.sleep,
    ) -> None:
        """Start without a debt."""
        self._timetable = timetable
        self._clock = clock
        self._local = local
        self._rest = rest
        self._lock = threading.Lock()
        self._debt = 0.0
        self._paid_at = clock()
        self._looked_at = self._paid_at
        self._rate = timetable.at(local())

    @property
    def rate(self) -> int | None:
        """The current rate in bytes per second. None: no limit."""
        with self._lock:
            self._pay()
            return self._rate

    def received(self, size: int) -> None:
        """Count received bytes."""
        with self._lock:
            self._pay()
            if self._rate is not None:
                self._debt += size

    def portion(self, most: int) -> int:
        """Return how many bytes to read at once, at most `most`, so that no thread has to wait long afterwards."""
        rate = self.rate
        return most if rate is None else max(min(most, int(rate * STEP_S)), min(most, _LEAST))

    @property
    def owed_s(self) -> float:
        """How many seconds it takes to pay off the debt."""
        with self._lock:
            self._pay()
            owed = 0.0 if self._rate is None else self._debt / self._rate
            return owed if owed > _LEAST_S else 0.0

    def wait(self, *, stopped: Callable[[], bool] = lambda: False) -> float:
        """Wait until the debt is paid off, or `stopped` returns True. Return how many seconds that took."""
        began = self._clock()
        while (owed := self.owed_s) > 0 and not stopped():
            self._rest(min(owed, STEP_S))
        return self._clock() - began

    def _pay(self) -> None:
        now = self._clock()
        if now - self._looked_at >= 1:
            rate, self._looked_at = self._timetable.at(self._local()), now
            if rate != self._rate:
                self._rate, self._debt = rate, 0.0
        if self._rate is not None:
            self._debt = max(self._debt - (now - self._paid_at) * self._rate, -_BURST_S * self._rate)
        self._paid_at = now
