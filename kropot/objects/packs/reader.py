"""Read one pack: its footer, an object's entry without reading the whole index, and the objects' bytes."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

from kropot.objects.packs.format import ENTRY, FOOTER, PackDamagedError, PackEntry, name_of, parse_footer, parse_index

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kropot.durable.filesystem import FileSystem
    from kropot.objects.packs.format import Footer

_FEW = 128
"""How many entries are read at once and searched; narrowing down further would cost more calls."""


_LAST = b"\xff" * 33
"""Greater than every SHA-256."""


class PackFile:
    """An open pack. `fault` says what is wrong with its footer, if anything; if so, it can only be read by range.

    Any number of threads may read it. It closes when the last reference to it goes, so never under a reader.
    """

    def __init__(self, path: str, name: bytes, files: FileSystem) -> None:
        """Open the file and read its footer. Raises: OSError."""
        self.name = name
        self.path = path
        self._fd = files.open_read(path)
        status = os.fstat(self._fd)
        self._learn(status.st_size, status.st_ino)

    def _learn(self, size: int, inode: int) -> None:
        """Read the footer. `inode` distinguishes this file from another one of the same name. Raises: OSError."""
        self.size, self.inode = size, inode
        self.fault: str | None = None
        self._footer: Footer | None = None
        self._index_sound: bool | None = None
        self._seam: tuple[bytes, int] | None = None
        try:
            self._footer = parse_footer(self.read(max(size - FOOTER.size, 0), FOOTER.size), size, self.name)
        except PackDamagedError as error:
            self.fault = error.what  # the error itself refers back to this pack, and would keep the file open

    def __del__(self) -> None:
        """Close the file."""
        if hasattr(self, "_fd"):
            os.close(self._fd)

    @property
    def footer(self) -> Footer:
        """What the footer says. Raises: PackDamagedError."""
        if self._footer is None:
            raise PackDamagedError(self.name, self.fault or "it has no footer")
        return self._footer

    def read(self, offset: int, length: int) -> bytes:
        """Return the bytes of a range, fewer if the file ends before it does. Raises: OSError."""
        length = max(min(length, self.size - offset), 0)
        data = os.pread(self._fd, length, offset) if length else b""
        while len(data) < length and (more := os.pread(self._fd, length - len(data), offset + len(data))):
            data += more
        return data

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill the buffer from a range; bytes past the end of the file become zeros. Raises: OSError."""
        done = 0
        while done < len(buffer):
            count = os.preadv(self._fd, (buffer[done:],), offset + done)
            if not count:
                buffer[done:] = bytes(len(buffer) - done)
                return
            done += count

    def fileno(self) -> int:
        """Return the file's descriptor, for advice to the system."""
        return self._fd

    def index_fault(self) -> str | None:
        """Return what is wrong with the footer, or with the index as a whole; None if both match the name.

        Raises: OSError.
        """
        if self._footer is None:
            return self.fault or "it has no footer"
        index = self.read(self._footer.data_end, self._footer.objects * ENTRY.size)
        return None if name_of(index) == self.name else "its index has another SHA-256 than its name"

    @property
    def is_index_sound(self) -> bool:
        """Whether footer and index match the name; they are read once. If they cannot be read, they are not sound."""
        if self._index_sound is None:
            try:
                self._index_sound = self.index_fault() is None
            except OSError:
                return False
        return self._index_sound

    def entries(self) -> list[PackEntry]:
        """Return every object, in the order of SHA-256, after checking the whole index.

        Raises: PackDamagedError, OSError.
        """
        footer = self.footer
        return parse_index(self.read(footer.data_end, footer.objects * ENTRY.size), footer, self.name)

    def find(self, sha256: bytes) -> PackEntry | None:
        """Return an object's entry, None if the index does not have it; only a few entries are read, and trusted.

        Raises: PackDamagedError, OSError.
        """
        low, high = self._narrow(sha256)
        return next((entry for entry in self._some(low, high) if entry.sha256 == sha256), None)

    def between(self, start: bytes, end: bytes | None) -> list[PackEntry]:
        """Return the entries with start <= SHA-256 < end; only these are read, and trusted.

        Raises: PackDamagedError, OSError.
        """
        low = self._narrow(start)[0]
        high = self.footer.objects if end is None else self._narrow(end)[1]
        return [
            entry for entry in self._some(low, high) if entry.sha256 >= start and (end is None or entry.sha256 < end)
        ]

    def ranges(self, start: bytes, end: bytes | None) -> list[tuple[bytes, bytes, int, int]]:
        """Return the entries with start <= SHA-256 < end as (SHA-256, pack, offset, length).

        Nothing is checked: `index_fault` MUST have been None. Raises: PackDamagedError, OSError.
        """
        low = self._narrow(start)[0] if self._seam is None or self._seam[0] != start else self._seam[1]
        below, high = (self.footer.objects,) * 2 if end is None else self._narrow(end)
        # A caller that walks through all ranges asks next for the one that begins here.
        self._seam = None if end is None else (end, below)
        raw, name = self.read(self.footer.data_end + low * ENTRY.size, (high - low) * ENTRY.size), self.name
        found = ENTRY.iter_unpack(raw[: len(raw) - len(raw) % ENTRY.size])
        last = _LAST if end is None else end
        return [(sha256, name, offset, length) for sha256, offset, length in found if start <= sha256 < last]

    def is_sound(self, entry: PackEntry) -> bool:
        """Read an object, and return whether its bytes have its SHA-256. Raises: OSError."""
        return hashlib.sha256(self.read(entry.offset, entry.length)).digest() == entry.sha256

    def _narrow(self, sha256: bytes) -> tuple[int, int]:
        """Return (from, below) of the entries that can be this object."""
        low, high = 0, self.footer.objects
        while high - low > _FEW:
            middle = (low + high) // 2
            low, high = (low, middle) if self._sha256(middle) > sha256 else (middle, high)
        return low, high

    def _sha256(self, number: int) -> bytes:
        return self.read(self.footer.data_end + number * ENTRY.size, 32)

    def _some(self, low: int, high: int) -> Iterator[PackEntry]:
        """Yield the entries from `low` to below `high`. Raises: PackDamagedError if one is outside of the objects."""
        raw = self.read(self.footer.data_end + low * ENTRY.size, (high - low) * ENTRY.size)
        end = self.footer.data_end
        for entry in map(PackEntry._make, ENTRY.iter_unpack(raw[: len(raw) - len(raw) % ENTRY.size])):
            if entry.offset + entry.length > end:
                raise PackDamagedError(self.name, "its index has a range outside of its objects")
            yield entry
