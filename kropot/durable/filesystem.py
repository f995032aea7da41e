"""The file operations a directory store is made of, one method a step, so that every step can be watched and broken."""

# ruff: noqa: PTH102, PTH104, PTH108, PTH120 -- one system call a method, with descriptors and strings

from __future__ import annotations

import ctypes
import errno
import os
import sys
from typing import Protocol

from msgspec import Struct

from kropot.durable.dirfd import open_regular, sync_folder


class FileSystem(Protocol):
    """Everything that changes or syncs files; each call is one step, after which a crash may come.

    All methods raise OSError. Paths are absolute.
    """

    def make_folder(self, path: str) -> None:
        """Create one folder, 0700; FileExistsError where something has that name."""
        ...

    def create(self, path: str) -> int:
        """Create a file, 0600, that MUST NOT exist, and return a descriptor for writing."""
        ...

    def write(self, fd: int, data: bytes | bytearray | memoryview) -> int:
        """Write some of `data`, return how many bytes."""
        ...

    def reopen(self, path: str, size: int) -> int:
        """Open an existing regular file to write on after its first `size` bytes, which are to be read first.

        What stands behind them is cut off. The descriptor is at the file's beginning.
        """
        ...

    def start_writing(self, fd: int, offset: int, size: int) -> None:
        """Set the disk to work on these bytes, without waiting: it promises nothing, and hides no later error."""
        ...

    def open_read(self, path: str) -> int:
        """Open a regular file for reading; a symbolic link, a pipe or a device is refused."""
        ...

    def read_into(self, fd: int, buffer: memoryview) -> int:
        """Fill `buffer` from the file, return how many bytes; 0 at its end."""
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
        """Give a file another name, atomically; a file that had that name is replaced."""
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
        """Write once; may be short."""
        return os.write(fd, data)

    def reopen(self, path: str, size: int) -> int:
        """Open for both, and cut what may have been written behind the mark."""
        fd = open_regular(path, os.O_RDWR)
        try:
            os.ftruncate(fd, min(size, os.fstat(fd).st_size))
        except OSError:
            os.close(fd)
            raise
        return fd

    def start_writing(self, fd: int, offset: int, size: int) -> None:
        """Start the write-back without waiting for it, where the system can.

        An error of it is reported by the sync that follows: only the flags that wait would take it away from there.
        """
        if _start_write_back is not None and _start_write_back(fd, offset, size, _WRITE) != 0:
            number = ctypes.get_errno()
            if number not in {errno.ENOSYS, errno.EINVAL, errno.ESPIPE}:
                raise OSError(number, os.strerror(number))

    def open_read(self, path: str) -> int:
        """Open; the access time is not asked to stay, which only the owner could."""
        return open_regular(path)

    def read_into(self, fd: int, buffer: memoryview) -> int:
        """Read once; may be short."""
        return os.readv(fd, [buffer])

    def sync_file(self, fd: int) -> None:
        """Fsync; on a Mac, where that stops at the drive's cache, the full one."""
        if sys.platform == "darwin":
            import fcntl

            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
        else:
            os.fsync(fd)

    def sync_folder(self, path: str) -> None:
        """Fsync the folder through a descriptor of its own, as far as the file system can."""
        sync_folder(path)

    def open_volume(self, path: str) -> int:
        """Open the folder: any descriptor of the file system will do."""
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def sync_volume(self, fd: int) -> None:
        """Call syncfs, which Python does not offer."""
        if _libc.syncfs(fd) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def rename(self, source: str, target: str) -> None:
        """Rename, replacing."""
        os.rename(source, target)

    def unlink(self, path: str) -> None:
        """Unlink."""
        os.unlink(path)

    def close(self, fd: int) -> None:
        """Close; on a network file system this too reports write errors."""
        os.close(fd)


class Room(Struct, frozen=True, kw_only=True):
    """What an ordinary user can still put on a file system: so many bytes and files. None: not known, or no limit."""

    bytes: int | None
    files: int | None


def room_at(folder: str) -> Room:
    """Return the room where a folder is, or will be made: in the nearest one above that exists. Raises: OSError."""
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
    """Return the file system's magic number as statfs gives it, None off Linux. Raises: OSError."""
    if not sys.platform.startswith("linux"):
        return None
    # struct statfs begins with f_type, a word, on every Linux; the rest is room that is not looked at.
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
