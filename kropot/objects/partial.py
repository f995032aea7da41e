"""Interrupted contents: their bytes wait in the instance's own folder until the rest of the same content arrives.

A mark next to the bytes holds their number, their SHA-256 and a note from their writer. Nothing here is durable, and
nothing needs to be: after a kill or a power cut, the bytes either have the marked SHA-256 or are worthless.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgpack
from msgspec import Struct

from kropot.objects.layout import names_in
from kropot.objects.store import CHUNK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kropot.durable.filesystem import FileSystem

MARK = ".mark"
_PREFIX = "partial-"
_LARGEST_MARK = 64 << 10
_SHA256 = 32
_TAIL = 4096


class PartialMark(Struct, frozen=True):
    """What is known about a partial content: its size in bytes so far, their SHA-256, and a note from their writer."""

    note: bytes
    size: int
    sha256: bytes

    def pack(self) -> bytes:
        """Return the mark as bytes."""
        return bytes(msgpack.packb([self.note, self.size, self.sha256]))


class OpenPartial(Struct, frozen=True):
    """A partial content that matches its mark: a descriptor at its end, its hash so far, and its last bytes."""

    fd: int
    mark: PartialMark
    hash: Any
    tail: bytes


class PartialFolder:
    """The partial contents in one instance's folder, by their names."""

    def __init__(self, folder: str, files: FileSystem) -> None:
        """Touch nothing yet."""
        self._folder = folder
        self._files = files
        self._kept: set[str] | None = None
        self._busy: set[str] = set()

    def __contains__(self, name: str) -> bool:
        """Whether bytes of this name wait here. This is asked for every content, so the folder is read only once."""
        if self._kept is None:
            self._kept = {name for name, _, _ in marks_in(self._folder)}
        return name in self._kept

    def path(self, name: str) -> str:
        """Return the path of the bytes."""
        return f"{self._folder}/{_PREFIX}{name}"

    def claim(self, name: str) -> bool:
        """Take a name for an upload and remove its old bytes; False while another upload has it. Raises: OSError."""
        if name in self._busy:
            return False
        self._busy.add(name)
        self.remove(name)
        return True

    def release(self, name: str) -> None:
        """Give a name back."""
        self._busy.discard(name)

    def mark(self, name: str, mark: PartialMark) -> None:
        """Write the mark for the bytes of this name so far. Raises: OSError."""
        path = self.path(name)
        with suppress(FileNotFoundError):
            self._files.unlink(f"{path}{MARK}.new")
        fd = self._files.create(f"{path}{MARK}.new")
        try:
            data = memoryview(mark.pack())
            while data:
                data = data[self._files.write(fd, data) :]
        finally:
            self._files.close(fd)
        self._files.rename(f"{path}{MARK}.new", f"{path}{MARK}")
        if self._kept is not None:
            self._kept.add(name)

    def take_up(self, name: str) -> OpenPartial | None:
        """Open the bytes of this name and read them all; return None while another upload has the name.

        If they do not match their mark, remove them and return None too. Raises: OSError.
        """
        if name in self._busy:
            return None
        found = self._believed(name)
        if found is None:
            self.remove(name)
        else:
            self._busy.add(name)
        return found

    def remove(self, name: str) -> None:
        """Remove the bytes of this name and their mark. Raises: OSError."""
        for path in (f"{self.path(name)}{MARK}", self.path(name)):
            with suppress(FileNotFoundError):
                self._files.unlink(path)
        self._forget(name)

    def finished(self, name: str, path: str) -> None:
        """Move the bytes, which are now complete, to another path. Raises: OSError."""
        with suppress(FileNotFoundError):
            self._files.unlink(f"{self.path(name)}{MARK}")
        self._files.rename(self.path(name), path)
        self._forget(name)

    def wanted(self, wants: Callable[[bytes], bool]) -> set[str]:
        """Return the names of the files here whose notes are still wanted."""
        names: set[str] = set()
        for name, mark, _ in marks_in(self._folder):
            if wants(mark.note):
                names |= {f"{_PREFIX}{name}", f"{_PREFIX}{name}{MARK}"}
        return names

    def _believed(self, name: str) -> OpenPartial | None:
        """Return the bytes of this name if they match their mark. Raises: OSError."""
        mark = read_mark(self.path(name))
        if mark is None:
            return None
        try:
            fd = self._files.reopen(self.path(name), mark.size)
        except FileNotFoundError:
            return None
        digest, tail = hashlib.sha256(), b""
        try:
            buffer = memoryview(bytearray(CHUNK))
            while count := self._files.read_into(fd, buffer):
                digest.update(buffer[:count])
                tail = (tail + bytes(buffer[max(0, count - _TAIL) : count]))[-_TAIL:]
            # This reports a write error that was not reported yet: the pages can look sound while the disk is not.
            self._files.sync_file(fd)
        except OSError:
            self._files.close(fd)
            raise
        if digest.digest() != mark.sha256:
            self._files.close(fd)
            return None
        return OpenPartial(fd, mark, digest, tail)

    def _forget(self, name: str) -> None:
        if self._kept is not None:
            self._kept.discard(name)


def marks_in(folder: str) -> Iterator[tuple[str, PartialMark, float]]:
    """Yield (name, mark, when it was written in seconds since 1970) of every partial content in an instance's folder.

    Raises: StorageError.
    """
    for file in names_in(folder):
        if file.startswith(_PREFIX) and file.endswith(MARK):
            path = f"{folder}/{file.removesuffix(MARK)}"
            mark = read_mark(path)
            if mark is not None:
                with suppress(FileNotFoundError):
                    yield file.removeprefix(_PREFIX).removesuffix(MARK), mark, os.lstat(f"{path}{MARK}").st_mtime


def read_mark(path: str) -> PartialMark | None:
    """Return the mark of the bytes at `path`, None if there is no readable one."""
    try:
        fd = os.open(f"{path}{MARK}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as file:
            note, size, sha256 = msgpack.unpackb(file.read(_LARGEST_MARK))
    except (OSError, ValueError, TypeError, msgpack.UnpackException):
        return None
    is_sound = isinstance(note, bytes) and isinstance(size, int) and isinstance(sha256, bytes)
    return PartialMark(note, size, sha256) if is_sound and size > 0 and len(sha256) == _SHA256 else None
