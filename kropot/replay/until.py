"""The grammar of WHEN: a date or time, an age, a position, or a checkpoint. Parsing it is pure.

A time is exclusive: the state at a moment contains only what was recorded before that moment.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from msgspec import Struct

from kropot.errors import UsageError
from ledger.checkpoint import Checkpoint
from ledger.errors import BadCheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable

FORMS = (
    "a date (2026-05-01, which is 00:00Z), a time (2026-05-01T14:30:00+02:00, UTC where no offset is given), "
    "an age (36h, 7d, 2w), a position (@120411) or a checkpoint file"
)
"""The accepted forms of WHEN, for messages and help."""

EARLIEST_US = -62_135_596_800_000_000
"""The start of year 1. An age that reaches further back means this moment."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_UNIT_US = {"h": 3_600_000_000, "d": 86_400_000_000, "w": 604_800_000_000}
_AGE = re.compile(r"([0-9]{1,18})([hdw])")
_POSITION = re.compile(r"@([0-9]{1,18})")
_TIME = re.compile(
    r"(?P<day>[0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"(?:[Tt ](?P<clock>[0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:[.,][0-9]{1,6})?)?)"
    r"(?P<zone>[Zz]|[+-][0-9]{2}(?::?[0-9]{2})?)?)?"
)
_NOTE_LIMIT = 1 << 16


class At(Struct, frozen=True, kw_only=True):
    """A time in microseconds since 1970, exclusive. `naive` means that no offset was given, and UTC is assumed."""

    us: int
    naive: bool = False


class Position(Struct, frozen=True, kw_only=True):
    """The state after the event at this position. 0 is the state before all events."""

    position: int


When = At | Position | Checkpoint
"""A checkpoint means the position of its size. The ledger's root there MUST be the checkpoint's root."""


def parse_when(text: str, *, now_us: int, read: Callable[[str], bytes | None]) -> When:
    """Return what `text` means.

    Ages count back from `now_us` (microseconds since 1970). `read` returns the content of the file with a name, None if
    there is no such file. It is called only for text that has none of the other forms (`./7d` names a file called 7d).

    Raises:
        UsageError: the text has none of the accepted forms. The message lists them.

    """
    if age := _AGE.fullmatch(text):
        return At(us=max(EARLIEST_US, now_us - int(age[1]) * _UNIT_US[age[2]]))
    if place := _POSITION.fullmatch(text):
        return Position(position=int(place[1]))
    if moment := _TIME.fullmatch(text):
        return _parse_time(text, moment)
    note = read(text)
    if note is not None:
        return parse_note(note, name=text)
    raise _not_understood(text)


def parse_note(note: bytes, *, name: str) -> Checkpoint:
    """Return what a checkpoint's note says, without checking its signatures.

    A replay compares it with the ledger's own root at that size. `kropotcli verify` checks signatures.

    Raises:
        UsageError: the file is not a checkpoint.

    """
    try:
        text, blank, _ = note[:_NOTE_LIMIT].decode().partition("\n\n")
        return Checkpoint.parse(text + "\n" if blank else text)
    except (UnicodeDecodeError, BadCheckpointError):
        raise UsageError(
            f"the file {_shown(name)} is not a checkpoint, whose first lines are its origin, size and root: "
            f"give {FORMS}"
        ) from None


def _parse_time(text: str, match: re.Match[str]) -> At:
    """Return the time. Offsets are subtracted as integers, so the first and last years work too."""
    day, clock, zone = match["day"], match["clock"] or "00:00", match["zone"]
    try:
        wall = datetime.fromisoformat(f"{day}T{clock.replace(',', '.')}+00:00")
        offset = _offset(zone or "Z")
    except ValueError:
        raise _not_understood(text) from None
    us = (wall - _EPOCH) // _MICROSECOND - offset // _MICROSECOND
    return At(us=us, naive=match["clock"] is not None and zone is None)


def _offset(zone: str) -> timedelta:
    if zone in {"Z", "z"}:
        return timedelta()
    hours, minutes = int(zone[1:3]), int(zone[-2:]) if len(zone) > len("+hh") else 0
    if hours > 23 or minutes > 59:  # noqa: PLR2004 (the hours of a day and the minutes of an hour)
        raise ValueError(zone)
    offset = timedelta(hours=hours, minutes=minutes)
    return -offset if zone[0] == "-" else offset


def _not_understood(text: str) -> UsageError:
    return UsageError(f"cannot understand the time {_shown(text)}: give {FORMS}")


def _shown(text: str) -> str:
    """Return the text in quotes, without control characters or lone surrogates, cut after 80 characters."""
    return ascii(text if len(text) <= 80 else text[:77] + "...")  # noqa: PLR2004 (a line of a terminal)
