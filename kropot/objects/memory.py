"""An object store in a dictionary: a working fake for tests and simulations that promises all except durability."""

from __future__ import annotations

import hashlib
import io
from typing import TYPE_CHECKING, BinaryIO, cast

from kropot.durable.errors import DiscardedError, StorageError, StorageFullError
from kropot.errors import LockedError
from kropot.objects.layout import Layout
from kropot.objects.memory_freeing import MemoryFreeing
from kropot.objects.packs.folder import PackFolder
from kropot.objects.packs.format import footer_of, index_of, lay_out, name_of
from kropot.objects.packs.packed import PackedObjects
from kropot.objects.packs.packing import PackRule
from kropot.objects.packs.reader import PackFile
from kropot.objects.store import Leftover, Published, PublishError, Staged, TakenUp
from ledger.places import Placement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from kropot.objects.packs.packed import PackPlaces


class MemoryDisk:
    """State that several stores share and that outlives them: objects, temporary bytes, quarantine, claimed names."""

    def __init__(self, *, capacity: int | None = None) -> None:
        """Start empty; `capacity` in bytes limits objects and temporary bytes together."""
        self.capacity = capacity
        self.objects: dict[bytes, bytes] = {}
        self.temporary: dict[tuple[str, int], bytes] = {}
        self.packs: dict[bytes, bytes] = {}
        self.quarantine: dict[str, bytes] = {}
        self.freed: dict[bytes, bytes] = {}
        self.claimed: set[str] = set()

    @property
    def used(self) -> int:
        """Bytes in use."""
        kept = (self.objects.values(), self.packs.values(), self.temporary.values(), self.quarantine.values())
        return sum(len(value) for values in kept for value in values)


class MemoryPack(PackFile):
    """A pack in memory, read in the same way as one in a file."""

    def __init__(self, name: bytes, data: bytes) -> None:
        """Read the footer."""
        self.name, self.path = name, f"packs/{name.hex()}"
        self._data = data
        self._learn(len(data), id(data))

    def read(self, offset: int, length: int) -> bytes:
        """Return the bytes of a range, fewer if the pack ends before it does."""
        return self._data[offset : offset + length] if offset >= 0 else b""


class MemoryPacks(PackFolder):
    """The packs on a memory disk."""

    def __init__(self, disk: MemoryDisk) -> None:
        """Use this disk."""
        super().__init__(Layout(""))
        self._disk = disk

    def names(self) -> list[bytes]:
        """Return the names of all packs, in order."""
        return sorted(self._disk.packs)

    def open(self, name: bytes) -> PackFile | None:
        """Return a pack, None if there is none of this name."""
        data = self._disk.packs.get(name)
        return None if data is None else MemoryPack(name, data)

    def settle(self, names: Sequence[bytes]) -> None:
        """Do nothing, because nothing can be lost."""


