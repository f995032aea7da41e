"""A second as a server's wall clock shows it: the only form of time that the old server reads correctly."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from functools import lru_cache
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from datetime import tzinfo

MIN_DATE = -62_135_596_800
MAX_DATE = 253_402_300_799

_OFFSET = re.compile(r"([+-])(\d\d):?(\d\d)")


def wall_clock(date: int, tz: str) -> str:
    """Return `date` as "YYYY-MM-DD HH:MM:SS" in the time of zone `tz`, the only `since` that the old server gets right.

    An unknown zone is read as the westernmost one (UTC-12), so that a window grows and nothing is missed.
    """
    zone = _zone(tz) or timezone(timedelta(hours=-12))
    first, last = datetime.min.replace(tzinfo=UTC), datetime.max.replace(microsecond=0, tzinfo=UTC)
    margin = timedelta(days=1)
    # a day's margin keeps the conversion within the years 1 to 9999 in every zone
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=min(max(date, MIN_DATE), MAX_DATE))
    local = min(max(moment, first + margin), last - margin).astimezone(zone)
    return f"{local.year:04d}-{local:%m-%d %H:%M:%S}"


def ahead_s(date: int, tz: str) -> int | None:
    """Return how many seconds the wall clock of zone `tz` is ahead of UTC at `date`, None for an unknown zone."""
    zone = _zone(tz)
    if zone is None:
        return None
    offset = datetime.fromtimestamp(min(max(date, 0), MAX_DATE - 86400), zone).utcoffset()
    return None if offset is None else int(offset.total_seconds())


def read_alike(date: int, one: str, other: str) -> bool:
    """Return whether both zones are known and their wall clocks show the same at `date`."""
    ahead = ahead_s(date, one)
    return ahead is not None and ahead == ahead_s(date, other)


def is_known_zone(tz: str) -> bool:
    """Return whether `wall_clock` can read this zone name."""
    return _zone(tz) is not None


@lru_cache(maxsize=64)
def _zone(tz: str) -> tzinfo | None:
    """Return the zone of this name, also "UTC", "Z" and "+02:00", or None."""
    if tz.upper() in {"UTC", "Z", "GMT"}:
        return UTC
    if offset := _OFFSET.fullmatch(tz):
        sign = -1 if offset[1] == "-" else 1
        minutes = int(offset[2]) * 60 + int(offset[3])
        return timezone(sign * timedelta(minutes=minutes)) if minutes < 24 * 60 else None
    try:
        return ZoneInfo(tz)
    except (KeyError, ValueError, OSError):
        # Names come from a server: an absolute path, a folder of the zone database or nonsense is not a zone.
        return None
