"""A storage on another machine: a bucket, or a folder on an SFTP server."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from kropot.durable.dirfd import make_root
from kropot.durable.errors import StorageError, storage_error
from kropot.objects.instance import InstanceLock, folder_name
from kropot.objects.opening import GATHERER, range_in_packs
from kropot.objects.stores.files import MARKER, VersionedFiles
from kropot.objects.stores.freeing import RemoteRewriter
from kropot.objects.stores.gather import RemoteGatherer
from kropot.objects.stores.objects import RemoteObjects, object_key
from kropot.objects.stores.packs import RemotePacks
from kropot.objects.stores.segments import RemoteSegments
from kropot.user_folders import state_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kropot.durable.filesystem import Room
    from kropot.objects.opening import ObjectRange, Partial, Storage
    from kropot.objects.packs.folder import PackFolder
    from kropot.objects.packs.gather import Gatherer
    from kropot.objects.packs.packed import PackPlaces
    from kropot.objects.packs.packing import PackRule
    from kropot.objects.packs.rewriting import PackRewriter
    from kropot.objects.store import ObjectStore
    from kropot.objects.stores.files import RemoteFiles
    from kropot.objects.stores.locks import LockRule
    from kropot.objects.stores.versioned import VersionedStorage
    from kropot.segments import SegmentFolder
    from ledger.places import PlaceStore

LOCKS: Final = "storage-locks"


class RemoteStorage:
    """A storage on another machine, below one address."""

    def __init__(self, files: RemoteFiles, instance: str, locks: LockRule | None = None) -> None:
        """Ask nothing yet; `instance` is the name that this process works under, `locks` says how a bucket locks."""
        self._files = files
        self._instance = instance
        self._locks = locks

    @property
    def place(self) -> str:
        """The machine and the address: the machine, because the lock for the address is this machine's."""
        import platform

        return f"{platform.node()}:{self._files.place}"

    @property
    def is_there(self) -> bool:
        """Whether a storage is at the address. Raises: StorageError."""
        return self.has_objects

    @property
    def objects_place(self) -> str:
        """The address."""
        return self._files.place

    @property
    def has_objects(self) -> bool:
        """Whether the storage is marked, was marked before somebody emptied it, or has any object or pack.

        Raises: StorageError.
        """
        if self._files.stat(MARKER) is not None:
            return True
        if any(next(self._files.walk(kind), None) is not None for kind in ("packs", "objects")):
            return True
        files = self._files
        return isinstance(files, VersionedFiles) and files.keeps_versions() and any(files.versions(MARKER))

    @property
    def absence(self) -> str:
        """The message for when nothing is there, which says how to start an empty storage there all the same."""
        place = self._files.place
        return (
            f"there is no storage at {place}, although the ledger names objects in it: is --storage-path right, with "
            f"its bucket or host and the full prefix? Nothing was recorded. If they are lost for good, put a file "
            f"named {MARKER} there:"
        )

    def room(self) -> Room:
        """Ask the server, if it can say."""
        return self._files.room()

    def objects(self, *, places: PackPlaces | None = None, pack: PackRule | None = None) -> ObjectStore:
        """Return the objects there."""
        return RemoteObjects(
            self._files,
            self._instance,
            lock=_lock_of(self._files.place, self._instance),
            places=places,
            pack=pack,
            locks=self._locks,
        )

    def packs(self) -> PackFolder:
        """Return the packs there."""
        return RemotePacks(self._files)

    @contextmanager
    def rewriter(self) -> Iterator[PackRewriter]:
        """Rewrite under the gatherer's lock, because neither may remove what the other relies on."""
        lock = _lock_of(self._files.place, GATHERER)
        lock.acquire()
        try:
            yield RemoteRewriter(self._files, self._locks)
        finally:
            lock.release()

    @contextmanager
    def gatherer(self, places: PlaceStore, rule: PackRule) -> Iterator[Gatherer]:
        """Gather under a separate lock, which allows one process per machine; two machines only do work twice."""
        lock = _lock_of(self._files.place, GATHERER)
        lock.acquire()
        try:
            yield RemoteGatherer(self._files, places, rule)
        finally:
            lock.release()

    def segments(self, *, writing: bool = False) -> SegmentFolder:
        """Return the segments."""
        return RemoteSegments(self._files, writing=writing)

    def partials(self) -> Iterator[Partial]:
        """Yield nothing, because an interrupted content is fetched from its beginning."""
        return iter(())

    def object_place(self, sha256: bytes) -> str:
        """Return the object's address."""
        return f"{self._files.place}/{object_key(sha256)}"

    def object_range(self, sha256: bytes, places: PackPlaces | None = None) -> ObjectRange | None:
        """Look for the object's own file first, then search the packs, preferably for a sound place."""
        if self._files.stat(object_key(sha256)) is not None:
            return None
        return range_in_packs(self.packs(), places, sha256)

    def reading(self) -> Storage:
        """Return the same storage, read in older versions if newer ones are gone or damaged."""
        if not isinstance(self._files, VersionedFiles):
            return self
        return RemoteStorage(self._files.older(), self._instance, self._locks)

    def versioned(self) -> VersionedStorage | None:
        """Return access to older versions, None if the store keeps none. Raises: StorageError."""
        from kropot.objects.stores.versioned import VersionedStorage

        files = self._files
        if isinstance(files, VersionedFiles) and files.keeps_versions():
            return VersionedStorage(files, self._locks)
        return None

    def demand_removable(self) -> None:
        """Ask for the right to remove older versions; if none are kept, write and remove a file."""
        if isinstance(self._files, VersionedFiles):
            self._files.demand_removable()
            if self._files.keeps_versions():
                return  # a file written as a test would stay as an older version
        key = f"tmp/{folder_name(self._instance)}/removable"
        self._files.put(key, b"")
        self._files.remove(key)

    def encloses(self, path: Path) -> bool:  # noqa: ARG002 -- the protocol has it
        """Return false, because it is on another machine."""
        return False


def _lock_of(place: str, instance: str) -> InstanceLock:
    """Return this machine's lock for an instance's name in a storage. Raises: StorageError without a state folder."""
    state = state_folder()
    if state is None:
        raise StorageError(
            "this user has no home for the lock of an instance: set XDG_STATE_HOME to a folder that this user can write"
        )
    folder = state / LOCKS / hashlib.sha256(place.encode()).hexdigest()[:32] / folder_name(instance)
    return _LazyLock(folder, instance)


class _LazyLock(InstanceLock):
    """A lock whose folder is created when it is taken."""

    def __init__(self, folder: Path, instance: str) -> None:
        super().__init__(str(folder), instance)
        self._folder = folder

    def acquire(self) -> None:
        """Create the folder, then take the lock. Raises: LockedError, StorageError."""
        try:
            make_root(self._folder)
        except OSError as error:
            raise storage_error(error, f"making {self._folder}") from error
        super().acquire()
