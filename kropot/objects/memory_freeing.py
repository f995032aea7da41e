"""Free objects in a dictionary: a working fake, like the store itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kropot.objects.freeing import FreedObject

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from kropot.objects.memory import MemoryDisk


class MemoryFreeing:
    """Frees objects of a memory disk. Nothing there has an age."""

    def __init__(self, disk: MemoryDisk) -> None:
        """Use this disk."""
        self._disk = disk

    def put_away(self, sha256s: Iterable[bytes]) -> list[FreedObject]:
        """Move the bytes out of sight."""
        found = [sha256 for sha256 in sha256s if sha256 in self._disk.objects]
        for sha256 in found:
            self._disk.freed[sha256] = self._disk.objects.pop(sha256)
        return [FreedObject(sha256, len(self._disk.freed[sha256])) for sha256 in found]

    def bring_back(self, sha256s: Iterable[bytes]) -> None:
        """Move the bytes back."""
        for sha256 in sha256s:
            data = self._disk.freed.pop(sha256, None)
            if data is not None:
                self._disk.objects.setdefault(sha256, data)

    def destroy(self, sha256s: Iterable[bytes]) -> None:
        """Forget the bytes."""
        for sha256 in sha256s:
            self._disk.freed.pop(sha256, None)

    def put_away_before(self) -> Iterator[FreedObject]:
        """Yield the objects that are out of sight."""
        yield from [FreedObject(sha256, len(data)) for sha256, data in sorted(self._disk.freed.items())]

    def age_us(self, sha256: bytes, now_us: int) -> int | None:
        """Return `now_us`, as if every object were from 1970."""
        return now_us if sha256 in self._disk.objects else None

    def quarantine_age_us(self, path: str, now_us: int) -> int | None:
        """Do the same for quarantined objects."""
        return now_us if path in self._disk.quarantine else None

    def remove_quarantined(self, path: str) -> None:
        """Forget the bytes."""
        self._disk.quarantine.pop(path, None)
