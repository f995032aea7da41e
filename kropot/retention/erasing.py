"""Erase an element: its objects first, then its payloads and the key of its stream, then what segments hold of both.

As long as the stream is whole, it names its objects. So an erasure that was cut short can continue: erasing the element
again finds what is left (docs/decisions/0040).
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from kropot.durable.errors import StorageError
from kropot.errors import LockedError, UsageError
from kropot.objects.freeing import CanFree
from kropot.objects.stores.waiting import NOTHING_WAITS, LockedVersions, Purged
from kropot.query.erasures import erasures_of
from kropot.retention.freeing import FreeingRun
from kropot.retention.needed import still_in
from kropot.retention.repacking import Repacking
from kropot.upkeep import RENEWING, RENEWING_US
from ledger.append import NewFact
from ledger.erasing import erased_events, rows_of
from ledger.errors import ConflictError
from ledger.events import ElementFact, PayloadErased, UnknownFact
from ledger.retaining import freeing_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from kropot.objects.freeing import Freeable
    from kropot.objects.opening import Storage
    from kropot.objects.store import ObjectStore
    from kropot.objects.stores.versioned import VersionedStorage
    from ledger.events import StreamKey
    from ledger.log import Ledger
    from ledger.replica import Event

ERASER: Final = "+erase"
"""The instance name under which elements are erased. Its lock allows one process per storage."""

_TRIES: Final = 5
_EVERYTHING: Final = -1
"""The percentage that must be exceeded before a pack is rewritten: one unused object is enough."""


class Elsewhere(Protocol):
    """Erases in the further storages. Its methods raise KropotError if one of them is unavailable."""

    def demand_removable(self) -> None:
        """Demand that each one allows the removal."""

    def objects(self, sha256s: Collection[bytes], stream: int) -> tuple[list[bytes], Purged]:
        """Remove these objects, which only the stream names; return what is left of them, and the older versions."""

    def segments(self, positions: Collection[int]) -> Purged:
        """Rewrite the segments that hold these events; return the older versions."""


@dataclass(slots=True, kw_only=True)
class ErasureSum:
    """What an erasure did: `objects` of `size` bytes freed, `packs` and `segments` rewritten, `payloads` removed.

    `position` is that of its event, 0 if it is not recorded yet. `shared` objects stay, because other elements have the
    same content. `left` are objects that could not be removed yet: the erasure is not recorded before they are gone.
    `is_log_held`: somebody is reading the database, so its own log could not be emptied. `versions` counts older ones
    that were removed in a bucket, and `waiting` those that are locked there.
    """

    objects: int = 0
    size: int = 0
    packs: int = 0
    set_aside: int = 0
    segments: int = 0
    payloads: int = 0
    position: int = 0
    is_log_held: bool = False
    versions: int = 0
    waiting: LockedVersions = NOTHING_WAITS
    shared: list[bytes] = field(default_factory=list)
    left: list[bytes] = field(default_factory=list)

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to do."""
        return bool(self.position) and not self.left


