"""Bulk reading of a storage on another machine: packs as a whole, and files with a few threads."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, BinaryIO, cast

from kropot.objects.bulk.packed_folder import PackedFolderReader
from kropot.objects.bulk.packs import PackReading
from kropot.objects.bulk.protocol import RangeRead, behind_range, parts_of
from kropot.objects.bulk.reading import BUFFER, ReadRequest, ThreadReading, Throttle
from kropot.objects.layout import Layout
from kropot.objects.store import ObjectMissingError
from kropot.objects.stores.files import NoSuchKeyError
from kropot.objects.stores.objects import loose_objects, object_key
from kropot.objects.stores.packs import RemotePack
from kropot.objects.stores.reading import RemoteReader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from kropot.objects.bulk.protocol import ExpectedIn, ExpectedObject, PackFlaw
    from kropot.objects.packs.accounts import PackAccounts
    from kropot.objects.packs.reader import PackFile
    from kropot.objects.store import Leftover, ObjectStore
    from kropot.objects.stores.files import RemoteFiles

PART_OBJECTS = 100_000
"""About how many objects a part has: each part reads every pack's index, and its rows are in memory."""

_BLOCK_OBJECTS, _BLOCK_BYTES, _WAITING = 64, 64 << 20, 4


class RemoteBulkReader(PackedFolderReader):
    """Reads containers in the order of their names, as `PackedFolderReader` does."""

    def __init__(
        self,
        files: RemoteFiles,
        store: ObjectStore,
        accounts: PackAccounts,
        *,
        objects: int,
        stopped: Callable[[], bool],
        take: Callable[[int], None] | None,
    ) -> None:
        """Read nothing yet."""
        self._store = store
        self._accounts = accounts
        self._files = RemoteRangeReader(files, store, accounts.names, objects=objects, stopped=stopped, take=take)
        self._buffer = memoryview(bytearray(BUFFER))


class RemoteRangeReader:
    """Reads ranges of the objects there: the packs whose names are in a part, then the files."""

    def __init__(
        self,
        files: RemoteFiles,
        store: ObjectStore,
        packs: Sequence[bytes],
        *,
        objects: int,
        stopped: Callable[[], bool],
        take: Callable[[int], None] | None,
    ) -> None:
        """Read nothing yet. `take` is called with the number of bytes to read next."""
        self._files = files
        self._store = store
        self._packs = packs
        self._parts = 1 << max(objects // PART_OBJECTS, 0).bit_length()
        self._stopped = stopped
        self._take = take
        self._pack_reading = RemotePackReading(files, stopped, take=take)
        self._reading = ThreadReading(cast("ObjectStore", LooseObjects(files)), throttle=Throttle(), stopped=stopped)

    def read(self, start: bytes, end: bytes, expected: ExpectedIn) -> Iterator[RangeRead]:
        """Read part by part; end early when stopped."""
        for low, high in parts_of(start, end, self._parts):
            for name in self._packs[bisect_left(self._packs, low) : bisect_right(self._packs, high)]:
                if self._stopped():
                    return
                found = self._pack_reading.read(name)
                yield RangeRead(objects=found.objects, size=found.size, looked=found.looked, bad=found.bad, pack=found)
                if not found.is_whole:
                    return
            if self._stopped():
                return
            part = self._part(low, high, list(expected(low, high)))
            yield part
            if part.read_to != high:
                return

    def flaws(self) -> Iterator[PackFlaw]:
        """Yield nothing, because `RemoteBulkReader` handles packs."""
        return iter(())

    def leftovers(self, *, read_all: bool) -> Iterator[Leftover]:  # noqa: ARG002 -- the protocol has it
        """Yield every file that is not an object."""
        return self._store.leftovers()

    def close(self) -> None:
        """End the threads."""
        self._reading.close()

    # --- helpers -----------------------------------------------------------------------------------------------------

    def _part(self, start: bytes, end: bytes, rows: Sequence[ExpectedObject]) -> RangeRead:
        """Compare the expected objects with those that are there, and read the ones that have the right size."""
        found = RangeRead()
        wanted, blocks = dict(rows), list[list[ReadRequest]]()
        is_whole = all(self._submit(block, blocks, found) for block in self._blocks(start, end, wanted, found))
        while blocks:
            is_whole = self._settle(blocks, found) and is_whole
        if not is_whole:
            return found
        lost = [sha256 for sha256, size in wanted.items() if size is not None]
        found.looked += len(lost)
        found.bad = sorted([*found.bad, *((sha256, "lost", "the object is gone") for sha256 in lost)])
        found.read_to = end
        return found

    def _blocks(
        self, start: bytes, end: bytes, wanted: dict[bytes, int | None], found: RangeRead
    ) -> Iterator[list[ReadRequest]]:
        """Yield the objects that must be read, in blocks; remove all that are there from `wanted`."""
        behind = behind_range(end)
        block: list[ReadRequest] = []
        for sha256, there in loose_objects(self._files, start, behind):
            if sha256 not in wanted:
                found.orphans.append((sha256, there))
                continue
            size = wanted.pop(sha256)
            if size is None:
                continue
            found.looked += 1
            if there != size:
                found.bad.append((sha256, "damaged", f"it has {there} bytes, but {size} were stored"))
                continue
            block.append(ReadRequest(sha256, size))
            if len(block) == _BLOCK_OBJECTS or size >= _BLOCK_BYTES:
                yield block
                block = []
        if block:
            yield block

    def _submit(self, block: list[ReadRequest], blocks: list[list[ReadRequest]], found: RangeRead) -> bool:
        """Hand a block to the threads; return False if reading was stopped."""
        if self._take is not None:
            self._take(sum(request.size for request in block))
        self._reading.submit(block)
        blocks.append(block)
        return self._settle(blocks, found) if len(blocks) > _WAITING else not self._stopped()

    def _settle(self, blocks: list[list[ReadRequest]], found: RangeRead) -> bool:
        """Take in the result of the oldest block; return whether it was read to its end."""
        block, bad = blocks.pop(0), self._reading.result()
        if bad is None:
            return False
        wrong = {sha256 for sha256, _, _ in bad}
        found.bad += bad
        found.objects += len(block) - len(bad)
        found.size += sum(request.size for request in block if request.sha256 not in wrong)
        return True


class RemotePackReading(PackReading):
    """Reads packs there as a whole, in order, some megabytes ahead."""

    def __init__(self, files: RemoteFiles, stopped: Callable[[], bool], *, take: Callable[[int], None] | None) -> None:
        """Ask nothing yet."""
        super().__init__(Layout(files.place), stopped, take=take)
        self._remote = files

    def _opened(self, name: bytes, path: str) -> PackFile:
        try:
            return RemotePack(self._remote, name)
        except NoSuchKeyError:
            raise FileNotFoundError(2, "it is gone", path) from None


class LooseObjects:
    """The objects that are files of their own, opened without looking at the ledger or at packs."""

    def __init__(self, files: RemoteFiles) -> None:
        """Ask nothing yet."""
        self._files = files

    def open(self, sha256: bytes) -> BinaryIO:
        """Open the file. Raises: ObjectMissingError, StorageError."""
        stat = self._files.stat(object_key(sha256))
        if stat is None:
            raise ObjectMissingError(sha256)
        return cast("BinaryIO", RemoteReader(self._files, stat.key, stat.size))
