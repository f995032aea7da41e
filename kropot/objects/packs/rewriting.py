"""Copy the live objects of a pack into new packs, and remove the pack: out of sight first, then for good.

Memory holds the live objects of one pack, 64 MiB at most.
"""

# ruff: noqa: PTH120 -- paths are strings here

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, NamedTuple

from kropot.durable.errors import storage_error
from kropot.objects.freeing import make_freed_folder
from kropot.objects.layout import is_object, names_in
from kropot.objects.packs.format import PackDamagedError
from kropot.objects.packs.reader import PackFile

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from kropot.durable.filesystem import FileSystem
    from kropot.objects.layout import Layout
    from kropot.objects.packs.format import PackEntry
    from kropot.objects.packs.writer import PackWriter, WholeObject
    from ledger.places import Placement

_SUFFIX = ".pack"


class PackContents(NamedTuple):
    """A pack's objects, and how long ago it was written, in microseconds.

    A pack that `is_locked` takes space until its lock ends, even when it is gone; one that `is_spared`, for long.
    """

    entries: list[PackEntry]
    age_us: int
    is_locked: bool = False
    is_spared: bool = False


class PackRewriter:
    """Rewrites the packs of one storage, for a process that holds the instance's lock."""

    def __init__(self, layout: Layout, files: FileSystem, writer: PackWriter) -> None:
        """Touch nothing yet."""
        self._layout = layout
        self._files = files
        self._writer = writer
        self._folder = f"{layout.root}/freed"

    def contents(self, name: bytes, now_us: int) -> PackContents | None:
        """Return a pack's contents; None if it is gone or damaged, and must be left alone. Raises: StorageError."""
        path = self._layout.pack(name)
        try:
            pack = PackFile(path, name, self._files)
            entries = pack.entries()
            changed_us = os.lstat(path).st_ctime_ns // 1000
        except (FileNotFoundError, NotADirectoryError, PackDamagedError):
            return None
        except OSError as error:
            raise storage_error(error, f"reading the pack {path}") from error
        return PackContents(entries, max(now_us - changed_us, 0))

    def copy(self, name: bytes, live: Collection[bytes]) -> list[Placement] | None:
        """Write a pack's live objects into new packs, durably; None if it is gone or damaged, or one is not sound.

        Raises: StorageError.
        """
        path = self._layout.pack(name)
        try:
            whole = live_objects(PackFile(path, name, self._files), live)
        except (FileNotFoundError, NotADirectoryError, PackDamagedError):
            return None
        except OSError as error:
            raise storage_error(error, f"reading the pack {path}") from error
        return None if whole is None else self._writer.write_all(whole)

    def put_away(self, name: bytes) -> bool:
        """Move the pack out of sight; return False if it is not there. Raises: StorageError.

        After that, no power cut brings it back. A caller that forgets its places next relies on this.
        """
        path = self._layout.pack(name)
        try:
            make_freed_folder(self._files, self._folder, self._layout.root)
            self._files.rename(path, self._layout.freed_pack(name))
            self._files.sync_folder(os.path.dirname(path))
        except FileNotFoundError:
            return False
        except OSError as error:
            raise storage_error(error, f"freeing the pack {path}") from error
        return True

    def bring_back(self, name: bytes) -> None:
        """Put back a pack that is out of sight, unless it was written again meanwhile. Raises: StorageError."""
        path = self._layout.pack(name)
        try:
            if os.path.lexists(path):
                self._files.unlink(self._layout.freed_pack(name))
            else:
                self._files.rename(self._layout.freed_pack(name), path)
                self._files.sync_folder(os.path.dirname(path))
        except FileNotFoundError:
            return
        except OSError as error:
            raise storage_error(error, f"putting the pack {path} back") from error

    def destroy(self, name: bytes) -> None:
        """Remove a pack that is out of sight, for good. Raises: StorageError."""
        try:
            self._files.unlink(self._layout.freed_pack(name))
            self._files.sync_folder(self._folder)
        except OSError as error:
            raise storage_error(error, f"freeing the pack {self._layout.freed_pack(name)}") from error

    def put_away_before(self) -> Iterator[bytes]:
        """Yield the packs that an earlier run left out of sight. Raises: StorageError."""
        for name in names_in(self._folder):
            if name.endswith(_SUFFIX) and is_object(name.removesuffix(_SUFFIX), ""):
                yield bytes.fromhex(name.removesuffix(_SUFFIX))


def live_objects(pack: PackFile, live: Collection[bytes]) -> list[WholeObject] | None:
    """Read the live objects of a pack, in their order there; return None if one of them is not sound.

    Raises: PackDamagedError, OSError.
    """
    whole: list[WholeObject] = []
    for entry in sorted(pack.entries(), key=lambda each: each.offset):
        if entry.sha256 in live:
            data = pack.read(entry.offset, entry.length)
            if hashlib.sha256(data).digest() != entry.sha256:
                return None
            whole.append((entry.sha256, data))
    return whole
