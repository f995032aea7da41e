"""The audit of the copies: every object that events name is in the store, and is what its name says."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Literal

from ledger.errors import BrokenChainError
from ledger.rows import RELEASED, SOUND

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from kropot.objects.bulk.protocol import BulkReader, ExpectedObject, RangeRead
    from kropot.objects.store import Leftover
    from ledger.log import Ledger
    from ledger.rows import CopyRow, CopyState

_SHA256 = 32

ObjectState = Literal["damaged", "lost", "unreadable", "recovered", "orphan"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectReport:
    """An object that is worth a finding, and the `copies` that name it.

    "recovered" was recorded as damaged or lost and is sound now; "orphan" has no copies, and `size` bytes.
    """

    sha256: bytes
    state: ObjectState
    detail: str = ""
    size: int = 0
    copies: tuple[CopyRow, ...] = ()


class CopyAudit:
    """Tells a reader what to read, and reports what came of it.

    `objects` and `bytes` count the sound objects that were read (or, when none are, looked at), `bad` those that are
    not, and `looked` all that had to be there and were looked at.
    """

    def __init__(self, ledger: Ledger, reader: BulkReader) -> None:
        """Begin with nothing read."""
        self._ledger = ledger
        self._reader = reader
        self._known_bad: deque[bytes] = deque()
        self._conflicting: deque[bytes] = deque()
        self.objects = 0
        self.bytes = 0
        self.bad = 0
        self.looked = 0
        self.read_to: bytes | None = None

    def walk(self, start: bytes, end: bytes) -> Iterator[list[ObjectReport]]:
        """Yield, piece by piece, what is not as it should be with start <= SHA-256 <= end.

        Afterwards `read_to` is how far everything was read: `end` unless the reader was stopped, None for not at all.

        Raises:
            StorageError: if the store cannot be looked through.
            BrokenChainError: at a row of the index that cannot be a copy.
        """
        self.read_to = None
        self._known_bad.clear()
        self._conflicting.clear()
        for found in self._reader.read(start, end, self._expected):
            self.objects += found.objects
            self.bytes += found.size
            self.looked += found.looked
            self.read_to = found.read_to or self.read_to
            yield list(self._reports(found))

    def leftovers(self, *, read_all: bool) -> Iterator[Leftover]:
        """Yield every file that is not an object. Raises: StorageError."""
        return self._reader.leftovers(read_all=read_all)

    def close(self) -> None:
        """Stop reading."""
        self._reader.close()

    # --- what to read ------------------------------------------------------------------------------------------------

    def _expected(self, start: bytes, end: bytes) -> Iterable[ExpectedObject]:
        rows = list(self._ledger.projection.copies(start=start, end=end))
        if not rows:
            return ()
        hashes, _, sizes, seqs, states = zip(*rows, strict=True)
        if set(map(type, hashes)) != {bytes} or set(map(len, hashes)) != {_SHA256} or set(map(type, sizes)) != {int}:
            bad = next(seq for sha256, size, seq in zip(hashes, sizes, seqs, strict=True) if not _is_copy(sha256, size))
            raise BrokenChainError(bad, "the index has a copy there that can be none")
        if len(set(hashes)) == len(rows) == states.count(SOUND):
            return zip(hashes, sizes, strict=True)
        return self._grouped(rows)

    def _grouped(self, rows: list[CopyState]) -> Iterator[ExpectedObject]:
        """Yield each object once; remember what its copies say of it besides."""
        for sha256, group in groupby(rows, key=lambda row: row.sha256):
            copies = list(group)
            states = {row.state for row in copies}
            if states == {RELEASED}:
                yield sha256, None
                continue
            if SOUND not in states:
                self._known_bad.append(sha256)
            if len({row.size for row in copies}) > 1:
                self._conflicting.append(sha256)
                yield sha256, None
            else:
                yield sha256, copies[0].size

    # --- what came of it ---------------------------------------------------------------------------------------------

    def _reports(self, found: RangeRead) -> Iterator[ObjectReport]:
        bad = {sha256: (kind, detail) for sha256, kind, detail in found.bad}
        if found.read_to is not None:
            for sha256 in _up_to(found.read_to, self._conflicting):
                self.looked += 1
                bad[sha256] = ("damaged", "events name it with different sizes")
        self.bad += len(bad)
        for sha256, (kind, detail) in sorted(bad.items()):
            copies = tuple(self._ledger.copies(start=sha256, end=sha256))
            yield ObjectReport(sha256=sha256, state=kind, detail=detail, copies=copies)
        if found.read_to is not None:
            for sha256 in _up_to(found.read_to, self._known_bad):
                if sha256 not in bad:
                    copies = tuple(self._ledger.copies(start=sha256, end=sha256))
                    yield ObjectReport(sha256=sha256, state="recovered", copies=copies)
        for sha256, size in found.orphans:
            # Its event may have come after its range was read.
            if next(self._ledger.copies(start=sha256, end=sha256), None) is None:
                yield ObjectReport(sha256=sha256, state="orphan", size=size)


def _is_copy(sha256: object, size: object) -> bool:
    return type(sha256) is bytes and len(sha256) == _SHA256 and type(size) is int


def _up_to(last: bytes, waiting: deque[bytes]) -> Iterator[bytes]:
    while waiting and waiting[0] <= last:
        yield waiting.popleft()
