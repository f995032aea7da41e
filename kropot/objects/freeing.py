"""Free objects that no copy needs: move them out of sight first, so that nobody can name them, then remove them.

Between the two steps, a writer that lost the ledger's lock without knowing it can still put them back. The next run
looks again at objects that a crash left out of sight (docs/decisions/0031).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from kropot.durable.errors import storage_error
from kropot.durable.filesystem import OsFiles
from kropot.objects.layout import is_object, names_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from kropot.durable.filesystem import FileSystem
    from kropot.objects.layout import Layout


class FreedObject(NamedTuple):
    """An object that is out of sight, and its size in bytes; if `is_locked`, it takes space until its lock ends."""

    sha256: bytes
    size: int
    is_locked: bool = False


class Freeable(Protocol):
    """How a storage frees objects. Every method can raise StorageError."""

    def put_away(self, sha256s: Iterable[bytes]) -> list[FreedObject]:
        """Move those of the objects that exist out of sight at once: `open` and `size` no longer find them."""
        ...

    def bring_back(self, sha256s: Iterable[bytes]) -> None:
        """Put objects that are out of sight back, durably, unless others with their names have arrived meanwhile."""
        ...

    def destroy(self, sha256s: Iterable[bytes]) -> None:
        """Remove objects that are out of sight for good; the removal is durable when this returns."""
        ...

    def put_away_before(self) -> Iterator[FreedObject]:
        """Yield the objects that an earlier run left out of sight."""
        ...

    def age_us(self, sha256: bytes, now_us: int) -> int | None:
        """Return how long ago the object was written, None if it is not there."""
        ...

    def quarantine_age_us(self, path: str, now_us: int) -> int | None:
        """Return how long ago the file at this path below the storage was set aside, None if it is not there."""
        ...

    def remove_quarantined(self, path: str) -> None:
        """Remove a file that was set aside, for good."""
        ...


@runtime_checkable
class CanFree(Protocol):
    """An object store that can free objects."""

    def freeing(self) -> Freeable:
        """Return the `Freeable` of this store."""
        ...


class FolderFreeing:
    """Frees objects in a folder; those that are out of sight are in `freed/`."""

    def __init__(self, layout: Layout, files: FileSystem | None = None) -> None:
        """Touch nothing yet."""
        self._layout = layout
        self._files: FileSystem = OsFiles() if files is None else files
        self._folder = f"{layout.root}/freed"

    def put_away(self, sha256s: Iterable[bytes]) -> list[FreedObject]:
        """Rename into `freed/` without a sync: after a power cut, an object can be in either place."""
        found = []
        for sha256 in sha256s:
            path = self._layout.object(sha256)
            size = self._layout.size(sha256)
            if size is None:
                continue
            try:
                make_freed_folder(self._files, self._folder, self._layout.root)
                self._files.rename(path, self._path(sha256))
            except FileNotFoundError:
                continue
            except OSError as error:
                raise storage_error(error, f"freeing {path}") from error
            found.append(FreedObject(sha256, size))
        return found

    def bring_back(self, sha256s: Iterable[bytes]) -> None:
        """Rename back and sync; if the object has been stored again meanwhile, remove this file instead."""
        for sha256 in sha256s:
            path, folder = self._layout.object(sha256), self._layout.folder(sha256)
            try:
                if os.path.lexists(path):
                    self._files.unlink(self._path(sha256))
                else:
                    self._files.rename(self._path(sha256), path)
                    self._files.sync_folder(folder)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise storage_error(error, f"putting {path} back") from error

    def destroy(self, sha256s: Iterable[bytes]) -> None:
        """Sync the folders that the names were in, so that no power cut brings the names back; then unlink."""
        wanted = sorted(set(sha256s))
        try:
            for folder in sorted({self._layout.folder(sha256) for sha256 in wanted}):
                self._files.sync_folder(folder)
            for sha256 in wanted:
                if os.path.lexists(self._path(sha256)):
                    self._files.unlink(self._path(sha256))
            if wanted:
                self._files.sync_folder(self._folder)
        except OSError as error:
            raise storage_error(error, f"freeing objects in {self._folder}") from error

    def put_away_before(self) -> Iterator[FreedObject]:
        """List `freed/`."""
        for name in names_in(self._folder):
            if is_object(name, ""):
                path = f"{self._folder}/{name}"
                try:
                    size = os.lstat(path).st_size
                except FileNotFoundError:
                    continue
                except OSError as error:
                    raise storage_error(error, f"looking at {path}") from error
                yield FreedObject(bytes.fromhex(name), size)

    def age_us(self, sha256: bytes, now_us: int) -> int | None:
        """Look at when the file was last changed, renamed or linked."""
        return _age_us(self._layout.object(sha256), now_us)

    def quarantine_age_us(self, path: str, now_us: int) -> int | None:
        """Look at when the file was renamed."""
        return _age_us(f"{self._layout.root}/{path}", now_us)

    def remove_quarantined(self, path: str) -> None:
        """Unlink the file and sync its folder."""
        try:
            self._files.unlink(f"{self._layout.root}/{path}")
            self._files.sync_folder(self._layout.quarantine)
        except OSError as error:
            raise storage_error(error, f"removing {path}") from error

    def _path(self, sha256: bytes) -> str:
        return f"{self._folder}/{sha256.hex()}"


def make_freed_folder(files: FileSystem, folder: str, root: str) -> None:
    """Create the folder for objects that are out of sight if there is none. Raises: OSError."""
    if not os.path.isdir(folder):  # noqa: PTH112 -- a path is a string here
        files.make_folder(folder)
        files.sync_folder(root)


def _age_us(path: str, now_us: int) -> int | None:
    try:
        return max(0, now_us - os.lstat(path).st_ctime_ns // 1000)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise storage_error(error, f"looking at {path}") from error
