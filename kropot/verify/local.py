"""The audit of copies in a local folder: the same findings as `CopyAudit`, by way of whole ranges, in processes."""

from __future__ import annotations

import os
from collections import deque
from typing import TYPE_CHECKING

from kropot.objects.layout import Layout
from kropot.objects.store import storage_error
from kropot.verify.copies import BadCopy, Orphan, ReadProgress, Recovered
from kropot.verify.inventory import named_objects
from kropot.verify.ranges import RangeReader, parts_of
from kropot.verify.reading import Fault
from kropot.verify.workers import RangeWorkers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kropot.objects.store import Leftover
    from kropot.verify.copies import Outcome
    from kropot.verify.ranges import RangeRead, Row
    from ledger.log import Ledger

    Part = tuple[bytes, bytes]

MANY_OBJECTS = 10_000
MANY_BYTES = 256 << 20
"""From so many objects, or bytes, on it pays to start processes."""

_PART_OBJECTS = 2_500
_PART_BYTES = 256 << 20
_MOST_PARTS = 1 << 16
_MOST_STRAYS = 10_000
"""So many are held in memory; where there are more, they are looked for again."""


class LocalAudit:
    """Walks ranges of a local store in order; attributes and `walk` as of `CopyAudit`."""

    def __init__(self, ledger: Ledger, storage: str, *, stopped: Callable[[], bool]) -> None:
        """Count what there is to read, and start processes if it is much."""
        self._ledger = ledger
        self._stopped = stopped
        tallies = ledger.tallies()
        count, size = sum(each.elements for each in tallies), sum(each.bytes for each in tallies)
        wanted = max(count // _PART_OBJECTS, size // _PART_BYTES, 1)
        self._parts = min(1 << (wanted - 1).bit_length(), _MOST_PARTS)
        root = os.path.abspath(storage)  # noqa: PTH100 -- the layout's paths are strings
        self._workers = RangeWorkers(root) if count >= MANY_OBJECTS or size >= MANY_BYTES else None
        self._layout = Layout(root)
        self._reader = RangeReader(self._layout, stopped)
        self._strays: list[str] = []
        self.objects = 0
        self.bytes = 0
        self.bad = 0
        self.looked = 0
        self.read_to: bytes | None = None

    def walk(self, start: bytes, end: bytes) -> Iterator[Outcome]:
        """Yield what is not as it should be with start <= SHA-256 <= end; afterwards `read_to` says how far it came.

        Raises:
            StorageError: if the store cannot be looked through.
        """
        self.read_to = None
        parts = parts_of(start, end, self._parts)
        reads = self._inline(parts) if self._workers is None else self._in_processes(self._workers, parts)
        for last, read in reads:
            yield from self._outcomes(read)
            self.read_to = read.read_to or self.read_to
            yield ReadProgress()
            if read.read_to != last:
                break

    def leftovers(self) -> Iterator[Leftover]:
        """Yield all that is no object, if everything was walked: folders that were listed are not listed again.

        Raises:
            StorageError: if the store cannot be looked through.
        """
        known = len(self._strays) < _MOST_STRAYS
        yield from self._layout.leftovers(among=not known)
        yield from (self._layout.leftover("stray", path, None) for path in self._strays if known)

    def close(self) -> None:
        """End the processes."""
        if self._workers is not None:
            self._workers.close()

    # --- helpers ---

    def _rows(self, part: Part) -> Iterator[Row]:
        return map(tuple, self._ledger.projection.copies(start=part[0], end=part[1]))  # type: ignore[arg-type]

    def _inline(self, parts: Iterator[Part]) -> Iterator[tuple[bytes, RangeRead]]:
        for part in parts:
            if self._stopped():
                return
            try:
                yield part[1], self._reader.read(*part, self._rows(part))
            except OSError as error:
                raise storage_error(error, "looking through the storage") from error

    def _in_processes(self, workers: RangeWorkers, parts: Iterator[Part]) -> Iterator[tuple[bytes, RangeRead]]:
        """Yield each part's end and what came of it, in order; the next part's rows are read while others work."""
        ready: deque[tuple[Part, list[Row]]] = deque()
        under_way: deque[bytes] = deque()
        try:
            while True:
                while ready and workers.is_free:
                    part, rows = ready.popleft()
                    workers.submit(*part, rows)
                    under_way.append(part[1])
                if self._stopped():
                    workers.stop()
                elif (not ready or workers.is_free) and (part_ := next(parts, None)) is not None:
                    ready.append((part_, list(self._rows(part_))))
                    continue
                if not under_way:
                    return
                read = workers.result()
                if read is not None:
                    yield under_way.popleft(), read
        finally:
            while workers.waiting:  # what was begun behind a part that was broken off is read again another time
                workers.stop()
                workers.result()

    def _outcomes(self, read: RangeRead) -> Iterator[Outcome]:
        self.objects += read.objects
        self.bytes += read.size
        self.looked += read.looked
        self._strays += read.strays[: _MOST_STRAYS - len(self._strays)]
        for sha256, kind, detail in read.bad:
            self.bad += 1
            for named in named_objects(self._ledger, sha256, sha256):
                yield BadCopy(named=named, fault=Fault(sha256=sha256, kind=kind, detail=detail))
        for sha256 in read.recovered:
            for named in named_objects(self._ledger, sha256, sha256):
                yield Recovered(named=named)
        for sha256, size in read.orphans:
            # Its event may have come after its range was read.
            if next(self._ledger.copies(start=sha256, end=sha256), None) is None:
                yield Orphan(sha256=sha256, size=size)
