"""What bulk reading takes and gives: the objects that should be there, and what came of each range."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from kropot.objects.store import Leftover

FaultKind = Literal["damaged", "lost", "unreadable"]
"""What can be wrong with an object; "unreadable" means that nobody knows whether it is damaged."""


ExpectedObject = tuple[bytes, int | None]
"""SHA-256 and size of an object that must be there; where the size is None it may be there, and is not read."""

ExpectedIn = Callable[[bytes, bytes], Iterable[ExpectedObject]]
"""Gives what is expected with start <= SHA-256 <= end, in order, each object once."""


@dataclass(slots=True)
class RangeRead:
    """What came of a range: `objects` sound objects of `size` bytes together, of `looked` that had to be there.

    `bad` are (SHA-256, kind, detail), `orphans` are (SHA-256, size) of objects that were not expected. `read_to` is
    how far everything was read, None for not at all.
    """

    objects: int = 0
    size: int = 0
    looked: int = 0
    bad: list[tuple[bytes, FaultKind, str]] = field(default_factory=list)
    orphans: list[tuple[bytes, int]] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)
    read_to: bytes | None = None


class BulkReader(Protocol):
    """Reads a store's objects in the order of their names."""

    def read(self, start: bytes, end: bytes, expected: ExpectedIn) -> Iterator[RangeRead]:
        """Read every expected object in [start, end]; give the results piece by piece, in order.

        It ends early when it is stopped: then the last `read_to` is before `end`.

        Raises:
            StorageError: if the store cannot be looked through.
        """
        ...

    def leftovers(self, *, read_all: bool) -> Iterator[Leftover]:
        """Yield every file that is not an object; `read_all` says that everything was read before.

        Raises: StorageError.
        """
        ...

    def close(self) -> None:
        """Stop reading and release everything."""
        ...


@runtime_checkable
class BulkReadable(Protocol):
    """A store that offers a faster way to read many objects than one by one."""

    def bulk_reader(self, *, objects: int, size: int, stopped: Callable[[], bool]) -> BulkReader:
        """Return a reader for about so many objects and bytes; it stops when `stopped` says so."""
        ...


def parts_of(start: bytes, end: bytes, count: int) -> Iterator[tuple[bytes, bytes]]:
    """Cut [start, end] into ranges that end where a `count`-th of the whole space does; `count` is a power of two."""
    width = (1 << 256) // count
    low, last = int.from_bytes(start, "big"), int.from_bytes(end, "big")
    while low <= last:
        high = min((low // width + 1) * width - 1, last)
        yield low.to_bytes(32, "big"), high.to_bytes(32, "big")
        low = high + 1
