"""An object store in a dictionary: a working fake for tests and simulations, with the same promises but the durable."""

from __future__ import annotations

import hashlib
import io
from typing import TYPE_CHECKING, BinaryIO, cast

from kropot.durable.errors import DiscardedError, StorageError, StorageFullError
from kropot.errors import LockedError
from kropot.objects.store import Leftover, ObjectMissingError, Published, PublishError, Staged, TakenUp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


class MemoryDisk:
    """What several stores share and what outlives them: objects, temporary bytes, quarantine, claimed names."""

    def __init__(self, *, capacity: int | None = None) -> None:
        """Begin empty; `capacity` in bytes bounds objects and temporary bytes together."""
        self.capacity = capacity
        self.objects: dict[bytes, bytes] = {}
        self.temporary: dict[tuple[str, int], bytes] = {}
        self.quarantine: dict[str, bytes] = {}
        self.claimed: set[str] = set()

    @property
    def used(self) -> int:
        """Bytes in use."""
        kept = (self.objects.values(), self.temporary.values(), self.quarantine.values())
        return sum(len(value) for values in kept for value in values)


class MemoryObjects:
    """Objects in memory; `disk` is passed in where a second store or a restart shall find them."""

    def __init__(self, instance: str = "memory", disk: MemoryDisk | None = None) -> None:
        """Open the disk, or an empty one."""
        self.disk = MemoryDisk() if disk is None else disk
        self._instance = instance
        self._held = False
        self._counter = 0

    def lock(self) -> None:
        """Take the instance's name; a test that kills the holder removes it from `disk.claimed`."""
        if not self._held:
            if self._instance in self.disk.claimed:
                raise LockedError(f"instance {self._instance} is running already")
            self.disk.claimed.add(self._instance)
            self._held = True

    def stage(self, name: str | None = None) -> _MemoryUpload:  # noqa: ARG002 -- the protocol has it
        """Begin an object; nothing is ever kept here."""
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
        """Say that nothing is kept."""
        return False

    def take_up(self, name: str) -> TakenUp | None:  # noqa: ARG002 -- the protocol has it
        """Find nothing."""
        return None

    def publish(self, batch: Sequence[Staged]) -> list[Published | PublishError]:
        """Name every object whose bytes are still here."""
        return [self._publish(staged) for staged in batch]

    def discard(self, batch: Sequence[Staged]) -> None:
        """Forget the bytes."""
        for staged in batch:
            self.disk.temporary.pop(_place(staged), None)

    def open(self, sha256: bytes) -> BinaryIO:
        """Return a reader of the object's bytes."""
        try:
            return io.BytesIO(self.disk.objects[sha256])
        except KeyError as error:
            raise ObjectMissingError(sha256) from error

    def size(self, sha256: bytes) -> int | None:
        """Return the size, or None."""
        stored = self.disk.objects.get(sha256)
        return None if stored is None else len(stored)

    def walk(self, start: bytes = b"", end: bytes | None = None) -> Iterator[tuple[bytes, int]]:
        """Yield in order."""
        for sha256 in sorted(self.disk.objects):
            if start <= sha256 and (end is None or sha256 < end) and sha256 in self.disk.objects:
                yield sha256, len(self.disk.objects[sha256])

    def set_aside(self, sha256: bytes) -> str:
        """Move the object into quarantine."""
        if sha256 not in self.disk.objects:
            raise ObjectMissingError(sha256)
        number = 0
        while (name := f"quarantine/{sha256.hex()}.{number}") in self.disk.quarantine:
            number += 1
        self.disk.quarantine[name] = self.disk.objects.pop(sha256)
        return name

    def leftovers(self) -> Iterator[Leftover]:
        """Yield temporary bytes, then what is in quarantine."""
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
        """Return what `capacity` leaves."""
        return None if self.disk.capacity is None else max(0, self.disk.capacity - self.disk.used)

    def close(self) -> None:
        """Give the instance's name back."""
        if self._held:
            self.disk.claimed.discard(self._instance)
            self._held = False

    def _publish(self, staged: Staged) -> Published | PublishError:
        data = self.disk.temporary.pop(_place(staged), None)
        if data is None:
            error = DiscardedError("the staged bytes are gone, and are fetched again")
            return PublishError(sha256=staged.sha256, size=staged.size, error=error)
        known = self.disk.objects.get(staged.sha256)
        existed = known is not None and hashlib.sha256(known).digest() == staged.sha256
        set_aside = self.set_aside(staged.sha256) if known is not None and not existed else None
        self.disk.objects.setdefault(staged.sha256, data)
        return Published(sha256=staged.sha256, size=staged.size, existed=existed, set_aside=set_aside)


class _MemoryUpload:
    """An object on its way in."""

    def __init__(self, disk: MemoryDisk, place: tuple[str, int]) -> None:
        """Begin empty."""
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
