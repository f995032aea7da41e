"""Two tables in temporary files that the system can page out: the leaves of a tree, and the last event of each stream.

Only the first 16 bytes of a hash are kept, because nobody can find another event or stream with the same ones.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

MARK = 16
"""How many bytes of a hash to keep."""

_FREE = bytes(MARK)
_SEQ = 8
_SLOT = MARK + _SEQ
_FULL = 0.6
_SEEN = 1 << 63
_STORED = 1 << 62
_POSITION = _STORED - 1
_FIRST_SLOTS = 1 << 15
_FIRST_LEAVES = 1 << 16
"""Little for a file, and enough for most ledgers. Each growth fills another file, and freeing the old one is slow."""


class Leaves:
    """The leaf hashes of events, by their positions from 1."""

    def __init__(self) -> None:
        """Start empty. Raises: OSError (disk full)."""
        self._count = 0
        self._map = _room(_FIRST_LEAVES * MARK)

    def add(self, leaf: bytes) -> None:
        """Add the leaf of the next event. Raises: OSError (disk full)."""
        at = self._count * MARK
        if at == len(self._map):
            larger = _room(2 * at)
            larger[:at] = self._map[:]
            self._map.close()
            self._map = larger
        self._map[at : at + MARK] = leaf[:MARK]
        self._count += 1

    def has(self, position: int, leaf: bytes) -> bool:
        """Return whether this is the leaf of the event at this position."""
        at = (position - 1) * MARK
        return 1 <= position <= self._count and self._map[at : at + MARK] == leaf[:MARK]

    def close(self) -> None:
        """Give the file back."""
        self._map.close()


class LastEvents:
    """The position of the last event of each stream, by the stream's digest, and two marks: seen, and stored."""

    def __init__(self) -> None:
        """Start empty. Raises: OSError (disk full)."""
        self._count = 0
        self._slots = _FIRST_SLOTS
        self._map = _room(_FIRST_SLOTS * _SLOT)

    def put(self, digest: bytes, position: int, *, is_stored: bool | None = None) -> None:
        """Note a later event of a stream, and whether it stored a copy or released one. Raises: OSError (disk full)."""
        mark = digest[:MARK]
        at = self._find(mark)
        stored = self._value(at) & _STORED if is_stored is None else _STORED * is_stored
        if self._map[at : at + MARK] == _FREE:
            self._count += 1
            if self._count > self._slots * _FULL:
                self._grow()
                at = self._find(mark)
        self._map[at : at + _SLOT] = mark + (position | stored).to_bytes(_SEQ, "big")

    def get(self, digest: bytes) -> int | None:
        """Return the position of the last event of a stream, None if it has none."""
        found = self._value(self._find(digest[:MARK]))
        return found & _POSITION or None

    def see(self, digest: bytes) -> None:
        """Mark a stream as seen."""
        at = self._find(digest[:MARK])
        if self._map[at : at + MARK] != _FREE:
            self._map[at + MARK : at + _SLOT] = (self._value(at) | _SEEN).to_bytes(_SEQ, "big")

    def unseen(self) -> Iterator[tuple[bytes, int, bool]]:
        """Yield (mark, position of the last event, whether a copy was stored) of the unseen streams, in no order."""
        for at in range(0, self._slots * _SLOT, _SLOT):
            value = self._value(at)
            if value and not value & _SEEN:
                yield self._map[at : at + MARK], value & _POSITION, bool(value & _STORED)

    def close(self) -> None:
        """Give the file back."""
        self._map.close()

    def _value(self, at: int) -> int:
        return int.from_bytes(self._map[at + MARK : at + _SLOT], "big")

    def _find(self, mark: bytes) -> int:
        """Return the byte offset of the stream's slot, or of the free slot for it."""
        slot = int.from_bytes(mark[:8], "big") & (self._slots - 1)
        while True:
            at = slot * _SLOT
            if self._map[at : at + MARK] in (mark, _FREE):
                return at
            slot = (slot + 1) & (self._slots - 1)

    def _grow(self) -> None:
        before, slots = self._map, self._slots
        self._slots *= 2
        self._map = _room(self._slots * _SLOT)
        for at in range(0, slots * _SLOT, _SLOT):
            held = before[at : at + _SLOT]
            if held[:MARK] != _FREE:
                to = self._find(held[:MARK])
                self._map[to : to + _SLOT] = held
        before.close()


def _room(size: int) -> mmap.mmap:
    with tempfile.TemporaryFile(prefix="kropot-") as file:
        # Reserve the space now: with a sparse file, a full disk would kill the process with a signal later.
        os.posix_fallocate(file.fileno(), 0, size)
        return mmap.mmap(file.fileno(), size)
