"""Free the bytes of released copies, and of orphans, while collectors work (docs/decisions/0031).

An object is removed only under the lock of the ledger's head, after a look at every copy that names it. While bytes are
being freed, a collector that names an object checks under the same lock that it is still there. So a run that is not
the newest one MUST stop: the newest one ends the freeing for both.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from msgspec import Struct

from kropot.retention.needed import BATCH, needed_of, released_objects
from ledger.errors import ConflictError
from ledger.retaining import Freeing, freeing_of, head_locked, say_freed
from ledger.retention import Freed, FreeingBegan, FreeingEnded

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from kropot.objects.freeing import Freeable, FreedObject
    from kropot.retention.repacking import Repacking
    from ledger.log import Ledger


@dataclass(slots=True, kw_only=True)
class FreedSum:
    """What a run freed: `objects` with `bytes`. `kept` objects were released, but other copies need them.

    `locked` bytes of what was freed, or could have been, stay in a locked bucket until their locks end.
    """

    objects: int = 0
    bytes: int = 0
    kept: int = 0
    locked: int = 0


class FreeingTakenOverError(ConflictError):
    """Another process frees bytes now, so this one stopped."""

    def __init__(self) -> None:
        """Name no stream, because no event to be recorded conflicts."""
        super().__init__(())


class FreeingRun(Struct, frozen=True, kw_only=True):
    """Frees objects of one storage. `allowed` is called under the lock before each batch, and can refuse by raising.

    With `repacking`, packs that hold released objects are rewritten, or `every_pack` with something unused. What the
    stream `but` names does not count as named, because its element is being erased.
    """

    ledger: Ledger
    objects: Freeable
    allowed: Callable[[], object]
    repacking: Repacking | None = None
    every_pack: bool = False
    but: int | None = None

    def released(self, until: int) -> FreedSum:
        """Free what was released up to position `until`, and what an earlier run did not finish.

        Raises: ConflictError, mostly FreeingTakenOverError, if another process frees at the same time; StorageError;
        what `allowed` raises.
        """
        before = freeing_of(self.ledger)
        left = list(islice(self.objects.put_away_before(), 1))
        if until <= before.freed.to and not before.is_open and not left and not self.every_pack:
            return FreedSum()
        now = self._begin(before)
        found = FreedSum()
        self._finish_before(now, found)
        packs: set[bytes] = set()
        for sha256s in released_objects(self.ledger, before.freed.to, until):
            self._batch(now, sha256s, found)
            packs |= {place.pack for places in self.ledger.places.find(sha256s).values() for place in places}
        self._repack(now, packs, found)
        # Objects in packs that could not be rewritten are not freed, so the next run starts there again.
        to = before.freed.to if packs and self.repacking is None else max(until, before.freed.to)
        self._end(now, found, to=to)
        return found

    def orphans(self, candidates: Iterable[bytes]) -> FreedSum:
        """Free those of these objects that no event names. Raises: as `released`."""
        found = FreedSum()
        wanted = iter(candidates)
        first = list(islice(wanted, BATCH))
        if not first and not self.every_pack:
            return found
        now = self._begin(freeing_of(self.ledger))
        self._finish_before(now, found)
        while first:
            self._batch(now, first, found)
            first = list(islice(wanted, BATCH))
        self._repack(now, set(), found)
        self._end(now, found, to=now.freed.to)
        return found

    def erased(self, sha256s: Collection[bytes], packs: Collection[bytes]) -> FreedSum:
        """Free these objects, and rewrite these packs, which hold some of them. Raises: as `released`."""
        now = self._begin(freeing_of(self.ledger))
        found = FreedSum()
        self._finish_before(now, found)
        wanted = iter(sorted(sha256s))
        while page := list(islice(wanted, BATCH)):
            self._batch(now, page, found)
        self._repack(now, set(packs), found)
        self._end(now, found, to=now.freed.to)
        return found

    # --- helpers ---

    def _repack(self, now: Freeing, packs: set[bytes], found: FreedSum) -> None:
        if self.repacking is not None:
            names = (row.name for row in self.ledger.places.packs()) if self.every_pack else sorted(packs)
            self.repacking.run(names, found, lambda: self._demand_newest(now))

    def _begin(self, before: Freeing) -> Freeing:
        """Record that objects can vanish from now on. Freeing that a crash left open simply continues."""
        return say_freed(self.ledger, FreeingBegan(freed=before.freed), before, check=self.allowed)

    def _demand_newest(self, now: Freeing) -> None:
        """Demand, under the lock, that no other process began or ended freeing since this one began."""
        if freeing_of(self.ledger).position != now.position:
            raise FreeingTakenOverError

    def _end(self, now: Freeing, found: FreedSum, *, to: int) -> None:
        freed = now.freed
        total = Freed(to=to, objects=freed.objects + found.objects, bytes=freed.bytes + found.bytes)
        say_freed(self.ledger, FreeingEnded(freed=total), now)

    def _batch(self, now: Freeing, sha256s: Collection[bytes], found: FreedSum) -> None:
        """Free the objects that no copy needs: put them away under the lock, and destroy them once it held."""
        away: list[FreedObject] = []
        try:
            with head_locked(self.ledger):
                self.allowed()
                self._demand_newest(now)
                needed = needed_of(self.ledger, sha256s, self.but)
                away = self.objects.put_away(sha256 for sha256 in sha256s if sha256 not in needed)
        except BaseException:
            # The lock might have been lost, and somebody might have named one of them since.
            self.objects.bring_back([each.sha256 for each in away])
            raise
        self.objects.destroy([each.sha256 for each in away])
        found.objects += len(away)
        found.bytes += sum(each.size for each in away)
        found.locked += sum(each.size for each in away if each.is_locked)
        found.kept += len(needed)

    def _finish_before(self, now: Freeing, found: FreedSum) -> None:
        """Check the objects that a crash left put away: bring back those that a copy needs, and destroy the rest."""
        if self.repacking is not None:
            self.repacking.bring_back()
        left = self.objects.put_away_before()
        while page := list(islice(left, BATCH)):
            with head_locked(self.ledger):
                self._demand_newest(now)
                needed = needed_of(self.ledger, [each.sha256 for each in page], self.but)
                self.objects.bring_back(needed)
            gone = [each for each in page if each.sha256 not in needed]
            self.objects.destroy([each.sha256 for each in gone])
            found.objects += len(gone)
            found.bytes += sum(each.size for each in gone)


def last_to_free(ledger: Ledger, *, before_us: int, covered: int | None) -> int:
    """Return the position up to which releases are due: recorded at `before_us` or earlier, and up to `covered`."""
    until = ledger.position_at(before_us + 1)
    return until if covered is None else min(until, covered)
