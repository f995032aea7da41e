"""Objects in a local folder: written to `tmp/<instance>/`, synced, renamed to `objects/ab/<sha256>`, folders synced.

Small ones go into packs (`packs/`) if a batch has enough of them; if an object has a file too, the file comes first.
The layout is fixed by docs/format.md. Any number of instances may share one folder.
"""

# ruff: noqa: PTH100, PTH112, PTH120 -- paths are strings here: a Path per file costs more than the system call

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import threading
from heapq import merge
from typing import TYPE_CHECKING, BinaryIO

from kropot.durable.batch import Durability, choose_method
from kropot.durable.errors import DiscardedError, storage_error
from kropot.durable.filesystem import OsFiles, room_at
from kropot.objects.freeing import FolderFreeing
from kropot.objects.instance import LOCK, InstanceLock
from kropot.objects.layout import Layout, names_in
from kropot.objects.naming import FileNaming, pending_of
from kropot.objects.packs.folder import PackFolder
from kropot.objects.packs.packed import PackedObjects
from kropot.objects.packs.packing import Packing, PackRule
from kropot.objects.packs.writer import PackWriter
from kropot.objects.partial import PartialFolder
from kropot.objects.quarantine import Quarantine
from kropot.objects.store import CHUNK, Published, PublishError, Staged, TakenUp
from kropot.objects.upload import HELD_BACK, FileUpload

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    from kropot.durable.batch import Choice
    from kropot.durable.filesystem import FileSystem
    from kropot.objects.bulk.protocol import BulkReader
    from kropot.objects.packs.accounts import PackAccounts
    from kropot.objects.packs.gather import Gatherer
    from kropot.objects.packs.packed import PackPlaces
    from kropot.objects.packs.rewriting import PackRewriter
    from kropot.objects.store import Leftover
    from ledger.places import Placement, PlaceStore


