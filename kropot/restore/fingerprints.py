"""A set of 16-byte fingerprints in a file that the system may page out: membership for millions in flat memory."""

from __future__ import annotations

import mmap
import os
import tempfile

FINGERPRINT = 16
_NONE = bytes(FINGERPRINT)
_INSTEAD = bytes(FINGERPRINT - 1) + b"\x01"
_FULL = 0.6


class Fingerprints:
    """Open addressing over a temporary file; fingerprints are already hashes, so their first bytes say where."""

    def __init__(self, expected: int = 0) -> None:
        """Begin empty, with room for `expected` fingerprints before the file must grow. Raises: OSError (no room)."""
        slots = 1024
        while slots * _FULL < expected:
            slots *= 2
        self._count = 0
        self._slots = slots
        self._map = _table(slots)

    def __len__(self) -> int:
        """Return how many fingerprints were taken in."""
        return self._count

    def __contains__(self, fingerprint: object) -> bool:
        """Return whether the fingerprint was taken in."""
        if not isinstance(fingerprint, bytes):
            return False
        return self._find(self._map, self._slots, _sane(fingerprint))[1]

    def add(self, fingerprint: bytes) -> bool:
        """Take a fingerprint of 16 bytes in; return whether it is new."""
        fingerprint = _sane(fingerprint)
        at, is_there = self._find(self._map, self._slots, fingerprint)
        if is_there:
            return False
        self._map[at : at + FINGERPRINT] = fingerprint
        self._count += 1
        if self._count > self._slots * _FULL:
            self._grow()
        return True

    def close(self) -> None:
        """Let go of the file; doing so twice is fine."""
        self._map.close()

    def _grow(self) -> None:
        slots = self._slots * 2
        table = _table(slots)
        for start in range(0, self._slots * FINGERPRINT, FINGERPRINT):
            fingerprint = self._map[start : start + FINGERPRINT]
            if fingerprint != _NONE:
                at, _ = self._find(table, slots, fingerprint)
                table[at : at + FINGERPRINT] = fingerprint
        self._map.close()
        self._map, self._slots = table, slots

    @staticmethod
    def _find(table: mmap.mmap, slots: int, fingerprint: bytes) -> tuple[int, bool]:
        """Return where the fingerprint is, or the free slot where it belongs, and whether it is there."""
        slot = int.from_bytes(fingerprint[:8], "big") & (slots - 1)
        while True:
            at = slot * FINGERPRINT
            held = table[at : at + FINGERPRINT]
            if held == fingerprint:
                return at, True
            if held == _NONE:
                return at, False
            slot = (slot + 1) & (slots - 1)


def _sane(fingerprint: bytes) -> bytes:
    """Return the fingerprint, another one for that of zeros, which marks a free slot."""
    if len(fingerprint) != FINGERPRINT:
        raise ValueError(f"a fingerprint has {FINGERPRINT} bytes, this one has {len(fingerprint)}")
    return _INSTEAD if fingerprint == _NONE else fingerprint


def _table(slots: int) -> mmap.mmap:
    with tempfile.TemporaryFile(prefix="kropot-") as file:
        # A sparse file would end the process by a signal where the disk fills up later.
        os.posix_fallocate(file.fileno(), 0, slots * FINGERPRINT)
        return mmap.mmap(file.fileno(), slots * FINGERPRINT)
