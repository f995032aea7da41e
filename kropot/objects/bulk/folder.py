"""What a folder offers for reading in bulk: whole ranges at a time, in several processes where there is much."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from kropot.durable.errors import storage_error
from kropot.objects.bulk.folder_ranges import RangeReader
from kropot.objects.bulk.processes import RangeWorkers
from kropot.objects.bulk.protocol import parts_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kropot.objects.bulk.protocol import ExpectedIn, ExpectedObject, RangeRead
    from kropot.objects.layout import Layout
    from kropot.objects.store import Leftover

    Part = tuple[bytes, bytes]

MANY_OBJECTS = 10_000
MANY_BYTES = 256 << 20
"""From this many objects, or bytes, on it pays to start processes."""

_PART_OBJECTS = 2_500
_PART_BYTES = 256 << 20
_PARTS_AN_OBJECT = 8
"""With more parts than this for each object, nearly all parts would be empty, however large the objects are."""
_MOST_PARTS = 1 << 16
_MOST_STRAYS = 10_000
"""At most this many are held in memory; where there are more, they are looked for again."""


class FolderReader:
    """Reads ranges of a folder's objects, below the layout's root, which is an absolute path."""

    def __init__(
        self,
        layout: Layout,
        *,
        objects: int,
        size: int,
        stopped: Callable[[], bool],
        many_objects: int = MANY_OBJECTS,
        part_objects: int = _PART_OBJECTS,
        most_strays: int = _MOST_STRAYS,
    ) -> None:
        """Start processes if there are `many_objects` or more; a part has about `part_objects`."""
        self._stopped = stopped
        parts = max(objects // part_objects, min(size // _PART_BYTES, _PARTS_AN_OBJECT * objects), 1)
        self._parts = min(1 << (parts - 1).bit_length(), _MOST_PARTS)
        self._workers = RangeWorkers(layout.root) if objects >= many_objects or size >= MANY_BYTES else None
        self._layout = layout
        self._reader = RangeReader(layout, stopped)
        self._strays: list[str] = []
        self._most_strays = most_strays

    def read(self, start: bytes, end: bytes, expected: ExpectedIn) -> Iterator[RangeRead]:
        """Read part by part."""
        parts = parts_of(start, end, self._parts)
        if self._workers is None:
            reads = self._inline(parts, expected)
        else:
            reads = self._in_processes(self._workers, parts, expected)
        for last, found in reads:
            self._strays += found.strays[: self._most_strays - len(self._strays)]
            yield found
            if found.read_to != last:
                break

    def leftovers(self, *, read_all: bool) -> Iterator[Leftover]:
        """Yield every file that is not an object; if everything was read, folders of objects are not listed again."""
        known = read_all and len(self._strays) < self._most_strays
        yield from self._layout.leftovers(among=not known)
        yield from (self._layout.leftover("stray", path, None) for path in self._strays if known)

    def close(self) -> None:
        """End the processes."""
        if self._workers is not None:
            self._workers.close()

    # --- helpers -----------------------------------------------------------------------------------------------------

    def _inline(self, parts: Iterator[Part], expected: ExpectedIn) -> Iterator[tuple[bytes, RangeRead]]:
        for part in parts:
            if self._stopped():
                return
            try:
                yield part[1], self._reader.read(*part, list(expected(*part)))
            except OSError as error:
                raise storage_error(error, "looking through the storage") from error

    def _in_processes(
        self, workers: RangeWorkers, parts: Iterator[Part], expected: ExpectedIn
    ) -> Iterator[tuple[bytes, RangeRead]]:
        """Yield each part's end and what came of it, in order; ask for the next part's rows while others work."""
        ready: deque[tuple[Part, list[ExpectedObject]]] = deque()
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
                    ready.append((part_, list(expected(*part_))))
                    continue
                if not under_way:
                    return
                found = workers.result()
                if found is not None:
                    yield under_way.popleft(), found
        finally:
            while workers.waiting:  # another run reads what was begun after a part that was broken off
                workers.stop()
                workers.result()
