"""Read a range of a folder's objects in one go, as fast as Python can: the work of one process among several."""

from __future__ import annotations

import errno
import os
import stat
from bisect import bisect_left
from contextlib import suppress
from hashlib import sha256 as hash_of
from operator import itemgetter
from os import close as close_file
from os import open as open_file
from typing import TYPE_CHECKING, Self

from kropot.objects.bulk.packs import PackReading
from kropot.objects.bulk.protocol import RangeRead
from kropot.objects.bulk.reading import BUFFER
from kropot.objects.layout import is_object

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from kropot.objects.bulk.protocol import ExpectedObject, FaultKind
    from kropot.objects.layout import Layout

_SHA256 = 32
_SOME = 64
"""How many objects, or MiB, to read between two checks whether to stop."""

_LAST_FOLDER = 0xFF
_SHA256_OF = itemgetter(0)

_GONE: tuple[FaultKind, str] = ("lost", "the object is gone")
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


class RangeReader:
    """Reads ranges of the objects in `layout`; memory holds the names of one folder, a 256th of all."""

    def __init__(
        self, layout: Layout, stopped: Callable[[], bool], *, take: Callable[[int], None] | None = None
    ) -> None:
        """Start with nothing read; `take` is called with the bytes read from a file, or to read next from a pack."""
        self._layout = layout
        self._stopped = stopped
        self._readv = os.readv if take is None else self._throttled(take)
        self._packs = PackReading(layout, stopped, take=take)
        self._buffer = memoryview(bytearray(BUFFER))
        self._buffers = (self._buffer,)
        self._due = 0

    def read_pack(self, name: bytes) -> RangeRead:
        """Read a whole pack, unless it is stopped."""
        found = self._packs.read(name)
        return RangeRead(objects=found.objects, size=found.size, looked=found.looked, bad=found.bad, pack=found)

    def read(self, start: bytes, end: bytes, rows: Sequence[ExpectedObject]) -> RangeRead:
        """Read every object in [start, end] that must be there, until it is stopped; `rows` are in order.

        The result's `strays` are the paths of files that are not objects, in the folders that begin in the range.

        Raises:
            OSError: if a folder cannot be listed.
        """
        found = RangeRead()
        at = 0
        for first in range(start[0], end[0] + 1):
            behind = bisect_left(rows, bytes((first + 1,)), at, key=_SHA256_OF) if first < _LAST_FOLDER else len(rows)
            part, at, before = rows[at:behind], behind, len(found.bad)
            with _Folder(f"{self._layout.objects}/{first:02x}") as folder:
                there = folder.names()
                plain = folder.descriptor >= 0 and all(row[1] is not None for row in part)
                if not (self._run(part, folder, found) if plain else self._each(part, folder, found)):
                    return found
                # If the folder holds as many names as it should, and none is lost, nothing else is there.
                if not plain or len(there) != len(part) or len(found.bad) != before:
                    others = set(there).difference([row[0].hex() for row in part])
                    found.orphans += folder.orphans(others, start, end)
                    if start <= bytes((first,)).ljust(_SHA256, b"\x00"):
                        found.strays += folder.strays(others)
        found.read_to = end
        return found

    def _run(self, rows: Sequence[ExpectedObject], folder: _Folder, found: RangeRead) -> bool:
        """Read objects that all must be there; return False if it was stopped."""
        buffer, buffers, inside, due = self._buffer, self._buffers, folder.descriptor, self._due
        readv = self._readv
        for sha256, size in rows:
            total = 0
            try:
                descriptor = open_file(name := sha256.hex(), _FLAGS, dir_fd=inside)
                try:
                    total = count = readv(descriptor, buffers)
                    digest = hash_of(buffer[:count])
                    while count:
                        count = readv(descriptor, buffers)
                        if count:
                            digest.update(buffer[:count])
                            total += count
                finally:
                    close_file(descriptor)
            except InterruptedError:
                return False
            except OSError as error:
                found.bad.append((sha256, *self._trouble(folder, name, error)))
            else:
                if total == size and digest.digest() == sha256:
                    found.objects += 1
                    found.size += total
                else:
                    found.bad.append((sha256, *self._differing(folder, name, size, total, digest.hexdigest())))
            found.looked += 1
            found.read_to = sha256
            due += 1 + (total >> 20)
            if due >= _SOME:
                due = 0
                if self._stopped():
                    self._due = due
                    return False
        self._due = due
        return True

    def _throttled(self, take: Callable[[int], None]) -> Callable[[int, Sequence[memoryview]], int]:
        """Return a slow `readv`. A stop interrupts it within an object, because the rest would take too long."""

        def read(descriptor: int, buffers: Sequence[memoryview]) -> int:
            if self._stopped():
                raise InterruptedError
            count = os.readv(descriptor, buffers)
            take(count)
            return count

        return read

    def _each(self, rows: Sequence[ExpectedObject], folder: _Folder, found: RangeRead) -> bool:
        """Do the same as `_run`, also for objects that need not be read, and if the folder is missing."""
        for row in rows:
            found.read_to = row[0]
            if row[1] is None:
                continue
            if folder.descriptor < 0:
                found.looked += 1
                found.bad.append((row[0], *_GONE))
            elif not self._run([row], folder, found):
                return False
        return True

    def _differing(
        self, folder: _Folder, name: str, size: int | None, total: int, digest: str
    ) -> tuple[FaultKind, str]:
        if not folder.has(name):
            return _GONE
        if total != size:
            return "damaged", f"it has {total} bytes, but {size} were stored"
        return "damaged", f"its bytes have the SHA-256 {digest}"

    def _trouble(self, folder: _Folder, name: str, error: OSError) -> tuple[FaultKind, str]:
        if not folder.has(name):
            return _GONE
        if error.errno == errno.EIO:
            return "damaged", "the disk reports an input/output error while reading it"
        return "unreadable", f"{folder.path}/{name} cannot be read: {error.strerror}"


