"""Gather loose small objects into packs in a storage on another machine; see `kropot/objects/packs/gather.py`."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from kropot.objects.packs.gather import Gatherer
from kropot.objects.packs.packed import PackedObjects
from kropot.objects.stores.files import NoSuchKeyError
from kropot.objects.stores.objects import loose_objects, object_key
from kropot.objects.stores.packs import RemotePacks, RemotePackWriter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kropot.objects.packs.gather import GatherReport
    from kropot.objects.packs.packing import PackRule
    from kropot.objects.packs.writer import WholeObject
    from kropot.objects.stores.files import RemoteFiles
    from ledger.places import PlaceStore


class RemoteGatherer(Gatherer):
    """Packs loose objects there."""

    def __init__(self, files: RemoteFiles, places: PlaceStore, rule: PackRule) -> None:
        """Ask nothing yet."""
        self._remote = files
        self._folder = RemotePacks(files)
        self._packed = PackedObjects(self._folder, places)
        self._places = places
        self._writer = RemotePackWriter(files)
        self._rule = rule

    def _walk(self, start: bytes, end: bytes | None) -> Iterator[tuple[bytes, int]]:
        return loose_objects(self._remote, start, end)

    def _whole(self, sha256: bytes, report: GatherReport) -> list[WholeObject]:
        try:
            data = self._remote.get(object_key(sha256))
        except NoSuchKeyError:
            return []
        if hashlib.sha256(data).digest() != sha256:
            report.damaged += 1
            return []
        return [(sha256, data)]

    def _unlink(self, sha256: bytes) -> bool:
        self._remote.remove(object_key(sha256))
        return True
