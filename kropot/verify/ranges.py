"""Reading a range of a local folder's objects in one go, as lean as Python can: the work of one process among several.

It decides nothing: it says which objects are bad, which are not named, which were bad and are sound again; the process
that asked makes findings of them.
"""

from __future__ import annotations

import errno
import hashlib
import os
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING

from kropot.verify.reading import BUFFER
from ledger.errors import BrokenChainError
from ledger.rows import RELEASED, SOUND

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from kropot.objects.layout import Layout
    from kropot.verify.reading import FaultKind

    Row = tuple[bytes, int, int, int, str]
    """A `ledger.rows.CopyState`, as a plain tuple where it comes from another process."""

_HEX = frozenset("0123456789abcdef")
_NAME = 64
_SHA256 = 32
_SOME = 64
"""So many objects are read between two looks at whether to stop, and as many MiB."""

_GONE: tuple[FaultKind, str] = ("lost", "the object is gone")
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


@dataclass(slots=True)
class RangeRead:
    """What came of a range: `objects` sound objects of `size` bytes together, of `looked` that had to be there.

    `bad` are (SHA-256, "damaged", "lost" or "unreadable", detail), `orphans` (SHA-256, size), `recovered` are sound
    again. `read_to` is how far everything was read: the range's end, if nobody stopped it.
    """

    objects: int = 0
    size: int = 0
    looked: int = 0
    bad: list[tuple[bytes, FaultKind, str]] = field(default_factory=list)
    orphans: list[tuple[bytes, int]] = field(default_factory=list)
    recovered: list[bytes] = field(default_factory=list)
    read_to: bytes | None = None


class RangeReader:
    """Reads ranges of the objects in `layout`; memory holds the names of one folder, a 256th of all."""

    def __init__(self, layout: Layout, stopped: Callable[[], bool]) -> None:
        """Nothing is read yet."""
        self._layout = layout
        self._stopped = stopped
        self._buffer = memoryview(bytearray(BUFFER))
        self._due = 0

    def read(self, start: bytes, end: bytes, copies: Iterable[Row]) -> RangeRead:
        """Read every object in [start, end] that must be there, until it is stopped.

        `copies` are the rows of the range in the order of SHA-256.

        Raises:
            OSError: if a folder cannot be listed.
            LedgerError: if the copies cannot be read.
        """
        found = RangeRead()
        groups = groupby(map(_checked, copies), key=itemgetter(0))
        sha256, rows = next(groups, (None, iter(())))
        for first in range(start[0], end[0] + 1):
            folder, folder_byte = f"{self._layout.objects}/{first:02x}", bytes([first])
            there = _names(folder, start, end)
            while sha256 is not None and sha256[:1] == folder_byte:
                is_there = sha256 in there
                there.discard(sha256)
                self._look(sha256, list(rows), folder if is_there else None, found)
                found.read_to = sha256
                if self._due >= _SOME:
                    self._due = 0
                    if self._stopped():
                        return found
                sha256, rows = next(groups, (None, iter(())))
            for orphan in sorted(there):
                found.orphans.append((orphan, os.lstat(f"{folder}/{orphan.hex()}").st_size))
        found.read_to = end
        return found

    def _look(self, sha256: bytes, rows: list[Row], folder: str | None, found: RangeRead) -> None:
        """Look at one object that events name; `folder` is None where it is not there."""
        size = rows[0][2]
        if len(rows) > 1 or rows[0][4] != SOUND:
            if all(row[4] == RELEASED for row in rows):
                return
            if any(row[2] != size for row in rows):
                found.looked += 1
                found.bad.append((sha256, "damaged", "events name it with different sizes"))
                return
        found.looked += 1
        fault = _GONE if folder is None else self._read(f"{folder}/{sha256.hex()}", sha256, size)
        self._due += 1 + (size >> 20)
        if fault is not None:
            found.bad.append((sha256, *fault))
            return
        found.objects += 1
        found.size += size
        if rows[0][4] != SOUND and all(row[4] != SOUND for row in rows):
            found.recovered.append(sha256)

    def _read(self, path: str, sha256: bytes, size: int) -> tuple[FaultKind, str] | None:
        """Return what is wrong with a file, None if nothing is."""
        buffer = self._buffer
        try:
            descriptor = os.open(path, _FLAGS)
            try:
                count = os.readv(descriptor, (buffer,))
                digest = hashlib.sha256(buffer[:count])
                total = count
                while count:
                    count = os.readv(descriptor, (buffer,))
                    if count:
                        digest.update(buffer[:count])
                        total += count
            finally:
                os.close(descriptor)
        except FileNotFoundError:
            return _GONE
        except OSError as error:
            if error.errno == errno.EIO:
                return "damaged", "the disk reports an input/output error while it is read"
            return "unreadable", f"{path} cannot be read: {error.strerror}"
        if total != size:
            return "damaged", f"it has {total} bytes, and {size} were stored"
        if digest.digest() != sha256:
            return "damaged", f"its bytes have the SHA-256 {digest.hexdigest()}"
        return None


def parts_of(start: bytes, end: bytes, count: int) -> Iterator[tuple[bytes, bytes]]:
    """Cut [start, end] into ranges that end where a `count`-th of the whole space does; `count` is a power of two."""
    width = (1 << 256) // count
    low, last = int.from_bytes(start, "big"), int.from_bytes(end, "big")
    while low <= last:
        high = min((low // width + 1) * width - 1, last)
        yield low.to_bytes(32, "big"), high.to_bytes(32, "big")
        low = high + 1


# --- helpers ---------------------------------------------------------------------------------------------------------


def _checked(row: Row) -> Row:
    """Return the row. Raises: BrokenChainError where the index has something else than a copy there."""
    if type(row[0]) is not bytes or len(row[0]) != _SHA256 or type(row[2]) is not int:
        raise BrokenChainError(row[3], "the index has a copy there that can be none")
    return row


def _names(folder: str, low: bytes, high: bytes) -> set[bytes]:
    """Return the objects in a folder that lie in [low, high]."""
    prefix = folder[-2:]
    names: set[bytes] = set()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name
                if len(name) == _NAME and name.startswith(prefix) and _HEX.issuperset(name):
                    sha256 = bytes.fromhex(name)
                    if low <= sha256 <= high and entry.is_file(follow_symlinks=False):
                        names.add(sha256)
    except (FileNotFoundError, NotADirectoryError):
        return set()
    return names