class DirectoryObjects:
    """An object store in a folder; nothing is created or locked before `lock`, so a reader needs no write permission.

    One thread may publish while others stage.
    """

    def __init__(
        self,
        root: Path,
        instance: str,
        *,
        files: FileSystem | None = None,
        choice: Choice | None = None,
        held_back: int = HELD_BACK,
        places: PackPlaces | None = None,
        pack: PackRule | None = None,
    ) -> None:
        """Prepare; nothing is touched yet.

        Up to `held_back` bytes of an object are kept in memory before they are written. Objects in packs are found by
        `places`, which come from a ledger; objects that it does not place are found by the packs' own indexes. `pack`
        says which objects go into packs.

        Raises: UsageError for an instance name that no folder can have.
        """
        self._layout = Layout(os.path.abspath(root))
        self._tmp = self._layout.instance(instance)
        self._files: FileSystem = OsFiles() if files is None else files
        self._lock = InstanceLock(self._tmp, instance)
        self._partials = PartialFolder(self._tmp, self._files)
        self._held_back = held_back
        self._choice = choice
        self._durability: Durability | None = None
        self._locking = threading.Lock()
        self._publishing = threading.Lock()
        self._prefix = f"{self._tmp}/{os.getpid()}-"
        self._numbers = itertools.count(1)
        self._quarantine = Quarantine(self._layout, self._files)
        self._folder = PackFolder(self._layout, self._files)
        self._packed = PackedObjects(self._folder, places)
        self._rule = pack or PackRule()
        self._pack_writer = PackWriter(self._layout, self._files, self._temporary)
        self._packing = Packing(
            self._rule,
            self._packed,
            self._pack_writer,
            read=self._read_staged,
            with_files=self._layout.with_files,
            set_aside=self.set_aside,
        )
        self._naming = FileNaming(
            self._layout, self._files, self._writer, stage=self._upload, forget=self._forget, set_aside=self.set_aside
        )

    @property
    def durable_by(self) -> str:
        """How files become durable here, in words for a log."""
        if self._choice is None:
            return "decided at the first write"
        return f"{self._choice.method} ({self._choice.why})"

    def lock(self) -> None:
        """Create the folders, lock the instance's name, and choose how files become durable.

        Raises: LockedError, StorageError.
        """
        with self._locking:
            if self._durability is not None:
                return
            layout = self._layout
            try:
                for folder in (*layout.folders, self._tmp):
                    self._make_folder(folder)
                self._sync_folders_above()
                self._choice = self._choice or choose_method(layout.root)
            except OSError as error:
                raise storage_error(error, f"preparing the storage folder {layout.root}") from error
            self._lock.acquire()
            self._durability = Durability(layout.root, self._files, self._choice.method)

    def stage(self, name: str | None = None) -> FileUpload:
        """Start an object in memory; its file is created with the first large write, or at the end."""
        if self._durability is None:
            self.lock()
        try:
            if name is not None and self._partials.claim(name):
                return self._upload(self._partials, name)
        except OSError as error:
            raise storage_error(error, f"removing {self._partials.path(name or '')}") from error
        return self._upload()

    def stage_whole(self, data: bytes, sha256: bytes) -> Staged:
        """Keep the bytes until `publish`."""
        if self._durability is None:
            self.lock()
        return Staged(path="", sha256=sha256, size=len(data), pending=data)

    def has_kept(self, name: str) -> bool:
        """Look among the names that were in the folder, and those added since."""
        return name in self._partials

    def take_up(self, name: str) -> TakenUp | None:
        """Read the whole file; remove it if it does not match its mark."""
        if self._durability is None:
            self.lock()
        try:
            found = self._partials.take_up(name)
            if found is None:
                return None
            upload = self._upload(self._partials, name)
            upload.take_up(found)
        except OSError as error:
            raise storage_error(error, f"reading {self._partials.path(name)}") from error
        return TakenUp(upload=upload, note=found.mark.note, tail=found.tail)

    def publish(self, batch: Sequence[Staged]) -> list[Published | PublishError]:
        """Make packs first if there are enough small objects, then files: durable, named, and the names durable."""
        with self._publishing:
            self._writer()
            packed = self._packing.publish(batch)
            for at in packed:
                if batch[at].path:
                    self._forget(batch[at])
            if len(packed) == len(batch):
                return [packed[at] for at in range(len(batch))]
            singles = iter(self._naming.publish([staged for at, staged in enumerate(batch) if at not in packed]))
            return [packed[at] if at in packed else next(singles) for at in range(len(batch))]

    def _read_staged(self, staged: Staged) -> bytes:
        """Return the bytes of an object that was staged into a file. Raises: StorageError."""
        pending_of(staged)
        try:
            fd = self._files.open_read(staged.path)
            try:
                buffer = memoryview(bytearray(staged.size + 1))
                size = 0
                while size <= staged.size and (count := self._files.read_into(fd, buffer[size:])):
                    size += count
            finally:
                self._files.close(fd)
        except OSError as error:
            raise storage_error(error, f"reading {staged.path}") from error
        data = bytes(buffer[:size])
        if hashlib.sha256(data).digest() != staged.sha256:
            raise DiscardedError(f"{staged.path} differs from what was written there; it will be fetched again")
        return data

    def discard(self, batch: Sequence[Staged]) -> None:
        """Remove the temporary files."""
        for staged in batch:
            self._forget(staged)

    def open(self, sha256: bytes) -> BinaryIO:
        """Open the object's file, unbuffered, or its bytes in a pack; a symbolic link is not an object."""
        path = self._layout.object(sha256)
        try:
            return os.fdopen(self._files.open_read(path), "rb", buffering=0)
        except FileNotFoundError:
            return self._packed.open(sha256)
        except OSError as error:
            raise storage_error(error, f"opening {path}") from error

    def placed(self, sha256s: Collection[bytes]) -> Mapping[bytes, Sequence[Placement]]:
        """Ask the ledger, if there is one."""
        return self._packed.find(sha256s)

    def read_placed(self, sha256: bytes, place: Placement | None) -> bytes:
        """Read the range in its pack, or the object's file. The ledger is never asked."""
        path = self._layout.object(sha256)
        try:
            if place is not None and (data := self._packed.range(place)) is not None:
                return data
            fd = self._files.open_read(path)
            try:
                data = more = os.read(fd, CHUNK)
                while len(more) == CHUNK:
                    data += (more := os.read(fd, CHUNK))
                return data
            finally:
                self._files.close(fd)
        except FileNotFoundError:
            return self._packed.read_unasked(sha256)
        except OSError as error:
            raise storage_error(error, f"reading {path}") from error

    def size(self, sha256: bytes) -> int | None:
        """Look at the file's size or the pack's index, not at the bytes."""
        size = self._layout.size(sha256)
        return self._packed.size(sha256) if size is None else size

    def holds(self, sha256: bytes, size: int, place: Placement | None = None) -> bool:
        """Look at the object's file, then for the pack that it was put into, then in every pack."""
        if self._layout.size(sha256) == size or (place is not None and self._folder.has(place.pack)):
            return True
        return self._packed.size(sha256) == size

    def walk(self, start: bytes = b"", end: bytes | None = None) -> Iterator[tuple[bytes, int]]:
        """Walk the folders and the packs side by side; memory holds the names of one folder, a 256th of all."""
        last = None
        for sha256, size in merge(
            self._layout.walk(start, end), self._packed.walk(start, end), key=lambda found: found[0]
        ):
            if sha256 != last:
                yield sha256, size
            last = sha256

    def bulk_reader(
        self, *, objects: int, size: int, stopped: Callable[[], bool], take: Callable[[int], None] | None = None
    ) -> BulkReader | None:
        """Return a reader of whole packs, and of whole ranges of files; it uses several processes if there are many."""
        accounts = self.pack_accounts()
        if not accounts.is_empty:
            from kropot.objects.bulk.packed_folder import PackedFolderReader

            scale = {"objects": objects, "size": size}
            return PackedFolderReader(self._layout, self, accounts, **scale, stopped=stopped, take=take)
        from kropot.objects.bulk.folder import FolderReader

        return None if take else FolderReader(self._layout, objects=objects, size=size, stopped=stopped)

    def pack_accounts(self) -> PackAccounts:
        """Read the indexes of all packs."""
        from kropot.objects.packs.accounts import PackAccounts

        return PackAccounts(self._folder, self._packed.places)

    def drop_place(self, sha256: bytes, pack: bytes) -> None:
        """Tell the ledger, if there is one."""
        self._packed.places.drop(sha256, pack)

    def set_aside(self, sha256: bytes) -> str:
        """Move the object's file to `quarantine/<sha256>.<number>`, or copy it from a pack and drop its places.

        The pack stays as it is.
        """
        source = self._layout.object(sha256)
        try:
            try:
                return self._quarantine.move(source, sha256)
            except FileNotFoundError:
                with self._packed.open(sha256) as packed:
                    place = self._quarantine.put(packed.read(), sha256)
        except OSError as error:
            raise storage_error(error, f"moving {source} into quarantine") from error
        self._packed.drop(sha256)
        return place

    def rewriter(self) -> PackRewriter:
        """Return a rewriter, which copies the live objects of packs into new packs, and removes packs.

        Raises: LockedError, StorageError.
        """
        from kropot.objects.packs.rewriting import PackRewriter

        self.lock()
        return PackRewriter(self._layout, self._files, self._pack_writer)

    def gatherer(self, places: PlaceStore) -> Gatherer:
        """Return a gatherer, which moves loose small objects into packs, and records their places.

        Raises: LockedError, StorageError.
        """
        from kropot.objects.packs.gather import Gatherer

        self.lock()
        return Gatherer(
            self._layout,
            self._files,
            folder=self._folder,
            packed=PackedObjects(self._folder, places),
            places=places,
            writer=self._pack_writer,
            rule=self._rule,
        )

    def freeing(self) -> FolderFreeing:
        """Return the `FolderFreeing` of this folder."""
        return FolderFreeing(self._layout, self._files)

    def leftovers(self) -> Iterator[Leftover]:
        """Look through every folder of the store, including those of other instances."""
        return self._layout.leftovers()

    def clean_own_leftovers(self, wants: Callable[[bytes], bool]) -> int:
        """Empty this instance's own temporary folder, except for the lock and the partial contents that are wanted."""
        self.lock()
        stays = {LOCK} | self._partials.wanted(wants)
        return self._clean([name for name in names_in(self._tmp) if name not in stays])

    def free_bytes(self) -> int | None:
        """Ask the file system how much an ordinary user can still write."""
        root = self._layout.root
        try:
            return room_at(root).bytes
        except OSError as error:
            raise storage_error(error, f"asking for the free space of {root}") from error

    def close(self) -> None:
        """End the threads, close the descriptors, and release the lock."""
        self._folder.forget()
        durability, self._durability = self._durability, None
        try:
            if durability is not None:
                durability.close()
        except OSError as error:
            raise storage_error(error, f"closing {self._layout.root}") from error
        finally:
            self._lock.release()

    def _upload(self, partials: PartialFolder | None = None, name: str = "") -> FileUpload:
        return FileUpload(self._temporary(), self._files, self._writer(), self._held_back, partials=partials, name=name)

    def _temporary(self) -> str:
        return f"{self._prefix}{next(self._numbers)}"

    def _writer(self) -> Durability:
        if self._durability is None:
            raise DiscardedError(f"{self._layout.root} is closed; what was staged before will be fetched again")
        return self._durability

    def _forget(self, staged: Staged) -> None:
        # If this fails, the file is removed as a leftover at the next start.
        if staged.path:
            with contextlib.suppress(OSError):
                self._files.unlink(staged.path)

    def _clean(self, names: list[str]) -> int:
        for name in names:
            try:
                self._files.unlink(f"{self._tmp}/{name}")
            except OSError as error:
                raise storage_error(error, f"removing {self._tmp}/{name}") from error
        return len(names)

    def _sync_folders_above(self) -> None:
        """Sync the names of all folders, even of existing ones: a killed process might have created them."""
        folder = self._layout.root
        self._files.sync_folder(folder)
        while folder != (folder := os.path.dirname(folder)):
            # If we may not sync a folder, no earlier process has created a folder in it.
            with contextlib.suppress(PermissionError):
                self._files.sync_folder(folder)

    def _make_folder(self, path: str) -> None:
        """Create a folder and the missing ones above it; the caller syncs them. Raises: OSError."""
        if os.path.isdir(path):
            return
        self._make_folder(os.path.dirname(path))
        with contextlib.suppress(FileExistsError):
            self._files.make_folder(path)
