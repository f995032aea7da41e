"""Find objects in older versions of a bucket's files, and put those versions again."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from kropot.durable.errors import storage_error
from kropot.objects.packs.packed import PackedObjects
from kropot.objects.stores.files import PIECE, NoSuchKeyError
from kropot.objects.stores.objects import object_key
from kropot.objects.stores.packs import RemotePacks, pack_key
from kropot.objects.stores.reading import RemoteReader

if TYPE_CHECKING:
    from kropot.objects.packs.packed import PackPlaces
    from kropot.objects.stores.files import OlderReader
    from ledger.places import Placement


class RemoteRecall:
    """The older versions in one bucket; `places` come from a ledger, which says in which packs objects were."""

    def __init__(self, files: OlderReader, places: PackPlaces) -> None:
        """Ask nothing yet."""
        self._files = files
        self._places = places
        self._packed = PackedObjects(RemotePacks(files))
        self._packs_again: set[str] = set()

    def key_of(self, sha256: bytes) -> str | None:
        """Look at the packs where the ledger places it, because each has many objects, then at the object's own key."""
        for place in self._places.find([sha256]).get(sha256, ()):
            key = pack_key(place.pack)
            is_older = key in self._packs_again or self._files.instead(key) is not None
            if is_older and hashlib.sha256(self._range(place)).digest() == sha256:
                return key
        key = object_key(sha256)
        version = self._files.instead(key)
        return key if version is not None and self._digest(key, version.size) == sha256 else None

    def put_again(self, key: str) -> None:
        """Fetch the older version and write it."""
        if key in self._packs_again:
            return
        self._files.put_again(key)
        if key.startswith("packs/"):
            self._packs_again.add(key)

    def was_put_again(self, key: str) -> bool:
        """Return whether it is remembered; only packs are, because they have more than one object."""
        return key in self._packs_again

    def close(self) -> None:
        """End the connections."""
        self._files.close()

    def _range(self, place: Placement) -> bytes:
        try:
            return self._packed.range(place) or b""
        except OSError as error:
            raise storage_error(error, f"reading the pack {place.pack.hex()}") from error

    def _digest(self, key: str, size: int) -> bytes:
        digest = hashlib.sha256()
        reader = RemoteReader(self._files, key, size)
        try:
            while piece := reader.read(PIECE):
                digest.update(piece)
        except NoSuchKeyError:
            return b""
        finally:
            reader.close()
        return digest.digest()
