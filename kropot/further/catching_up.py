"""Bring a further storage up to date: the objects that events name since its cursor, the same packs, no freed objects.

Everything is copied before the cursor moves, so a process that is killed starts again at the last cursor. Packs have
the same names in every storage, so that placements in the ledger are true of all of them. Nothing is removed only
because the first storage lacks it: an object must be unneeded, or read from another place in the same storage.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from itertools import islice
from time import monotonic
from typing import TYPE_CHECKING, Final

from kropot.durable.errors import storage_error
from kropot.errors import LockedError
from kropot.further.places import FurtherPlaces
from kropot.objects.packs.format import PackDamagedError
from kropot.objects.packs.packed import PackedObjects
from kropot.objects.stores.copying import StorageCopy, StorageCopyReport
from kropot.objects.stores.files import PIECE, NoSuchKeyError
from kropot.objects.stores.objects import loose_objects, object_key
from kropot.objects.stores.packs import pack_key
from kropot.objects.stores.reading import RemoteReader
from kropot.objects.stores.waiting import Purged
from kropot.retention.needed import BATCH, needed_of, released_objects, still_in
from kropot.wording import SECOND_US
from ledger.decoding import fact_of
from ledger.events import CopyStored, RemoteCopied
from ledger.retaining import freeing_of
from ledger.retention import ReleaseWithdrawn
from ledger.rows import DAMAGED, LOST, RELEASED, StoredFact

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from kropot.further.joining import Further
    from kropot.objects.stores.files import RemoteFiles
    from ledger.log import Ledger

NAMING: Final = (CopyStored.TYPE, RemoteCopied.TYPE, ReleaseWithdrawn.TYPE)
"""The events after which an object must exist."""

PAGE: Final = 500
KEEP_EVERY_S: Final = 15.0
"""How often to save the cursor while it moves. After a kill, at most this much work is repeated."""

CLAIM_US: Final = 5 * 60 * SECOND_US
"""How long one process holds a further storage, unless it renews."""

_LEAST_US: Final = 10 * 60 * SECOND_US
"""How often to record again that a storage is in step."""


@dataclass(slots=True, kw_only=True)
class CaughtUp:
    """What was done: files copied and files removed. `missing` counts objects missing or unsound in the first storage.

    `position` is how far the storage has everything now, and `is_done` says whether that was the head.
    """

    copied: StorageCopyReport = field(default_factory=StorageCopyReport)
    removed: int = 0
    missing: int = 0
    position: int = 0
    is_done: bool = False


class CatchingUp:
    """One process's work on one further storage. `source` is the files of the first one."""

    def __init__(
        self,
        ledger: Ledger,
        source: RemoteFiles,
        further: Further,
        *,
        segments: bool = True,
        stopped: Callable[[], bool] = lambda: False,
        progress: Callable[[int, int], None] = lambda _files, _bytes: None,
    ) -> None:
        """Do nothing yet. `stopped` is called between two files."""
        self._ledger = ledger
        self._source = source
        self._further = further
        self._segments = segments
        self._asked = stopped
        self._claim = f"further:{further.row.id.hex()}"
        self._copier = StorageCopy(source, further.files, verify=False, progress=progress)
        self._places = ledger.places
        self._packs: set[bytes] = set()
        self._started_at = further.row.position
        self._kept_at = monotonic()
        self._claimed_at = monotonic()
        self.done = CaughtUp()

    def run(self) -> CaughtUp:
        """Bring the storage up to the head.

        Raises: LockedError while another process does so; StorageError, LedgerError.
        """
        with _Claimed(self):
            head = self._ledger.head().position
            if self._further.row.position:
                is_done = self._events()
            else:
                is_done = self._copier.all_of(("objects", "packs"), self.done.copied, stopped=self.stopped)
                if is_done:
                    self._keep(head)
                    is_done = self._events()
            if is_done and self._same_packs():
                self._free()
                if self._segments:
                    self._further.storage.segments(writing=True).write(self._ledger, until=self._further.row.position)
                self.done.is_done = True
                self._keep(self._further.row.position, is_in_step=True)
        self.done.position = self._further.row.position
        return self.done

    def erase(self, wanted: Collection[bytes], stream: int, positions: Collection[int]) -> tuple[list[bytes], Purged]:
        """Remove these objects, which only the stream names, and the packs that hold them.

        With `positions`, rewrite the segments that hold these erased events. Return the objects that are left, and, if
        none is, which older versions were removed. Raises: as `run`.
        """
        with _Claimed(self):
            if wanted:
                self._same_packs(but=stream)
                self._remove(wanted)
            if positions and self._segments:
                self._further.storage.segments(writing=True).write_erased(self._ledger, positions)
            left = still_in(self._further.storage, FurtherPlaces(self._ledger.places), wanted)
            versioned = None if left else self._further.storage.versioned()
            purged = Purged()
            if versioned is not None:
                self.claim()
                if wanted:
                    purged += versioned.purge_objects(wanted, self._places)
                if positions:
                    purged += versioned.purge_segments(sorted(positions))
        return left, purged

    def clean(self, orphans: Iterable[bytes]) -> None:
        """Remove those of these objects that no copy needs. Raises: as `run`."""
        with _Claimed(self):
            wanted = iter(orphans)
            while page := list(islice(wanted, BATCH)):
                self._remove(set(page) - needed_of(self._ledger, page))

    def stopped(self) -> bool:
        """Whether to stop. If not, renew the claim on the storage in time."""
        if monotonic() - self._claimed_at > CLAIM_US / SECOND_US / 4:
            self.claim()
        return self._asked()

    def claim(self) -> None:
        """Claim the storage for this process. Raises: LockedError."""
        if not self._ledger.work.reserve(self._claim, lease_us=CLAIM_US):
            raise LockedError(
                f"another process is bringing {self._further.files.place} up to date: wait until it ends (after a "
                f"crash, five minutes)"
            )
        self._claimed_at = monotonic()

    def let_go(self) -> None:
        """Release the storage to other processes."""
        self._ledger.work.unreserve(self._claim)

    @property
    def further(self) -> Further:
        """The storage."""
        return self._further

    # --- the cursor ---

    def _keep(self, position: int, *, is_in_step: bool = False) -> None:
        row, now = self._further.row, self._ledger.clock_us()
        # For a storage that stays in step, this is not written each time.
        is_worth = position != self._started_at or abs(now - row.kept_us) > _LEAST_US
        kept_us = now if is_in_step and is_worth else row.kept_us
        if (position, kept_us) != (row.position, row.kept_us):
            self._further.keep(self._ledger, row._replace(position=position, kept_us=kept_us))
        self._kept_at = monotonic()

    def _events(self) -> bool:
        """Copy the objects that events after the cursor name, and move it. Return False if stopped."""
        while True:
            at, head = self._further.row.position, self._ledger.head().position
            while at < head:
                rows = [StoredFact._make(row) for row in self._ledger.log.of_types(NAMING, at, head, PAGE)]
                if not self._present(_named(rows)):
                    return False
                at = rows[-1].seq if len(rows) == PAGE else head
                if at == head or monotonic() - self._kept_at > KEEP_EVERY_S:
                    self._keep(at)
            if at >= self._ledger.head().position:
                return True

    def _present(self, sha256s: Collection[bytes]) -> bool:
        """Copy these objects, or the packs that hold them. Return False if stopped."""
        for _ in range(2):  # an object can have moved into a pack, or into another pack, by now
            placed = self._places.find(sha256s)
            packs = {place.pack for places in placed.values() for place in places} - self._packs
            if not self._copier.these(map(pack_key, sorted(packs)), self.done.copied, stopped=self.stopped):
                return False
            self._packs |= {name for name in packs if self._further.files.stat(pack_key(name)) is not None}
            loose = {sha256 for sha256 in sha256s if not any(one.pack in self._packs for one in placed.get(sha256, ()))}
            if not self._copier.these(
                [object_key(sha256) for sha256 in sorted(loose)], self.done.copied, stopped=self.stopped
            ):
                return False
            sha256s = {sha256 for sha256 in loose if self._further.files.stat(object_key(sha256)) is None}
            if not sha256s:
                return True
        states: dict[bytes, set[str]] = {}
        for row in self._ledger.projection.named(sha256s):
            states.setdefault(row.sha256, set()).add(row.state)
        self.done.missing += sum(not found <= {RELEASED, DAMAGED, LOST} for found in states.values())
        return True

    # --- packs ---

    def _same_packs(self, *, but: int | None = None) -> bool:
        """Copy the packs that the ledger knows, and remove others that are not needed. Return False if stopped."""
        known = (row.name for row in self._places.packs())
        lacking, more = _differences(known, _pack_names(self._further.files))
        if not self._copier.these(map(pack_key, lacking), self.done.copied, stopped=self.stopped):
            return False
        packed = PackedObjects(self._further.storage.packs(), self._places)
        if any(map(self._was_gathered, lacking)):
            self._drop_doubles(packed)
        for name in more:
            if self.stopped():
                return False
            if self._is_spare(name, packed, but):
                self._further.files.remove(pack_key(name))
                self._packs.discard(name)
                self.done.removed += 1
        return True

    def _was_gathered(self, name: bytes) -> bool:
        """Whether a pack holds objects that were copied before."""
        few = sorted(self._objects_in(name) or ())[:PAGE]
        return any(row.seq <= self._started_at for row in self._ledger.projection.named(few))

    def _objects_in(self, name: bytes) -> set[bytes] | None:
        """Return the objects of a pack there, None if its index cannot be read. Raises: StorageError."""
        pack = self._further.storage.packs().open(name)
        try:
            return set() if pack is None else {entry.sha256 for entry in pack.entries()}
        except PackDamagedError:
            return None
        except OSError as error:
            raise storage_error(error, f"reading the pack {pack_key(name)} in {self._further.files.place}") from error

    def _drop_doubles(self, packed: PackedObjects) -> None:
        """Remove loose files of objects that are sound in a pack there."""
        found = loose_objects(self._further.files, b"", None)
        while page := [sha256 for sha256, _ in islice(found, PAGE)]:
            for sha256, places in self._places.find(page).items():
                if any(packed.sound_place(place) is not None for place in places):
                    self._further.files.remove(object_key(sha256))
                    self.done.removed += 1

    def _is_spare(self, name: bytes, packed: PackedObjects, but: int | None) -> bool:
        """Whether each needed object of a pack is also sound in another place there."""
        sha256s = self._objects_in(name)
        if sha256s is None:
            return False
        return all(self._is_elsewhere(sha256, name, packed) for sha256 in self._wanted(sha256s, but))

    def _wanted(self, sha256s: Collection[bytes], but: int | None) -> set[bytes]:
        """Return those of these objects that a copy needs, or whose release can still be withdrawn."""
        needed = needed_of(self._ledger, sha256s, but)
        rows = self._ledger.projection.named(set(sha256s) - needed)
        waiting = {row.sha256 for row in rows if row.state == RELEASED and row.stream != but}
        placed = self._places.find(waiting)
        return needed | {
            sha256 for sha256 in waiting if sha256 in placed or self._source.stat(object_key(sha256)) is not None
        }

    def _is_elsewhere(self, sha256: bytes, name: bytes, packed: PackedObjects) -> bool:
        places = self._places.find([sha256]).get(sha256, ())
        if any(place.pack != name and packed.sound_place(place) is not None for place in places):
            return True
        stat = self._further.files.stat(object_key(sha256))
        if stat is None:
            return False
        digest = hashlib.sha256()
        reader = RemoteReader(self._further.files, stat.key, stat.size)
        try:
            while piece := reader.read(PIECE):
                digest.update(piece)
        except NoSuchKeyError:
            return False
        finally:
            reader.close()
        return digest.digest() == sha256

    # --- removing ---

    def _free(self) -> None:
        """Remove objects that were released, and since then freed in the first storage."""
        row, to = self._further.row, freeing_of(self._ledger).freed.to
        if to <= row.freed:
            return
        for sha256s in released_objects(self._ledger, row.freed, to):
            self._remove(set(sha256s) - needed_of(self._ledger, sha256s))
        self._further.keep(self._ledger, row._replace(freed=to))

    def _remove(self, sha256s: Iterable[bytes]) -> None:
        """Remove the files of these objects, including those in quarantine."""
        files = self._further.files
        for sha256 in sorted(sha256s):
            aside = files.walk("quarantine", f"quarantine/{sha256.hex()}.")
            for key in [object_key(sha256), *_keys_of(aside, f"quarantine/{sha256.hex()}.")]:
                if files.stat(key) is not None:
                    files.remove(key)
                    self.done.removed += 1


