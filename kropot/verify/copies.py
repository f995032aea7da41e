"""The audit of the copies: every object that an event names is there, has its size and, when read, its SHA-256."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kropot.verify.inventory import Named, placed_objects
from kropot.verify.reading import Fault, ReadRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kropot.objects.store import ObjectStore
    from kropot.verify.inventory import Placed
    from kropot.verify.reading import Reading
    from ledger.log import Ledger

BLOCK_OBJECTS = 256
BLOCK_BYTES = 16 << 20
MAX_WAITING = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class BadCopy:
    """An object that events name and that is not what it should be."""

    named: Named
    fault: Fault


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """An object that was recorded as damaged or lost, and that was read and is sound."""

    named: Named


@dataclass(frozen=True, slots=True, kw_only=True)
class Orphan:
    """An object that no event names, of `size` bytes."""

    sha256: bytes
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadProgress:
    """Another block was read to its end; `read_to` and the counts have moved."""


Outcome = BadCopy | Recovered | Orphan | ReadProgress


class CopyAudit:
    """Walks ranges of the store in order; `reading` is None when only names and sizes are looked at.

    `objects` and `bytes` count the sound objects that were read (or, when none are, looked at), `bad` those that are
    not, and `looked` all whose name and size were looked at.
    """

    def __init__(
        self,
        ledger: Ledger,
        objects: ObjectStore,
        reading: Reading | None,
        *,
        stopped: Callable[[], bool],
        block_bytes: int = BLOCK_BYTES,
    ) -> None:
        """Nothing is read yet; when it is stopped, blocks of about `block_bytes` are still read to their end."""
        self._ledger = ledger
        self._store = objects
        self._reading = reading
        self._stopped = stopped
        self._block_bytes = block_bytes
        self._blocks: list[dict[bytes, Named]] = []
        self._is_whole = True
        self.objects = 0
        self.bytes = 0
        self.bad = 0
        self.looked = 0
        self.read_to: bytes | None = None

    def walk(self, start: bytes, end: bytes) -> Iterator[Outcome]:
        """Yield what is not as it should be with start <= SHA-256 <= end.

        Afterwards `read_to` is how far everything was read: `end` unless `stopped` broke it off, None for not at all.

        Raises:
            StorageError: if the store cannot be looked through.
        """
        self.read_to = None
        block: dict[bytes, Named] = {}
        size = 0
        whole, self._is_whole = True, True
        for placed in placed_objects(self._ledger, self._store, start, end):
            if self._stopped():
                whole = False
                break
            outcome = self._look(placed)
            if outcome is not None:
                yield outcome
            elif self._reading is not None and placed.named is not None and placed.named.is_retained:
                block[placed.sha256] = placed.named
                size += placed.named.size
                if len(block) >= BLOCK_OBJECTS or size >= self._block_bytes:
                    yield from self._submit(block)
                    block, size = {}, 0
        if block and whole:
            yield from self._submit(block)
        while self._blocks:
            yield from self._take()
        if whole and self._is_whole:
            self.read_to = end

    def close(self) -> None:
        """Stop reading."""
        if self._reading is not None:
            self._reading.close()

    def _look(self, placed: Placed) -> Outcome | None:
        """Decide what can be decided without reading."""
        named = placed.named
        if named is None:
            return self._orphan(placed)
        if not named.is_retained:
            return None
        self.looked += 1
        if placed.size is None:
            fault = Fault(sha256=named.sha256, kind="lost", detail="the object is gone")
        elif placed.size != named.size or any(copy.size != named.size for copy in named.copies):
            stored = ", ".join(sorted({str(copy.size) for copy in named.copies}))
            detail = f"it has {placed.size} bytes, and {stored} were stored"
            fault = Fault(sha256=named.sha256, kind="damaged", detail=detail)
        else:
            if self._reading is None:
                self.objects += 1
                self.bytes += named.size
            return None
        self.bad += 1
        return BadCopy(named=named, fault=fault)

    def _orphan(self, placed: Placed) -> Outcome | None:
        """Look again before calling it an orphan: its event may have come after the page that was read."""
        if next(self._ledger.copies(start=placed.sha256, end=placed.sha256), None) is not None:
            return None
        return Orphan(sha256=placed.sha256, size=placed.size or 0)

    def _submit(self, block: dict[bytes, Named]) -> Iterator[Outcome]:
        if self._reading is None:
            return
        self._blocks.append(block)
        self._reading.submit([ReadRequest(named.sha256, named.size) for named in block.values()])
        while len(self._blocks) > MAX_WAITING:
            yield from self._take()

    def _take(self) -> Iterator[Outcome]:
        """Take the oldest block's result."""
        block = self._blocks.pop(0)
        faults = None if self._reading is None else self._reading.result()
        if faults is None:
            self._is_whole = False
            return
        bad = {fault.sha256: fault for fault in faults}
        for sha256, named in block.items():
            fault = bad.get(sha256)
            if fault is not None:
                self.bad += 1
                yield BadCopy(named=named, fault=fault)
                continue
            self.objects += 1
            self.bytes += named.size
            if named.is_known_bad:
                yield Recovered(named=named)
        if self._is_whole:  # a block may be through while one before it was broken off
            self.read_to = next(reversed(block))
        yield ReadProgress()
