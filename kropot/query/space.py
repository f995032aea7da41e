"""What fills a storage, and when it will be full, from the ledger's own history.

The sums that the ledger keeps cost nothing. The rest needs a look at every copy and every object, so it is left out if
there are many, unless requested.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct
from msgspec.structs import replace

from kropot.durable.errors import StorageError
from kropot.objects.freeing import CanFree
from kropot.retention.cleaning import Count, unnamed
from kropot.retention.needed import releases_after
from kropot.wording import amount, number
from ledger.clock import DAY_US
from ledger.decoding import fact_of
from ledger.retaining import freeing_of
from ledger.retention import RETENTION_KEY, ReleaseFact
from ledger.rows import RELEASED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kropot.objects.opening import Storage
    from ledger.log import Ledger

FEW_ELEMENTS: Final = 100_000
"""Up to this many elements, everything is counted without a request."""

GROWTH_DAYS: Final = 30
_FAR_DAYS: Final = 36_525
_PAGE: Final = 500


class Space(Struct, frozen=True, kw_only=True):
    """Bytes in a storage. Elements can share objects, so the parts can add up to more than the whole.

    `waiting` was released but is not freed yet. `packed` is in packs but no longer needed. `older`, `orphans`,
    `packed` and `quarantine` are None if nobody looked, and `waiting` if not even that was looked at. `growth` is how
    many bytes came per day, on average over 30 days or the ledger's age if that is less, None if that is unknown.
    """

    current: int
    vanished: int
    freed: int
    waiting: Count | None = None
    older: int | None = None
    orphans: Count | None = None
    packed: Count | None = None
    quarantine: Count | None = None
    growth: int | None = None
    free: int | None = None

    @property
    def full_in_days(self) -> int | None:
        """In how many days the storage is full at this pace, None if it does not grow or that is unknown."""
        return None if not self.growth or self.free is None else self.free // self.growth

    @property
    def json(self) -> dict[str, Any]:
        """The fields of the JSON answer."""
        counts = {"waiting": self.waiting, "orphans": self.orphans, "quarantine": self.quarantine}
        counts |= {"unused_in_packs": self.packed}
        return {
            "current": self.current,
            "older": self.older,
            "vanished": self.vanished,
            **{
                name: None if each is None else {"objects": each.objects, "bytes": each.bytes}
                for name, each in counts.items()
            },
            "freed": self.freed,
            "free": self.free,
            "growth_per_day": self.growth,
            "full_in_days": self.full_in_days,
        }


def sums_of(ledger: Ledger, *, free: int | None) -> Space:
    """Return what the ledger's own sums say about the storage. It costs the same for any number of elements."""
    tallies = ledger.tallies()
    newest = sum(each.bytes for each in tallies)
    vanished = sum(each.bytes for each in tallies if each.state == "vanished")
    return Space(current=newest - vanished, vanished=vanished, freed=freeing_of(ledger).freed.bytes, free=free)


def space_of(
    ledger: Ledger,
    storage: Storage,
    *,
    free: int | None,
    everything: bool | None = None,
    go_on: Callable[[], object] = lambda: None,
) -> Space:
    """Return what fills the storage. If `everything` is None, look at everything if there are few elements.

    `go_on` is called for each thing that is looked at, and can raise.
    """
    sums, freed_to = sums_of(ledger, free=free), freeing_of(ledger).freed.to
    space = replace(sums, waiting=_waiting(ledger, freed_to, go_on))
    if everything is None:
        everything = sum(each.elements for each in ledger.tallies()) <= FEW_ELEMENTS
    if not everything:
        return space
    try:
        return _looked_at(ledger, storage, space, freed_to, go_on)
    except StorageError:
        return space  # `status` reports that the storage cannot be looked at


def _looked_at(ledger: Ledger, storage: Storage, space: Space, freed_to: int, go_on: Callable[[], object]) -> Space:
    now_us = ledger.now_us()
    began_us = next((event.recorded_us for event in ledger.stored(until=1)), now_us)
    span_us = min(GROWTH_DAYS * DAY_US, max(now_us - began_us, 1))
    since = ledger.position_at(now_us - span_us)
    copies = came = 0
    last = b""
    for row in ledger.projection.copies():
        go_on()
        if row.state != RELEASED:
            copies += row.size
        if row.sha256 != last and row.seq > since:
            came += row.size
        last = row.sha256
    orphans, quarantine, packed = Count(), Count(), Count()
    if storage.has_objects:
        objects = storage.objects(places=ledger.places)
        freeing = objects.freeing() if isinstance(objects, CanFree) else None
        try:
            for sha256, size in unnamed(ledger, objects, freed_to=freed_to, go_on=go_on):
                is_packed = freeing is not None and freeing.age_us(sha256, now_us) is None
                (packed if is_packed else orphans).add(size)
            for leftover in objects.leftovers():
                go_on()
                if leftover.kind == "quarantined":
                    quarantine.add(leftover.size)
        finally:
            objects.close()
    growth = came * DAY_US // span_us if span_us >= DAY_US else None
    older = max(copies - space.current - space.vanished, 0)
    return replace(space, older=older, orphans=orphans, packed=packed, quarantine=quarantine, growth=growth)


def _waiting(ledger: Ledger, after: int, go_on: Callable[[], object]) -> Count:
    """Return the objects that were released but are not freed yet, if no other copy needs them."""
    waiting, seen = Count(), set[bytes]()
    events = releases_after(ledger, after, ledger.head().position) if after or _has_policy(ledger) else iter(())
    while page := list(islice(events, _PAGE)):
        go_on()
        facts = [fact_of(event) for event in page if event.payload is not None]
        wanted = {fact.sha256 for fact in facts if isinstance(fact, ReleaseFact)} - seen
        seen = wanted if len(seen) > FEW_ELEMENTS else seen | wanted
        rows = ledger.projection.named(wanted)
        needed = {row.sha256 for row in rows if row.state != RELEASED}
        for size in {row.sha256: row.size for row in rows if row.sha256 not in needed}.values():
            waiting.add(size)
    return waiting


def _has_policy(ledger: Ledger) -> bool:
    return next(ledger.log.stream_events(RETENTION_KEY.stored, newest_first=True), None) is not None


def space_text(space: Space) -> Iterator[str]:
    """Yield the space as lines of text."""
    older = "" if space.older is None else f", older versions {amount(space.older)}"
    yield f"space    current {amount(space.current)}{older}, vanished {amount(space.vanished)}"
    parts = []
    if space.waiting is not None and space.waiting.objects:
        parts.append(f"released and waiting {amount(space.waiting.bytes)}")
    if space.orphans is not None and space.orphans.objects:
        parts.append(f"{number(space.orphans.objects, 'orphan')} {amount(space.orphans.bytes)}")
    if space.packed is not None and space.packed.objects:
        parts.append(f"unused in packs {amount(space.packed.bytes)}")
    if space.quarantine is not None and space.quarantine.objects:
        parts.append(f"set aside {amount(space.quarantine.bytes)}")
    if parts:
        yield f"         {', '.join(parts)} (`kropotcli prune` and `kropotcli storage clean` free them)"
    if space.growth is not None:
        days = space.full_in_days
        left = "more than 100 years" if days is not None and days > _FAR_DAYS else number(days or 0, "day")
        full = "" if days is None else f": full in {left} at this pace"
        yield f"         {amount(space.growth)} more every day{full}"
    if space.older is None:
        yield "         older versions, orphans and growth were not counted: give --space"
