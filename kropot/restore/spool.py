"""Sorts any number of items by a key in flat memory: sorted runs in temporary files, merged at the end."""

from __future__ import annotations

import heapq
import pickle
import tempfile
from typing import IO, TYPE_CHECKING, Generic, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

T = TypeVar("T")

RUN = 20_000
"""How many items are kept in memory."""

MOST_FILES = 400
"""How many files are open at a time. When there would be more, they are merged into one."""


class Spool(Generic[T]):
    """Takes items with their keys, and gives them back sorted by key. Items with equal keys keep their order.

    The temporary files have no name, so nobody else can open them, and they end with the process. The objects in `kept`
    are never written there: items that hold one of them get the same object back.
    """

    def __init__(self, *, kept: Sequence[object] = (), run: int | None = None) -> None:
        """Start empty; keep up to `run` items in memory (RUN if that is not given)."""
        self._kept = tuple(kept)
        self._run = RUN if run is None else run
        self._held: list[tuple[bytes, int, T]] = []
        self._files: list[IO[bytes]] = []
        self._count = 0

    def __enter__(self) -> Self:
        """Return itself; the end of the block closes it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the files."""
        for file in self._files:
            file.close()

    def add(self, key: bytes, item: T) -> None:
        """Take an item. Raises: OSError (disk full)."""
        self._held.append((key, self._count, item))
        self._count += 1
        if len(self._held) >= self._run:
            self._write()

    def in_order(self) -> Iterator[T]:
        """Yield all items, once."""
        self._held.sort(key=_place)
        for _, _, item in heapq.merge(*map(self._read, self._files), self._held, key=_place):
            yield item

    def _write(self) -> None:
        self._held.sort(key=_place)
        full, self._held = self._held, []
        before = self._files if len(self._files) >= MOST_FILES else []
        file = tempfile.TemporaryFile(prefix="kropot-")  # noqa: SIM115 -- the spool closes it
        self._files = [*(() if before else self._files), file]
        try:
            pickler = _Pickler(file, self._kept)
            for each in heapq.merge(*map(self._read, before), full, key=_place):
                pickler.dump(each)
                pickler.clear_memo()
            file.seek(0)
        finally:
            for each_file in before:
                each_file.close()

    def _read(self, file: IO[bytes]) -> Iterator[tuple[bytes, int, T]]:
        """Yield the items of a run. This program wrote them a moment ago, into a file that has no name."""
        while True:
            try:
                # Each item was written with an empty memo. With an earlier item's memo, it would be another one.
                yield _Unpickler(file, self._kept).load()
            except EOFError:
                return


class _Pickler(pickle.Pickler):
    """Writes a number in place of an object that is kept."""

    def __init__(self, file: IO[bytes], kept: Sequence[object]) -> None:
        super().__init__(file)
        self._numbers = {id(each): number for number, each in enumerate(kept)}

    def persistent_id(self, obj: object) -> int | None:
        return self._numbers.get(id(obj))


class _Unpickler(pickle.Unpickler):
    """Reads what `_Pickler` wrote."""

    def __init__(self, file: IO[bytes], kept: Sequence[object]) -> None:
        super().__init__(file)
        self._kept = kept

    def persistent_load(self, pid: int) -> object:
        return self._kept[pid]


def _place(each: tuple[bytes, int, T]) -> tuple[bytes, int]:
    return each[:2]
