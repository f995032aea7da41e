"""An object being written to a temporary file: hashed as it is written; small ones stay in memory until their end."""

from __future__ import annotations

import contextlib
import hashlib
from time import monotonic
from typing import TYPE_CHECKING

from kropot.durable.errors import StorageError, storage_error
from kropot.objects.partial import PartialMark
from kropot.objects.store import Staged

if TYPE_CHECKING:
    from kropot.durable.batch import Durability
    from kropot.durable.filesystem import FileSystem
    from kropot.objects.partial import OpenPartial, PartialFolder

HELD_BACK = 1 << 20
"""How many bytes to keep in memory before creating a file, and how many to hash at a time."""

WRITTEN_AT_ONCE = 256 << 10
"""Bytes per write: fewer cost more calls, and more make some systems search for larger blocks of memory than they have.

A virtual machine might first have to ask its host for such blocks, which costs far more than the calls saved.
"""

START_WRITING = 8 << 20
"""After this many bytes the disk starts writing, so that the final sync has less to wait for."""

MARK_EVERY_S = 1.0
"""Seconds between the marks of an upload that is kept: a kill loses what arrived since the last one."""


class FileUpload:
    """An object being written to a temporary file; small ones stay in memory until their end."""

    __slots__ = (
        "_fd",
        "_files",
        "_final",
        "_generation",
        "_hash",
        "_held",
        "_held_back",
        "_marked",
        "_name",
        "_note",
        "_partials",
        "_path",
        "_started",
        "_state",
        "_writer",
        "_written",
        "size",
    )

    def __init__(
        self,
        path: str,
        files: FileSystem,
        writer: Durability,
        held_back: int = HELD_BACK,
        *,
        partials: PartialFolder | None = None,
        name: str = "",
    ) -> None:
        """Start; no file is created yet. With `partials`, the upload has already claimed its `name` there."""
        self._final = path
        self._path = path if partials is None else partials.path(name)
        self._partials = partials
        self._name = name
        self._note: bytes | None = None
        self._marked = monotonic()
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

    def take_up(self, found: OpenPartial) -> None:
        """Start with the bytes that an earlier upload kept. Raises: OSError."""
        self._generation = self._writer.begin()
        self._fd, self._hash, self._note = found.fd, found.hash, found.mark.note
        self.size = self._written = self._started = found.mark.size

    def keep(self, note: bytes) -> None:
        """Mark the written bytes with `note`, about once a second."""
        self._note = note if self._partials is not None else None

    def suspend(self) -> None:
        """Write the bytes held back and mark the file; an upload that never became a file is not worth keeping."""
        if self._state == "open" and self._fd is not None and self._note is not None:
            with contextlib.suppress(StorageError):
                self._flush()
        if self._state == "ended" or self._fd is None or self._note is None or self._partials is None:
            self.abort()
            return
        self._state = "ended"
        fd, self._fd = self._fd, None
        # Without this mark, fewer bytes can be taken up, or none: then the file is removed as a leftover.
        with contextlib.suppress(OSError):
            self._mark(self._partials, self._note)
        with contextlib.suppress(OSError):
            self._files.close(fd)
        self._partials.release(self._name)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Hold a few bytes back; hash and write many."""
        self.size += len(data)
        if not self._held and len(data) >= self._held_back:
            self._put(data)
            return
        self._held += data
        if len(self._held) >= self._held_back:
            self._flush()

    def finish(self) -> Staged:
        """Write the bytes held back, and hand over the descriptor."""
        if self._fd is None and self._partials is not None:
            # It is so small that it is written in one go, so there is nothing to keep.
            self._partials.release(self._name)
            self._partials, self._path = None, self._final
        self._flush()
        if self._fd is None:
            self._put(b"")
        try:
            if self._partials is not None:
                self._partials.finished(self._name, self._final)
                self._partials.release(self._name)
                self._partials, self._path = None, self._final
        except OSError as error:
            self.abort()
            raise storage_error(error, f"renaming {self._path}") from error
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
        if self._partials is not None:
            self._partials.release(self._name)

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
            if self._note is not None and self._partials is not None and monotonic() - self._marked >= MARK_EVERY_S:
                self._mark(self._partials, self._note)
                self._marked = monotonic()
        except OSError as error:
            self.abort()
            raise storage_error(error, f"writing {self._path}") from error

    def _mark(self, partials: PartialFolder, note: bytes) -> None:
        """Mark the bytes written so far. Raises: OSError."""
        partials.mark(self._name, PartialMark(note, self._written, self._hash.digest()))

    def _remove(self) -> None:
        # If this fails, the file is removed as a leftover at the next start.
        with contextlib.suppress(OSError):
            if self._partials is not None:
                self._partials.remove(self._name)
            self._files.unlink(self._path)
