"""Writes times, durations, sizes and counts for people."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

SECOND_US: Final = 1_000_000

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_SPANS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
_STEP: Final = 1024


def moment(us: int | None) -> str:
    """Return microseconds since 1970 as a UTC time in whole seconds, or a dash for None.

    No calendar date exists outside the years 1 to 9999. Such a time is given in microseconds.
    """
    if us is None:
        return "-"
    try:
        return datetime.fromtimestamp(us // SECOND_US, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return f"{us} us since 1970"


def span(us: int) -> str:
    """Return a duration in microseconds in its two largest units, e.g. `3 h 5 min`."""
    seconds = max(us // SECOND_US, 0)
    parts = []
    for length, name in _SPANS:
        if seconds >= length:
            parts.append(f"{seconds // length} {name}")
            seconds %= length
    return " ".join(parts[:2]) or "0 s"


def amount(size: int) -> str:
    """Return a number of bytes in the largest unit that fits, e.g. `1.5 MiB`."""
    value, unit = float(size), 0
    while value >= _STEP and unit < len(_UNITS) - 1:
        value /= _STEP
        unit += 1
    return f"{size} B" if unit == 0 else f"{value:.1f} {_UNITS[unit]}"


def one_line(name: str) -> str:
    """Return a name with its line breaks and tabs escaped, so that it cannot look like several lines or fields."""
    return name.replace("\n", "\\n").replace("\t", "\\t")


def quoted(text: str) -> str:
    """Return foreign text as it stands within a sentence: in quotes, and nothing in it can end them or look like more.

    Quotes, backslashes, and whatever does not print are escaped, so no two texts look the same.
    """
    plain = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{"".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in plain)}"'


def number(value: int, noun: str, plural: str | None = None) -> str:
    """Return a count and its noun, singular or plural, e.g. `1 element`, `2 elements`."""
    return f"{value:,} {noun}" if value == 1 else f"{value:,} {plural or f'{noun}s'}"


def counts(kinds: Mapping[str, int]) -> str:
    """Return the counts that are not 0, the largest first, e.g. `excluded 12, links 1`; a dash if all are 0."""
    return (
        ", ".join(f"{kind} {count:,}" for kind, count in sorted(kinds.items(), key=lambda of: -of[1]) if count) or "-"
    )
