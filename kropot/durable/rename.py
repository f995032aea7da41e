"""Rename a file to a free name, in one atomic step if the system can (renameat2 of Linux)."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Final

_NOREPLACE: Final = 1
_UNKNOWN: Final = frozenset({errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP})
_IMPOSSIBLE: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.EXDEV, errno.ENOSYS, errno.EMLINK, errno.EINVAL})
_NEW: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def rename_new(old: bytes, new: bytes, *, src_dir_fd: int, dst_dir_fd: int) -> None:
    """Move a file to a free name. A name that is taken is never replaced.

    Raises: FileExistsError if the name is taken; OSError.
    """
    if _renameat2 is None:
        _link(old, new, src_dir_fd, dst_dir_fd)
    elif _renameat2(src_dir_fd, old, dst_dir_fd, new, _NOREPLACE) != 0:
        number = ctypes.get_errno()
        if number not in _UNKNOWN:
            raise OSError(number, os.strerror(number), os.fsdecode(new))
        # Some file systems do not support this rename. A name that they cannot hold ends in the same error below.
        _link(old, new, src_dir_fd, dst_dir_fd)


def _link(old: bytes, new: bytes, src_dir_fd: int, dst_dir_fd: int) -> None:
    """Give the file a second name, and remove the first one."""
    try:
        os.link(old, new, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _IMPOSSIBLE:
            raise
    else:
        os.unlink(old, dir_fd=src_dir_fd)
        return
    # No hard links here. Our own empty file takes the name, and then the file replaces it.
    os.close(os.open(new, _NEW, 0o600, dir_fd=dst_dir_fd))
    os.replace(old, new, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)


_renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
if _renameat2 is not None:
    _renameat2.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
