"""Read a whole pack in order with large reads, and compare every object in it with its SHA-256."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256 as hash_of
from operator import itemgetter
from typing import TYPE_CHECKING

from kropot.durable.filesystem import OsFiles
from kropot.objects.packs.format import PackDamagedError
from kropot.objects.packs.reader import PackFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from kropot.objects.bulk.protocol import FaultKind
    from kropot.objects.layout import Layout
    from kropot.objects.packs.format import PackEntry

BUFFER = 4 << 20
"""Bytes per read. Smaller reads cost calls; larger ones exceed the processor's cache."""

_OFFSET = itemgetter(1)


@dataclass(slots=True)
class PackRead:
    """The result of the pack `name`: `objects` sound objects of `size` bytes together, out of `looked`.

    `bad` are (SHA-256, kind, detail). `fault` says why its objects could not be found by its index, None if they
    could. `is_gone` says that there is no such file. `is_whole` says that the reading was not stopped.
    """

    name: bytes
    objects: int = 0
    size: int = 0
    looked: int = 0
    bad: list[tuple[bytes, FaultKind, str]] = field(default_factory=list)
    fault: str | None = None
    is_gone: bool = False
    is_whole: bool = True


class PackReading:
    """Reads packs one after the other into one buffer. `take` is called with the number of bytes to read next."""

    def __init__(
        self, layout: Layout, stopped: Callable[[], bool], *, take: Callable[[int], None] | None = None
    ) -> None:
        """Start with nothing read; the buffer is made at the first pack."""
        self._layout = layout
        self._stopped = stopped
        self._take = take
        self._buffer: memoryview | None = None

    def read(self, name: bytes) -> PackRead:
        """Read the whole pack, unless it is stopped."""
        found = PackRead(name)
        path = self._layout.pack(name)
        try:
            pack = self._opened(name, path)
        except (FileNotFoundError, NotADirectoryError):
            found.is_gone = True
            return found
        except OSError as error:
            found.fault = f"it cannot be opened: {error.strerror}"
            return found
        try:
            entries = pack.entries()
        except PackDamagedError as error:
            found.fault = error.what
        except OSError as error:
            found.fault = f"its index cannot be read: {error.strerror}"
        else:
            self._objects(pack, entries, found)
        return found

    def _opened(self, name: bytes, path: str) -> PackFile:
        return PackFile(path, name, OsFiles())

    def _objects(self, pack: PackFile, entries: list[PackEntry], found: PackRead) -> None:
        if self._buffer is None:
            self._buffer = memoryview(bytearray(BUFFER))
        buffer = self._buffer
        entries.sort(key=_OFFSET)
        bad: list[PackEntry] = []
        with suppress(OSError):
            os.posix_fadvise(pack.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        for run in _runs(entries):
            if self._stopped():
                found.is_whole = False
                return
            base, size = run[0].offset, run[-1].offset + run[-1].length - run[0].offset
            if self._take is not None:
                self._take(size)
            if size > len(buffer):
                buffer = self._buffer = memoryview(bytearray(size))
            try:
                pack.read_into(buffer[:size], base)
            except OSError:
                self._each(pack, run, found)
                continue
            for entry in run:
                sha256, offset, length = entry
                begin = offset - base
                if hash_of(buffer[begin : begin + length]).digest() != sha256:
                    bad.append(entry)
            found.looked += len(run)
            found.objects += len(run)
            found.size += size
        for entry in bad:
            self._bad(pack, entry, found)
            found.objects -= 1
            found.size -= entry.length

    def _each(self, pack: PackFile, run: Sequence[PackEntry], found: PackRead) -> None:
        """Read objects one by one that could not be read together: a disk loses sectors, not megabytes."""
        for entry in run:
            found.looked += 1
            try:
                is_sound = pack.is_sound(entry)
            except OSError as error:
                kind: FaultKind = "damaged" if error.errno == errno.EIO else "unreadable"
                why = "the disk reports an input/output error while" if kind == "damaged" else f"{error.strerror} when"
                found.bad.append((entry.sha256, kind, f"{why} it is read in the pack {pack.path}"))
                continue
            if is_sound:
                found.objects += 1
                found.size += entry.length
            else:
                self._bad(pack, entry, found)

    def _bad(self, pack: PackFile, entry: PackEntry, found: PackRead) -> None:
        where = f"in the pack {pack.path} at byte {entry.offset}"
        digest = hash_of(pack.read(entry.offset, entry.length)).hexdigest()
        found.bad.append((entry.sha256, "damaged", f"its bytes {where} have the SHA-256 {digest}"))


def _runs(entries: Sequence[PackEntry]) -> Iterator[Sequence[PackEntry]]:
    """Divide consecutive entries into runs of about a buffer; a larger object is a run of its own."""
    begin = size = 0
    for at, entry in enumerate(entries):
        if at > begin and size + entry.length > BUFFER:
            yield entries[begin:at]
            begin, size = at, 0
        size += entry.length
    if begin < len(entries):
        yield entries[begin:]
