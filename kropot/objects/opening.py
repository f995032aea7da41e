"""Opens the storage that `--storage-path` names; only this module knows which kind of storage a path means."""

from __future__ import annotations

import os
import platform
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import unquote

from msgspec import Struct

from kropot.durable.errors import storage_error
from kropot.durable.filesystem import room_at
from kropot.objects.directory import DirectoryObjects
from kropot.objects.layout import Layout, names_in
from kropot.objects.packs.folder import PackFolder
from kropot.objects.packs.packed import PackedObjects
from kropot.objects.partial import PartialMark, marks_in
from kropot.objects.stores.address import BucketAddress
from kropot.objects.stores.locks import LockRule
from kropot.segments import SegmentFolder
from kropot.wording import as_unicode

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from kropot.durable.filesystem import Room
    from kropot.objects.packs.gather import Gatherer
    from kropot.objects.packs.packed import PackPlaces
    from kropot.objects.packs.packing import PackRule
    from kropot.objects.packs.rewriting import PackRewriter
    from kropot.objects.store import ObjectStore
    from kropot.objects.stores.address import StorageAddress
    from kropot.objects.stores.files import RemoteFiles
    from kropot.objects.stores.versioned import VersionedStorage
    from ledger.places import PlaceStore


GATHERER: Final = "+pack"
"""The instance name under which loose objects are gathered into packs. Its lock allows one process per storage."""


class Partial(Struct, frozen=True, kw_only=True):
    """An unfinished content in an instance's folder; its bytes were marked at `marked_s` (seconds since 1970)."""

    instance: str
    mark: PartialMark
    marked_s: float


class ObjectRange(Struct, frozen=True, kw_only=True):
    """Where an object is in a pack: the pack's file, the object's first byte in it, and its length in bytes."""

    path: str
    offset: int
    length: int


class Storage(Protocol):
    """One storage: its objects, the segments next to them, and descriptions of it for messages."""

    @property
    def place(self) -> str:
        """Where it is, as the ledger's list of collectors names it; unique across machines."""
        ...

    @property
    def is_there(self) -> bool:
        """Whether anything is at this address."""
        ...

    @property
    def objects_place(self) -> str:
        """Where the objects are, for a message."""
        ...

    @property
    def has_objects(self) -> bool:
        """Whether there is a place for objects. There is none while the disk is not mounted."""
        ...

    @property
    def absence(self) -> str:
        """The message for when `has_objects` is false but should not be; it ends with what to create, and a colon."""
        ...

    def room(self) -> Room:
        """Return how much more it can hold. Raises: StorageError."""
        ...

    def objects(self, *, places: PackPlaces | None = None, pack: PackRule | None = None) -> ObjectStore:
        """Return the object store, which is opened at its first use.

        `places` come from a ledger, if there is one: without them, every pack is searched for an object in packs.
        `pack` says which objects go into packs.
        """
        ...

    def packs(self) -> PackFolder:
        """Return the packs among the objects."""
        ...

    def rewriter(self) -> AbstractContextManager[PackRewriter]:
        """Open a rewriter, which copies the live objects of packs into new packs, and removes packs.

        Raises: LockedError while another process rewrites or gathers in this storage; StorageError.
        """
        ...

    def gatherer(self, places: PlaceStore, rule: PackRule) -> AbstractContextManager[Gatherer]:
        """Open a gatherer, which moves loose small objects into packs, and records their places.

        Raises: LockedError while another process gathers in this storage; StorageError.
        """
        ...

    def segments(self, *, writing: bool = False) -> SegmentFolder:
        """Return the segments of the ledger's history; `writing` needs the instance's lock."""
        ...

    def partials(self) -> Iterator[Partial]:
        """Yield every instance's contents that are arriving or wait for the rest of them. Raises: StorageError."""
        ...

    def object_place(self, sha256: bytes) -> str:
        """Return where an object is, in a form that a user can give to another program."""
        ...

    def object_range(self, sha256: bytes, places: PackPlaces | None = None) -> ObjectRange | None:
        """Return where an object is in a pack, None if it has a file of its own or does not exist.

        Raises: StorageError.
        """
        ...

    def reading(self) -> Storage:
        """Return the same storage for a caller that only reads.

        If the newest version of a file is gone or damaged, an older one is read, if the store keeps any.
        """
        ...

    def versioned(self) -> VersionedStorage | None:
        """Return access to older versions, None if none are kept. Raises: StorageError."""
        ...

    def demand_removable(self) -> None:
        """Raise StorageError unless this process may remove files from the storage, including older versions."""
        ...

    def encloses(self, path: Path) -> bool:
        """Whether a local path is inside the storage, where nothing else belongs."""
        ...


def range_in_packs(packs: PackFolder, places: PackPlaces | None, sha256: bytes) -> ObjectRange | None:
    """Return where an object is in a pack, preferably where it is sound; None if no pack has it."""
    found = PackedObjects(packs, places).candidates(sha256)
    best = min(found, key=lambda one: not one[0].is_sound(one[1]), default=None)
    if best is None:
        return None
    pack, entry = best
    return ObjectRange(path=pack.path, offset=entry.offset, length=entry.length)


