"""Where objects are in packs: working state next to the events. It can always be rebuilt from the packs' indexes.

An object can be in several packs, and also in a file of its own. A placement is a hint and proves nothing: readers
compare the bytes with the object's SHA-256.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence


class Placement(NamedTuple):
    """An object (its SHA-256, 32 bytes) is in a pack (its name, 32 bytes) at `offset`, with `length` bytes."""

    sha256: bytes
    pack: bytes
    offset: int
    length: int


class PackRow(NamedTuple):
    """A pack that placements name: its name (32 bytes), and how many objects and bytes of objects were placed there."""

    name: bytes
    objects: int
    bytes: int


class PackTotals(NamedTuple):
    """Sums over the packs of one storage: packs, objects, bytes of objects."""

    packs: int
    objects: int
    bytes: int


class PlaceStore(Protocol):
    """The placements of every storage. `place` names the storage: "" is the first one.

    Every change is a transaction of its own, and is durable when the call returns.
    """

    def find(self, sha256s: Collection[bytes], *, place: str = "") -> dict[bytes, list[Placement]]:
        """Return the placements of these objects, by SHA-256. Objects without one are left out."""

    def walk(self, *, start: bytes = b"", end: bytes | None = None, place: str = "") -> Iterator[Placement]:
        """Yield the placements with `start` <= SHA-256 < `end`, in the order of SHA-256, page by page."""

    def ranges(self, start: bytes, end: bytes | None, *, place: str = "") -> list[tuple[bytes, bytes, int, int]]:
        """Return what `walk` yields as (SHA-256, pack, offset, length), for comparing a whole range at once."""

    def packs(self, *, place: str = "") -> Iterator[PackRow]:
        """Yield the packs that placements name, in the order of their names, page by page."""

    def totals(self, *, place: str = "") -> PackTotals:
        """Return the sums over all packs. This reads one row per pack."""

    def add(self, places: Sequence[Placement], *, place: str = "") -> None:
        """Add placements. A dropped one counts again, because its pack was written again."""

    def replace(self, pack: bytes, places: Sequence[Placement], *, place: str = "") -> None:
        """Replace all placements in the pack `pack`, however wrong they are, with these."""

    def drop(self, sha256: bytes, pack: bytes, *, place: str = "") -> None:
        """Remove an object's placement in a pack, and remember that, because the pack's index still names it."""

    def dropped(self, sha256s: Collection[bytes], *, place: str = "") -> set[tuple[bytes, bytes]]:
        """Return, as (SHA-256, pack), these objects' placements that were dropped since the pack was added."""

    def forget(self, pack: bytes, *, place: str = "") -> None:
        """Remove a pack with its placements. Readers no longer see them, and `sweep` frees their space."""

    def sweep(self) -> int:
        """Remove the rows that `replace` and `forget` left, and return how many. Others can write meanwhile."""
