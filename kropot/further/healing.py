"""Heal an object of one storage from a sound copy in another. It is published only if its digest is right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kropot.durable.errors import StorageError
from kropot.errors import KropotError
from kropot.objects.opening import open_store
from kropot.objects.store import CHUNK, ObjectMissingError, Published

if TYPE_CHECKING:
    from kropot.further.joining import Surroundings
    from kropot.objects.store import ObjectStore
    from ledger.log import Ledger

HEALER: Final = "+heal"
"""The instance name under which objects are healed."""


def heal(sha256: bytes, size: int, source: ObjectStore, target: ObjectStore) -> bool:
    """Copy an object from `source` into `target`. Return False if it is missing or not sound in `source`.

    Raises: StorageError if it cannot be written; LockedError while another process heals.
    """
    upload = target.stage()
    try:
        with source.open(sha256) as file:
            while upload.size <= size and (data := file.read(CHUNK)):
                upload.write(data)
    except (ObjectMissingError, OSError):
        upload.abort()
        return False
    except BaseException:
        upload.abort()
        raise
    staged = upload.finish()
    if (staged.sha256, staged.size) != (sha256, size):
        target.discard([staged])
        return False
    (published,) = target.publish([staged])
    if not isinstance(published, Published):
        raise published.error
    return True


class Healer:
    """Heals objects of the first storage from the known further ones, which are opened at first use."""

    def __init__(self, ledger: Ledger, surroundings: Surroundings) -> None:
        """Open nothing yet."""
        self._ledger = ledger
        self._surroundings = surroundings
        self._sources: list[tuple[str, ObjectStore]] | None = None
        self._first: ObjectStore | None = None

    def heal(self, sha256: bytes, size: int) -> str | None:
        """Heal an object. Return the address of the storage that had it, None if no available storage has it.

        Raises: StorageError if it cannot be written; LockedError while another process heals.
        """
        for address, objects in self._opened():
            try:
                if heal(sha256, size, objects, self._target()):
                    return address
            except StorageError:
                if self._target().free_bytes() == 0:
                    raise
        return None

    def close(self) -> None:
        """Close all opened storages."""
        for _, objects in self._sources or ():
            objects.close()
        if self._first is not None:
            self._first.close()

    def _opened(self) -> list[tuple[str, ObjectStore]]:
        if self._sources is None:
            self._sources = []
            for row in self._surroundings.known(self._ledger):
                try:
                    with self._surroundings.rejoin(self._ledger, row) as further:
                        objects = further.objects(self._ledger)
                except KropotError:
                    continue  # it is unavailable, which `status` reports; another one can have the object
                self._sources.append((row.address, objects))
        return self._sources

    def _target(self) -> ObjectStore:
        if self._first is None:
            self._first = open_store(self._surroundings.first, HEALER, ca_file=self._surroundings.ca_file).objects()
        return self._first
