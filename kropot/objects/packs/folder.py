"""The folder of packs: finds packs, and objects in them by the packs' own indexes if no ledger gives the place."""

from __future__ import annotations

import errno
import os
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from kropot.durable.dirfd import NotRegularError
from kropot.durable.errors import storage_error
from kropot.durable.filesystem import OsFiles
from kropot.objects.layout import is_object, names_in
from kropot.objects.packs.format import PackDamagedError
from kropot.objects.packs.reader import PackFile

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from kropot.durable.filesystem import FileSystem
    from kropot.objects.layout import Layout
    from kropot.objects.packs.format import PackEntry

_OPEN = 64
"""How many packs stay open."""

_AT_ONCE = 20_000
"""About how many entries are in memory while all are walked in order."""

_MOST_PARTS = 1 << 16


class PackFolder:
    """The packs below a storage's root. It looks for packs again whenever it is asked for all of them."""

    def __init__(self, layout: Layout, files: FileSystem | None = None, *, keep: int = _OPEN) -> None:
        """Touch nothing yet; up to `keep` packs stay open."""
        self.layout = layout
        self._keep = keep
        self._files: FileSystem = OsFiles() if files is None else files
        self._open: OrderedDict[bytes, PackFile] = OrderedDict()
        self._lock = threading.Lock()

    def names(self) -> list[bytes]:
        """Return the names of all packs, in order. Raises: StorageError."""
        found = []
        for folder in names_in(self.layout.packs):
            inside = names_in(f"{self.layout.packs}/{folder}")
            found += [bytes.fromhex(name) for name in inside if is_object(name, folder)]
        return found

    def open(self, name: bytes) -> PackFile | None:
        """Return an open pack, None if there is none of this name. Raises: StorageError."""
        with self._lock:
            pack = self._open.get(name)
            if pack is not None:
                self._open.move_to_end(name)
                return pack
        pack = self._opened(name)
        if pack is not None and pack.fault is None:
            with self._lock:
                self._open[name] = pack
                while len(self._open) > self._keep:
                    self._open.popitem(last=False)
        return pack

    def _opened(self, name: bytes) -> PackFile | None:
        """Open a pack's file again, even if it is open."""
        path = self.layout.pack(name)
        try:
            return PackFile(path, name, self._files)
        except (FileNotFoundError, NotADirectoryError, NotRegularError):
            return None
        except OSError as error:
            if error.errno == errno.ELOOP:
                return None  # a symbolic link is not a pack
            raise storage_error(error, f"opening the pack {path}") from error

    def has(self, name: bytes) -> bool:
        """Return whether there is a pack of this name now, regardless of which packs are open."""
        return os.path.lexists(self.layout.pack(name))

    def is_put_away(self, name: bytes) -> bool:
        """Whether a pack of this name is out of sight, because it is being freed. Raises: StorageError."""
        return os.path.lexists(self.layout.freed_pack(name))

    def forget(self) -> None:
        """Stop holding packs open; one that is being read closes when its reader is done."""
        with self._lock:
            self._open.clear()

    def settle(self, names: Sequence[bytes]) -> None:
        """Make the names of packs durable before a ledger learns them: their writers might have died before doing so.

        Raises: StorageError.
        """
        folders = {self.layout.pack(name).rpartition("/")[0] for name in names}
        try:
            for folder in (*sorted(folders), self.layout.packs) if folders else ():
                self._files.sync_folder(folder)
        except OSError as error:
            raise storage_error(error, f"syncing the folders of {self.layout.packs}") from error

    def renewed(self, pack: PackFile) -> PackFile | None:
        """Return the pack that has this one's name now, None if that is the same file or none. Raises: StorageError."""
        with self._lock:
            self._open.pop(pack.name, None)
        fresh = self.open(pack.name)
        return None if fresh is None or fresh.inode == pack.inode else fresh

    def find(self, sha256: bytes, *, but: Collection[bytes] = ()) -> Iterator[tuple[PackFile, PackEntry]]:
        """Yield every pack whose index has the object, except the packs in `but`, with a few reads per pack.

        Raises: StorageError.
        """
        for name in self.names():
            if name in but:
                continue
            for pack, entries in self._within([name], sha256, sha256 + b"\0"):
                yield from ((pack, entry) for entry in entries)

    def walk(self, names: Collection[bytes], start: bytes, end: bytes | None) -> Iterator[tuple[bytes, PackEntry]]:
        """Yield (pack, entry) of these packs with start <= SHA-256 < end, in the order of SHA-256.

        Memory holds the entries of a part of the range. A pack whose footer is damaged is skipped.

        Raises: StorageError.
        """
        total = sum(pack.footer.objects for name in names if (pack := self.open(name)) and pack.fault is None)
        parts = 1
        while parts * _AT_ONCE < total and parts < _MOST_PARTS:
            parts *= 2
        width = (1 << 16) // parts
        for part in range(parts):
            low = max((part * width).to_bytes(2, "big"), start)
            high = None if part + 1 == parts else ((part + 1) * width).to_bytes(2, "big")
            if end is not None:
                high = end if high is None else min(high, end)
            if high is not None and low >= high:
                continue
            found = [(pack.name, entry) for pack, entries in self._within(names, low, high) for entry in entries]
            found.sort(key=lambda one: one[1].sha256)
            yield from found

    def ranges(self, names: Collection[bytes], start: bytes, end: bytes | None) -> list[tuple[bytes, bytes, int, int]]:
        """Return (SHA-256, pack, offset, length) of these packs with start <= SHA-256 < end, in order.

        Memory holds them all. The packs' indexes MUST be sound. Raises: StorageError.
        """
        found: list[tuple[bytes, bytes, int, int]] = []
        for name in names:
            pack = self.open(name)
            if pack is None:
                continue
            try:
                found += pack.ranges(start, end)
            except PackDamagedError:
                continue  # it has changed since
            except OSError as error:
                raise storage_error(error, f"reading the pack {pack.path}") from error
        found.sort()
        return found

    def _within(
        self, names: Collection[bytes], start: bytes, end: bytes | None
    ) -> Iterator[tuple[PackFile, list[PackEntry]]]:
        """Yield each pack with the entries of its index in a range; skip damaged packs. Raises: StorageError."""
        for name in names:
            pack = self.open(name)
            if pack is None or pack.fault is not None:
                continue
            try:
                yield pack, pack.between(start, end)
            except PackDamagedError:
                continue
            except OSError as error:
                raise storage_error(error, f"reading the pack {pack.path}") from error
