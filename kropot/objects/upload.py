"""An object on its way into a temporary file: hashed as it is written, small ones kept in memory until their end."""

from __future__ import annotations

import contextlib
import hashlib
from typing import TYPE_CHECKING

from kropot.durable.errors import StorageError, storage_error
from kropot.objects.store import Staged

if TYPE_CHECKING:
    from kropot.durable.batch import Durability
    from kropot.durable.filesystem import FileSystem

HELD_BACK = 1 << 20
"""Bytes kept in memory before they are hashed and a file is made, and hashed at a time from then on."""

WRITTEN_AT_ONCE = 256 << 10
"""Bytes of one write: fewer cost more calls, more make some systems look for larger pieces of memory than they have.

A virtual machine may first have to ask its host for those, which costs far more than the calls that are saved.
"""

START_WRITING = 8 << 20
"""After so many bytes the disk is set to work: what it has written by the end, the final sync need not wait for."""


class FileUpload:
    """An object on its way into a temporary file; small ones stay in memory until their end."""

    __slots__ = (
        "_fd",
        "_files",
        "_generation",
        "_hash",
        "_held",
        "_held_back",
        "_path",
        "_started",
        "_state",
        "_writer",
        "_written",
        "size",
    )

    def __init__(self, path: str, files: FileSystem, writer: Durability, held_back: int = HELD_BACK) -> None:
        """Begin; no file is made yet."""
        self._path = path
        self._files = files
        self._writer = writer
        self._held_back = held_back
        self._hash = hashlib.sha256()
        self._held = bytearray()
        self._fd: int | None = None
        self._generation = 0
        self._written = 0
        self._started = 0
        self._state = "open"
        self.size = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Hold few bytes back, hash and write many."""
        self.size += len(data)
        if not self._held and len(data) >= self._held_back:
            self._put(data)
            return
        self._held += data
        if len(self._held) >= self._held_back:
            self._flush()

    def finish(self) -> Staged:
        """Write what is held back, and hand the descriptor over."""
        self._flush()
        if self._fd is None:
            self._put(b"")
        fd, self._fd = self._fd, None
        self._state = "ended"
        try:
            pending = self._writer.hand_over(fd if fd is not None else -1, self._generation)
        except OSError as error:
            self._remove()
            raise storage_error(error, f"closing {self._path}") from error
        return Staged(path=self._path, sha256=self._hash.digest(), size=self.size, pending=pending)

    def abort(self) -> None:
        """Close and remove the file, if there is one."""
        if self._state == "ended":
            return
        self._state = "ended"
        self._held.clear()
        if self._fd is not None:
            fd, self._fd = self._fd, None
            with contextlib.suppress(OSError):
                self._files.close(fd)
            self._remove()

    def _flush(self) -> None:
        if self._held:
            held, self._held = self._held, bytearray()
            self._put(held)

    def _put(self, data: bytes | bytearray | memoryview) -> None:
        if self._state == "ended":
            raise StorageError(f"{self._path} has ended")
        try:
            if self._fd is None:
                self._generation = self._writer.begin()
                self._fd = self._files.create(self._path)
            self._hash.update(data)
            view = memoryview(data)
            while view:
                view = view[self._files.write(self._fd, view[:WRITTEN_AT_ONCE]) :]
            self._written += len(data)
            if self._written - self._started >= START_WRITING:
                self._files.start_writing(self._fd, self._started, self._written - self._started)
                self._started = self._written
        except OSError as error:
            self.abort()
            raise storage_error(error, f"writing {self._path}") from error

    def _remove(self) -> None:
        # What cannot be removed now is removed as a leftover at the next start.
        with contextlib.suppress(OSError):
            self._files.unlink(self._path)
