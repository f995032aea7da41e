"""Drains a list page after page: a pure generator that asks for pages and passes their entries on.

docs/protocol.md explains what the server of 2020 makes hard: `since` is a wall clock, dates have whole seconds, `limit`
can cut a second in two, one bad row breaks every page that holds it, and a cursor without overlap loses files.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate
from operator import lt
from typing import TYPE_CHECKING

from msgspec import Struct

from kropot.lister.bad_rows import pass_bad_row
from kropot.lister.conversation import FAR, ListingFailedError, ListingResult, NewEntries, PageRequest, Trouble
from kropot.lister.find_zone import find_zone
from kropot.lister.paging import BULK_PAGE, PAGE, Paging
from kropot.securecopy.wire import is_known_zone, is_sealed_form, wall_clock
from kropot.securecopy.zones import read_alike

if TYPE_CHECKING:
    from kropot.lister.conversation import Conversation
    from kropot.securecopy.wire import Listed, Page

WIDE = 26 * 3600
"""How much further back a listing reaches if the server's zone is unknown: zones differ by up to this."""

MISORDER = 2 * 3600
"""Clock changes put rows up to an hour out of order; a list that is worse than this is not sorted by date."""

MAX_RANGES = 1000
MAX_HINTS = 8

MAX_DOUBTS = 20
"""How many times a listing may go back because a page began at a different place than requested."""


class Range(Struct, frozen=True, kw_only=True):
    """What to list: from second `start` (None: from the first row) to the end.

    `cursor` is the newest second listed so far, `zone` the zone whose wall clock the server read last time, and
    `is_closed` whether everything up to `start` is known to be complete, so that no overlap is needed to prove it.
    """

    start: int | None = None
    cursor: int | None = None
    zone: str | None = None
    is_closed: bool = False
    page: int = PAGE


def drain(wanted: Range) -> Conversation[ListingResult]:
    """List everything in the range, and return the result. Raises: ListingFailedError."""
    return (yield from _Drain(wanted=wanted, paging=Paging(normal=wanted.page)).run())


