"""A set of 16-byte fingerprints in a file that the system can page out. Memory stays flat for millions of them."""

from __future__ import annotations

import mmap
import os
import tempfile

FINGERPRINT = 16
_FREE = bytes(FINGERPRINT)
_FOR_ZEROS = bytes(FINGERPRINT - 1) + b"\x01"
_FULL = 0.6
_FIRST_SLOTS = 1 << 16
"""One megabyte: each growth fills another file, and freeing a file waits for the disk."""


class Fingerprints:
    """A hash table with open addressing in a temporary file. The first bytes of a fingerprint choose its slot."""

    def __init__(self, expected: int = 0) -> None:
        """Start empty, with room for `expected` fingerprints before the file must grow. Raises: OSError (disk full)."""
        slots = _FIRST_SLOTS
        while slots * _FULL < expected:
            slots *= 2
        self._count = 0
        self._slots = slots
        self._map = _table(slots)

    def __len__(self) -> int:
        """Return how many fingerprints are in the set."""
        return self._count

    def __contains__(self, fingerprint: object) -> bool:
        """Return whether the fingerprint is in the set."""
        if not isinstance(fingerprint, bytes):
            return False
        return self._find(self._map, self._slots, _stored(fingerprint))[1]

    def add(self, fingerprint: bytes) -> bool:
        """Add a fingerprint of 16 bytes; return whether it is new."""
        fingerprint = _stored(fingerprint)
        at, is_there = self._find(self._map, self._slots, fingerprint)
        if is_there:
            return False
        self._map[at : at + FINGERPRINT] = fingerprint
        self._count += 1
        if self._count > self._slots * _FULL:
            self._grow()
        return True

    def close(self) -> None:
        """Close the file. A second call does nothing."""
        self._map.close()

    def _grow(self) -> None:
        slots = self._slots * 2
        table = _table(slots)
        for start in range(0, self._slots * FINGERPRINT, FINGERPRINT):
            fingerprint = self._map[start : start + FINGERPRINT]
            if fingerprint != _FREE:
                at, _ = self._find(table, slots, fingerprint)
                table[at : at + FINGERPRINT] = fingerprint
        self._map.close()
        self._map, self._slots = table, slots

    @staticmethod
    def _find(table: mmap.mmap, slots: int, fingerprint: bytes) -> tuple[int, bool]:
        """Return the byte offset of the fingerprint (or of the free slot for it), and whether it is there."""
        slot = int.from_bytes(fingerprint[:8], "big") & (slots - 1)
        while True:
            at = slot * FINGERPRINT
            held = table[at : at + FINGERPRINT]
            if held == fingerprint:
                return at, True
            if held == _FREE:
                return at, False
            slot = (slot + 1) & (slots - 1)


def _stored(fingerprint: bytes) -> bytes:
    """Return the fingerprint as it is stored. Zeros mark a free slot, so an all-zero fingerprint is replaced."""
    if len(fingerprint) != FINGERPRINT:
        raise ValueError(f"a fingerprint must have {FINGERPRINT} bytes, but this one has {len(fingerprint)}")
    return _FOR_ZEROS if fingerprint == _FREE else fingerprint


def _table(slots: int) -> mmap.mmap:
    with tempfile.TemporaryFile(prefix="kropot-") as file:
        # Reserve the space now: with a sparse file, a full disk would kill the process with a signal later.
        os.posix_fallocate(file.fileno(), 0, slots * FINGERPRINT)
        return mmap.mmap(file.fileno(), slots * FINGERPRINT)
