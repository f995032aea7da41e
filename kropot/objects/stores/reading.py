"""Reads files of another machine as if they were here: in pieces, further ahead the more a reader goes straight on."""

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
"""A reader that skips no more than this just reads on."""


class ReadAhead:
    """The part of a file that was read last. Whoever reads on from it gets twice as much at once, up to `most` bytes.

    One that jumps about gets exactly what it asks for.
    """

    __slots__ = ("_data", "_most", "_start")

    def __init__(self, most: int = PIECE) -> None:
        """Begin with nothing."""
        self._most = most
        self._start = 0
        self._data = b""

    @property
    def held(self) -> int:
        """How many bytes are in memory."""
        return len(self._data)

    def read(self, start: int, length: int, size: int, ask: Callable[[int, int], bytes]) -> bytes:
        """Return the bytes of a range of a file of `size` bytes; `ask(start, end)` reads what is not here."""
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
    """A file of another machine, to be read and searched; one thread."""

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
        """Say yes."""
        return True

    def seekable(self) -> bool:
        """Say yes."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a byte."""
        self._at = max({io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence] + offset, 0)
        return self._at

    def tell(self) -> int:
        """Return the next byte's number."""
        return self._at

    def close(self) -> None:
        """Drop what was kept of it."""
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
        """Read from a copy of the whole file: asking again for each piece would bring the whole file each time."""
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
