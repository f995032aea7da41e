"""What should be in the object store against what is there, merged in the order of SHA-256."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from kropot.verify.coverage import LAST, after
from ledger.errors import BrokenChainError
from ledger.rows import RELEASED, SOUND

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kropot.objects.store import ObjectStore
    from ledger.log import Ledger
    from ledger.rows import CopyRow


_TYPES = (bytes, int, bytes, int, str)
_SHA256 = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """An object that events name: `copies` has a row for each element that does."""

    sha256: bytes
    size: int
    copies: tuple[CopyRow, ...]

    @property
    def is_retained(self) -> bool:
        """Whether any copy was not released by retention: only then must the object be there."""
        return any(copy.state != RELEASED for copy in self.copies)

    @property
    def is_known_bad(self) -> bool:
        """Whether no copy counts as sound: the damage was found, and recorded, before."""
        return not any(copy.state == SOUND for copy in self.copies)


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """One name on either side: `named` by events or not, of `size` bytes in the store or (None) not there."""

    sha256: bytes
    named: Named | None
    size: int | None


def named_objects(ledger: Ledger, start: bytes, end: bytes) -> Iterator[Named]:
    """Yield every object that events name with start <= SHA-256 <= end, in order.

    Raises:
        BrokenChainError: at a row of the index that cannot be one.
    """
    for sha256, rows in groupby(ledger.copies(start=start, end=end), key=lambda row: row.sha256):
        copies = tuple(rows)
        for copy in copies:
            if tuple(map(type, copy)) != _TYPES or len(sha256) != _SHA256:
                raise BrokenChainError(copy.position, "the index has a copy there that can be none")
        yield Named(sha256=sha256, size=copies[0].size, copies=copies)


def placed_objects(ledger: Ledger, objects: ObjectStore, start: bytes, end: bytes) -> Iterator[Placed]:
    """Yield every object that is named or there with start <= SHA-256 <= end, in order.

    Raises:
        StorageError: if the store cannot be looked through.
    """
    names = named_objects(ledger, start, end)
    # The store's walk ends before its end, the ledger's range with it.
    there = objects.walk(start, None if end == LAST else after(end))
    name, found = next(names, None), next(there, None)
    while name is not None or found is not None:
        if found is None or (name is not None and name.sha256 < found[0]):
            if name is not None:
                yield Placed(sha256=name.sha256, named=name, size=None)
            name = next(names, None)
        elif name is None or found[0] < name.sha256:
            yield Placed(sha256=found[0], named=None, size=found[1])
            found = next(there, None)
        else:
            yield Placed(sha256=name.sha256, named=name, size=found[1])
            name, found = next(names, None), next(there, None)
