"""Reading a range of a local folder's objects in one go, as lean as Python can: the work of one process among several.

It decides nothing: it says which objects are bad, which are not named, which were bad and are sound again; the process
that asked makes findings of them.
"""

from __future__ import annotations

import errno
import os
import stat
from bisect import bisect_left
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256 as hash_of
from itertools import groupby
from operator import itemgetter
from os import close as close_file
from os import open as open_file
from os import readv
from typing import TYPE_CHECKING, Self

from kropot.objects.layout import is_object
from kropot.verify.reading import BUFFER
from ledger.errors import BrokenChainError
from ledger.rows import RELEASED, SOUND

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from kropot.objects.layout import Layout
    from kropot.verify.reading import FaultKind

    Row = tuple[bytes, int, int, int, str]
    """A `ledger.rows.CopyState`, as a plain tuple where it comes from another process."""

_SHA256 = 32
_SOME = 64
"""So many objects are read between two looks at whether to stop, and as many MiB."""

_LAST_FOLDER = 0xFF
_SHA256_OF = itemgetter(0)

_GONE: tuple[FaultKind, str] = ("lost", "the object is gone")
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


@dataclass(slots=True)
class RangeRead:
    """What came of a range: `objects` sound objects of `size` bytes together, of `looked` that had to be there.

    `bad` are (SHA-256, "damaged", "lost" or "unreadable", detail), `orphans` (SHA-256, size), `recovered` are sound
    again, `strays` are paths of what is no object, in the folders that begin in the range. `read_to` is how far
    everything was read: the range's end, if nobody stopped it.
    """

    objects: int = 0
    size: int = 0
    looked: int = 0
    bad: list[tuple[bytes, FaultKind, str]] = field(default_factory=list)
    orphans: list[tuple[bytes, int]] = field(default_factory=list)
    recovered: list[bytes] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)
    read_to: bytes | None = None


class RangeReader:
    """Reads ranges of the objects in `layout`; memory holds the names of one folder, a 256th of all."""

    def __init__(self, layout: Layout, stopped: Callable[[], bool]) -> None:
        """Nothing is read yet."""
        self._layout = layout
        self._stopped = stopped
        self._buffer = memoryview(bytearray(BUFFER))
        self._buffers = (self._buffer,)
        self._due = 0

    def read(self, start: bytes, end: bytes, copies: Iterable[Row]) -> RangeRead:
        """Read every object in [start, end] that must be there, until it is stopped.

        `copies` are the rows of the range.

        Raises:
            OSError: if a folder cannot be listed.
            LedgerError: if the copies cannot be read.
        """
        found = RangeRead()
        rows = list(copies)
        if not _are_copies(rows):
            rows = list(map(_checked, rows))
        rows.sort(key=_SHA256_OF)
        at = 0
        for first in range(start[0], end[0] + 1):
            behind = bisect_left(rows, bytes((first + 1,)), at, key=_SHA256_OF) if first < _LAST_FOLDER else len(rows)
            part, at, before = rows[at:behind], behind, len(found.bad)
            with _Folder(f"{self._layout.objects}/{first:02x}") as folder:
                there = folder.names()
                plain = folder.descriptor >= 0 and _are_plain(part)
                if not (self._run(part, folder, found) if plain else self._each(part, folder, found)):
                    return found
                # As many as there should be, and none of them lost: then nothing else is there.
                if not plain or len(there) != len(part) or len(found.bad) != before:
                    others = set(there).difference([row[0].hex() for row in part])
                    found.orphans += folder.orphans(others, start, end)
                    if start <= bytes((first,)).ljust(_SHA256, b"\x00"):
                        found.strays += folder.strays(others)
        found.read_to = end
        return found

    def _run(self, rows: list[Row], folder: _Folder, found: RangeRead) -> bool:
        """Read the objects of rows that each name one of their own; return whether nobody stopped it."""
        buffer, buffers, inside, due = self._buffer, self._buffers, folder.descriptor, self._due
        for sha256, _, size, _, _ in rows:
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
            except OSError as error:
                found.bad.append((sha256, *self._trouble(folder, name, error)))
            else:
                if total == size and digest.digest() == sha256:
                    found.objects += 1
                    found.size += size
                else:
                    found.bad.append((sha256, *self._differing(folder, name, size, total, digest.hexdigest())))
            found.looked += 1
            found.read_to = sha256
            due += 1 + (size >> 20)
            if due >= _SOME:
                due = 0
                if self._stopped():
                    self._due = due
                    return False
        self._due = due
        return True

    def _each(self, rows: list[Row], folder: _Folder, found: RangeRead) -> bool:
        """As `_run`, for rows of any kind, and also where there is no folder."""
        for sha256, group in groupby(rows, key=_SHA256_OF):
            named = list(group)
            states = {row[4] for row in named}
            found.read_to = sha256
            if states == {RELEASED}:
                continue
            before, whole = len(found.bad), True
            if len({row[2] for row in named}) > 1:
                found.looked += 1
                found.bad.append((sha256, "damaged", "events name it with different sizes"))
            elif folder.descriptor < 0:
                found.looked += 1
                found.bad.append((sha256, *_GONE))
            else:
                whole = self._run(named[:1], folder, found)
            if SOUND not in states and len(found.bad) == before:
                found.recovered.append(sha256)
            if not whole:
                return False
        return True

    def _differing(self, folder: _Folder, name: str, size: int, total: int, digest: str) -> tuple[FaultKind, str]:
        if not folder.has(name):
            return _GONE
        if total != size:
            return "damaged", f"it has {total} bytes, and {size} were stored"
        return "damaged", f"its bytes have the SHA-256 {digest}"

    def _trouble(self, folder: _Folder, name: str, error: OSError) -> tuple[FaultKind, str]:
        if not folder.has(name):
            return _GONE
        if error.errno == errno.EIO:
            return "damaged", "the disk reports an input/output error while it is read"
        return "unreadable", f"{folder.path}/{name} cannot be read: {error.strerror}"