@dataclass(slots=True, kw_only=True)
class Erasing:
    """Erases one element for `reason`. With `blocks`, even one that its source still lists, and forever.

    `storage` MUST be opened for the instance `ERASER`. `elsewhere` erases in the further storages: all of them must be
    available, because nobody knows afterwards what to remove.
    """

    ledger: Ledger
    storage: Storage
    key: StreamKey
    reason: str
    blocks: bool
    elsewhere: Elsewhere | None = None
    done: ErasureSum = field(default_factory=ErasureSum)

    def run(self) -> ErasureSum:
        """Do what is left to do. This can be called again.

        Raises: UsageError if the source still lists the element and `blocks` is false, or if the storage does not allow
        the removal; LockedError while another process erases, frees, packs or renews locks; ConflictError;
        StorageError; LedgerError.
        """
        objects = self.storage.objects(places=self.ledger.places)
        try:
            self._demand_rights()
            objects.lock()
            self.done.waiting = NOTHING_WAITS
            for tries_left in reversed(range(_TRIES)):
                try:
                    if not self._once(objects):
                        return self.done
                    break
                except ConflictError:
                    if not tries_left:
                        raise
            self._segments()
        finally:
            self.ledger.work.unreserve(RENEWING)
            objects.close()
        return self.done

    # --- helpers ---

    def _demand_rights(self) -> None:
        """Refuse before anything is gone if a storage would not allow the removal.

        Raises: UsageError, StorageError, and KropotError if a further storage is unavailable.
        """
        try:
            self.storage.demand_removable()
            if self.elsewhere is not None:
                self.elsewhere.demand_removable()
        except StorageError as error:
            if error.passes:
                raise
            raise UsageError(f"nothing was erased: {error}") from error

    def _once(self, objects: ObjectStore) -> bool:
        """Free what the stream names, and record the erasure. Return False if something could not be freed yet."""
        history = list(self.ledger.history(self.key))
        if not history:
            return True  # it was erased before
        last = history[-1]
        if not isinstance(last.fact, ElementFact):
            raise UsageError("the element's history has events that this version does not know: use a newer version")
        if last.fact.element.present and not self.blocks:
            raise UsageError(
                "the source still lists this element, and the next collect would fetch it again: first remove it at "
                "the source, or erase it with --even-if-present, which blocks it for ever"
            )
        wanted = self._not_shared(history)
        versioned = self._claimed()
        self._free(objects, wanted, last)
        self.done.left = still_in(self.storage, self.ledger.places, wanted)
        self.done.waiting = NOTHING_WAITS
        if self.elsewhere is not None:
            left, purged = self.elsewhere.objects(wanted, last.stream)
            self.done.left += [sha256 for sha256 in left if sha256 not in self.done.left]
            self._count(purged)
        if self.done.left:
            return False
        if versioned is not None and self._claimed():
            self._count(versioned.purge_objects(wanted, self.ledger.places))
        fact = PayloadErased(reason=self.reason, blocked=self.blocks, rows=rows_of(history))
        new = NewFact(key=self.key, fact=fact, observed_us=self.ledger.clock_us(), expected=last.stream_version)
        self.done.position = self.ledger.append([new]).last
        self.done.payloads = len(history)
        return True

    def _not_shared(self, history: list[Event]) -> set[bytes]:
        """Return the objects that only this element names, and remember the others."""
        named: set[bytes] = set()
        for event in history:
            if isinstance(event.fact, UnknownFact):
                raise UsageError("the element's history has events that this version does not know: use a newer one")
            if isinstance(event.fact, ElementFact):
                copy, other = event.fact.element.copy, getattr(event.fact, "sha256", None)
                named |= {each for each in (None if copy is None else copy.sha256, other) if each is not None}
        rows = self.ledger.projection.named(named) if named else ()
        shared = {row.sha256 for row in rows if row.stream != history[-1].stream}
        self.done.shared = sorted(shared)
        return named - shared

    def _free(self, objects: ObjectStore, wanted: set[bytes], last: Event) -> None:
        if not isinstance(objects, CanFree):
            raise UsageError("this kind of storage cannot free bytes")
        if not wanted:
            return
        freeing = objects.freeing()
        folder = self.storage.packs()
        packs = {pack.name for sha256 in wanted for pack, _ in folder.find(sha256)}
        with self._repacking(last.stream, needed=bool(packs)) as repacking:
            run = FreeingRun(
                ledger=self.ledger,
                objects=freeing,
                allowed=lambda: self._demand_same(last),
                repacking=repacking,
                but=last.stream,
            )
            found = run.erased(wanted, packs)
            self.done.packs += 0 if repacking is None else repacking.rewritten
        self.done.objects += found.objects
        self.done.size += found.bytes
        self._clean_aside(objects, freeing, wanted)

    @contextmanager
    def _repacking(self, stream: int, *, needed: bool) -> Iterator[Repacking | None]:
        if not needed:
            yield None
            return
        ledger = self.ledger
        with self.storage.rewriter() as rewriter:
            yield Repacking(
                ledger=ledger,
                packs=rewriter,
                allowed=lambda: None,
                until=freeing_of(ledger).freed.to,
                max_unused=_EVERYTHING,
                now_us=ledger.clock_us(),
                but=stream,
            )

    def _demand_same(self, last: Event) -> None:
        """Raise ConflictError if anything happened to the element since it was read."""
        entry = self.ledger.entries([self.key]).get(self.key)
        if entry is None or (entry.stream, entry.version) != (last.stream, last.stream_version):
            raise ConflictError((self.key.stored,))

    def _clean_aside(self, objects: ObjectStore, freeing: Freeable, wanted: set[bytes]) -> None:
        """Remove the files of these objects that a repair set aside."""
        names = {sha256.hex() for sha256 in wanted}
        for leftover in list(objects.leftovers()):
            if leftover.kind == "quarantined" and leftover.path.rpartition("/")[2].partition(".")[0] in names:
                freeing.remove_quarantined(leftover.path)
                self.done.set_aside += 1

    def _segments(self) -> None:
        """Rewrite the segments that hold erased events, also those of this element's earlier streams."""
        erasures = erasures_of(self.ledger, [self.key]).get(self.key, [])
        if erasures:
            self.done.position = self.done.position or max(event.seq for event in erasures)
        folder = self.storage.segments(writing=True)
        self.done.is_log_held = not self.ledger.database.fold_log()
        positions = sorted(erased_events(self.ledger, erasures))
        self.done.segments += len(folder.write_erased(self.ledger, positions))
        if self.elsewhere is not None:
            self._count(self.elsewhere.segments(positions))
        if (versioned := self._claimed()) is not None:
            self._count(versioned.purge_segments(positions))

    def _claimed(self) -> VersionedStorage | None:
        """Return the older versions, if any are kept, and keep collectors from putting files again meanwhile.

        Raises: LockedError while one does; StorageError.
        """
        versioned = self.storage.versioned()
        if versioned is not None and not self.ledger.work.reserve(RENEWING, lease_us=RENEWING_US):
            raise LockedError(
                "a collector is renewing files whose locks end, or another process is erasing: wait for it"
            )
        return versioned

    def _count(self, purged: Purged) -> None:
        self.done.versions += purged.removed
        self.done.waiting += purged.waiting
