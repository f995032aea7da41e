"""Audit the copies: the storage must hold every object that events name, with the content that its name says."""

from __future__ import annotations

from collections import deque
from itertools import groupby
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from ledger.errors import BrokenChainError
from ledger.rows import DAMAGED, LOST, RELEASED, SOUND

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from kropot.objects.bulk.protocol import BulkReader, ExpectedObject, PackFlaw, RangeRead
    from kropot.objects.store import Leftover
    from ledger.log import Ledger
    from ledger.rows import CopyRow, CopyState

_SHA256 = 32

ObjectState = Literal["damaged", "lost", "unreadable", "recovered", "not_read", "orphan"]
BAD = frozenset({DAMAGED, LOST})


class ObjectReport(Struct, frozen=True, kw_only=True):
    """An object that needs a finding, and the `copies` that name it.

    "recovered" means that it was recorded as damaged or lost and is sound now. "not_read" means that it was recorded
    as such, and its content was not read. "orphan" means that no copy names it; only then is `size` (bytes) set. `pack`
    (32 bytes) is the pack in which it is damaged, None if it was not seen there.
    """

    sha256: bytes
    state: ObjectState
    detail: str = ""
    size: int = 0
    pack: bytes | None = None
    copies: tuple[CopyRow, ...] = ()


class CopyAudit:
    """Tells a reader which objects to read, and reports the results.

    `objects` and `bytes` count the sound objects that were read, or only looked at if the reader reads no contents.
    `bad` counts the other objects. `looked` counts all expected objects that were checked.
    """

    def __init__(self, ledger: Ledger, reader: BulkReader) -> None:
        """Start with nothing read."""
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
        """Yield lists of objects that need a finding, for start <= SHA-256 <= end.

        Afterwards `read_to` is the last SHA-256 up to which everything was read. It is `end` unless the reader was
        stopped, and None if nothing was read.

        Raises:
            StorageError: if the storage cannot be listed.
            BrokenChainError: at a row of the projection that cannot be a copy.
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

    def known_bad(self, start: bytes, end: bytes) -> Iterator[ObjectReport]:
        """Yield the objects in a range that were recorded as damaged or lost. This reads none of them."""
        last = None
        for row in self._ledger.projection.copies(start=start, end=end):
            if row.state in BAD and row.sha256 != last:
                last = row.sha256
                copies = tuple(self._ledger.copies(start=last, end=last))
                yield ObjectReport(sha256=last, state="not_read", copies=copies)

    def flaws(self) -> Iterator[PackFlaw]:
        """Yield what is wrong with packs. Raises: StorageError."""
        return self._reader.flaws()

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
            raise BrokenChainError(bad, "the projection has an impossible copy there")
        if len(set(hashes)) == len(rows) == states.count(SOUND):
            return zip(hashes, sizes, strict=True)
        return self._grouped(rows)

    def _grouped(self, rows: list[CopyState]) -> Iterator[ExpectedObject]:
        """Yield each object once. Remember the objects that are known to be bad or that have different sizes."""
        for sha256, group in groupby(rows, key=lambda row: row.sha256):
            copies = list(group)
            states = {row.state for row in copies}
            if states == {RELEASED}:
                yield sha256, None
                continue
            if not states.isdisjoint(BAD):
                self._known_bad.append(sha256)
            if len({row.size for row in copies}) > 1:
                self._conflicting.append(sha256)
                yield sha256, None
            else:
                yield sha256, copies[0].size

    # --- results -----------------------------------------------------------------------------------------------------

    def _reports(self, found: RangeRead) -> Iterator[ObjectReport]:
        bad = {sha256: (kind, detail) for sha256, kind, detail in found.bad}
        if found.read_to is not None:
            for sha256 in _up_to(found.read_to, self._conflicting):
                self.looked += 1
                bad[sha256] = ("damaged", "events name it with different sizes")
        for sha256, (kind, detail) in sorted(bad.items()):
            copies = tuple(self._ledger.copies(start=sha256, end=sha256))
            if found.pack is not None and not any(copy.state == SOUND for copy in copies):
                continue  # known damage is reported in its own range, and an unnamed object is no loss
            self.bad += 1
            pack = None if found.pack is None else found.pack.name
            yield ObjectReport(sha256=sha256, state=kind, detail=detail, pack=pack, copies=copies)
        if found.read_to is not None:
            for sha256 in _up_to(found.read_to, self._known_bad):
                if sha256 not in bad:
                    copies = tuple(self._ledger.copies(start=sha256, end=sha256))
                    yield ObjectReport(sha256=sha256, state="recovered", copies=copies)
        for sha256, size in found.orphans:
            # Its event may have been appended after its range was read.
            if next(self._ledger.copies(start=sha256, end=sha256), None) is None:
                yield ObjectReport(sha256=sha256, state="orphan", size=size)


def _is_copy(sha256: object, size: object) -> bool:
    return type(sha256) is bytes and len(sha256) == _SHA256 and type(size) is int


def _up_to(last: bytes, waiting: deque[bytes]) -> Iterator[bytes]:
    while waiting and waiting[0] <= last:
        yield waiting.popleft()
