"""The ledger's placements in packs, which are also true of a further storage."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from kropot.objects.packs.packed import PackPlaces
    from ledger.places import PackRow, Placement


class FurtherPlaces:
    """The placements in the packs of the first storage. An object that is damaged there can be sound here."""

    def __init__(self, places: PackPlaces) -> None:
        """Share a ledger's placements."""
        self._places = places

    def find(self, sha256s: Collection[bytes]) -> Mapping[bytes, Sequence[Placement]]:
        """Return the placements of these objects."""
        return self._places.find(sha256s)

    def dropped(self, sha256s: Collection[bytes]) -> set[tuple[bytes, bytes]]:  # noqa: ARG002 -- the protocol has it
        """Return nothing, because dropped placements were damaged only in the first storage."""
        return set()

    def walk(self, *, start: bytes = b"", end: bytes | None = None) -> Iterator[Placement]:
        """Yield the placements in a range, in the order of SHA-256."""
        return self._places.walk(start=start, end=end)

    def ranges(self, start: bytes, end: bytes | None) -> list[tuple[bytes, bytes, int, int]]:
        """Return the same as (SHA-256, pack, offset, length)."""
        return self._places.ranges(start, end)

    def packs(self) -> Iterator[PackRow]:
        """Yield the packs that placements name."""
        return self._places.packs()

    def drop(self, sha256: bytes, pack: bytes) -> None:
        """Do nothing, because the ledger says what the first storage has."""
