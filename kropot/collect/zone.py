"""The server's zone: how it is found by asking, since names and claims may be stale, and how a change shows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import combinations
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
LIKELY = 8
WIDEST = 26 * 3600


@dataclass(slots=True)
class Moves:
    """How the dates of known elements moved, each by any of the shifts that would explain it, and the newest of them.

    An element that has not changed since earlier changes of the zone may have gone through them one way or another, so
    its date as it is known leaves open by how much it moved this time. `strange` counts those that did move this time,
    whichever way that was; `furthest` is how far a date is from where it was known.
    """

    by_shifts: Counter[tuple[int, ...]] = field(default_factory=Counter)
    newest: tuple[int, tuple[int, ...]] | None = None
    strange: int = 0
    furthest: int = 0

    def add(self, moved: int, ways: Iterable[int], date: int, *, is_strange: bool = True) -> None:
        """Count a date that is `moved` seconds from where it was known, where `ways` led before, and is `date` now."""
        shifts = tuple(sorted({moved - way for way in ways}))
        self.by_shifts[shifts] += 1
        self.strange += is_strange
        self.furthest = max(self.furthest, abs(moved))
        if self.newest is None or date >= self.newest[0]:
            self.newest = (date, shifts)


def changed_by(moves: Moves, *, known: int, before: str | None, after: str | None) -> tuple[int, ...]:
    """Return the offsets in seconds, one or two, by which a change of the server's zone moved `known` dates; or ().

    It did if at least nine in ten moved, and if the wall clock of the newest still reads the same, `before` in the old
    zone and `after` in the new: files that were all put in anew, an hour later to the second, read differently. Where
    the old zone is not known, ten dates are enough to tell.
    """
    if not moves.strange:
        return ()
    by_offset: Counter[int] = Counter()
    for shifts, number in moves.by_shifts.items():
        for shift in shifts:
            if shift and shift % QUARTER == 0 and abs(shift) <= WIDEST:
                by_offset[shift] += number
    likely = [offset for offset, _ in by_offset.most_common(LIKELY)]
    found: tuple[int, ...] = ()
    most = 0
    for offsets in (*((one,) for one in likely), *combinations(likely, 2)):
        explained = sum(number for shifts, number in moves.by_shifts.items() if not set(offsets).isdisjoint(shifts))
        if explained > most and _reads_the_same(moves, offsets, known=known, before=before, after=after):
            found, most = offsets, explained
    return tuple(sorted(found)) if most >= MOST * known else ()


def _reads_the_same(
    moves: Moves, offsets: tuple[int, ...], *, known: int, before: str | None, after: str | None
) -> bool:
    """Whether the server's wall clock reads as before at the newest date, if it moved by one of the offsets."""
    if before is None or after is None:
        return known >= FEW
    date, shifts = moves.newest or (0, ())
    wall = wall_clock(date, after)
    return any(offset in shifts and wall_clock(date - offset, before) == wall for offset in offsets)


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
