"""Read files on another machine as if they were local: in pieces that grow while a reader reads sequentially."""

from __future__ import annotations

import io
import tempfile
from typing import TYPE_CHECKING, BinaryIO, cast

from kropot.durable.errors import storage_error
from kropot.objects.stores.files import PIECE

if TYPE_CHECKING:
    from collections.abc import Callable

    from kropot.objects.stores.files import RemoteFiles

_GAP = 1 << 20
"""A reader that skips no more bytes than this still reads sequentially."""


class ReadAhead:
    """The part of a file that was read last. A reader that continues from it gets twice as much, up to `most` bytes.

    A reader that jumps around gets exactly what it asks for.
    """

    __slots__ = ("_data", "_most", "_start")

    def __init__(self, most: int = PIECE) -> None:
        """Start with nothing."""
        self._most = most
        self._start = 0
        self._data = b""

    @property
    def held(self) -> int:
        """How many bytes are in memory."""
        return len(self._data)

    def read(self, start: int, length: int, size: int, ask: Callable[[int, int], bytes]) -> bytes:
        """Return the bytes of a range of a file of `size` bytes; `ask(start, end)` reads bytes that are not here."""
        end = min(start + length, size)
        if end <= start:
            return b""
        have = self._start + len(self._data)
        if self._start <= start and end <= have:
            return self._data[start - self._start : end - self._start]
        is_straight = bool(self._data) and have - len(self._data) <= start <= have + _GAP
        ahead = min(max(2 * len(self._data), PIECE // 32), self._most) if is_straight else 0
        self._data = ask(start, min(max(end, start + ahead), size))
        self._start = start
        return self._data[: end - start]


class RemoteReader(io.RawIOBase):
    """A file on another machine, which one thread can read and seek in."""

    def __init__(self, files: RemoteFiles, key: str, size: int) -> None:
        """Ask nothing yet; the file has `size` bytes."""
        super().__init__()
        self._files = files
        self._key = key
        self._size = size
        self._at = 0
        self._whole: BinaryIO | None = None
        self._window = ReadAhead()

    def readable(self) -> bool:
        """Return true."""
        return True

    def seekable(self) -> bool:
        """Return true."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a byte."""
        self._at = max({io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence] + offset, 0)
        return self._at

    def tell(self) -> int:
        """Return the next byte's number."""
        return self._at

    def close(self) -> None:
        """Drop the copy of the file, if there is one."""
        if self._whole is not None:
            self._whole.close()
        super().close()

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # any writable buffer
        """Fill the buffer as far as the file goes. Raises: StorageError."""
        if not self._files.can.ranges:
            return self._from_whole(buffer)
        data = self._window.read(
            self._at, len(buffer), self._size, lambda start, end: self._files.get(self._key, start, end)
        )
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def _from_whole(self, buffer: memoryview) -> int:
        """Read from a copy of the whole file, because every request for a piece would fetch the whole file."""
        try:
            if self._whole is None:
                self._whole = cast("BinaryIO", tempfile.SpooledTemporaryFile(PIECE))  # noqa: SIM115 -- `close` ends it
                self._files.fetch(self._key, self._whole)
            self._whole.seek(self._at)
            data = self._whole.read(len(buffer))
        except OSError as error:
            raise storage_error(error, f"keeping a file in {tempfile.gettempdir()} while it is read") from error
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