class MemoryObjects:
    """Objects in memory; pass `disk` if a second store or a restart must find them.

    With `pack`, small objects go into packs if a batch has a pack's worth, as in a folder; `places` come from a ledger.
    """

    def __init__(
        self,
        instance: str = "memory",
        disk: MemoryDisk | None = None,
        *,
        pack: PackRule | None = None,
        places: PackPlaces | None = None,
    ) -> None:
        """Open the disk, or an empty one."""
        self.disk = MemoryDisk() if disk is None else disk
        self._rule = PackRule(below=0) if pack is None else pack
        self._packed = PackedObjects(MemoryPacks(self.disk), places)
        self._instance = instance
        self._held = False
        self._counter = 0

    def lock(self) -> None:
        """Take the instance's name; a test that kills the holder removes it from `disk.claimed`."""
        if not self._held:
            if self._instance in self.disk.claimed:
                raise LockedError(f"instance {self._instance} is already running")
            self.disk.claimed.add(self._instance)
            self._held = True

    def stage(self, name: str | None = None) -> _MemoryUpload:  # noqa: ARG002 -- the protocol has it
        """Start an object; no upload is ever kept here."""
        self.lock()
        self._counter += 1
        return _MemoryUpload(self.disk, (self._instance, self._counter))

    def stage_whole(self, data: bytes, sha256: bytes) -> Staged:
        """Take the bytes as they are."""
        self.lock()
        free = self.free_bytes()
        if free is not None and len(data) > free:
            raise StorageFullError("the memory disk is full")
        self._counter += 1
        place = (self._instance, self._counter)
        self.disk.temporary[place] = data
        return Staged(path="", sha256=sha256, size=len(data), pending=place)

    def has_kept(self, name: str) -> bool:  # noqa: ARG002 -- the protocol has it
        """Return false, because nothing is kept."""
        return False

    def take_up(self, name: str) -> TakenUp | None:  # noqa: ARG002 -- the protocol has it
        """Find nothing."""
        return None

    def publish(self, batch: Sequence[Staged]) -> list[Published | PublishError]:
        """Name every object whose bytes are still here."""
        small: dict[bytes, bytes] = {}
        for staged in batch:
            data = self.disk.temporary.get(_place(staged))
            if data is not None and self._rule.takes(len(data)) and staged.sha256 not in self.disk.objects:
                small[staged.sha256] = data
        placed: dict[bytes, Placement] = {}
        if self._rule.is_worth(len(small), sum(map(len, small.values()))):
            entries = lay_out([(sha256, len(data)) for sha256, data in small.items()])
            index = index_of(entries)
            self.disk.packs[name_of(index)] = b"".join([*small.values(), index, footer_of(index)])
            for sha256, offset, length in entries:
                placed[sha256] = Placement(sha256=sha256, pack=name_of(index), offset=offset, length=length)
        return [self._publish(staged, placed.get(staged.sha256)) for staged in batch]

    def discard(self, batch: Sequence[Staged]) -> None:
        """Forget the bytes."""
        for staged in batch:
            self.disk.temporary.pop(_place(staged), None)

    def open(self, sha256: bytes) -> BinaryIO:
        """Return a reader of the object's bytes."""
        stored = self.disk.objects.get(sha256)
        return self._packed.open(sha256) if stored is None else io.BytesIO(stored)

    def size(self, sha256: bytes) -> int | None:
        """Return the size, or None."""
        stored = self.disk.objects.get(sha256)
        return self._packed.size(sha256) if stored is None else len(stored)

    def holds(self, sha256: bytes, size: int, place: Placement | None = None) -> bool:
        """Return whether the object, or the pack that it was put into, is there."""
        return (place is not None and place.pack in self.disk.packs) or self.size(sha256) == size

    def walk(self, start: bytes = b"", end: bytes | None = None) -> Iterator[tuple[bytes, int]]:
        """Yield in order."""
        found = dict(self._packed.walk(start, end)) | {one: len(data) for one, data in self.disk.objects.items()}
        for sha256, size in sorted(found.items()):
            if start <= sha256 and (end is None or sha256 < end):
                yield sha256, size

    def set_aside(self, sha256: bytes) -> str:
        """Move the object into quarantine."""
        number = 0
        while (name := f"quarantine/{sha256.hex()}.{number}") in self.disk.quarantine:
            number += 1
        if sha256 in self.disk.objects:
            self.disk.quarantine[name] = self.disk.objects.pop(sha256)
        else:
            self.disk.quarantine[name] = self._packed.open(sha256).read()
            self._packed.drop(sha256)
        return name

    def freeing(self) -> MemoryFreeing:
        """Return the `MemoryFreeing` of this disk."""
        return MemoryFreeing(self.disk)

    def leftovers(self) -> Iterator[Leftover]:
        """Yield the temporary bytes, then the quarantine."""
        for (instance, number), data in sorted(self.disk.temporary.items()):
            yield Leftover(kind="temporary", path=f"tmp/{instance}/{number:08d}", size=len(data), instance=instance)
        for name, data in sorted(self.disk.quarantine.items()):
            yield Leftover(kind="quarantined", path=name, size=len(data))

    def clean_own_leftovers(self, wants: Callable[[bytes], bool]) -> int:  # noqa: ARG002 -- the protocol has it
        """Forget the temporary bytes of this instance."""
        self.lock()
        own = [place for place in self.disk.temporary if place[0] == self._instance]
        for place in own:
            del self.disk.temporary[place]
        return len(own)

    def free_bytes(self) -> int | None:
        """Return how much of `capacity` is left."""
        return None if self.disk.capacity is None else max(0, self.disk.capacity - self.disk.used)

    def close(self) -> None:
        """Release the instance's name."""
        if self._held:
            self.disk.claimed.discard(self._instance)
            self._held = False

    def _publish(self, staged: Staged, place: Placement | None) -> Published | PublishError:
        data = self.disk.temporary.pop(_place(staged), None)
        if data is None:
            error = DiscardedError("the staged bytes are gone; they will be fetched again")
            return PublishError(sha256=staged.sha256, size=staged.size, error=error)
        if place is not None:
            return Published(sha256=staged.sha256, size=staged.size, place=place)
        known = self.disk.objects.get(staged.sha256)
        existed = known is not None and hashlib.sha256(known).digest() == staged.sha256
        set_aside = self.set_aside(staged.sha256) if known is not None and not existed else None
        self.disk.objects.setdefault(staged.sha256, data)
        return Published(sha256=staged.sha256, size=staged.size, existed=existed, set_aside=set_aside)


class _MemoryUpload:
    """An object on its way in."""

    def __init__(self, disk: MemoryDisk, place: tuple[str, int]) -> None:
        """Start empty."""
        self._disk = disk
        self._place = place
        self._bytes = bytearray()
        self._ended = False

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return len(self._bytes)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take a copy of the bytes."""
        if self._ended:
            raise StorageError("the upload has ended")
        free = None if self._disk.capacity is None else self._disk.capacity - self._disk.used - len(self._bytes)
        if free is not None and len(data) > free:
            self.abort()
            raise StorageFullError("the memory disk is full")
        self._bytes += data

    def finish(self) -> Staged:
        """Leave the bytes as temporary ones, as a process that dies now would."""
        if self._ended:
            raise StorageError("the upload has ended")
        self._ended = True
        data = bytes(self._bytes)
        self._disk.temporary[self._place] = data
        return Staged(path="", sha256=hashlib.sha256(data).digest(), size=len(data), pending=self._place)

    def abort(self) -> None:
        """Forget the bytes."""
        self._ended = True
        self._bytes.clear()

    def keep(self, note: bytes) -> None:
        """Keep nothing."""

    def suspend(self) -> None:
        """Forget the bytes."""
        self.abort()


def _place(staged: Staged) -> tuple[str, int]:
    if not isinstance(staged.pending, tuple):
        raise TypeError("this object was staged by another store")
    return cast("tuple[str, int]", staged.pending)
