"""Finds the zone of the server's wall clock by asking the server, because names and claims can be stale."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kropot.lister.conversation import FAR, PageRequest, Trouble
from kropot.securecopy.wire import wall_clock

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kropot.lister.conversation import Conversation

QUARTER = 900
FURTHEST = 14 * 3600

TRIES = 3
"""How many times to ask one question. Without the zone, a zone change looks like a change of every file."""


def find_zone(date: int, hints: Iterable[str]) -> Conversation[str | None]:
    """Return the zone in which the server reads a wall clock at second `date`; None if its rows do not tell.

    The first of `hints` that fits is taken, because names know about summer time. Otherwise, the server's offset is the
    largest one at which the first row after the second before `date` is still dated `date`: a quarter of an hour more
    would leave that row out. Seven questions find it, and a bare offset ("+02:00") is returned. Nothing is certain if
    no row is dated `date` any more, or if the server cannot list a row on the way.
    """
    for name in dict.fromkeys(hints):
        if name and (yield from _fits(date, name)):
            return name
    low, high = -FURTHEST // QUARTER, FURTHEST // QUARTER
    best: int | None = None
    while low <= high:
        middle = (low + high) // 2
        first = yield from _first_date(wall_clock(date - 1 + middle * QUARTER, "UTC"))
        if first is None:
            return None
        if first <= date:
            best = middle if first == date else None
            low = middle + 1
        else:
            high = middle - 1
    return None if best is None else _bare(best * QUARTER)


def _fits(date: int, name: str) -> Conversation[bool]:
    """Whether, by this zone's clock, the row dated `date` comes after the second before it, and not after its own."""
    before = yield from _first_date(wall_clock(date - 1, name))
    if before != date:
        return False
    behind = yield from _first_date(wall_clock(date, name))
    return behind is None or behind > date


def _first_date(since: str) -> Conversation[int | None]:
    """Return the date of the first row after `since`: a very late one if there is none, None if it is unknown."""
    for _ in range(TRIES):
        answer = yield PageRequest(since=since, limit=1)
        if not isinstance(answer, Trouble):
            break
    if answer is None or isinstance(answer, Trouble):
        return None
    dates = [entry.date for entry in answer.entries] + [row.date for row in answer.rejected if row.date is not None]
    return min(dates, default=None if answer.rejected else FAR)


def _bare(offset: int) -> str:
    sign = "-" if offset < 0 else "+"
    minutes = abs(offset) // 60
    return "UTC" if offset == 0 else f"{sign}{minutes // 60:02d}:{minutes % 60:02d}"
