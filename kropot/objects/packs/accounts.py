"""Compare what a ledger says about packs with the packs' own indexes, range by range, without reading any object.

The ranges are ranges of SHA-256. Memory holds the names of all packs, and what is wrong with each of them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kropot.durable.errors import StorageError
from kropot.objects.bulk.protocol import PackFlaw, behind_range
from kropot.objects.packs.packed import NoPlaces

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kropot.objects.bulk.packs import PackRead
    from kropot.objects.bulk.protocol import ExpectedObject, PackFlawKind
    from kropot.objects.packs.folder import PackFolder
    from kropot.objects.packs.packed import PackPlaces

    _Entry = tuple[bytes, bytes, int, int]
    """An object's SHA-256, its pack, its offset in the pack, and its length in bytes."""


@dataclass(slots=True)
class RangeAccount:
    """Where the objects of a range are: `packed` gives the lengths of the objects that are in a sound index.

    `unsure` are in packs with a damaged index, if the ledger is right. `rows` are the objects that must be elsewhere.
    `bad` are (SHA-256, detail) of objects whose length differs from what events say.
    """

    rows: Sequence[ExpectedObject]
    packed: dict[bytes, int] = field(default_factory=dict)
    unsure: list[ExpectedObject] = field(default_factory=list)
    bad: list[tuple[bytes, str]] = field(default_factory=list)


@dataclass(slots=True)
class _Count:
    first: bytes
    objects: int = 0


