"""Pointers: the position of each stream's last event, in a file that the system can page out."""

from __future__ import annotations

import mmap
import os
import tempfile
from typing import TYPE_CHECKING, Self

from ledger.errors import DamagedRowError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SLOT = 8
_PAGE = 1 << 13


class Pointers:
    """An array with eight bytes for each stream number; 0 means no event.

    It is in a temporary file whose space is reserved at once. Ten million streams take 80 MB of disk cache, and no
    memory of this process.
    """

    def __init__(self, streams: int) -> None:
        """Make room for streams numbered up to `streams`. Raises: OSError if the temporary folder is full."""
        self._size = streams + 1
        with tempfile.TemporaryFile(prefix="kropot-") as file:
            # Reserve the space now: with a sparse file, a full disk would kill the process with a signal later.
            os.posix_fallocate(file.fileno(), 0, self._size * SLOT)
            self._map = mmap.mmap(file.fileno(), self._size * SLOT)
        self._slots = memoryview(self._map).cast("Q")

    def __enter__(self) -> Self:
        """Return the array itself. The end of the block closes the file."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self.close()

    def __len__(self) -> int:
        """Return the number of slots: the highest stream number plus one."""
        return self._size

    def __getitem__(self, stream: int) -> int:
        """Return the stream's last position, 0 if the stream has no event or no slot."""
        return self._slots[stream] if stream < self._size else 0

    def fill(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Store (position, stream) pairs, which must come in the order of positions.

        Raises: DamagedRowError for a stream that there is no room for, because none should have this number.
        """
        slots = self._slots
        position = stream = 0
        try:
            for position, stream in pairs:
                slots[stream] = position
        except IndexError:
            why = f"the head counts {self._size - 1} streams, and event {position} belongs to stream {stream}"
            raise DamagedRowError(why) from None

    def clear(self) -> None:
        """Forget every position."""
        for start in range(0, self._size, _PAGE):
            stop = min(start + _PAGE, self._size)
            self._slots[start:stop] = memoryview(bytes((stop - start) * SLOT)).cast("Q")

    def chunk(self, start: int, stop: int) -> bytes:
        """Return the slots from `start` up to but not including `stop`: eight bytes each, least significant first."""
        return self._map[start * SLOT : min(stop, self._size) * SLOT]

    def put(self, start: int, data: bytes) -> None:
        """Write slots that `chunk` returned, from `start` on. Slots beyond the end are dropped."""
        room = max(0, (self._size - start) * SLOT)
        self._map[start * SLOT : start * SLOT + min(len(data), room)] = data[:room]

    def known(self) -> Iterator[tuple[int, int]]:
        """Yield (stream, position) for every stream that has an event, in the order of stream numbers."""
        for start in range(0, self._size, _PAGE):
            data = self.chunk(start, start + _PAGE)
            if data.count(0) == len(data):
                continue
            for stream, position in enumerate(memoryview(data).cast("Q"), start):
                if position:
                    yield stream, position

    def close(self) -> None:
        """Close the file. A second call does nothing."""
        self._slots.release()
        self._map.close()
