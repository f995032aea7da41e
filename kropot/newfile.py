"""Files that are made once, whole and durable, and never replaced: keys, kits, tokens."""

from __future__ import annotations

import errno
import os
import secrets
from typing import TYPE_CHECKING

from kropot.restore.below import make_root

if TYPE_CHECKING:
    from pathlib import Path

_NOT_OURS = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.EINVAL})


def write_new(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Write a new durable file; nobody ever sees half of it.

    Raises:
        FileExistsError: there is a file of this name.
        OSError: it cannot be written; the error names the file.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        make_root(path.parent)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(descriptor)
            _name(draft, path)
        finally:
            draft.unlink(missing_ok=True)
        _sync_folder(path.parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def settle(path: Path) -> None:
    """Make the name of a file that is there durable: whoever made it may have been killed just then.

    A folder that is not ours to write is none in which this user made it. Raises: OSError, which names the file.
    """
    try:
        _sync_folder(path.parent)
    except OSError as error:
        if error.errno not in _NOT_OURS:
            raise OSError(error.errno, error.strerror, str(path)) from error


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _name(draft: Path, path: Path) -> None:
    """Give a finished draft its name. Raises: FileExistsError if there is a file of this name."""
    try:
        # A link, and not a rename: that would replace a file that is there.
        path.hardlink_to(draft)
    except FileExistsError:
        raise
    except OSError as error:
        # Memory sticks have no links; there, looking first has to do.
        if error.errno not in {errno.EPERM, errno.ENOTSUP, errno.ENOSYS}:
            raise
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        draft.rename(path)
