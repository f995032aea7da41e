"""Read objects from packs: by the placements of a ledger first, then by the packs' own indexes.

A placement or an index proves nothing. `open` hashes the bytes, and tries every place where an object might be. If no
place has sound bytes, it returns damaged ones, as it would those of a damaged file.
"""

from __future__ import annotations

import hashlib
import io
from heapq import merge
from typing import TYPE_CHECKING, BinaryIO, Protocol

from kropot.durable.errors import storage_error
from kropot.objects.packs.format import MOST_BYTES, PackDamagedError, PackEntry
from kropot.objects.store import ObjectMissingError
from ledger.places import Placement

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from kropot.objects.packs.folder import PackFolder
    from kropot.objects.packs.reader import PackFile
    from ledger.places import PackRow

_LOOKED_UP = 500
"""How many objects to look up in the ledger at once."""


class PackPlaces(Protocol):
    """Where a store looks up placements: `Ledger.places` is one."""

    def find(self, sha256s: Collection[bytes]) -> Mapping[bytes, Sequence[Placement]]:
        """Return the placements of these objects."""

    def dropped(self, sha256s: Collection[bytes]) -> set[tuple[bytes, bytes]]:
        """Return the (SHA-256, pack) among these objects that were dropped."""

    def walk(self, *, start: bytes = b"", end: bytes | None = None) -> Iterator[Placement]:
        """Yield the placements in a range, in the order of SHA-256."""

    def ranges(self, start: bytes, end: bytes | None) -> list[tuple[bytes, bytes, int, int]]:
        """Return the placements in a range as (SHA-256, pack, offset, length)."""

    def packs(self) -> Iterator[PackRow]:
        """Yield the packs that placements name."""

    def drop(self, sha256: bytes, pack: bytes) -> None:
        """Remember not to look for an object in a pack."""


class NoPlaces:
    """What is known about placements without a ledger: nothing, except what was dropped in this process."""

    def __init__(self) -> None:
        """Start with nothing dropped."""
        self._dropped: set[tuple[bytes, bytes]] = set()

    def find(self, sha256s: Collection[bytes]) -> Mapping[bytes, Sequence[Placement]]:  # noqa: ARG002 -- as said
        """Find nothing."""
        return {}

    def dropped(self, sha256s: Collection[bytes]) -> set[tuple[bytes, bytes]]:
        """Return what was dropped."""
        return {pair for pair in self._dropped if pair[0] in sha256s}

    def walk(self, *, start: bytes = b"", end: bytes | None = None) -> Iterator[Placement]:  # noqa: ARG002 -- as said
        """Yield nothing."""
        return iter(())

    def ranges(self, start: bytes, end: bytes | None) -> list[tuple[bytes, bytes, int, int]]:  # noqa: ARG002 -- as said
        """Return nothing."""
        return []

    def packs(self) -> Iterator[PackRow]:
        """Yield nothing."""
        return iter(())

    def drop(self, sha256: bytes, pack: bytes) -> None:
        """Remember it as long as this process lives."""
        self._dropped.add((sha256, pack))