class _Claimed:
    """The block in which only this process uses the storage. Leftovers of a killed process are removed first."""

    def __init__(self, work: CatchingUp) -> None:
        self._work = work

    def __enter__(self) -> None:
        self._work.claim()
        try:
            self._objects = self._work.further.storage.objects()
            self._objects.clean_own_leftovers(lambda _: False)
        except BaseException:
            self._work.let_go()
            raise

    def __exit__(self, *_: object) -> None:
        try:
            self._objects.close()
        finally:
            self._work.let_go()


def _named(rows: Iterable[StoredFact]) -> set[bytes]:
    """Return the objects that these events name; those of erased events are not known."""
    found: set[bytes] = set()
    for row in rows:
        fact = fact_of(row) if row.payload is not None else None
        if isinstance(fact, ReleaseWithdrawn):
            found.add(fact.sha256)
        elif isinstance(fact, CopyStored | RemoteCopied) and fact.element.copy is not None:
            found.add(fact.element.copy.sha256)
    return found


def _pack_names(files: RemoteFiles) -> Iterator[bytes]:
    for stat in files.walk("packs"):
        try:
            name = bytes.fromhex(stat.key.rpartition("/")[2])
            is_pack = stat.key == pack_key(name)
        except ValueError:
            continue
        if is_pack:
            yield name


def _keys_of(stats: Iterable[object], start: str) -> list[str]:
    found = []
    for stat in stats:
        key = str(getattr(stat, "key", ""))
        if not key.startswith(start):
            break
        found.append(key)
    return found


def _differences(one: Iterator[bytes], other: Iterator[bytes]) -> tuple[list[bytes], list[bytes]]:
    """Return the names that only the first has, and those that only the second has. All packs fit in memory."""
    first, second = set(one), set(other)
    return sorted(first - second), sorted(second - first)
