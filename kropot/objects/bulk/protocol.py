"""What bulk reading takes and gives: the objects that should be there, and what came of each range."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from msgspec import Struct

if TYPE_CHECKING:
    from kropot.objects.bulk.packs import PackRead
    from kropot.objects.packs.accounts import PackAccounts
    from kropot.objects.store import Leftover

FaultKind = Literal["damaged", "lost", "unreadable"]
"""What can be wrong with an object; "unreadable" means that it is unknown whether it is damaged."""


PackFlawKind = Literal[
    "damaged_pack",
    "lost_pack",
    "freed_pack",
    "unknown_pack",
    "missing_placement",
    "wrong_placement",
    "orphan_pack",
    "orphans_in_pack",
]

ExpectedObject = tuple[bytes, int | None]
"""SHA-256 and size of an object that must exist; if the size is None, it may exist and is not read."""

ExpectedIn = Callable[[bytes, bytes], Iterable[ExpectedObject]]
"""Gives the expected objects with start <= SHA-256 <= end, in order, each once."""

_LAST = b"\xff" * 32


@dataclass(slots=True)
class RangeRead:
    """What came of a range: `objects` sound objects of `size` bytes together, of `looked` that had to be there.

    `bad` are (SHA-256, kind, detail), `orphans` are (SHA-256, size) of objects that were not expected. `read_to` is
    how far everything was read, None for not at all. `pack` is set where a pack was read and not a range.
    """

    objects: int = 0
    size: int = 0
    looked: int = 0
    bad: list[tuple[bytes, FaultKind, str]] = field(default_factory=list)
    orphans: list[tuple[bytes, int]] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)
    read_to: bytes | None = None
    pack: PackRead | None = None


class PackFlaw(Struct, frozen=True, kw_only=True):
    """What is wrong with the pack `name` (32 bytes) as a whole, or with what the ledger says of it.

    `object` (32 bytes) is the first object that is concerned, None for the pack itself. A "note" harms nothing.
    """

    kind: PackFlawKind
    name: bytes
    detail: str
    object: bytes | None = None
    severity: Literal["error", "note"] = "error"


class BulkReader(Protocol):
    """Reads a store's objects, container by container: packs and files, in the order of the containers' names."""

    def read(self, start: bytes, end: bytes, expected: ExpectedIn) -> Iterator[RangeRead]:
        """Read every expected object in [start, end]; give the results piece by piece, in order.

        It ends early when it is stopped: then the last `read_to` is before `end`.

        Raises:
            StorageError: if the store cannot be looked through.
        """
        ...

    def flaws(self) -> Iterator[PackFlaw]:
        """Yield what is wrong with packs, each once, as far as was read since the last call. Raises: StorageError."""
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

    def bulk_reader(
        self, *, objects: int, size: int, stopped: Callable[[], bool], take: Callable[[int], None] | None = None
    ) -> BulkReader | None:
        """Return a reader for about so many objects and bytes; it stops when `stopped` says so.

        `take` waits until so many bytes may be read. With it, None is returned where one by one is as good.
        """
        ...


@runtime_checkable
class HasPacks(Protocol):
    """A store that can hold packs."""

    def pack_accounts(self) -> PackAccounts:
        """Return the accounts of its packs as they are now. Raises: StorageError."""
        ...

    def drop_place(self, sha256: bytes, pack: bytes) -> None:
        """Remember that an object is not to be looked for in a pack."""
        ...


class Recall(Protocol):
    """Finds objects in older versions of what a store holds. Every method can raise StorageError."""

    def key_of(self, sha256: bytes) -> str | None:
        """Return the key, of the object or its pack, of which an older version has the object, and has it sound.

        After `put_again` of a pack, this says so of all that is in it. None where no version has the object.
        """
        ...

    def put_again(self, key: str) -> None:
        """Make the sound older version the newest one, unless that was done."""
        ...

    def was_put_again(self, key: str) -> bool:
        """Whether `put_again` has done this pack already."""
        ...

    def close(self) -> None:
        """End the connections."""
        ...


@runtime_checkable
class CanRecall(Protocol):
    """A store that may keep older versions."""

    def recall(self) -> Recall | None:
        """Return what finds objects in older versions, None where the store keeps none."""
        ...


def behind_range(end: bytes) -> bytes | None:
    """Return the first SHA-256 behind a range that ends with `end`, None where nothing is behind it."""
    return None if end == _LAST else (int.from_bytes(end, "big") + 1).to_bytes(32, "big")


def parts_of(start: bytes, end: bytes, count: int) -> Iterator[tuple[bytes, bytes]]:
    """Cut [start, end] into ranges that end where a `count`-th of the whole space does; `count` is a power of two."""
    width = (1 << 256) // count
    low, last = int.from_bytes(start, "big"), int.from_bytes(end, "big")
    while low <= last:
        high = min((low // width + 1) * width - 1, last)
        yield low.to_bytes(32, "big"), high.to_bytes(32, "big")
        low = high + 1
