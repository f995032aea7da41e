"""Rebuild placements from the indexes of the packs: `kropotcli storage index`, and after a ledger was recovered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from kropot.durable.errors import storage_error
from kropot.objects.packs.format import PackDamagedError
from ledger.places import Placement

if TYPE_CHECKING:
    from collections.abc import Callable

    from kropot.objects.packs.folder import PackFolder
    from ledger.places import PlaceStore

MOST_DAMAGED = 20
"""How many damaged packs are reported one by one."""


class ReindexReport(Struct, frozen=True, kw_only=True):
    """How many packs and objects were indexed, and how many packs are damaged; `told` describes the first of those.

    `forgotten` packs were in the ledger but are not in the storage.
    """

    packs: int
    objects: int
    bytes: int
    damaged: int
    forgotten: int
    told: tuple[str, ...]


def placements_of(folder: PackFolder, name: bytes) -> list[Placement] | None:
    """Return where a pack's objects are according to its own index, None if the pack is gone.

    Raises: PackDamagedError, StorageError.
    """
    pack = folder.open(name)
    if pack is None:
        return None
    try:
        entries = pack.entries()
    except OSError as error:
        raise storage_error(error, f"reading the pack {pack.path}") from error
    return [Placement(sha256=sha256, pack=name, offset=offset, length=length) for sha256, offset, length in entries]


def reindex(
    folder: PackFolder, places: PlaceStore, *, progress: Callable[[int, int], None] = lambda _done, _all: None
) -> ReindexReport:
    """Replace all placements with those of the packs' indexes; memory holds one index and the packs' names.

    A damaged pack keeps its placements, because its objects might still be readable. In all others, objects that were
    dropped are placed again. `progress` is called with (packs done, all packs).

    Raises: StorageError.
    """
    names = folder.names()
    folder.settle(names)
    packs = objects = size = damaged = forgotten = 0
    told: list[str] = []
    for done, name in enumerate(names):
        progress(done, len(names))
        try:
            found = placements_of(folder, name)
        except PackDamagedError as error:
            damaged += 1
            told += [str(error)] if len(told) < MOST_DAMAGED else []
            continue
        if found is not None:
            places.replace(name, found)
            packs, objects, size = packs + 1, objects + len(found), size + sum(one.length for one in found)
    there = set(names)
    # A pack that a collector made meanwhile is in the ledger, but was not in the storage before: look again.
    for row in [row for row in places.packs() if row.name not in there]:
        if folder.open(row.name) is None:
            places.forget(row.name)
            forgotten += 1
    places.sweep()
    return ReindexReport(
        packs=packs, objects=objects, bytes=size, damaged=damaged, forgotten=forgotten, told=tuple(told)
    )
