"""Errors of writing files: one sentence for the user, and a stable word for the ledger."""

from __future__ import annotations

import errno
from typing import ClassVar

from kropot.errors import KropotError

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

_WHY = {
    errno.ENOSPC: "the disk is full: free some space, and it goes on by itself",
    errno.EDQUOT: "the quota is used up: free some space, and it goes on by itself",
    errno.EFBIG: "the file would be larger than the limit (ulimit -f, or the file system's own)",
    errno.EIO: "the disk reports an input/output error: check the kernel's log before going on",
    errno.EROFS: "the file system is mounted read-only",
    errno.EACCES: "permission denied: the folder must belong to the user who runs this",
    errno.EPERM: "not permitted: the folder must belong to the user who runs this",
    errno.EMFILE: "too many open files: raise the limit (ulimit -n)",
    errno.ENOENT: "it is gone: is the storage still mounted?",
}


class StorageError(KropotError):
    """A storage operation failed; nothing that was acknowledged is lost.

    `reason` is a stable word that a ledger can hold. `passes` says that the whole storage is unavailable or busy for a
    while, which says nothing about the object that was to be stored.
    """

    reason: ClassVar[str] = "storage_error"
    passes: ClassVar[bool] = False


class StorageFullError(StorageError):
    """The disk is full, or a quota or file size limit was reached. Work continues once space is free again."""

    reason = "storage_full"


class DiscardedError(StorageError):
    """Another file of the batch could not be made durable. This one MUST be fetched again, not synced again."""

    reason = "storage_discarded"


def storage_error(error: OSError, doing: str) -> StorageError:
    """Turn an operating system's error into one clear sentence. It came while `doing` something ("writing /srv/x")."""
    number = error.errno or 0
    why = _WHY.get(number) or error.strerror or str(error)
    kind = StorageFullError if number in _NO_ROOM else StorageError
    return kind(f"{doing}: {why}")
