"""Where a directory store keeps its files, and how they are read back in order (docs/format.md fixes the names)."""

# ruff: noqa: PTH208 -- paths are strings here: a Path per file costs more than the system call

from __future__ import annotations

import os
import re
import stat
from typing import TYPE_CHECKING, Literal

from kropot.durable.errors import storage_error
from kropot.objects.instance import LOCK, folder_name
from kropot.objects.store import Leftover

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_SHA256 = 32
_PREFIX = 2
_HEX = frozenset("0123456789abcdef")
_OBJECT = re.compile("[0-9a-f]{64}").fullmatch


class Layout:
    """The folders of a store at `root`, an absolute path. Paths are strings, because there are millions of them."""

    __slots__ = ("objects", "packs", "quarantine", "root", "temporary")

    def __init__(self, root: str) -> None:
        """Name the folders of objects, of packs, of the quarantine, and of the instances' own folders."""
        self.root = root
        self.objects = f"{root}/objects"
        self.packs = f"{root}/packs"
        self.quarantine = f"{root}/quarantine"
        self.temporary = f"{root}/tmp"  # noqa: S108 -- below the store's own root

    @property
    def folders(self) -> tuple[str, ...]:
        """The root, and the folders below it that hold the objects' files."""
        return self.root, self.objects, self.packs, self.quarantine, self.temporary

    def instance(self, name: str) -> str:
        """Return an instance's folder for uploads. Raises: UsageError."""
        return f"{self.temporary}/{folder_name(name)}"

    def folder(self, sha256: bytes) -> str:
        """Return the folder that holds an object."""
        return f"{self.objects}/{sha256[:1].hex()}"

    def object(self, sha256: bytes) -> str:
        """Return an object's path. Raises: ValueError if `sha256` is not 32 bytes."""
        if len(sha256) != _SHA256:
            raise ValueError("an object's name is a SHA-256 of 32 bytes")
        name = sha256.hex()
        return f"{self.objects}/{name[:2]}/{name}"

    def with_files(self, sha256s: Iterable[bytes]) -> list[bytes]:
        """Return the objects among these that have a file, or anything else, at their path.

        If all small objects are in packs, most folders do not exist, and one look at a folder answers for all in it.
        """
        folders: dict[bytes, bool] = {}
        found: list[bytes] = []
        for sha256 in sha256s:
            first = sha256[:1]
            is_there = folders.get(first)
            if is_there is None:
                is_there = folders[first] = os.path.lexists(self.folder(sha256))
            if is_there and os.path.lexists(self.object(sha256)):
                found.append(sha256)
        return found

    def pack(self, name: bytes) -> str:
        """Return a pack's path. Raises: ValueError if `name` is not 32 bytes."""
        if len(name) != _SHA256:
            raise ValueError("a pack's name is a SHA-256 of 32 bytes")
        return f"{self.packs}/{name[:1].hex()}/{name.hex()}"

    def freed_pack(self, name: bytes) -> str:
        """Return the path of a pack that is out of sight, because it is being freed."""
        return f"{self.root}/freed/{name.hex()}.pack"

    def size(self, sha256: bytes) -> int | None:
        """Return the size of an object's file in bytes, None if it has none. Raises: StorageError."""
        path = self.object(sha256)
        try:
            status = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise storage_error(error, f"looking at {path}") from error
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def walk(self, start: bytes, end: bytes | None) -> Iterator[tuple[bytes, int]]:
        """Yield (SHA-256, size) in order, start <= SHA-256 < end; memory holds one folder's names, a 256th of all."""
        for name in names_in(self.objects):
            if not _is_hex(name, _PREFIX):
                continue
            first = bytes.fromhex(name)
            if first < start[:1] or (end is not None and first > end[:1]):
                continue
            for sha256 in _objects_in(f"{self.objects}/{name}", name):
                if sha256 >= start and (end is None or sha256 < end):
                    size = self.size(sha256)
                    if size is not None:
                        yield sha256, size

    def leftovers(self, *, among: bool = True) -> Iterator[Leftover]:
        """Yield every file that is not an object, including other instances' uploads.

        The folders that hold objects are searched only with `among`. Raises: StorageError.
        """
        for instance in names_in(self.temporary):
            for name in names_in(f"{self.temporary}/{instance}"):
                if name != LOCK:
                    yield self.leftover("temporary", f"tmp/{instance}/{name}", instance)
        for name in names_in(self.quarantine):
            yield self.leftover("quarantined", f"quarantine/{name}", None)
        yield from self._strays("packs", among=True)
        yield from self._strays("objects", among=among)

    def _strays(self, kind: str, *, among: bool) -> Iterator[Leftover]:
        for folder in names_in(f"{self.root}/{kind}"):
            if not _is_hex(folder, _PREFIX):
                yield self.leftover("stray", f"{kind}/{folder}", None)
            elif among:
                for name in names_in(f"{self.root}/{kind}/{folder}", but=folder):
                    yield self.leftover("stray", f"{kind}/{folder}/{name}", None)

    def leftover(self, kind: Literal["temporary", "stray", "quarantined"], path: str, instance: str | None) -> Leftover:
        """Return the file at a path below the root as a leftover, with size 0 if it is gone. Raises: StorageError."""
        try:
            size = os.lstat(f"{self.root}/{path}").st_size
        except FileNotFoundError:
            size = 0
        except OSError as error:
            raise storage_error(error, f"looking at {path}") from error
        return Leftover(kind=kind, path=path, size=size, instance=instance)


def names_in(folder: str, *, but: str | None = None) -> list[str]:
    """Return the names in a folder, in order, except objects that begin with `but`; none if the folder is missing.

    Raises: StorageError.
    """
    try:
        names = os.listdir(folder)
        return sorted(names if but is None else [name for name in names if not is_object(name, but)])
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise storage_error(error, f"listing {folder}") from error


def _objects_in(folder: str, prefix: str) -> list[bytes]:
    try:
        with os.scandir(folder) as entries:
            found = [bytes.fromhex(entry.name) for entry in entries if is_object(entry.name, prefix)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise storage_error(error, f"listing {folder}") from error
    found.sort()
    return found


def is_object(name: str, folder: str) -> bool:
    """Whether a name is that of an object in the folder of this name."""
    return name.startswith(folder) and _OBJECT(name) is not None


def _is_hex(name: str, length: int) -> bool:
    return len(name) == length and _HEX.issuperset(name)
