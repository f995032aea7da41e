"""Bulk reading from any object store: expected and stored names are merged, and objects read in blocks by threads."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from kropot.objects.bulk.protocol import HasPacks, RangeRead, behind_range, parts_of
from kropot.objects.bulk.reading import ReadRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kropot.objects.bulk.protocol import ExpectedIn, PackFlaw
    from kropot.objects.bulk.reading import Reading
    from kropot.objects.store import Leftover, ObjectStore

BLOCK_OBJECTS = 256
BLOCK_BYTES = 16 << 20
MAX_WAITING = 8
_PARTS = 256
"""The expected objects are asked for in this many parts, so that memory holds only one part."""


class _Name(NamedTuple):
    """An object that is expected (`size` None: not to be read) or in the store (`stored` bytes, None: not there)."""

    sha256: bytes
    size: int | None
    stored: int | None
    is_expected: bool


@dataclass(slots=True, kw_only=True)
class _Block:
    """The results that need no reading, the objects that must be read, and their total size."""

    found: RangeRead = field(default_factory=RangeRead)
    requests: list[ReadRequest] = field(default_factory=list)
    size: int = 0


class StoreReader:
    """Reads through `ObjectStore` alone; `reading` is None when only names and sizes are compared."""

    def __init__(
        self,
        objects: ObjectStore,
        reading: Reading | None,
        *,
        stopped: Callable[[], bool],
        block_bytes: int = BLOCK_BYTES,
    ) -> None:
        """Start with nothing read; blocks of about `block_bytes` are read to their end even after a stop."""
        self._store = objects
        self._reading = reading
        self._stopped = stopped
        self._block_bytes = block_bytes
        self._blocks: deque[_Block] = deque()
        self._is_whole = True

    def read(self, start: bytes, end: bytes, expected: ExpectedIn) -> Iterator[RangeRead]:
        """Read block by block; nothing after an interrupted block counts as read."""
        block, self._is_whole, is_stopped = _Block(), True, False
        for name in self._merged(start, end, expected):
            if self._stopped():
                is_stopped = True
                break
            self._compare(block, name)
            if len(block.requests) >= BLOCK_OBJECTS or block.size >= self._block_bytes:
                self._submit(block, name.sha256)
                block = _Block()
                while len(self._blocks) > MAX_WAITING:
                    yield self._take()
        if not is_stopped:
            self._submit(block, end)
        while self._blocks:
            yield self._take()
        if is_stopped:
            yield block.found

    def flaws(self) -> Iterator[PackFlaw]:
        """Yield the flaws that the packs' indexes show, if the store has packs."""
        return self._store.pack_accounts().flaws() if isinstance(self._store, HasPacks) else iter(())

    def leftovers(self, *, read_all: bool) -> Iterator[Leftover]:  # noqa: ARG002 -- only a folder sees them as it reads
        """Yield the leftovers that the store finds."""
        return self._store.leftovers()

    def close(self) -> None:
        """Stop reading."""
        if self._reading is not None:
            self._reading.close()

    # --- helpers -----------------------------------------------------------------------------------------------------

    def _merged(self, start: bytes, end: bytes, expected: ExpectedIn) -> Iterator[_Name]:
        """Yield every object that is expected or there, in order."""
        should = (each for part in parts_of(start, end, _PARTS) for each in expected(*part))
        behind = behind_range(end)
        there = self._store.walk(start, behind)
        left, right = next(should, None), next(there, None)
        while left is not None or right is not None:
            if right is None or (left is not None and left[0] < right[0]):
                if left is not None:
                    yield _Name(*left, None, is_expected=True)
                left = next(should, None)
            elif left is None or right[0] < left[0]:
                yield _Name(right[0], None, right[1], is_expected=False)
                right = next(there, None)
            else:
                yield _Name(*left, right[1], is_expected=True)
                left, right = next(should, None), next(there, None)

    def _compare(self, block: _Block, name: _Name) -> None:
        """Decide what can be decided without reading; what must be read goes into the block's requests."""
        sha256, size, stored, is_expected = name
        found = block.found
        if not is_expected:
            found.orphans.append((sha256, stored or 0))
        elif size is not None:
            found.looked += 1
            if stored is None:
                # It might have arrived, or moved from a file into a pack, since its part was listed.
                stored = self._store.size(sha256)
            if stored is None:
                found.bad.append((sha256, "lost", "the object is gone"))
            elif stored != size:
                found.bad.append((sha256, "damaged", f"it has {stored} bytes, but {size} were stored"))
            elif self._reading is None:
                found.objects += 1
                found.size += size
            else:
                block.requests.append(ReadRequest(sha256, size))
                block.size += size

    def _submit(self, block: _Block, last: bytes) -> None:
        block.found.read_to = last
        if self._reading is not None and block.requests:
            self._reading.submit(block.requests)
        self._blocks.append(block)

    def _take(self) -> RangeRead:
        """Return the result of the oldest block."""
        block = self._blocks.popleft()
        found = block.found
        if self._reading is not None and block.requests:
            bad = self._reading.result()
            if bad is None:
                self._is_whole = False
            else:
                wrong = {sha256 for sha256, _, _ in bad}
                found.bad = sorted([*found.bad, *bad])
                found.objects += len(block.requests) - len(bad)
                found.size += sum(request.size for request in block.requests if request.sha256 not in wrong)
        if not self._is_whole:  # a block can be complete although an earlier one was interrupted
            found.read_to = None
        return found
