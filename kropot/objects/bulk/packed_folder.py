"""Bulk reading of a folder with packs: packs are read whole, and files as in a folder without packs."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from kropot.objects.bulk.folder import FolderReader
from kropot.objects.bulk.reading import BUFFER, ReadRequest, read_object

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kropot.objects.bulk.protocol import BulkReader, ExpectedIn, ExpectedObject, PackFlaw, RangeRead
    from kropot.objects.layout import Layout
    from kropot.objects.packs.accounts import PackAccounts, RangeAccount
    from kropot.objects.store import Leftover, ObjectStore


class PackedFolderReader:
    """Reads containers in the order of their names: a pack has its own, a file has its object's.

    It checks in the order of the objects' names whether each has a container, without reading packs twice.
    """

    def __init__(
        self,
        layout: Layout,
        store: ObjectStore,
        accounts: PackAccounts,
        *,
        objects: int,
        size: int,
        stopped: Callable[[], bool],
        take: Callable[[int], None] | None = None,
    ) -> None:
        """Only a few objects are read one by one, from `store`: those in packs with a damaged index, or kept twice."""
        self._store = store
        self._accounts = accounts
        self._files: BulkReader = FolderReader(
            layout, objects=objects, size=size, stopped=stopped, packs=accounts.names, take=take
        )
        self._buffer = memoryview(bytearray(BUFFER))

    def read(self, start: bytes, end: bytes, expected: ExpectedIn) -> Iterator[RangeRead]:
        """Read part by part."""
        waiting: deque[RangeAccount] = deque()

        def elsewhere(low: bytes, high: bytes) -> list[ExpectedObject]:
            account = self._accounts.account(low, high, list(expected(low, high)))
            waiting.append(account)
            return list(account.rows)

        for found in self._files.read(start, end, elsewhere):
            if found.pack is not None:
                self._accounts.take(found.pack)
            elif found.read_to is not None:
                self._settle(waiting.popleft(), found, found.read_to)
            yield found

    def flaws(self) -> Iterator[PackFlaw]:
        """Yield the flaws that the accounts found."""
        return self._accounts.flaws()

    def leftovers(self, *, read_all: bool) -> Iterator[Leftover]:
        """Yield every file that is not an object."""
        return self._files.leftovers(read_all=read_all)

    def close(self) -> None:
        """End the processes."""
        self._files.close()

    def _settle(self, account: RangeAccount, found: RangeRead, read_to: bytes) -> None:
        """Add to the result of a range what its files cannot tell."""
        found.bad += [(sha256, "damaged", detail) for sha256, detail in account.bad if sha256 <= read_to]
        twice = [(sha256, account.packed[sha256]) for sha256, _ in found.orphans if sha256 in account.packed]
        if twice:
            found.orphans = [one for one in found.orphans if one[0] not in account.packed]
        for sha256, size in (*account.unsure, *twice):
            if size is None or sha256 > read_to:
                continue
            found.looked += 1
            bad = read_object(self._store, ReadRequest(sha256, size), self._buffer)
            if bad is None:
                found.objects += 1
                found.size += size
            else:
                found.bad.append(bad)
        found.bad.sort()
