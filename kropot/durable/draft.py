"""Drafts: files that have no name yet."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from kropot.durable.attributes import put_on
from kropot.durable.refusals import TreeError, refusal

if TYPE_CHECKING:
    import threading

    from kropot.durable.attributes import Attributes, Refused

_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_CLONE = 0x40049409
"""FICLONE of Linux: share the blocks of another file until one of the two is written."""


class Draft:
    """A file in the workroom that has no name yet. `TargetFolder.place` names it; `drop` ends it."""

    def __init__(self, room: int, name: bytes, stopping: threading.Event, *, where: str) -> None:
        """Make the file, readable only by its owner. Nothing more is written once `stopping` is set.

        `where` is the folder, for messages. Raises: OSError.
        """
        self._room = room
        self._stopping = stopping
        self._where = where
        self.name = name
        self.fd = os.open(name, _NEW, 0o600, dir_fd=room)
        self.is_shared = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write all of the data. Raises: TooLargeError, UnplaceableError, TreeError."""
        if self._stopping.is_set():
            raise TreeError("stopped before it was complete")
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self.fd, view) :]
        except OSError as error:
            raise refusal(error, f"writing a file in {self._where}") from None

    def skip(self, size: int) -> None:
        """Skip `size` bytes: they become a hole, or zeros if the file system has no holes. Raises: as `write`."""
        try:
            os.ftruncate(self.fd, os.lseek(self.fd, size, os.SEEK_CUR))
        except OSError as error:
            raise refusal(error, f"writing a file in {self._where}") from None

    def clone(self, source: int) -> bool:
        """Share the blocks of the open file `source`. Return False, with nothing changed, if the file system cannot."""
        try:
            fcntl.ioctl(self.fd, _CLONE, source)
        except OSError:
            return False
        return True

    def link(self, source: int) -> bool:
        """Become another name of the open file `source`. Return False, with nothing changed, if that is impossible."""
        name = self.name + b".link"
        try:
            os.link(f"/proc/self/fd/{source}", name, dst_dir_fd=self._room, follow_symlinks=True)
            os.replace(name, self.name, src_dir_fd=self._room, dst_dir_fd=self._room)
        except OSError:
            with suppress(OSError):
                os.unlink(name, dir_fd=self._room)
            return False
        os.close(self.fd)
        self.fd = os.open(self.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._room)
        self.is_shared = True
        return True

    def dress(self, wanted: Attributes) -> tuple[Refused, ...]:
        """Set the file's attributes, and return those that the file system refused."""
        # A shared file keeps the attributes that its other name gave it.
        return () if self.is_shared else put_on(self.fd, wanted)

    def sync(self) -> os.stat_result:
        """Make the content durable, and return the file's status.

        Raises: TooLargeError, UnplaceableError, TreeError.
        """
        try:
            os.fsync(self.fd)
            return os.fstat(self.fd)
        except OSError as error:
            raise refusal(error, f"syncing a file in {self._where}") from None

    def drop(self) -> None:
        """Remove the file, or only close it if it was placed."""
        os.close(self.fd)
        # The next run sweeps what remains.
        with suppress(OSError):
            os.unlink(self.name, dir_fd=self._room)


def sync_file(fd: int) -> None:
    """Make the bytes of an open file durable. Raises: OSError."""
    os.fsync(fd)
