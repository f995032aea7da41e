"""The server's zone: how it is found by asking, since names and claims may be stale, and how a change shows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kropot.collect.asking import FAR, Ask, Trouble
from kropot.securecopy.wire import wall_clock
from kropot.securecopy.zones import ahead_s

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kropot.collect.asking import Talk

QUARTER = 900
FURTHEST = 14 * 3600
HALF_A_YEAR = 183 * 86400


MOST = 0.9
FEW = 10


@dataclass(slots=True)
class Moves:
    """Dates of known elements that moved by quarter hours: how often by how much, and the newest one of them."""

    by_offset: Counter[int] = field(default_factory=Counter)
    newest: tuple[int, int] | None = None

    @property
    def total(self) -> int:
        """How many dates moved."""
        return self.by_offset.total()

    def add(self, offset: int, date: int) -> None:
        """Count a date that moved by `offset` seconds and is `date` now."""
        self.by_offset[offset] += 1
        if self.newest is None or date >= self.newest[0]:
            self.newest = (date, offset)


def changed_by(moves: Moves, *, known: int, before: str | None, after: str | None) -> tuple[int, ...]:
    """Return the offsets in seconds, one or two, by which a change of the server's zone moved `known` dates; or ().

    It did if at least nine in ten moved, and if the wall clock of the newest still reads the same, `before` in the old
    zone and `after` in the new: files that were all put in anew, an hour later to the second, read differently. Where
    the old zone is not known, ten dates are enough to tell.
    """
    offsets = [offset for offset, _ in moves.by_offset.most_common(2)]
    if moves.newest is None or sum(moves.by_offset[offset] for offset in offsets) < MOST * known:
        return ()
    date, offset = moves.newest
    if before is None or after is None:
        is_sure = known >= FEW
    else:
        is_sure = wall_clock(date - offset, before) == wall_clock(date, after)
    return tuple(sorted(offsets)) if is_sure else ()


def between(before: str | None, after: str | None, date: int) -> tuple[int, ...]:
    """Return by how many seconds dates move where the zone `before` becomes `after`: now and half a year ago.

    () where nothing moves, or one of them is not known. What rows say is better evidence (`changed_by`); this is for
    elements whose rows cannot be listed.
    """
    offsets = set()
    for moment in (date, date - HALF_A_YEAR):
        was, now = (None if zone is None else ahead_s(moment, zone) for zone in (before, after))
        if was is None or now is None:
            return ()
        offsets.add(was - now)
    return tuple(sorted(offsets - {0}))


def find_zone(date: int, hints: Iterable[str]) -> Talk[str | None]:
    """Return the zone in which the server reads a wall clock at second `date`; None where its rows do not tell.

    The first of `hints` that fits is taken: names know about summer. Else the largest offset is the server's at which
    the first row behind the second before `date` is still dated `date`: one quarter hour more, and the row would be
    left out. Seven questions find it, and a bare offset ("+02:00") is returned. No row may be dated `date` any more,
    or a row on the way may be one that the server cannot list: then nothing is certain.
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


def _fits(date: int, name: str) -> Talk[bool]:
    """Whether the row dated `date` comes behind the second before it on this zone's wall, and not behind its own."""
    before = yield from _first_date(wall_clock(date - 1, name))
    if before != date:
        return False
    behind = yield from _first_date(wall_clock(date, name))
    return behind is None or behind > date


def _first_date(since: str) -> Talk[int | None]:
    """Return the date of the first row behind `since`: a very late one if there is none, None if it cannot be told."""
    answer = yield Ask(since=since, limit=1)
    if answer is None or isinstance(answer, Trouble):
        return None
    dates = [entry.date for entry in answer.entries] + [row.date for row in answer.rejected if row.date is not None]
    return min(dates, default=None if answer.rejected else FAR)


def _bare(offset: int) -> str:
    sign = "-" if offset < 0 else "+"
    minutes = abs(offset) // 60
    return "UTC" if offset == 0 else f"{sign}{minutes // 60:02d}:{minutes % 60:02d}"