@dataclass(slots=True, kw_only=True)
class _Drain:
    """A listing under way. `zone` is what we take for the server's zone, `hints` are other zones that its rows name.

    `newest` is an entry with the latest date so far.
    """

    wanted: Range
    paging: Paging
    zone: str = ""
    hints: list[str] = field(default_factory=list)
    doubts: int = 0
    was_early: bool = False
    is_widened: bool = False
    is_doubtful: bool = False
    saw_cursor: bool = False
    newest: Listed | None = None
    is_encrypted: bool = False
    closed: int | None = None
    result: ListingResult = field(default_factory=ListingResult)

    def run(self) -> Conversation[ListingResult]:
        """Drain the list, and once more from further back if it may have begun too late."""
        self.zone = self.wanted.zone or ""
        self.paging.restart(self.wanted.start)
        while True:
            yield from self._pages()
            if not (yield from self._is_beginning_in_doubt()):
                break
        yield from self._ask_for_zone()
        result = self.result
        result.zone = self.zone or None
        result.closed = self.closed
        return result

    def _pages(self) -> Conversation[None]:
        paging = self.paging
        while True:
            answer = yield paging.ask(self.zone or "UTC")
            if isinstance(answer, Trouble):
                answer = yield from self._shrink(answer)
                if answer is None:
                    continue
            page = _page(answer)
            fresh = paging.fresh(page)
            size = len(page.entries) + len(page.rejected)
            if (yield from self._is_out_of_step(page, fresh, size)):
                continue
            self._learn(page, fresh)
            if paging.is_stuck(page):
                raise ListingFailedError("no_progress")
            if fresh or page.rejected:
                yield NewEntries(entries=fresh, rejected=page.rejected)
            if self._is_over(page, fresh, size):
                return

    def _is_over(self, page: Page, fresh: tuple[Listed, ...], size: int) -> bool:
        """Return whether the list ends with this page; if not, prepare the next request. Raises: ListingFailedError."""
        paging = self.paging
        if page.closed is not None and size < paging.limit:
            return True
        if (fresh or not page.entries) and paging.go_on(page):
            return False
        verdict = paging.look_deeper(size, is_encrypted=self.is_encrypted)
        if verdict == "full":
            if paging.reached is None:
                # Even the largest page has no readable line, and so no date to continue from.
                raise ListingFailedError("unreadable")
            self._jump(paging.reached, paging.reached)
        return verdict == "end"

    # --- pages that came ---

    def _learn(self, page: Page, fresh: tuple[Listed, ...]) -> None:
        """Note what a page and its entries say about the list and the server."""
        self.closed = page.closed
        if page.is_bulk and page.closed is not None:
            self.paging.normal = max(self.paging.normal, BULK_PAGE)
        result, entries = self.result, page.entries
        result.unserved, result.unscanned_since = page.unserved, page.unscanned_since
        result.seen += len(fresh)
        result.rejected += len(page.rejected)
        if entries:
            tz = entries[-1].tz
            self.zone = self.zone or (tz if is_known_zone(tz) else "UTC")
            if tz not in self.hints and is_known_zone(tz):
                self.hints = [tz, *self.hints[: MAX_HINTS - 1]]
            self.is_encrypted = self.is_encrypted or is_sealed_form(entries[-1].form)
            last = max(entries, key=_date_of)
            if self.newest is None or last.date >= self.newest.date:
                self.newest = last
            dates = [entry.date for entry in entries]
            self.saw_cursor = self.saw_cursor or self.wanted.cursor in dates
            result.is_misordered = result.is_misordered or _are_misordered(dates)
        for row in page.rejected:
            if row.date is not None:
                _exempt(result, row.date, row.date)
            else:
                # An unreadable line can be any element of this page, so nothing of that time counts as missing.
                dated = [entry.date for entry in entries]
                _exempt(result, min(dated, default=self.paging.since or 0), max(dated, default=FAR))

    def _jump(self, first: int, last: int) -> None:
        """Skip the seconds from `first` to `last`, because the server cannot list all of their rows."""
        self.result.unlistable.append(last)
        margin = WIDE if self.is_doubtful else 0
        _exempt(self.result, first - margin, last + margin)
        self.paging.restart(last)

    # --- pages that did not come ---

    def _shrink(self, trouble: Trouble) -> Conversation[Page | None]:
        """Make the page smaller, or skip a row that breaks even the smallest; return a page if one came after all.

        Raises: ListingFailedError if the server cannot even send an empty page: it is down, and no row is to blame.
        """
        paging = self.paging
        if paging.breaks is None:
            yield from self._prove_alive(trouble)
        if paging.shrink():
            return None
        again = yield paging.ask(self.zone or "UTC")
        if not isinstance(again, Trouble):
            return _page(again)
        yield from self._pass()
        return None

    def _pass(self) -> Conversation[None]:
        """Skip a row that breaks every page that holds it.

        How far to skip depends on the server's wall clock. If nothing confirms its zone, far more is exempt, and the
        next row is used to find the zone (`_is_out_of_step`).
        """
        paging, zone = self.paging, None
        since = paging.since or 0
        first = since + 1
        if paging.last is not None and paging.is_overlapping:
            zone = yield from find_zone(paging.last.date, [self.zone, *self.hints])
            if zone is not None and zone != self.zone:
                self._adopt(zone)
                return
            first = paging.last.date
        last = yield from pass_bad_row(since, self.zone or "UTC")
        yield from self._prove_alive(Trouble(reason="unlistable"))
        self.is_doubtful = self.is_doubtful or zone is None
        self._jump(min(first, last), last)

    def _prove_alive(self, trouble: Trouble) -> Conversation[None]:
        nothing = yield PageRequest(since=wall_clock(FAR, "UTC"), limit=1)
        if isinstance(nothing, Trouble):
            raise ListingFailedError(trouble.reason)

    # --- the server's wall clock ---

    def _is_out_of_step(self, page: Page, fresh: tuple[Listed, ...], size: int) -> Conversation[bool]:
        """Whether the page begins at a different place than requested, so that it must be requested again."""
        paging = self.paging
        if page.closed is not None or paging.since is None or size > paging.limit:
            return False
        if self.is_doubtful and page.entries:
            self.is_doubtful = False
            zone = yield from find_zone(page.entries[0].date, [self.zone, page.entries[0].tz, *self.hints])
            if zone is not None and zone != self.zone:
                self._adopt(zone)
                return True
        last = paging.last
        if last is None or not paging.is_overlapping:
            return False
        if paging.repeats_last(page) or not (fresh or size < paging.limit):
            is_stuck = not fresh and size == paging.limit
            return (yield from self._is_early(page, last, paging.since, is_stuck=is_stuck))
        zone = yield from find_zone(last.date, [self.zone, *self.hints])
        if zone == self.zone:
            # The entry was deleted meanwhile.
            return False
        if zone is not None:
            self._adopt(zone)
        else:
            # Nothing tells in which zone the server read the wall clock: begin far enough back for any zone.
            self._doubt()
            paging.restart(last.date - WIDE)
        return True

    def _is_early(self, page: Page, last: Listed, since: int, *, is_stuck: bool) -> Conversation[bool]:
        """Whether to ask again because the page began too early. That loses nothing, but the listing can get stuck."""
        if self.was_early or all(entry.date > since for entry in page.entries):
            return False
        zone = yield from find_zone(last.date, [self.zone, *self.hints])
        if zone is None or zone == self.zone:
            # The server ignores `since`.
            self.was_early = True
            return False
        self._doubt()
        self.zone = zone
        if is_stuck:
            self.paging.resize()
        return is_stuck

    def _is_beginning_in_doubt(self) -> Conversation[bool]:
        """Whether the window may have begun too late, so that it must be listed again from further back."""
        wanted = self.wanted
        if wanted.start is None or wanted.cursor is None or wanted.is_closed or self.closed is not None:
            return False
        if self.saw_cursor or self.is_widened:
            return False
        self.is_widened = True
        zone = yield from find_zone(wanted.cursor, [self.zone, *self.hints])
        start = wanted.start
        if zone is None:
            # No row is left at the cursor to tell in which zone the server read the wall clock.
            start -= WIDE
        elif zone == self.zone:
            return False
        else:
            self.zone = zone
        self._doubt()
        self._forget_counts()
        self.paging.restart(start)
        return True

    def _ask_for_zone(self) -> Conversation[None]:
        """Ask for the zone at the end of the list if its newest entry was made in a different zone than assumed.

        A list can be read to its end in the wrong zone without a contradiction if new rows follow the change, or if it
        is short. Also ask if no entry has the date of the last listing's newest one, because all dates may have moved.
        """
        newest = self.newest
        if newest is None or self.closed is not None or not is_known_zone(newest.tz):
            return
        has_moved = self.wanted.cursor is not None and not self.saw_cursor
        if has_moved or not read_alike(newest.date, newest.tz, self.zone):
            self.zone = (yield from find_zone(newest.date, [self.zone, newest.tz])) or self.zone

    def _adopt(self, zone: str) -> None:
        """Continue in another zone, and ask again for what was asked for in the wrong one."""
        self._doubt()
        self.zone, self.is_doubtful = zone, False
        if self.wanted.start is None and self.paging.is_overlapping:
            self.paging.resize()
            return
        self.result.unlistable.clear()
        self._forget_counts()
        self.paging.restart(self.wanted.start)

    def _forget_counts(self) -> None:
        """Start counting again, because everything listed so far is listed again."""
        self.result.seen = self.result.rejected = 0

    def _doubt(self) -> None:
        """Count how often the listing had to go back. Raises: ListingFailedError if that was too often."""
        self.doubts += 1
        self.paging.forget_progress()
        if self.doubts > MAX_DOUBTS:
            raise ListingFailedError("out_of_step")


def _page(answer: Page | Trouble | None) -> Page:
    if answer is None or isinstance(answer, Trouble):
        raise TypeError("an PageRequest is answered by a Page")
    return answer


def _date_of(entry: Listed) -> int:
    return entry.date


def _are_misordered(dates: list[int]) -> bool:
    """Whether a date is so much earlier than one before it that the list cannot be sorted by date."""
    return any(map(lt, dates, [newest - MISORDER for newest in accumulate(dates, max)]))


def _exempt(result: ListingResult, first: int, last: int) -> None:
    """Remember that elements dated `first` to `last` do not count as missing; too many ranges become one wide range."""
    exempt = result.exempt
    if exempt and exempt[-1][0] <= first <= exempt[-1][1] + 1:
        exempt[-1] = (exempt[-1][0], max(last, exempt[-1][1]))
        return
    exempt.append((first, last))
    if len(exempt) > MAX_RANGES:
        result.exempt = [(min(one for one, _ in exempt), max(two for _, two in exempt))]
