"""How a change of the server's time zone shows in the dates of known elements."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING

from kropot.securecopy.wire import wall_clock
from kropot.securecopy.zones import ahead_s, read_alike

if TYPE_CHECKING:
    from collections.abc import Iterable

QUARTER = 900
HALF_A_YEAR = 183 * 86400

MOST = 0.9
FEW = 10
LIKELY = 8
WIDEST = 26 * 3600

MAX_NAMES = 100
"""At most this many names of time zones are counted separately; a server has one or two."""


@dataclass(slots=True)
class Moves:
    """How the dates of known elements moved, each by any of the shifts that would explain it, and the newest of them.

    An element that has not changed since earlier zone changes may have gone through them in one way or another, so its
    known date leaves open how far it moved this time. `strange` counts those that did move this time, by whichever
    shift; `furthest` is the largest distance of a date from the known one. `made_in` counts the present ones that no
    move explains, by the zone in which their row was made: a row made after the change did not move with it.
    """

    by_shifts: Counter[tuple[int, ...]] = field(default_factory=Counter)
    newest: tuple[int, tuple[int, ...]] | None = None
    strange: int = 0
    furthest: int = 0
    made_in: Counter[str] = field(default_factory=Counter)

    def stay(self, tz: str) -> None:
        """Count a present element that did not move with the zone; its row was made while the server was in `tz`."""
        if tz in self.made_in or len(self.made_in) < MAX_NAMES:
            self.made_in[tz] += 1

    def add(self, moved: int, ways: Iterable[int], date: int, *, is_strange: bool = True) -> None:
        """Count a date that is `date` now, `moved` seconds from the known one, which `ways` may have moved before."""
        shifts = tuple(sorted({moved - way for way in ways}))
        self.by_shifts[shifts] += 1
        self.strange += is_strange
        self.furthest = max(self.furthest, abs(moved))
        if self.newest is None or date >= self.newest[0]:
            self.newest = (date, shifts)


def changed_by(moves: Moves, *, known: int, before: str | None, after: str | None) -> tuple[int, ...]:
    """Return the one or two offsets in seconds by which a change of the server's zone moved `known` dates; or ().

    The zone changed if at least nine in ten moved, and if the newest still reads the same on the wall clock, in the old
    zone (`before`) and in the new (`after`). Files that were all put in again an hour later, to the second, read
    differently. Rows that were made in the new zone do not count. If one of the zones is unknown, ten dates are enough.

    If the server itself answered in a different zone than before, the change is certain. Then nine in ten of those that
    moved are enough, because all others may have been seen for the first time after it.
    """
    if not moves.strange:
        return ()
    counted = moves.by_shifts
    if before is not None and after is not None and moves.newest is not None:
        date = moves.newest[0]
        known -= sum(number for tz, number in moves.made_in.items() if read_alike(date, tz, after))
        if between(before, after, date):
            counted = Counter({shifts: number for shifts, number in counted.items() if 0 not in shifts})
            known = min(known, moves.strange)
    by_offset: Counter[int] = Counter()
    for shifts, number in moves.by_shifts.items():
        for shift in shifts:
            if shift and shift % QUARTER == 0 and abs(shift) <= WIDEST:
                by_offset[shift] += number
    likely = [offset for offset, _ in by_offset.most_common(LIKELY)]
    found: tuple[int, ...] = ()
    most = 0
    for offsets in (*((one,) for one in likely), *combinations(likely, 2)):
        explained = sum(number for shifts, number in counted.items() if not set(offsets).isdisjoint(shifts))
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
    """Return by how many seconds dates move if the zone `before` becomes `after`: now and half a year ago.

    Return () if nothing moves, or one of the zones is unknown. Rows are better evidence (`changed_by`); this is for
    elements whose rows cannot be listed.
    """
    offsets = set()
    for moment in (date, date - HALF_A_YEAR):
        was, now = (None if zone is None else ahead_s(moment, zone) for zone in (before, after))
        if was is None or now is None:
            return ()
        offsets.add(was - now)
    return tuple(sorted(offsets - {0}))
