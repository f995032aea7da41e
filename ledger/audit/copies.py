"""The state of every copy, folded from the log. Memory use is limited; the rest goes to a temporary file."""

from __future__ import annotations

import struct
import tempfile
from typing import TYPE_CHECKING, BinaryIO

from ledger.rows import DAMAGED, LOST, RELEASED, SOUND, CopyState

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_ROW = struct.Struct(">32sQQQB")
_STATES = (SOUND, DAMAGED, LOST, RELEASED, SOUND)
"""0: a copy was stored. 4: a copy that was stored before is sound again."""
_SOUND_AGAIN = 4
_BUCKETS = 256
_MOST_NEVER_STORED = 1000


class FoldedCopies:
    """What the log says about copies, divided by the first byte of their SHA-256. Memory folds one part at a time.

    After `states`, `never_stored` has the first thousand copies that the log judged without having stored them.
    """

    def __init__(self, *, max_bytes: int = 4 << 20) -> None:
        """Hold at most `max_bytes` in memory, and the rest in a temporary file without a name."""
        self._buckets = [bytearray() for _ in range(_BUCKETS)]
        self._segments: list[list[tuple[int, int]]] = [[] for _ in range(_BUCKETS)]
        self._file: BinaryIO | None = None
        self._max_rows = max_bytes // _ROW.size
        self._rows = 0
        self._dropped: set[int] = set()
        self.never_stored: list[CopyState] = []

    def stored(self, sha256: bytes, stream: int, size: int, seq: int) -> None:
        """Note that a copy was stored at position `seq`."""
        self._add(sha256, stream, size, seq, 0)

    def stored_all(self, copies: Sequence[tuple[bytes, int, int, int]]) -> None:
        """Note many stored copies, as rows (SHA-256, stream, size, position)."""
        buckets, pack = self._buckets, _ROW.pack
        for sha256, stream, size, seq in copies:
            buckets[sha256[0]] += pack(sha256, stream, size, seq, 0)
        self._rows += len(copies)
        if self._rows > self._max_rows:
            self._flush()

    def changed(self, sha256: bytes, stream: int, seq: int, state: str) -> None:
        """Note that the event at position `seq` puts a copy into another `state`."""
        self._add(sha256, stream, 0, seq, _SOUND_AGAIN if state == SOUND else _STATES.index(state))

    def drop(self, stream: int) -> None:
        """Drop every copy of this stream. The log says nothing about the stream afterwards."""
        self._dropped.add(stream)

    def states(self) -> Iterator[CopyState]:
        """Yield the rows that remain, ordered by SHA-256 and stream. Afterwards `never_stored` is complete."""
        self.never_stored.clear()
        for number in range(_BUCKETS):
            rows: dict[tuple[bytes, int], CopyState] = {}
            for sha256, stream, size, seq, state in _ROW.iter_unpack(self._part(number)):
                key = (sha256, stream)
                if state == 0:
                    rows[key] = CopyState(sha256, stream, size, seq, SOUND)
                elif key in rows:
                    rows[key] = rows[key]._replace(state=_STATES[state])
                elif stream not in self._dropped and len(self.never_stored) < _MOST_NEVER_STORED:
                    self.never_stored.append(CopyState(sha256, stream, size, seq, _STATES[state]))
            for key in sorted(rows):
                if key[1] not in self._dropped:
                    yield rows[key]

    def _add(self, sha256: bytes, stream: int, size: int, seq: int, state: int) -> None:
        self._buckets[sha256[0]] += _ROW.pack(sha256, stream, size, seq, state)
        self._rows += 1
        if self._rows > self._max_rows:
            self._flush()

    def _flush(self) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 -- it lives as long as this object, and has no name
        at = self._file.seek(0, 2)
        for number, bucket in enumerate(self._buckets):
            if bucket:
                self._file.write(bucket)
                self._segments[number].append((at, len(bucket)))
                at += len(bucket)
                self._buckets[number] = bytearray()
        self._rows = 0

    def _part(self, number: int) -> bytes:
        parts = []
        for at, length in self._segments[number]:
            if self._file is not None:
                self._file.seek(at)
                parts.append(self._file.read(length))
        return b"".join([*parts, self._buckets[number]])
