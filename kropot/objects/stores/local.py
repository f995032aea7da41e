"""A local folder as `RemoteFiles`, for copying a storage: written under a temporary name, synced, renamed, synced."""

from __future__ import annotations

import itertools
import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, BinaryIO, Final

from kropot.durable.dirfd import make_root, open_named, sync_folder
from kropot.durable.errors import storage_error
from kropot.durable.filesystem import OsFiles, Room, room_at
from kropot.durable.newfile import replace_file
from kropot.objects.stores.files import PIECE, Capabilities, NoSuchKeyError, RemoteStat

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

COPIER: Final = "+copy"
"""The instance name for copying storages; temporary files are in its folder."""


class LocalFiles:
    """The files below a folder."""

    def __init__(self, root: Path) -> None:
        """Touch nothing yet."""
        self._root = root.absolute()
        self._files = OsFiles()
        self._numbers = itertools.count(1)
        self._making = threading.Lock()

    @property
    def place(self) -> str:
        """The folder."""
        return str(self._root)

    @property
    def can(self) -> Capabilities:
        """What a file system can do."""
        return Capabilities(conditional_put=True, rename=True, free_space=True, digests=False)

    def put(self, key: str, data: bytes) -> None:
        """Write in one piece."""
        self._write(key, [data])

    def put_file(self, key: str, file: BinaryIO) -> None:
        """Write in pieces."""
        file.seek(0)
        self._write(key, iter(lambda: file.read(PIECE), b""))

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """Read the range."""
        with self._opened(key) as file:
            file.seek(start)
            return file.read(-1 if end is None else max(end - start, 0))

    def fetch(self, key: str, into: BinaryIO) -> None:
        """Read it in pieces."""
        at = 0
        while piece := self.get(key, at, at + PIECE):
            into.write(piece)
            at += len(piece)

    def tail(self, key: str, length: int) -> tuple[bytes, RemoteStat]:
        """Read the end."""
        stat = self.stat(key)
        if stat is None:
            raise NoSuchKeyError(self.place, key)
        return self.get(key, max(stat.size - length, 0)), stat

    def stat(self, key: str) -> RemoteStat | None:
        """Look at the file."""
        path = self._root / key
        try:
            found = path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise storage_error(error, f"looking at {path}") from error
        return RemoteStat(key, found.st_size, found.st_mtime, str(found.st_ino)) if path.is_file() else None

    def walk(self, folder: str, after: str = "") -> Iterator[RemoteStat]:
        """Read folder by folder."""
        try:
            with os.scandir(self._root / folder) as entries:
                # In the order of keys: a folder's keys come where its name with a slash would.
                names = sorted(
                    f"{entry.name}/" if entry.is_dir(follow_symlinks=False) else entry.name for entry in entries
                )
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise storage_error(error, f"listing {self._root / folder}") from error
        for name in names:
            key = f"{folder}/{name}" if folder else name
            if name.endswith("/"):
                if f"{key[:-1]}0" > after:  # "0" is the character after the slash
                    yield from self.walk(key[:-1], after)
            elif key > after and (stat := self.stat(key)) is not None:
                yield stat

    def remove(self, key: str) -> None:
        """Unlink and sync."""
        path = self._root / key
        try:
            path.unlink()
            sync_folder(path.parent)
        except FileNotFoundError:
            return
        except OSError as error:
            raise storage_error(error, f"removing {path}") from error

    def move(self, source: str, target: str) -> None:
        """Rename and sync."""
        there = self._root / target
        try:
            self._make_folder(there.parent)
            (self._root / source).rename(there)
            sync_folder(there.parent)
        except FileNotFoundError:
            raise NoSuchKeyError(self.place, source) from None
        except OSError as error:
            raise storage_error(error, f"renaming {self._root / source}") from error

    def room(self) -> Room:
        """Ask the file system."""
        try:
            return room_at(str(self._root))
        except OSError as error:
            raise storage_error(error, f"asking for the free space of {self._root}") from error

    def sweep(self, instance: str) -> int:
        """Remove the temporary files of this instance."""
        found = list(self.walk(f"tmp/{instance}"))
        for stat in found:
            self.remove(stat.key)
        return len(found)

    def close(self) -> None:
        """Do nothing."""

    def _write(self, key: str, chunks: Iterable[bytes]) -> None:
        target = self._root / key
        temporary = self._root / "tmp" / COPIER / f"{os.getpid()}-{next(self._numbers)}"
        try:
            self._make_folder(temporary.parent)
            self._make_folder(target.parent)
            replace_file(self._files, str(temporary), str(target), chunks)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise storage_error(error, f"writing {target}") from error

    def _make_folder(self, folder: Path) -> None:
        with self._making:
            if not folder.is_dir():
                make_root(folder)

    def _opened(self, key: str) -> BinaryIO:
        try:
            return open_named(self._root / key)
        except (FileNotFoundError, NotADirectoryError):
            raise NoSuchKeyError(self.place, key) from None
        except OSError as error:
            raise storage_error(error, f"reading {self._root / key}") from error
