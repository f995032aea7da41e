"""Writes times, durations, sizes and counts for people."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

SECOND_US: Final = 1_000_000

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_SPANS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
_STEP: Final = 1024
_ESCAPE: Final = re.compile(rb"\\(\\|n|t|x[0-9a-fA-F]{2})")
_MEANT: Final = {b"\\": b"\\", b"n": b"\n", b"t": b"\t"}


def moment(us: int | None) -> str:
    """Return microseconds since 1970 as a UTC time in whole seconds, or a dash for None.

    A time outside the years 1 to 9999 has no calendar date, and is given in microseconds.
    """
    if us is None:
        return "-"
    try:
        return datetime.fromtimestamp(us // SECOND_US, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return f"{us} us since 1970"


def instant(us: int) -> str:
    """Return a time as ISO 8601 in UTC with microseconds, such as `2026-05-01T12:30:00.000000Z`.

    These texts sort in the order of the times. A time outside the years 1 to 9999 has no calendar date, and is given
    in microseconds.
    """
    try:
        at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)
    except OverflowError:
        return f"{us} us since 1970"
    return at.isoformat(timespec="microseconds").replace("+00:00", "Z")


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


def written(name: bytes) -> str:
    r"""Return a name as it is shown, on one line. `as_written` returns the name again.

    Backslashes and unprintable characters are escaped: as `\\`, `\n`, `\t`, or `\xHH` for each byte.
    """
    text = name.decode(errors="surrogateescape")
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(c if c.isprintable() and c != "\\" else _escaped(c) for c in text)


def as_written(text: str) -> bytes:
    """Return the name that `written` shows as this text. A backslash that starts no escape is kept."""
    return _ESCAPE.sub(lambda found: _MEANT.get(found[1]) or bytes.fromhex(found[1][1:].decode()), _stored(text))


def one_line(name: str) -> str:
    """Return a name escaped as by `written`, so that it cannot look like several lines or fields."""
    return written(_stored(name))


def quoted(text: str) -> str:
    """Return foreign text for use in a sentence: in quotes that nothing in the text can end or imitate.

    Quotes, backslashes and unprintable characters are escaped, so no two texts look the same.
    """
    plain = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{"".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in plain)}"'


def as_unicode(text: str) -> str:
    """Return a text with a path's non-UTF-8 bytes escaped, because JSON and databases hold only Unicode."""
    return text.encode("utf-8", "backslashreplace").decode()


def number(value: int, noun: str, plural: str | None = None) -> str:
    """Return a count and its noun, singular or plural, e.g. `1 element`, `2 elements`."""
    return f"{value:,} {noun}" if value == 1 else f"{value:,} {plural or f'{noun}s'}"


def counts(kinds: Mapping[str, int]) -> str:
    """Return the counts that are not 0, the largest first, e.g. `excluded 12, links 1`; a dash if all are 0."""
    shown = sorted(((kind, count) for kind, count in kinds.items() if count), key=lambda each: -each[1])
    return ", ".join(f"{kind} {count:,}" for kind, count in shown) or "-"


def _stored(text: str) -> bytes:
    """Return the bytes of a text from a command line, where bytes that are not UTF-8 are lone surrogates."""
    try:
        return text.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return text.encode(errors="surrogatepass")


def _escaped(character: str) -> str:
    short = {"\\": "\\\\", "\n": "\\n", "\t": "\\t"}.get(character)
    return short or "".join(f"\\x{byte:02x}" for byte in character.encode(errors="surrogateescape"))
