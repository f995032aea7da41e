"""The ledger's time: the clock's, but never before the last event's, nor far after it unless a person accepts that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ledger.errors import ClockLeapError

if TYPE_CHECKING:
    from ledger.rows import StoredHead

DAY_US: Final = 24 * 3600 * 1_000_000
MOST_LEAP_US: Final = 3 * 366 * DAY_US
"""A clock that is this far past the last event is not trusted.

Recorded time never goes back, so after a wrong clock it would stand still until that day.
"""

_FIRST_DAY_US: Final = 18_262 * DAY_US
"""2020-01-01. If the last event is older than this, the clock was behind, as on a machine without a battery."""


def recorded_time(head: StoredHead, clock_us: int, most_leap_us: int | None) -> int:
    """Return when an append at this head is recorded. `most_leap_us` is None once a person has accepted the clock.

    Raises:
        ClockLeapError: if the clock is too far after the last event.
    """
    if most_leap_us is not None and head.recorded_us > _FIRST_DAY_US and clock_us - head.recorded_us > most_leap_us:
        raise ClockLeapError(clock_us, head.recorded_us)
    return max(head.recorded_us, clock_us)