class PackedObjects:
    """The objects in packs of one storage."""

    def __init__(self, folder: PackFolder, places: PackPlaces | None = None) -> None:
        """Look objects up in `places` first, then in the packs' own indexes."""
        self._folder = folder
        self.places: PackPlaces = NoPlaces() if places is None else places

    def open(self, sha256: bytes) -> BinaryIO:
        """Return the object's bytes, sound ones if any pack has them. Raises: ObjectMissingError, StorageError."""
        failure: OSError | None = None
        damaged: bytes | None = None
        for candidate, entry in self.candidates(sha256):
            pack: PackFile | None = candidate
            while pack is not None:
                try:
                    data = pack.read(entry.offset, entry.length)
                except OSError as error:
                    failure = failure or error
                else:
                    if hashlib.sha256(data).digest() == sha256:
                        return io.BytesIO(data)
                    damaged = data if damaged is None else damaged
                # A sound pack of the same name might have replaced this one while it was open.
                pack = self._folder.renewed(pack)
        if failure is not None:
            raise storage_error(failure, f"reading the object {sha256.hex()} from a pack") from failure
        if damaged is None:
            raise ObjectMissingError(sha256)
        return io.BytesIO(damaged)

    def range(self, place: Placement) -> bytes | None:
        """Return the bytes where an object should be, unchecked; None if there is no such pack. Raises: OSError."""
        pack = self._folder.open(place.pack)
        return None if pack is None else pack.read(place.offset, place.length)

    def read_unasked(self, sha256: bytes) -> bytes:
        """Return the bytes from `open`, if there is no ledger to ask. Raises: ObjectMissingError, StorageError."""
        if not isinstance(self.places, NoPlaces):
            raise ObjectMissingError(sha256)
        with self.open(sha256) as found:
            return found.read()

    def size(self, sha256: bytes) -> int | None:
        """Return the object's size according to its first place, None if it has none. Raises: StorageError."""
        return next((entry.length for _, entry in self.candidates(sha256)), None)

    def candidates(self, sha256: bytes) -> Iterator[tuple[PackFile, PackEntry]]:
        """Yield where the object might be: where the ledger says, if the pack agrees, then in any other pack.

        If the pack's index is damaged, the ledger's range is used. Raises: StorageError.
        """
        seen: set[bytes] = set()
        told = self.places.find([sha256]).get(sha256, ())
        for place in told:
            found = self._at(place)
            if found is not None:
                seen.add(place.pack)
                yield found
        seen |= {pack for _, pack in self.places.dropped([sha256])}
        yield from self._folder.find(sha256, but=seen)
        for place in told:
            # A damaged index can name another range, or no object at all.
            pack = self._folder.open(place.pack)
            if pack is not None and not pack.is_index_sound and (entry := _told(place, pack)) is not None:
                yield pack, entry

    def walk(self, start: bytes, end: bytes | None) -> Iterator[tuple[bytes, int]]:
        """Yield (SHA-256, size) of every object in a range, in order, each once. Raises: StorageError.

        The ledger's rows are used for packs that have as many objects as it says, or a damaged footer; for the others,
        their own indexes are used.
        """
        known = {row.name: row.objects for row in self.places.packs()}
        trusted: set[bytes] = set()
        others: list[bytes] = []
        for name in self._folder.names():
            pack = self._folder.open(name)
            if pack is None:
                continue
            if name in known and (pack.fault is not None or pack.footer.objects == known[name]):
                trusted.add(name)
            else:
                others.append(name)
        rows = self.places.walk(start=start, end=end) if trusted else iter(())
        placed = ((row.sha256, row.length) for row in rows if row.pack in trusted)
        last = None
        for sha256, length in merge(placed, self._by_index(others, known.keys(), start, end)):
            if sha256 != last:
                yield sha256, length
            last = sha256

    def sound_place(self, place: Placement) -> Placement | None:
        """Read an object where it is placed; return the place where it is sound, None if it is not.

        Raises: StorageError.
        """
        found = self._at(place)
        if found is None:
            return None
        pack, entry = found
        try:
            while not pack.is_sound(entry):
                fresh = self._folder.renewed(pack)
                if fresh is None:
                    return None
                pack = fresh
        except OSError:
            return None
        return Placement(sha256=entry.sha256, pack=pack.name, offset=entry.offset, length=entry.length)

    def find(self, sha256s: Collection[bytes]) -> Mapping[bytes, Sequence[Placement]]:
        """Return the ledger's placements of these objects."""
        return self.places.find(sha256s)

    def drop(self, sha256: bytes) -> None:
        """Remember not to look for the object in any pack that has it now. Raises: StorageError."""
        for pack, _ in list(self.candidates(sha256)):
            self.places.drop(sha256, pack.name)

    def _at(self, place: Placement) -> tuple[PackFile, PackEntry] | None:
        """Return where the object is in the pack of a placement, by the pack's index if that can be read."""
        pack = self._folder.open(place.pack)
        if pack is None:
            return None
        try:
            entry = pack.find(place.sha256)
        except PackDamagedError:
            entry = _told(place, pack)
        except OSError as error:
            raise storage_error(error, f"reading the pack {pack.path}") from error
        return None if entry is None else (pack, entry)

    def _by_index(
        self, names: Sequence[bytes], known: Collection[bytes], start: bytes, end: bytes | None
    ) -> Iterator[tuple[bytes, int]]:
        """Yield the objects of packs by their indexes, in order, without those that were dropped."""
        waiting: list[tuple[bytes, PackEntry]] = []
        for one in self._folder.walk(names, start, end):
            waiting.append(one)
            if len(waiting) == _LOOKED_UP:
                yield from self._kept(waiting, known)
                waiting = []
        yield from self._kept(waiting, known)

    def _kept(self, found: list[tuple[bytes, PackEntry]], known: Collection[bytes]) -> Iterator[tuple[bytes, int]]:
        # Without a ledger, any pack can have dropped objects.
        asked = [entry.sha256 for pack, entry in found if pack in known or isinstance(self.places, NoPlaces)]
        dropped = self.places.dropped(asked) if asked else ()
        for pack, entry in found:
            if (entry.sha256, pack) not in dropped:
                yield entry.sha256, entry.length


def _told(place: Placement, pack: PackFile) -> PackEntry | None:
    """Return the range that a placement names, None if the pack cannot have it."""
    is_possible = 0 <= place.length <= MOST_BYTES and 0 <= place.offset <= pack.size - place.length
    return PackEntry(place.sha256, place.offset, place.length) if is_possible else None
