"""Where objects lie in packs: working state beside the events, which can always be made anew from the packs' indexes.

An object may lie in several packs, and in a file of its own besides. A placement is a hint and proves nothing: whoever
reads the bytes compares them with the object's SHA-256.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence


class Placement(NamedTuple):
    """An object (its SHA-256, 32 bytes) lies in a pack (its name, 32 bytes) at `offset`, with `length` bytes."""

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

    Every change is a transaction of its own and durable when the call returns.
    """

    def find(self, sha256s: Collection[bytes], *, place: str = "") -> dict[bytes, list[Placement]]:
        """Return the placements of these objects, by SHA-256; objects without one are left out."""

    def walk(self, *, start: bytes = b"", end: bytes | None = None, place: str = "") -> Iterator[Placement]:
        """Yield the placements with `start` <= SHA-256 < `end`, in the order of SHA-256, page by page."""

    def ranges(self, start: bytes, end: bytes | None, *, place: str = "") -> list[tuple[bytes, bytes, int, int]]:
        """Return what `walk` yields as (SHA-256, pack, offset, length): for ranges of which all is compared at once."""

    def packs(self, *, place: str = "") -> Iterator[PackRow]:
        """Yield the packs that placements name, in the order of their names, page by page."""

    def totals(self, *, place: str = "") -> PackTotals:
        """Return the sums over all packs. This reads a row a pack."""

    def add(self, places: Sequence[Placement], *, place: str = "") -> None:
        """Add placements; one that was dropped counts again, because its pack was written anew."""

    def replace(self, pack: bytes, places: Sequence[Placement], *, place: str = "") -> None:
        """Put these placements, all of the pack `pack`, in the place of those that name it, however wrong they are."""

    def drop(self, sha256: bytes, pack: bytes, *, place: str = "") -> None:
        """Take an object's placement in a pack away, and remember that: the pack's index still names it there."""

    def dropped(self, sha256s: Collection[bytes], *, place: str = "") -> set[tuple[bytes, bytes]]:
        """Return the (SHA-256, pack) among these objects that were dropped since the pack was added."""

    def forget(self, pack: bytes, *, place: str = "") -> None:
        """Remove a pack with its placements. No read sees them any more; `sweep` gives their room back."""

    def sweep(self) -> int:
        """Remove the rows that `replace` and `forget` left; return how many. Others can write meanwhile."""
