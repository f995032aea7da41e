"""One running process per instance name: the lock that ensures this, and the name of an instance's folder."""

from __future__ import annotations

import errno
import fcntl
import os
from urllib.parse import quote

from kropot.durable.errors import storage_error
from kropot.errors import LockedError, UsageError

LOCK = "lock"
"""The lock file's name in an instance's folder. It is never removed, because that would let two processes in."""

_MAX_NAME = 200
_HELD = frozenset({errno.EWOULDBLOCK, errno.EACCES})


def folder_name(instance: str) -> str:
    """Return a safe folder name for an instance. Raises: UsageError if its name is empty or too long."""
    name = quote(instance, safe=" +,=@~", errors="surrogateescape")
    if name.startswith("."):
        name = "%2E" + name[1:]
    if not name.strip() or len(name) > _MAX_NAME:
        raise UsageError(f"the instance name must have 1 to {_MAX_NAME} plain characters")
    return name


class InstanceLock:
    """An exclusive lock on an instance's folder; the system frees it the moment its holder dies."""

    def __init__(self, folder: str, instance: str) -> None:
        """Prepare to lock `folder`, which belongs to `instance`."""
        self._path = f"{folder}/{LOCK}"
        self._instance = instance
        self._fd: int | None = None

    @property
    def is_held(self) -> bool:
        """Whether this object holds the lock."""
        return self._fd is not None

    def acquire(self) -> None:
        """Take the lock without waiting. Raises: LockedError, StorageError."""
        if self._fd is not None:
            return
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise storage_error(error, f"opening {self._path}") from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            holder = _holder(fd)
            os.close(fd)
            if error.errno in _HELD:
                known = "" if holder is None else f" (process {holder})"
                raise LockedError(
                    f"instance {self._instance} is already running{known}: stop it first, or give this one another "
                    "--instance-name"
                ) from error
            raise storage_error(error, f"locking {self._path}") from error
        self._fd = fd

    def release(self) -> None:
        """Release the lock; do nothing if it is not held."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _holder(fd: int) -> int | None:
    """Return the process id that the lock's holder wrote into the file, None if there is none."""
    text = os.pread(fd, 32, 0).strip()
    return int(text) if text.isdigit() else None