class PackAccounts:
    """Accounts for the packs that were in the folder when this began."""

    def __init__(self, folder: PackFolder, places: PackPlaces) -> None:
        """Read and hash every pack's index, but keep none. Raises: StorageError."""
        self._folder = folder
        self._places = places
        self.names = folder.names()
        self._faults: dict[bytes, str] = {}
        self._objects: dict[bytes, int] = {}
        for name in self.names:
            self._learn(name)
        self._sound = [name for name in self.names if name in self._objects]
        self._counts: dict[tuple[PackFlawKind, bytes], _Count] = {}

    @property
    def is_empty(self) -> bool:
        """Whether there is no pack, and the ledger knows of none. Raises: LedgerError."""
        return not self.names and next(iter(self._places.packs()), None) is None

    def account(self, start: bytes, end: bytes, rows: Sequence[ExpectedObject]) -> RangeAccount:
        """Return where the objects of [start, end] are; `rows` are those that events name. Raises: StorageError."""
        behind = behind_range(end)
        indexed = self._folder.ranges(self._sound, start, behind)
        placed = indexed if isinstance(self._places, NoPlaces) else self._places.ranges(start, behind)
        account = RangeAccount(rows)
        packed = account.packed = {one[0]: one[3] for one in indexed}
        if placed == indexed and packed == dict(rows):
            account.rows = ()
            return account
        expected = {row[0] for row in rows}
        ours, theirs = set(placed), set(indexed)
        self._missing(theirs - ours, expected, theirs, packed)
        unsure = self._extra(ours - theirs, packed)
        if not packed.keys() <= expected:
            for one in indexed:
                if one[0] not in expected and one[0] in packed:
                    self._count("orphans_in_pack", one[1], one[0])
        if packed or unsure:
            account.rows = [row for row in rows if row[1] is None or (row[0] not in packed and row[0] not in unsure)]
            account.unsure = [row for row in rows if row[1] is not None and row[0] in unsure and row[0] not in packed]
            account.bad = [
                (sha256, f"it has {packed[sha256]} bytes in its pack, but {size} were stored")
                for sha256, size in rows
                if size is not None and packed.get(sha256, size) != size
            ]
        return account

    def take(self, found: PackRead) -> None:
        """Take in the result of reading a pack, without bad objects whose place was dropped: nobody uses those."""
        if found.fault is not None and not found.is_gone:
            self._faults.setdefault(found.name, found.fault)
        if found.bad:
            dropped = self._places.dropped([sha256 for sha256, _, _ in found.bad])
            found.bad[:] = [one for one in found.bad if (one[0], found.name) not in dropped]

    def flaws(self) -> Iterator[PackFlaw]:
        """Yield what is wrong with packs, and with what the ledger says about them, as far as `account` has looked.

        Raises: StorageError.
        """
        for name, fault in sorted(self._faults.items()):
            yield PackFlaw(kind="damaged_pack", name=name, detail=f"{self._folder.layout.pack(name)}: {fault}")
        if not isinstance(self._places, NoPlaces):
            yield from self._tables()
        for (kind, name), count in sorted(self._counts.items()):
            yield self._flaw(kind, name, count)

    # --- helpers ---

    def _learn(self, name: bytes) -> None:
        try:
            pack = self._folder.open(name)
        except StorageError as error:
            self._faults[name] = str(error)
            return
        if pack is None:
            if os.path.lexists(self._folder.layout.pack(name)):
                self._faults[name] = "it is not a regular file"
            return
        try:
            fault = pack.index_fault()
        except OSError as error:
            fault = f"its index cannot be read: {error.strerror}"
        if fault is None:
            self._objects[name] = pack.footer.objects
        else:
            self._faults[name] = fault

    def _missing(
        self, entries: set[_Entry], expected: set[bytes], indexed: set[_Entry], packed: dict[bytes, int]
    ) -> None:
        """Look at the entries that indexes have and the ledger did not; ask the ledger again for its present state."""
        if not entries:
            return
        asked = {one[0] for one in entries}
        placed, dropped = self._places.find(asked), self._places.dropped(asked)
        gone = {one for one in entries if one[:2] in dropped}
        if gone:
            for one in gone:
                packed.pop(one[0], None)
            # Objects that another pack has as well are still there.
            packed.update({one[0]: one[3] for one in indexed - gone if one[0] in asked})
        for one in entries - gone:
            sha256 = one[0]
            # An object that the ledger places nowhere, and that has no file, is looked for in every pack.
            if sha256 not in expected or any(each.pack in self._objects for each in placed.get(sha256, ())):
                continue
            if self._folder.layout.size(sha256) is None:
                self._count("missing_placement", one[1], sha256)

    def _extra(self, entries: set[_Entry], packed: dict[bytes, int]) -> set[bytes]:
        """Look at the placements that no sound index has; return the objects that a damaged pack might have."""
        unsure: set[bytes] = set()
        for sha256, name, offset, length in sorted(entries):
            if name not in self._objects and name not in self._faults:
                self._learn(name)  # a collector may have made it meanwhile
            if name in self._faults:
                unsure.add(sha256)
            elif name in self._objects:
                pack = self._folder.open(name)
                found = None if pack is None else pack.find(sha256)
                if found is not None and found[1:] == (offset, length):
                    packed[sha256] = length
                elif any(each.pack == name and each.offset == offset for each in self._places.find([sha256])[sha256]):
                    self._count("wrong_placement", name, sha256)
        return unsure

    def _count(self, kind: PackFlawKind, name: bytes, sha256: bytes) -> None:
        count = self._counts.setdefault((kind, name), _Count(sha256))
        count.objects += 1
        count.first = min(count.first, sha256)

    def _tables(self) -> Iterator[PackFlaw]:
        known = {row.name: row.objects for row in self._places.packs()}
        for name in sorted(known.keys() - self._objects.keys() - self._faults.keys()):
            if self._folder.open(name) is not None:
                continue
            if self._folder.is_put_away(name):
                # The ledger forgets its places next. A needed object that is nowhere else is reported by itself.
                detail = (
                    f"{self._folder.layout.freed_pack(name)} is being freed; {known[name]} objects were placed in it"
                )
                yield PackFlaw(kind="freed_pack", name=name, detail=detail, severity="note")
            else:
                detail = f"{self._folder.layout.pack(name)} is gone; {known[name]} objects were placed in it"
                yield PackFlaw(kind="lost_pack", name=name, detail=detail)
        for name in sorted(self._objects.keys() - known.keys()):
            detail = (
                f"{self._folder.layout.pack(name)} holds {self._objects[name]} objects, but the ledger does not know it"
            )
            yield PackFlaw(kind="unknown_pack", name=name, detail=detail, severity="note")

    def _flaw(self, kind: PackFlawKind, name: bytes, count: _Count) -> PackFlaw:
        path, objects, every = self._folder.layout.pack(name), count.objects, self._objects.get(name)
        if kind == "missing_placement":
            detail = f"{path} holds {objects} objects that events name, but the ledger does not place them there"
        elif kind == "wrong_placement":
            detail = f"the ledger places {objects} objects in {path}, but they are not there"
        elif objects == every:
            detail = f"no event names any of the {objects} objects in {path}"
            return PackFlaw(kind="orphan_pack", name=name, detail=detail, severity="note")
        else:
            detail = f"no event names {objects} of the {every} objects in {path}"
            return PackFlaw(kind=kind, name=name, detail=detail, object=count.first, severity="note")
        return PackFlaw(kind=kind, name=name, detail=detail, object=count.first)
