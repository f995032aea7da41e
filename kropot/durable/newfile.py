"""Files that appear whole and durable or not at all: written under a temporary name, synced, then named.

`write_new` writes a small file, `new_file` streams one, and `replace_file` replaces an older file.
Only `replace_file` overwrites a name that is taken.
"""

from __future__ import annotations

import errno
import os
import secrets
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, BinaryIO

from kropot.durable.dirfd import make_root, sync_folder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from kropot.durable.filesystem import FileSystem

_NOT_OURS = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})


def write_new(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Write a new durable file; nobody ever sees half of it.

    Raises:
        FileExistsError: a file with this name exists.
        OSError: it cannot be written; the error names the file.
    """
    try:
        make_root(path.parent)
        with new_file(path, mode=mode) as file:
            file.write(content)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextmanager
def new_file(path: Path, *, mode: int = 0o600) -> Iterator[BinaryIO]:
    """Yield a file that gets its name, durably, only if the block ends without an error.

    Raises: FileExistsError if the name is taken; OSError if the file cannot be written.
    """
    with temporary_file(path.parent, f".{path.name[:200]}.{secrets.token_hex(4)}", mode=mode) as (file, temporary):
        yield file
        sync_written(file)
        name_new(temporary, path)
        sync_folder(path.parent)


@contextmanager
def temporary_file(folder: Path, name: str, *, mode: int = 0o600) -> Iterator[tuple[BinaryIO, Path]]:
    """Yield a new file in the folder, and its path. The name is removed when the block ends. Raises: OSError."""
    path = folder / name
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file, path
    finally:
        with suppress(FileNotFoundError):
            path.unlink()


def sync_written(file: BinaryIO) -> None:
    """Make everything written to an open file durable. Raises: OSError."""
    file.flush()
    os.fsync(file.fileno())


def name_new(temporary: Path, path: Path) -> None:
    """Give a synced file a free name. Raises: FileExistsError if the name is taken; OSError."""
    try:
        # Link rather than rename, because a rename would replace an existing file.
        path.hardlink_to(temporary)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # Memory sticks have no hard links. Our own empty file takes the name, and then the file replaces it.
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        temporary.rename(path)


def replace_file(files: FileSystem, temporary: str, target: str, chunks: Iterable[bytes]) -> None:
    """Write a file and give it the name `target`, durably; a file that had the name is replaced.

    Only one writer may use the name `temporary`. A file that an earlier attempt left there is removed. Raises: OSError.
    """
    try:
        fd = files.create(temporary)
    except FileExistsError:
        files.unlink(temporary)
        fd = files.create(temporary)
    try:
        for chunk in chunks:
            view = memoryview(chunk)
            while view:
                view = view[files.write(fd, view) :]
        files.sync_file(fd)
    finally:
        files.close(fd)
    files.rename(temporary, target)
    files.sync_folder(os.path.dirname(target))  # noqa: PTH120 -- the protocol takes strings


def settle(path: Path) -> None:
    """Make the name of an existing file durable, because the process that made it may have been killed right after.

    This user cannot have made a file in a folder that this user cannot write to, so such a folder is left alone.
    Raises: OSError, which names the file.
    """
    try:
        sync_folder(path.parent)
    except OSError as error:
        if error.errno not in _NOT_OURS:
            raise OSError(error.errno, error.strerror, str(path)) from error
