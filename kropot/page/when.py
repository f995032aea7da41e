"""Times as the page shows them: short, in UTC, or as how long ago. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from kropot.page.texts import WHEN
from kropot.wording import SECOND_US

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_STEPS: Final = (
    (365 * 86_400, "year"),
    (30 * 86_400, "month"),
    (86_400, "day"),
    (3_600, "hour"),
    (60, "minute"),
)
_DAY_S: Final = 86_400


def us_of(text: str | None) -> int | None:
    """Return the microseconds since 1970 of an ISO 8601 time, None for None. Raises: ValueError."""
    if text is None:
        return None
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError(text)
    return (at - _EPOCH) // timedelta(microseconds=1)


def shown(us: int | None) -> str:
    """Return a time as `29 Nov 2026, 18:20 UTC`, or `never` for None or a time out of the calendar's range."""
    if us is None:
        return WHEN["never"]
    try:
        at = _EPOCH + timedelta(microseconds=us)
    except OverflowError:
        return WHEN["never"]
    return f"{at.day} {at:%b} {at.year:04}, {at:%H:%M} UTC"


def day(us: int) -> str:
    """Return the date of a time as `29 Nov 2026`."""
    return shown(us).split(",")[0]


def ago(us: int | None, now_us: int) -> str:
    """Return how long ago a time is, in one unit: `3 hours ago`, `in 5 minutes`, `just now`; `never` for None."""
    if us is None:
        return WHEN["never"]
    seconds = abs(now_us - us) // SECOND_US
    for length, name in _STEPS:
        if seconds >= length:
            count = seconds // length
            said = f"{count} {name}{'' if count == 1 else 's'}"
            return (WHEN["ago"] if now_us >= us else WHEN["in"]).format(said)
    return WHEN["now"]
