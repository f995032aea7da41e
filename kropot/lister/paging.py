"""Where in a list a listing is, and how large a page it asks for: the arithmetic of `since` and `limit`.

The next page begins a second before the last one ended, because a full page cuts its last second, and a second can
grow. After a page without news the listing asks for a larger one, and after a page that did not come for a smaller one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from kropot.lister.conversation import PageRequest
from kropot.securecopy.wire import wall_clock

if TYPE_CHECKING:
    from kropot.securecopy.wire import Listed, Page

PAGE = 256
BULK_PAGE = 1792
"""The page size for a server that says what is closed and sends contents in bulk: the old limits do not apply to it.

Together with its whole last second, a page still fits into one transaction (kropot/collect/decide/chunks.py)."""

MAX_PLAIN = 8191
MAX_ENCRYPTED = 2048
"""The largest pages that the old server can make, of plain and of encrypted entries."""

MAX_STALE = 64
"""How many pages in a row may bring no later date. Finding a page size that fits takes fewer."""

Key = tuple[str, str, int]


@dataclass(slots=True, kw_only=True)
class Paging:
    """The next page: at most `limit` entries after second `since` (None: from the first on).

    `seen` holds entries of earlier pages that it may repeat, `last` is the one that it must repeat if it is
    overlapping, and `reached` is the date of the last line so far. For this `since`, `fits` is the largest page that
    came without news, and `breaks` the smallest that did not come.
    """

    normal: int = PAGE
    since: int | None = None
    limit: int = PAGE
    fits: int = 0
    breaks: int | None = None
    last: Listed | None = None
    reached: int | None = None
    is_overlapping: bool = False
    seen: set[Key] = field(default_factory=set)
    furthest: int | None = None
    stale: int = 0

    def ask(self, zone: str) -> PageRequest:
        """Return the request for the next page, on this zone's wall clock."""
        return PageRequest(since=None if self.since is None else wall_clock(self.since, zone), limit=self.limit)

    def restart(self, since: int | None) -> None:
        """Begin again after this second, and expect no repeated entry."""
        self.since, self.last, self.reached, self.is_overlapping = since, None, None, False
        self.seen.clear()
        self.resize()

    def resize(self) -> None:
        """Ask for a page of the usual size again."""
        self.limit, self.fits, self.breaks = self.normal, 0, None

    def forget_progress(self) -> None:
        """Count pages without progress from zero again, because the listing went back on purpose."""
        self.furthest, self.stale = None, 0

    def is_stuck(self, page: Page) -> bool:
        """Count pages that bring no later date; return whether there were too many in a row."""
        newest = max([entry.date for entry in page.entries], default=None)
        self.stale += 1
        if newest is not None and (self.furthest is None or newest > self.furthest):
            self.furthest, self.stale = newest, 0
        return self.stale > MAX_STALE

    def fresh(self, page: Page) -> tuple[Listed, ...]:
        """Return the entries that earlier pages did not have."""
        seen = self.seen
        if not seen:
            return page.entries
        return tuple([entry for entry in page.entries if (entry.type, entry.id, entry.date) not in seen])

    def repeats_last(self, page: Page) -> bool:
        """Whether the page has the last entry of the page before it."""
        return self.last is not None and any(key_of(entry) == key_of(self.last) for entry in page.entries)

    def go_on(self, page: Page) -> bool:
        """Move on to where this page ended; return False if that is where it began."""
        dated = [row.date for row in page.rejected if row.date is not None]
        self.reached = page.entries[-1].date if page.entries else max(dated, default=self.reached)
        if self.reached is None:
            return False
        is_whole = page.closed is not None and self.reached <= page.closed
        since = self.reached if is_whole else self.reached - 1
        keys = {(entry.type, entry.id, entry.date) for entry in page.entries}
        self.last = page.entries[-1] if page.entries else None
        self.is_overlapping = self.last is not None and not is_whole
        if since == self.since:
            self.seen |= keys
            return False
        self.since, self.seen, self.fits, self.breaks = since, keys, 0, None
        # After a page that had to be small, the size only doubles with each page, up to the usual one.
        self.limit = min(self.normal, 2 * self.limit)
        return True

    def look_deeper(self, size: int, *, is_encrypted: bool) -> Literal["end", "again", "full"]:
        """Decide what a page of `size` lines without news means.

        It is the end of the list, or a larger page is needed, or its second is too full for the largest page.
        """
        if size != self.limit:
            # A short page ends the list. So does one above the limit: it comes from a server that ignores the limit.
            return "end"
        self.fits = self.limit
        largest = MAX_ENCRYPTED if is_encrypted else MAX_PLAIN
        if self.breaks is not None:
            self.limit = (self.fits + self.breaks) // 2
            if self.limit == self.fits:
                # The next row is bad, or the server failed for another reason, so it is asked once more.
                self.limit, self.breaks = self.breaks, None
        elif self.limit < largest:
            self.limit = min(2 * self.limit, largest)
        else:
            return "full"
        return "again"

    def shrink(self) -> bool:
        """Ask for a smaller page after one did not come; return False if the next row alone is too much."""
        self.breaks = self.limit
        if self.breaks - self.fits <= 1:
            return False
        self.limit = (self.fits + self.breaks) // 2
        return True


def key_of(entry: Listed) -> Key:
    """Return what tells one sighting of an element from others: its type, id and date."""
    return entry.type, entry.id, entry.date
