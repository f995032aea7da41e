"""Bulk reading of a folder: a whole range at a time, in several processes if there is much to read."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from typing import TYPE_CHECKING

from kropot.durable.errors import storage_error
from kropot.objects.bulk.folder_ranges import RangeReader
from kropot.objects.bulk.processes import RangeWorkers
from kropot.objects.bulk.protocol import parts_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from kropot.objects.bulk.protocol import ExpectedIn, ExpectedObject, PackFlaw, RangeRead
    from kropot.objects.layout import Layout
    from kropot.objects.store import Leftover

    Task = tuple[bytes, bytes | None]

MANY_OBJECTS = 10_000
MANY_BYTES = 256 << 20
"""From this many objects or bytes on, starting processes pays off."""

_PART_OBJECTS = 2_500
_PART_BYTES = 256 << 20
_PART_A_PACK = 64
"""Each part looks into the index of every pack, which costs as much as reading some objects. But there is about one
part per pack, because what was read counts only when its part is done."""
_PARTS_AN_OBJECT = 8
"""With more parts than this for each object, nearly all parts would be empty, however large the objects are."""
_MOST_PARTS = 1 << 16
_MOST_STRAYS = 10_000
"""At most this many are held in memory; if there are more, the folders are searched again."""


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
        packs: Sequence[bytes] = (),
        take: Callable[[int], None] | None = None,
    ) -> None:
        """Start processes if there are `many_objects` or more; a part has about `part_objects`.

        `packs` are the names of all packs, in order. With `take`, which is called with the number of bytes read, no
        processes are used.
        """
        self._stopped = stopped
        self._packs = packs
        part_objects = max(part_objects, _PART_A_PACK * len(packs))
        parts = max(objects // part_objects, min(size // _PART_BYTES, _PARTS_AN_OBJECT * objects), len(packs), 1)
        self._parts = min(1 << (parts - 1).bit_length(), _MOST_PARTS)
        is_much = take is None and (objects >= many_objects or size >= MANY_BYTES)
        self._workers = RangeWorkers(layout.root) if is_much else None
        self._layout = layout
        self._reader = RangeReader(layout, stopped, take=take)
        self._strays: list[str] = []
        self._most_strays = most_strays

    def read(self, start: bytes, end: bytes, expected: ExpectedIn) -> Iterator[RangeRead]:
        """Read part by part: the packs whose names are in it, then the files."""
        tasks = self._tasks(start, end)
        if self._workers is None:
            reads = self._inline(tasks, expected)
        else:
            reads = self._in_processes(self._workers, tasks, expected)
        for last, found in reads:
            self._strays += found.strays[: self._most_strays - len(self._strays)]
            yield found
            if found.read_to != last or (found.pack is not None and not found.pack.is_whole):
                break

    def flaws(self) -> Iterator[PackFlaw]:
        """Yield nothing, because `PackedFolderReader` handles packs."""
        return iter(())

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

    def _tasks(self, start: bytes, end: bytes) -> Iterator[Task]:
        """Yield every pack, as its name and None, and every part, as its two ends."""
        for low, high in parts_of(start, end, self._parts):
            for name in self._packs[bisect_left(self._packs, low) : bisect_right(self._packs, high)]:
                yield name, None
            yield low, high

    def _inline(self, tasks: Iterator[Task], expected: ExpectedIn) -> Iterator[tuple[bytes | None, RangeRead]]:
        for start, end in tasks:
            if self._stopped():
                return
            try:
                if end is None:
                    yield end, self._reader.read_pack(start)
                else:
                    yield end, self._reader.read(start, end, list(expected(start, end)))
            except OSError as error:
                raise storage_error(error, "looking through the storage") from error

    def _in_processes(
        self, workers: RangeWorkers, tasks: Iterator[Task], expected: ExpectedIn
    ) -> Iterator[tuple[bytes | None, RangeRead]]:
        """Yield each task's end and its result, in order; ask for the next part's rows while others work."""
        ready: deque[tuple[Task, list[ExpectedObject]]] = deque()
        under_way: deque[bytes | None] = deque()
        try:
            while True:
                while ready and workers.is_free:
                    (start, end), rows = ready.popleft()
                    if end is None:
                        workers.submit_pack(start)
                    else:
                        workers.submit(start, end, rows)
                    under_way.append(end)
                if self._stopped():
                    workers.stop()
                elif (not ready or workers.is_free) and (task := next(tasks, None)) is not None:
                    start, end = task
                    ready.append((task, [] if end is None else list(expected(start, end))))
                    continue
                if not under_way:
                    return
                found = workers.result()
                if found is not None:
                    yield under_way.popleft(), found
        finally:
            while workers.waiting:  # another run reads the parts that were started after an interrupted one
                workers.stop()
                workers.result()