class FolderStorage:
    """A storage in a local folder."""

    def __init__(self, root: Path, instance: str) -> None:
        """Touch nothing yet; `instance` is the name under which this process works."""
        self._root = root.absolute()
        self._instance = instance
        self._layout = Layout(str(self._root))

    @property
    def place(self) -> str:
        """The machine and the folder."""
        return as_unicode(f"{platform.node()}:{self._root.resolve()}")

    @property
    def is_there(self) -> bool:
        """Whether the folder exists."""
        return self._root.is_dir()

    @property
    def objects_place(self) -> str:
        """The folder of the objects."""
        return self._layout.objects

    @property
    def has_objects(self) -> bool:
        """Whether the folder of the objects exists."""
        return Path(self._layout.objects).is_dir()

    @property
    def absence(self) -> str:
        """Ask whether the disk is mounted."""
        return (
            f"there is no folder {self._layout.objects}, although the ledger names objects in it: is the disk mounted, "
            "and is --storage-path right? Nothing was recorded. If they are lost for good, create that folder:"
        )

    def room(self) -> Room:
        """Ask the file system of the folder."""
        try:
            return room_at(str(self._root))
        except OSError as error:
            raise storage_error(error, f"asking for the free space of {self._root}") from error

    def objects(self, *, places: PackPlaces | None = None, pack: PackRule | None = None) -> ObjectStore:
        """Return the objects in the folder."""
        return DirectoryObjects(self._root, self._instance, places=places, pack=pack)

    def packs(self) -> PackFolder:
        """Return the packs in the folder."""
        return PackFolder(self._layout)

    @contextmanager
    def rewriter(self) -> Iterator[PackRewriter]:
        """Rewrite under the gatherer's name, because neither may remove what the other relies on."""
        objects = DirectoryObjects(self._root, GATHERER)
        try:
            objects.clean_own_leftovers(lambda _: False)
            yield objects.rewriter()
        finally:
            objects.close()

    @contextmanager
    def gatherer(self, places: PlaceStore, rule: PackRule) -> Iterator[Gatherer]:
        """Gather under a separate name, because collectors hold the locks of their instances."""
        objects = DirectoryObjects(self._root, GATHERER, pack=rule)
        try:
            objects.clean_own_leftovers(lambda _: False)
            yield objects.gatherer(places)
        finally:
            objects.close()

    def segments(self, *, writing: bool = False) -> SegmentFolder:
        """Return the segments; temporary ones are in the instance's own folder."""
        scratch = self._root / self._layout.instance(self._instance) if writing else None
        return SegmentFolder(self._root, scratch=scratch)

    def partials(self) -> Iterator[Partial]:
        """Read the marks in the instances' folders."""
        for instance in names_in(self._layout.temporary):
            for _, mark, marked_s in marks_in(f"{self._layout.temporary}/{instance}"):
                yield Partial(instance=unquote(instance), mark=mark, marked_s=marked_s)

    def object_place(self, sha256: bytes) -> str:
        """Return the path of the object's file."""
        return self._layout.object(sha256)

    def object_range(self, sha256: bytes, places: PackPlaces | None = None) -> ObjectRange | None:
        """Look for the object's file first, then search the packs, preferably for a sound place."""
        if self._layout.size(sha256) is not None:
            return None
        return range_in_packs(self.packs(), places, sha256)

    def reading(self) -> Storage:
        """Return itself: a folder keeps no older versions."""
        return self

    def versioned(self) -> VersionedStorage | None:
        """Return nothing."""
        return None

    def demand_removable(self) -> None:
        """Do nothing, because anyone who may write to a folder may also remove what is in it."""

    def encloses(self, path: Path) -> bool:
        """Whether the path is the folder or is below it."""
        storage, wanted = self._root.resolve(), path.resolve()
        return wanted == storage or storage in wanted.parents


def open_store(address: StorageAddress, instance: str, *, ca_file: Path | None = None) -> Storage:
    """Return the storage at this address, for a process that works under the name `instance`; nothing is touched yet.

    Raises: UsageError if the environment does not say how to reach it.
    """
    if isinstance(address, Path):
        return FolderStorage(address, instance)
    from kropot.objects.stores.storage import RemoteStorage

    days = address.lock_days if isinstance(address, BucketAddress) else None
    locks = None if days is None else LockRule(days)
    return RemoteStorage(open_files(address, instance, ca_file=ca_file), instance, locks)


def open_files(address: StorageAddress, instance: str = "+copy", *, ca_file: Path | None = None) -> RemoteFiles:
    """Return the files at this address, whatever kind of storage it is; nothing is touched yet.

    Raises: UsageError if the environment does not say how to reach it.
    """
    if isinstance(address, Path):
        from kropot.objects.stores.local import LocalFiles

        return LocalFiles(address)
    if isinstance(address, BucketAddress):
        from kropot.objects.stores.s3 import BucketFiles
        from kropot.objects.stores.s3_settings import bucket_access

        return BucketFiles(address, bucket_access(os.environ, ca_file))
    from kropot.objects.stores.sftp import SftpFiles

    return SftpFiles(address, instance)
