"""The input and the results of bulk reading: the objects that should be there, and the outcome of each range."""

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
"""Returns the expected objects with start <= SHA-256 <= end, in order, each once."""

_LAST = b"\xff" * 32


@dataclass(slots=True)
class RangeRead:
    """The result of a range: `objects` sound objects of `size` bytes together, out of `looked` that had to be there.

    `bad` are (SHA-256, kind, detail), `orphans` are (SHA-256, size) of objects that were not expected. `read_to` is
    how far everything was read, None if nothing was. `pack` is set if a pack was read instead of a range.
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
    """What is wrong with the pack `name` (32 bytes) as a whole, or with what the ledger says about it.

    `object` (32 bytes) is the first object concerned, None for the pack itself. A "note" is harmless.
    """

    kind: PackFlawKind
    name: bytes
    detail: str
    object: bytes | None = None
    severity: Literal["error", "note"] = "error"


class BulkReader(Protocol):
    """Reads a store's objects, container by container: packs and files, in the order of the containers' names."""

    def read(self, start: bytes, end: bytes, expected: ExpectedIn) -> Iterator[RangeRead]:
        """Read every expected object in [start, end]; yield the results piece by piece, in order.

        It ends early when it is stopped: then the last `read_to` is before `end`.

        Raises:
            StorageError: if the store cannot be searched.
        """
        ...

    def flaws(self) -> Iterator[PackFlaw]:
        """Yield each flaw once, as far as packs were read since the last call. Raises: StorageError."""
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
        """Return a reader for about this many objects and bytes; it stops when `stopped` returns true.

        `take` waits until that many bytes may be read. With it, None is returned if reading one by one is as good.
        """
        ...


@runtime_checkable
class HasPacks(Protocol):
    """A store that can hold packs."""

    def pack_accounts(self) -> PackAccounts:
        """Return the accounts of its packs as they are now. Raises: StorageError."""
        ...

    def drop_place(self, sha256: bytes, pack: bytes) -> None:
        """Remember not to look for an object in a pack."""
        ...


class Recall(Protocol):
    """Finds objects in older versions of a store's files. Every method can raise StorageError."""

    def key_of(self, sha256: bytes) -> str | None:
        """Return the key, of the object or its pack, of which an older version contains the object, and it is sound.

        After `put_again` of a pack, its key is still returned for its objects. None if no version has the object.
        """
        ...

    def put_again(self, key: str) -> None:
        """Make the sound older version the newest one, unless that was already done."""
        ...

    def was_put_again(self, key: str) -> bool:
        """Whether `put_again` was already done for this pack."""
        ...

    def close(self) -> None:
        """End the connections."""
        ...


@runtime_checkable
class CanRecall(Protocol):
    """A store that might keep older versions."""

    def recall(self) -> Recall | None:
        """Return a `Recall` for the older versions, None if the store keeps none."""
        ...


def behind_range(end: bytes) -> bytes | None:
    """Return the first SHA-256 after a range that ends with `end`, None if there is none."""
    return None if end == _LAST else (int.from_bytes(end, "big") + 1).to_bytes(32, "big")


def parts_of(start: bytes, end: bytes, count: int) -> Iterator[tuple[bytes, bytes]]:
    """Divide [start, end] where `count` equal parts of the whole space end; `count` is a power of two."""
    width = (1 << 256) // count
    low, last = int.from_bytes(start, "big"), int.from_bytes(end, "big")
    while low <= last:
        high = min((low // width + 1) * width - 1, last)
        yield low.to_bytes(32, "big"), high.to_bytes(32, "big")
        low = high + 1
