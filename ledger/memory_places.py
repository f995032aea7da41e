"""Placements of the memory store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.places import PackRow, PackTotals

if TYPE_CHECKING:
    import threading
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from ledger.places import Placement


class MemoryPlaces:
    """A PlaceStore in a dictionary."""

    def __init__(self, lock: threading.RLock) -> None:
        """Start empty. Share the lock under which the store changes."""
        self._lock = lock
        self._packs: dict[tuple[str, bytes], dict[bytes, Placement]] = {}
        self._dropped: set[tuple[str, bytes, bytes]] = set()

    def find(self, sha256s: Collection[bytes], *, place: str = "") -> dict[bytes, list[Placement]]:
        """Return the placements of these objects, by SHA-256. Objects without one are left out."""
        found: dict[bytes, list[Placement]] = {}
        with self._lock:
            for sha256 in sha256s:
                within = [one[sha256] for key, one in self._packs.items() if key[0] == place and sha256 in one]
                within = [one for one in within if (place, sha256, one.pack) not in self._dropped]
                if within:
                    found[sha256] = within
        return found

    def walk(self, *, start: bytes = b"", end: bytes | None = None, place: str = "") -> Iterator[Placement]:
        """Yield the placements with `start` <= SHA-256 < `end`, in the order of SHA-256."""
        with self._lock:
            found = [one for key, within in self._packs.items() if key[0] == place for one in within.values()]
            found = [one for one in found if (place, one.sha256, one.pack) not in self._dropped]
        wanted = [one for one in found if start <= one.sha256 and (end is None or one.sha256 < end)]
        return iter(sorted(wanted, key=lambda one: one.sha256))

    def ranges(self, start: bytes, end: bytes | None, *, place: str = "") -> list[tuple[bytes, bytes, int, int]]:
        """Return what `walk` yields, as tuples."""
        found = self.walk(start=start, end=end, place=place)
        return [(one.sha256, one.pack, one.offset, one.length) for one in found]

    def packs(self, *, place: str = "") -> Iterator[PackRow]:
        """Yield the packs that placements name, in the order of their names."""
        with self._lock:
            rows = [
                PackRow(key[1], len(within), sum(one.length for one in within.values()))
                for key, within in self._packs.items()
                if key[0] == place
            ]
        return iter(sorted(rows))

    def totals(self, *, place: str = "") -> PackTotals:
        """Return the sums over all packs."""
        rows = list(self.packs(place=place))
        return PackTotals(len(rows), sum(row.objects for row in rows), sum(row.bytes for row in rows))

    def add(self, places: Sequence[Placement], *, place: str = "") -> None:
        """Add placements. A dropped one counts again, because its pack was written again."""
        self.take_over((place, one) for one in places)

    def take_over(self, placed: Iterable[tuple[str, Placement]]) -> None:
        """Add placements, each with the name of its storage."""
        with self._lock:
            for place, one in placed:
                self._packs.setdefault((place, one.pack), {})[one.sha256] = one
                self._dropped.discard((place, one.sha256, one.pack))

    def replace(self, pack: bytes, places: Sequence[Placement], *, place: str = "") -> None:
        """Replace all placements in the pack `pack` with these."""
        with self._lock:
            self._forget_dropped(pack, place)
            self._packs[place, pack] = {one.sha256: one for one in places}

    def drop(self, sha256: bytes, pack: bytes, *, place: str = "") -> None:
        """Remove an object's placement in a pack, and remember that."""
        with self._lock:
            if sha256 in self._packs.get((place, pack), {}):
                self._dropped.add((place, sha256, pack))

    def dropped(self, sha256s: Collection[bytes], *, place: str = "") -> set[tuple[bytes, bytes]]:
        """Return the dropped placements of these objects, as (SHA-256, pack)."""
        with self._lock:
            return {(sha256, pack) for its, sha256, pack in self._dropped if its == place and sha256 in sha256s}

    def forget(self, pack: bytes, *, place: str = "") -> None:
        """Remove a pack with its placements."""
        with self._lock:
            self._forget_dropped(pack, place)
            self._packs.pop((place, pack), None)

    def sweep(self) -> int:
        """Do nothing: nothing is left behind."""
        return 0

    def _forget_dropped(self, pack: bytes, place: str) -> None:
        self._dropped = {one for one in self._dropped if (one[0], one[2]) != (place, pack)}