def parts_of(start: bytes, end: bytes, count: int) -> Iterator[tuple[bytes, bytes]]:
    """Cut [start, end] into ranges that end where a `count`-th of the whole space does; `count` is a power of two."""
    width = (1 << 256) // count
    low, last = int.from_bytes(start, "big"), int.from_bytes(end, "big")
    while low <= last:
        high = min((low // width + 1) * width - 1, last)
        yield low.to_bytes(32, "big"), high.to_bytes(32, "big")
        low = high + 1


# --- helpers ---------------------------------------------------------------------------------------------------------


def _are_copies(rows: list[Row]) -> bool:
    """Whether each row can be a copy's."""
    if not rows:
        return True
    hashes, _, sizes, _, _ = zip(*rows, strict=True)
    return set(map(type, hashes)) == {bytes} and set(map(len, hashes)) == {_SHA256} and set(map(type, sizes)) == {int}


def _are_plain(rows: list[Row]) -> bool:
    """Whether the rows name each an object of its own, and each calls it sound."""
    return len({row[0] for row in rows}) == len(rows) == sum(1 for row in rows if row[4] == SOUND)


def _checked(row: Row) -> Row:
    """Return the row. Raises: BrokenChainError where the index has something else than a copy there."""
    if type(row[0]) is not bytes or len(row[0]) != _SHA256 or type(row[2]) is not int:
        raise BrokenChainError(row[3], "the index has a copy there that can be none")
    return row


class _Folder:
    """A folder of objects, opened once: a file's path from there is its name, and need not be walked down again."""

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
        """Return what is in the folder, objects or not; nothing if there is no folder."""
        return os.listdir(self.descriptor) if self.descriptor >= 0 else []  # noqa: PTH208 -- no Path a file

    def has(self, name: str) -> bool:
        """Whether there is a regular file of this name; no other is an object."""
        try:
            return stat.S_ISREG(os.lstat(name, dir_fd=self.descriptor).st_mode)
        except FileNotFoundError:
            return False

    def strays(self, names: set[str]) -> Iterator[str]:
        """Yield, in order, the paths of what has none of an object's names here, as a `Leftover` has them."""
        prefix = self.path[-2:]
        return (f"objects/{prefix}/{name}" for name in sorted(names) if not is_object(name, prefix))

    def orphans(self, names: set[str], low: bytes, high: bytes) -> Iterator[tuple[bytes, int]]:
        """Yield (SHA-256, size) of the objects among these names that lie in [low, high], in order."""
        prefix = self.path[-2:]
        for name in sorted(names):
            if is_object(name, prefix):
                sha256 = bytes.fromhex(name)
                if low <= sha256 <= high:
                    with suppress(FileNotFoundError):  # removed since the folder was listed
                        status = os.lstat(name, dir_fd=self.descriptor)
                        if stat.S_ISREG(status.st_mode):
                            yield sha256, status.st_size
