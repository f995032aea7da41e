"""What all snapshots have in common: a kind, a position, and a checksum over each chunk."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ledger.log import Ledger

MARKS = "marks"
MARKS_EVERY = 10_000
"""The number of events between two marks. Moving a state by half of that takes a tenth of a second."""

_SUM_BYTES = 32
_NUMBER_BYTES = 8


def kept(ledger: Ledger, kind: str, limit: int) -> list[int]:
    """Return the positions of the snapshots of one kind up to `limit`, the newest first."""
    if limit == 0:
        return []
    return sorted((at for each, at in ledger.blobs.list_snapshots() if each == kind and 0 < at <= limit), reverse=True)


def next_due(ledger: Ledger, kind: str = MARKS, every: int = MARKS_EVERY) -> int:
    """Return the position at which the next snapshot of a kind is due."""
    newest = max(kept(ledger, kind, ledger.log.head().position), default=0)
    return (newest // every + 1) * every


class Checksums:
    """Checksums over a chunk, its number, and its snapshot's kind, position and Merkle root."""

    def __init__(self, ledger: Ledger, kind: str, position: int) -> None:
        """Start for the snapshot of this kind and position, in this history."""
        root = ledger.frontier_at(position).root
        place = kind.encode() + b"\x00" + position.to_bytes(_NUMBER_BYTES, "big")
        self._label = b"kropot snapshot 1\x00" + place + root

    def sign(self, number: int, body: bytes) -> bytes:
        """Return the checksum followed by the body."""
        return hashlib.sha256(self._label + number.to_bytes(_NUMBER_BYTES, "big") + body).digest() + body

    def check(self, number: int, chunk: object) -> bytes | None:
        """Return the body, None if the checksum does not fit this chunk, snapshot and history."""
        if not isinstance(chunk, bytes):  # a column of a tampered database can hold anything
            return None
        body = chunk[_SUM_BYTES:]
        return body if chunk == self.sign(number, body) else None
