"""Objects in a local folder: written to `tmp/<instance>/`, synced, renamed to `objects/ab/<sha256>`, folders synced.

The layout is fixed by docs/format.md. Any number of instances may share one folder.
"""

# ruff: noqa: PTH100, PTH112, PTH120 -- paths are strings here: a Path a file costs more than the system call

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import threading
from typing import TYPE_CHECKING, BinaryIO

from kropot.durable.batch import Durability, Pending, choose_method
from kropot.durable.errors import DiscardedError, StorageError, storage_error
from kropot.durable.filesystem import OsFiles, room_at
from kropot.objects.freeing import FolderFreeing
from kropot.objects.instance import LOCK, InstanceLock
from kropot.objects.layout import Layout, names_in
from kropot.objects.partial import PartialFolder
from kropot.objects.store import CHUNK, ObjectMissingError, Published, PublishError, Staged, TakenUp
from kropot.objects.upload import HELD_BACK, FileUpload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from kropot.durable.batch import Choice
    from kropot.durable.filesystem import FileSystem
    from kropot.objects.bulk.protocol import BulkReader
    from kropot.objects.store import Leftover


class DirectoryObjects:
    """An object store in a folder; nothing is made or locked before `lock`, so that a reader needs no right to write.

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
    ) -> None:
        """Prepare; nothing is touched yet.

        Up to `held_back` bytes of an object are kept in memory before they are written.

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
        # Folders ab/ whose own name this process has made durable, and folders whose last sync failed: what is found
        # there is renamed over and never believed, because only a new change makes the system write the folder again.
        self._named: set[str] = set()
        self._unsure: set[str] = set()

    @property
    def durable_by(self) -> str:
        """How files become durable here, in words for a log."""
        if self._choice is None:
            return "decided at the first write"
        return f"{self._choice.method} ({self._choice.why})"

    def lock(self) -> None:
        """Make the folders, lock the instance's name, choose how files become durable.

        Raises: LockedError, StorageError.
        """
        with self._locking:
            if self._durability is not None:
                return
            layout = self._layout
            try:
                for folder in (layout.root, layout.objects, layout.quarantine, layout.temporary, self._tmp):
                    self._make_folder(folder)
                self._sync_folders_above()
                self._choice = self._choice or choose_method(layout.root)
            except OSError as error:
                raise storage_error(error, f"preparing the storage folder {layout.root}") from error
            self._lock.acquire()
            self._durability = Durability(layout.root, self._files, self._choice.method)

    def stage(self, name: str | None = None) -> FileUpload:
        """Begin an object in memory; its file is made with the first large write, or at the end."""
        if self._durability is None:
            self.lock()
        try:
            if name is not None and self._partials.claim(name):
                return self._upload(self._partials, name)
        except OSError as error:
            raise storage_error(error, f"removing {self._partials.path(name or '')}") from error
        return self._upload()

    def has_kept(self, name: str) -> bool:
        """Look at the names that were in the folder, and those that came."""
        return name in self._partials

    def take_up(self, name: str) -> TakenUp | None:
        """Read the file through; one that is not what its mark says is removed."""
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
        """Contents durable, then names, then the names durable."""
        with self._publishing:
            verdicts = self._writer().settle([_pending(staged) for staged in batch])
            outcomes: list[Published | PublishError] = []
            for staged, failure in zip(batch, verdicts, strict=True):
                try:
                    if failure is not None:
                        raise failure
                    outcomes.append(self._name(staged))
                except StorageError as error:
                    self._forget(staged)
                    outcomes.append(PublishError(sha256=staged.sha256, size=staged.size, error=error))
            return self._settle_names(outcomes)

    def discard(self, batch: Sequence[Staged]) -> None:
        """Remove the temporary files."""
        for staged in batch:
            self._forget(staged)

    def open(self, sha256: bytes) -> BinaryIO:
        """Open the object's file, unbuffered; a symbolic link is not an object."""
        path = self._layout.object(sha256)
        try:
            return os.fdopen(self._files.open_read(path), "rb", buffering=0)
        except FileNotFoundError as error:
            raise ObjectMissingError(sha256) from error
        except OSError as error:
            raise storage_error(error, f"opening {path}") from error

    def size(self, sha256: bytes) -> int | None:
        """Look at the file's size, not at its bytes."""
        return self._layout.size(sha256)

    def walk(self, start: bytes = b"", end: bytes | None = None) -> Iterator[tuple[bytes, int]]:
        """Walk folder by folder; memory holds the names of one folder, a 256th of all."""
        return self._layout.walk(start, end)

    def bulk_reader(self, *, objects: int, size: int, stopped: Callable[[], bool]) -> BulkReader:
        """Return what reads many objects by whole ranges, in several processes where there are many."""
        from kropot.objects.bulk.folder import FolderReader

        return FolderReader(self._layout, objects=objects, size=size, stopped=stopped)

    def set_aside(self, sha256: bytes) -> str:
        """Rename the object to `quarantine/<sha256>.<number>`."""
        source, folder = self._layout.object(sha256), self._layout.quarantine
        try:
            self._make_folder(folder)
            free = (path for n in itertools.count() if not os.path.lexists(path := f"{folder}/{sha256.hex()}.{n}"))
            target = next(free)
            self._files.rename(source, target)
            # The new name first: whatever is lost between the two, the bytes keep at least one.
            for synced in (folder, self._layout.root, os.path.dirname(source)):
                self._files.sync_folder(synced)
        except FileNotFoundError as error:
            raise ObjectMissingError(sha256) from error
        except OSError as error:
            raise storage_error(error, f"moving {source} into quarantine") from error
        return target

    def freeing(self) -> FolderFreeing:
        """Return what frees objects in this folder."""
        return FolderFreeing(self._layout, self._files)

    def leftovers(self) -> Iterator[Leftover]:
        """Look through every folder of the store, other instances' too."""
        return self._layout.leftovers()

    def clean_own_leftovers(self, wants: Callable[[bytes], bool]) -> int:
        """Empty this instance's own temporary folder, except for the lock and what somebody wants."""
        self.lock()
        stays = {LOCK} | self._partials.wanted(wants)
        return self._clean([name for name in names_in(self._tmp) if name not in stays])

    def free_bytes(self) -> int | None:
        """Ask the file system what an ordinary user may still write."""
        root = self._layout.root
        try:
            return room_at(root).bytes
        except OSError as error:
            raise storage_error(error, f"asking for the free space of {root}") from error

    def close(self) -> None:
        """End the threads, close the descriptor, give the lock back."""
        durability, self._durability = self._durability, None
        try:
            if durability is not None:
                durability.close()
        except OSError as error:
            raise storage_error(error, f"closing {self._layout.root}") from error
        finally:
            self._lock.release()

    def _upload(self, partials: PartialFolder | None = None, name: str = "") -> FileUpload:
        path = f"{self._prefix}{next(self._numbers)}"
        return FileUpload(path, self._files, self._writer(), self._held_back, partials=partials, name=name)

    def _writer(self) -> Durability:
        if self._durability is None:
            raise DiscardedError(f"{self._layout.root} is closed; what was staged before is fetched again")
        return self._durability

    def _name(self, staged: Staged) -> Published:
        """Give a durable file its name, unless a sound object has it. Raises: StorageError."""
        path, folder = self._layout.object(staged.sha256), self._layout.folder(staged.sha256)
        set_aside = None
        try:
            existed = os.path.lexists(path) and folder not in self._unsure
            if existed and not self._is_sound(path, staged):
                set_aside, existed = self.set_aside(staged.sha256), False
            if existed:
                self._files.unlink(staged.path)
            else:
                self._rename(staged.path, path)
        except OSError as error:
            raise storage_error(error, f"naming the object {path}") from error
        return Published(sha256=staged.sha256, size=staged.size, existed=existed, set_aside=set_aside)

    def _rename(self, source: str, path: str) -> None:
        """Rename, and make the folder for it where there is none yet. Raises: OSError."""
        try:
            self._files.rename(source, path)
        except FileNotFoundError:
            folder = os.path.dirname(path)
            self._named.discard(folder)
            with contextlib.suppress(FileExistsError):
                self._files.make_folder(folder)
            self._files.rename(source, path)

    def _is_sound(self, path: str, staged: Staged) -> bool:
        """Read an object that another writer may just have renamed, compare it, and sync it if it is what it should be.

        One that cannot be read or synced is not sound: the staged file, which is durable, then takes its place.
        """
        digest = hashlib.sha256()
        buffer = memoryview(bytearray(min(CHUNK, staged.size + 1)))
        try:
            fd = self._files.open_read(path)
            try:
                while count := self._files.read_into(fd, buffer):
                    digest.update(buffer[:count])
                if digest.digest() != staged.sha256:
                    return False
                self._files.sync_file(fd)
            finally:
                self._files.close(fd)
        except OSError:
            return False
        return True

    def _settle_names(self, outcomes: list[Published | PublishError]) -> list[Published | PublishError]:
        """Sync every folder that was given a name, and `objects/` for folders that are new to this process."""
        writer = self._writer()
        folders = {self._layout.folder(o.sha256) for o in outcomes if isinstance(o, Published)}
        failed = writer.sync_folders(sorted(folders))
        if fresh := folders - self._named:
            failed_parent = writer.sync_folders([self._layout.objects])
            failed |= {folder: error for folder in fresh for error in failed_parent.values()}
        self._unsure |= failed.keys()
        self._unsure -= folders - failed.keys()
        self._named |= folders - failed.keys()
        return outcomes if not failed else [self._unless_failed(outcome, failed) for outcome in outcomes]

    def _unless_failed(
        self, outcome: Published | PublishError, failed: dict[str, StorageError]
    ) -> Published | PublishError:
        error = failed.get(self._layout.folder(outcome.sha256))
        if isinstance(outcome, PublishError) or error is None:
            return outcome
        return PublishError(sha256=outcome.sha256, size=outcome.size, error=error)

    def _forget(self, staged: Staged) -> None:
        # What cannot be removed now is removed as a leftover at the next start.
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
        """Sync the names of all folders, of those that were there too: a process that was killed may have made them."""
        folder = self._layout.root
        self._files.sync_folder(folder)
        while folder != (folder := os.path.dirname(folder)):
            # A folder that is not ours to sync is none in which an earlier process made one.
            with contextlib.suppress(PermissionError):
                self._files.sync_folder(folder)

    def _make_folder(self, path: str) -> None:
        """Make a folder, and those above it; the caller syncs them. Raises: OSError."""
        if os.path.isdir(path):
            return
        self._make_folder(os.path.dirname(path))
        with contextlib.suppress(FileExistsError):
            self._files.make_folder(path)


def _pending(staged: Staged) -> Pending:
    if not isinstance(staged.pending, Pending):
        raise TypeError("this object was staged by another store")
    return staged.pending