# --- helpers ---------------------------------------------------------------------------------------------------------


class _Folder:
    """A folder of objects, opened once: a file's path from there is just its name, which is faster to resolve."""

    __slots__ = ("descriptor", "path")

    def __init__(self, path: str) -> None:
        self.path = path
        self.descriptor = -1

    def __enter__(self) -> Self:
        with suppress(FileNotFoundError, NotADirectoryError):
            self.descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        return self

    def __exit__(self, *_: object) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)

    def names(self) -> list[str]:
        """Return the names in the folder, of objects or not; none if there is no folder."""
        return os.listdir(self.descriptor) if self.descriptor >= 0 else []  # noqa: PTH208 -- no Path per file

    def has(self, name: str) -> bool:
        """Whether there is a regular file of this name; nothing else is an object."""
        try:
            return stat.S_ISREG(os.lstat(name, dir_fd=self.descriptor).st_mode)
        except FileNotFoundError:
            return False

    def strays(self, names: set[str]) -> Iterator[str]:
        """Yield, in order, the paths of names that no object can have here, in the form that `Leftover` has."""
        prefix = self.path[-2:]
        return (f"objects/{prefix}/{name}" for name in sorted(names) if not is_object(name, prefix))

    def orphans(self, names: set[str], low: bytes, high: bytes) -> Iterator[tuple[bytes, int]]:
        """Yield (SHA-256, size) of the objects among these names that are in [low, high], in order."""
        prefix = self.path[-2:]
        for name in sorted(names):
            if is_object(name, prefix):
                sha256 = bytes.fromhex(name)
                if low <= sha256 <= high:
                    with suppress(FileNotFoundError):  # removed since the folder was listed
                        status = os.lstat(name, dir_fd=self.descriptor)
                        if stat.S_ISREG(status.st_mode):
                            yield sha256, status.st_size
