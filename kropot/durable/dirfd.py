"""Walk below an open folder: by descriptor, one name at a time, and never through a symbolic link."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, BinaryIO, Final

from kropot.logs import log

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Parts = tuple[bytes, ...]
"""A path below a folder, name by name."""

USUAL: Final = 0o777
"""The mode of folders made for restored files, less the umask. Anyone who may read the files must reach them."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_ENTRY = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_CANNOT_SYNC_FOLDERS: Final = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP})
_told: Final[set[int]] = set()
"""File systems that the log has already named as unable to sync folders."""
_OPENED_BY_THE_SHELL = ("/dev/fd/", "/proc/self/fd/", "/dev/stdin")


class NotRegularError(OSError):
    """The name belongs to a folder, a pipe, a socket or a device."""

    def __init__(self, name: str | bytes | Path) -> None:
        """Put the given name into the error."""
        super().__init__(errno.ENXIO, "it is not a regular file", os.fsdecode(name))


def open_below(root: int, path: Parts) -> int:
    """Open a regular file for reading, step by step from `root`, without following links. Raises: OSError."""
    folder = descend(root, path[:-1])
    try:
        return open_regular(path[-1], os.O_RDONLY, folder)
    finally:
        os.close(folder)


def open_entry(root: int, path: bytes) -> int:
    """Return a descriptor of the entry at this path below the open folder `root`, without following symlinks.

    A symlink itself is opened, not its target. The empty path is the folder itself. The caller must close it.

    Raises:
        OSError: there is no such entry, or it cannot be opened.
    """
    *above, name = path.split(b"/")
    folder = descend(root, tuple(above))
    try:
        return os.open(name or b".", _ENTRY, dir_fd=folder)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        return os.open(name, getattr(os, "O_PATH", 0) | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    finally:
        os.close(folder)


def descend(
    root: int,
    path: Parts,
    *,
    make: int | None = None,
    made: Callable[[Parts], object] = lambda _: None,
    sync: bool = True,
) -> int:
    """Return a descriptor of the folder at `path` below `root`, without following links. Raises: OSError.

    If `make` is given, missing folders are made with that mode, and `made` is called with their paths. With `sync`,
    their names are made durable.
    """
    fd = os.dup(root)
    try:
        for number, part in enumerate(path, 1):
            is_new: list[bytes] = []
            step = (
                os.open(part, _FOLDER, dir_fd=fd)
                if make is None
                else open_folder(fd, part, make, is_new.append, sync=sync)
            )
            if is_new:
                made(path[:number])
            os.close(fd)
            fd = step
    except OSError:
        os.close(fd)
        raise
    return fd


def look_below(root: Path, path: Parts) -> os.stat_result | None:
    """Return the status of an entry below a folder, without following links; None if it or the folder is missing."""
    fd = folder = None
    try:
        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        folder = descend(fd, path[:-1])
        return os.stat(path[-1] if path else b".", dir_fd=folder, follow_symlinks=False)
    except OSError:
        return None
    finally:
        for each in (fd, folder):
            if each is not None:
                os.close(each)


def link_below(root: int, path: Parts) -> bytes | None:
    """Return the target of a symlink without following other links, or None for anything else. Raises: OSError."""
    folder = descend(root, path[:-1])
    try:
        return os.readlink(path[-1], dir_fd=folder)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return None
    finally:
        os.close(folder)


def sync_names(folder: int) -> None:
    """Make the names in an open folder durable, as far as its file system can. Raises: OSError.

    CIFS and some FUSE file systems cannot sync folders and answer EINVAL or ENOTSUP. Then nothing more can be done,
    and the log says so once. Any other error means that names can be lost, and is raised.
    """
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC_FOLDERS:
            raise
        volume = os.fstat(folder).st_dev
        if volume not in _told:
            _told.add(volume)
            log.warning(
                "folders_not_synced",
                why=error.strerror,
                volume=f"{os.major(volume)}:{os.minor(volume)}",
                meaning="this file system cannot sync folders: a power cut may lose the newest files' names",
            )


def sync_folder(path: str | Path) -> None:
    """Make the names in a folder durable, as far as its file system can. Raises: OSError."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync_names(folder)
    finally:
        os.close(folder)


def make_root(root: Path, mode: int = 0o700) -> None:
    """Make a folder and its parents durably. Existing ones are synced too: a run that was killed may have made them."""
    if not root.is_dir():
        if root.parent != root:
            make_root(root.parent, mode)
        root.mkdir(mode=mode, exist_ok=True)
    # If this user cannot open the parent folder, this user made no folder in it.
    with suppress(PermissionError):
        sync_folder(root.parent)


def open_folder(
    parent: int,
    name: bytes,
    mode: int = 0o700,
    made: Callable[[bytes], object] = lambda _: None,
    *,
    sync: bool = True,
) -> int:
    """Open a folder within another, and make it if missing (durably, with `sync`). A symbolic link is refused.

    `made` is called with the folder's name if this made it.
    """
    with suppress(FileNotFoundError):
        return os.open(name, _FOLDER, dir_fd=parent)
    with suppress(FileExistsError):
        os.mkdir(name, mode, dir_fd=parent)
        if sync:
            sync_names(parent)
        made(name)
    return os.open(name, _FOLDER, dir_fd=parent)


def open_regular(
    name: str | bytes | Path, flags: int = os.O_RDONLY, folder: int | None = None, *, follow: bool = False
) -> int:
    """Open a regular file, in the open `folder` if one is given; with `follow`, the name may be a symbolic link.

    A pipe, a socket or a device is refused at once, because opening or reading it could wait forever.

    Raises: NotRegularError; OSError.
    """
    flags |= os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY | (0 if follow else os.O_NOFOLLOW)
    try:
        fd = os.open(name, flags, 0o600, dir_fd=folder)
    except OSError as error:
        if error.errno == errno.ENXIO:  # the system's error for a socket
            raise NotRegularError(name) from None
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise NotRegularError(name)
    return fd


def open_named(path: Path) -> BinaryIO:
    """Open a regular file for reading; links are followed. Raises: OSError, as `open_regular` does.

    `/dev/fd/N` and `/dev/stdin` can be pipes. Nobody can plant them, because the user's shell opened them (`<(...)`).
    """
    if str(path).startswith(_OPENED_BY_THE_SHELL):
        return path.open("rb")
    return os.fdopen(open_regular(path, follow=True), "rb")
