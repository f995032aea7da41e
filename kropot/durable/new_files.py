"""Write many new files below a folder: each is written whole, all are made durable together, then they get names."""

from __future__ import annotations

import os
from collections import OrderedDict
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Self

from kropot.durable.attributes import put_on
from kropot.durable.batch import choose_method
from kropot.durable.dirfd import descend, open_folder, sync_names
from kropot.durable.filesystem import OsFiles
from kropot.durable.refusals import refusal, trouble
from kropot.durable.rename import rename_new

if TYPE_CHECKING:
    from kropot.durable.attributes import Attributes, Refused
    from kropot.durable.dirfd import Parts

_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MOST_FOLDERS: Final = 400
_NUMBERS: Final = 1 << 40
"""How many names each writer reserves, after a random number."""


class NewFiles:
    """Writes files that have no name yet into the workroom of a folder that a `TargetFolder` holds.

    No two writers share a name, not even with one whose run was killed but that has not ended yet. The next run sweeps
    what a writer leaves.
    """

    def __init__(self, root: str, work: bytes) -> None:
        """Open the folder, whose workroom is `work`. Raises: TreeError."""
        self._where = root
        self._files = OsFiles()
        self._count = int.from_bytes(os.urandom(8), "big") * _NUMBERS
        self._folders: OrderedDict[Parts, int] = OrderedDict()
        self._touched: set[Parts] = set()
        try:
            # Opened before the first write: a sync reports a failed write once to each descriptor that was open.
            self._fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._room = open_folder(self._fd, work)
            self._by_volume = choose_method(root).method == "syncfs"
        except OSError as error:
            raise trouble(error, f"opening {root}") from None

    def __enter__(self) -> Self:
        """Return itself. The end of the block closes the folder."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close everything."""
        self._forget_folders()
        os.close(self._room)
        os.close(self._fd)

    def write(self, data: bytes | memoryview, wanted: Attributes) -> tuple[bytes, os.stat_result, tuple[Refused, ...]]:
        """Write a file; return its name in the workroom, its status, and the attributes that the file system refused.

        Nothing is durable before `sync`. Raises: TooLargeError, UnplaceableError, TreeError.
        """
        self._count += 1
        name = b"%d.part" % self._count
        try:
            fd = os.open(name, _NEW, 0o600, dir_fd=self._room)
            try:
                written = os.write(fd, data) if data else 0
                while written < len(data):
                    written += os.write(fd, memoryview(data)[written:])
                refused = put_on(fd, wanted)
                if not self._by_volume:
                    self._files.sync_file(fd)
                return name, os.fstat(fd), refused
            except OSError:
                self.drop(name)
                raise
            finally:
                os.close(fd)
        except OSError as error:
            raise refusal(error, f"writing a file in {self._where}") from None

    def sync(self) -> None:
        """Make everything written so far durable. Raises: TreeError; then none of it may get a name."""
        if not self._by_volume:
            return
        try:
            self._files.sync_volume(self._fd)
        except OSError as error:
            raise trouble(error, f"syncing {self._where}") from None

    def place(self, name: bytes, path: Parts) -> None:
        """Give a synced file its name in an existing folder. A name that is taken is never replaced.

        Names are durable after `sync_names` or a sync of the volume. Raises: OSError.
        """
        rename_new(name, path[-1], src_dir_fd=self._room, dst_dir_fd=self._folder(path[:-1]))
        if not self._by_volume:
            self._touched.add(path[:-1])

    def sync_names(self) -> None:
        """Make the names durable, if no sync of the volume will do that. Raises: TreeError."""
        try:
            for path in self._touched:
                sync_names(self._folder(path))
        except OSError as error:
            raise trouble(error, f"syncing a folder in {self._where}") from None
        self._touched.clear()

    def drop(self, name: bytes) -> None:
        """Remove a file that gets no name. The next run sweeps what remains."""
        with suppress(OSError):
            os.unlink(name, dir_fd=self._room)

    def _folder(self, path: Parts) -> int:
        """Return a descriptor of a folder, without following links. The latest ones stay open. Raises: OSError."""
        fd = self._folders.get(path)
        if fd is not None:
            self._folders.move_to_end(path)
            return fd
        fd = descend(self._fd, path)
        self._folders[path] = fd
        if len(self._folders) > _MOST_FOLDERS:
            os.close(self._folders.popitem(last=False)[1])
        return fd

    def _forget_folders(self) -> None:
        while self._folders:
            os.close(self._folders.popitem()[1])
