"""The file operations of a directory store, one method per step, so that tests can watch and break every step."""

# ruff: noqa: PTH102, PTH104, PTH108, PTH120 -- one system call per method, with descriptors and strings

from __future__ import annotations

import ctypes
import errno
import os
import sys
from typing import Protocol

from msgspec import Struct

from kropot.durable.dirfd import open_regular, sync_folder


class FileSystem(Protocol):
    """Everything that changes or syncs files. Each call is one step, after which a crash can happen.

    All methods raise OSError. Paths are absolute.
    """

    def make_folder(self, path: str) -> None:
        """Create one folder with mode 0700. FileExistsError if the name is taken."""
        ...

    def create(self, path: str) -> int:
        """Create a file with mode 0600, which MUST NOT exist, and return a descriptor for writing."""
        ...

    def write(self, fd: int, data: bytes | bytearray | memoryview) -> int:
        """Write some of `data`, and return how many bytes."""
        ...

    def reopen(self, path: str, size: int) -> int:
        """Open an existing regular file to continue writing after its first `size` bytes, which are to be read first.

        Everything after them is cut off. The descriptor is at the file's beginning.
        """
        ...

    def start_writing(self, fd: int, offset: int, size: int) -> None:
        """Start writing these bytes to disk without waiting. This promises nothing, and hides no later error."""
        ...

    def open_read(self, path: str) -> int:
        """Open a regular file for reading; a symbolic link, a pipe or a device is refused."""
        ...

    def read_into(self, fd: int, buffer: memoryview) -> int:
        """Fill `buffer` from the file, and return how many bytes; 0 at its end."""
        ...

    def sync_file(self, fd: int) -> None:
        """Return once the file's bytes and size are durable."""
        ...

    def sync_folder(self, path: str) -> None:
        """Return once the names in the folder are durable."""
        ...

    def open_volume(self, path: str) -> int:
        """Return a descriptor through which `sync_volume` reports every write error from now on."""
        ...

    def sync_volume(self, fd: int) -> None:
        """Return once everything written to the file system before the call is durable (syncfs)."""
        ...

    def rename(self, source: str, target: str) -> None:
        """Rename a file atomically; a file that had the new name is replaced."""
        ...

    def unlink(self, path: str) -> None:
        """Remove a file's name."""
        ...

    def close(self, fd: int) -> None:
        """Close a descriptor."""
        ...


class OsFiles:
    """The operating system's own files."""

    def make_folder(self, path: str) -> None:
        """Create the folder with the only mode a replica has."""
        os.mkdir(path, 0o700)

    def create(self, path: str) -> int:
        """Create the file with the only mode a replica has."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def write(self, fd: int, data: bytes | bytearray | memoryview) -> int:
        """Write once, possibly fewer bytes than given."""
        return os.write(fd, data)

    def reopen(self, path: str, size: int) -> int:
        """Open for reading and writing, and cut off anything after the first `size` bytes."""
        fd = open_regular(path, os.O_RDWR)
        try:
            os.ftruncate(fd, min(size, os.fstat(fd).st_size))
        except OSError:
            os.close(fd)
            raise
        return fd

    def start_writing(self, fd: int, offset: int, size: int) -> None:
        """Start the write-back without waiting for it, if the system can.

        The sync that follows reports any error of it; only the flags that wait would take the error away.
        """
        if _start_write_back is not None and _start_write_back(fd, offset, size, _WRITE) != 0:
            number = ctypes.get_errno()
            if number not in {errno.ENOSYS, errno.EINVAL, errno.ESPIPE}:
                raise OSError(number, os.strerror(number))

    def open_read(self, path: str) -> int:
        """Open, without O_NOATIME, which only the owner could use."""
        return open_regular(path)

    def read_into(self, fd: int, buffer: memoryview) -> int:
        """Read once, possibly fewer bytes than fit."""
        return os.readv(fd, [buffer])

    def sync_file(self, fd: int) -> None:
        """Fsync. On a Mac, where fsync stops at the drive's cache, do a full one."""
        if sys.platform == "darwin":
            import fcntl

            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
        else:
            os.fsync(fd)

    def sync_folder(self, path: str) -> None:
        """Fsync the folder through its own descriptor, as far as the file system can."""
        sync_folder(path)

    def open_volume(self, path: str) -> int:
        """Open the folder, because any descriptor on the file system will do."""
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def sync_volume(self, fd: int) -> None:
        """Call syncfs, which Python does not offer."""
        if _libc.syncfs(fd) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def rename(self, source: str, target: str) -> None:
        """Rename, and replace."""
        os.rename(source, target)

    def unlink(self, path: str) -> None:
        """Unlink."""
        os.unlink(path)

    def close(self, fd: int) -> None:
        """Close. On a network file system, this reports write errors too."""
        os.close(fd)


class Room(Struct, frozen=True, kw_only=True):
    """How many bytes and files an ordinary user can still put on a file system. None: not known, or no limit."""

    bytes: int | None
    files: int | None


def room_at(folder: str) -> Room:
    """Return the room for a folder, or, if it is missing, for the nearest parent that exists. Raises: OSError."""
    while True:
        try:
            status = os.statvfs(folder)
        except (FileNotFoundError, NotADirectoryError):
            above = os.path.dirname(folder)
            if above == folder:
                raise
            folder = above
        else:
            files = status.f_favail if status.f_files else None  # some have no fixed number of inodes
            return Room(bytes=status.f_bavail * status.f_frsize, files=files)


def file_system_type(path: str) -> int | None:
    """Return the file system's magic number from statfs, or None if this is not Linux. Raises: OSError."""
    if not sys.platform.startswith("linux"):
        return None
    # struct statfs begins with f_type, a word, on every Linux; the rest of the buffer is not used.
    room = (ctypes.c_long * 64)()
    if _libc.statfs(os.fsencode(path), ctypes.byref(room)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return int(room[0]) & 0xFFFFFFFF


_libc = ctypes.CDLL(None, use_errno=True)
_WRITE = 2  # SYNC_FILE_RANGE_WRITE
_start_write_back = getattr(_libc, "sync_file_range", None)
if _start_write_back is not None:
    _start_write_back.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
