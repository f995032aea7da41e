"""Why a target refuses a file: because of the file alone, because something is in the way, or because of the target.

Only this module decides that. An error of the whole target ends the run, and a second run continues from there. Any
other error stops one file, and the others still come.
"""

from __future__ import annotations

import errno

from kropot.errors import KropotError

_GOES_ON = "run the same command again: it goes on where it stopped"

_GONE = f"the disk or server behind it is gone: connect it again and {_GOES_ON}"

_NO_ROOM = {
    errno.ENOSPC: f"free some space and {_GOES_ON}",
    errno.EDQUOT: f"the quota is used up: free some space and {_GOES_ON}",
}
_WHOLE_TARGET = {
    **_NO_ROOM,
    errno.EROFS: f"it is mounted read-only: mount it for writing and {_GOES_ON}",
    errno.EIO: f"its disk fails: look at the kernel's log, then {_GOES_ON}",
    errno.EMFILE: f"raise the limit of open files (ulimit -n) and {_GOES_ON}",
    errno.ENFILE: f"the system has too many open files: close other programs and {_GOES_ON}",
    errno.ENOMEM: f"there is not enough memory: close other programs and {_GOES_ON}",
    errno.ENODEV: _GONE,
    errno.ENXIO: _GONE,
    errno.ESTALE: _GONE,
    errno.ENOTCONN: _GONE,
    errno.ETIMEDOUT: _GONE,
    errno.EHOSTDOWN: _GONE,
}
"""Errors after which nothing more can be written, and what to do about them."""

_IN_THE_WAY = frozenset({errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENOTEMPTY})
"""Errors that mean that something else has the name."""

_ELSEWHERE = "restore it into a folder on another file system"
_ONE_FILE = {
    errno.EFBIG: f"it is larger than a file can be here (the file system's limit, or `ulimit -f`): {_ELSEWHERE}",
    errno.ENAMETOOLONG: f"its name is too long for this file system: {_ELSEWHERE}",
    errno.EINVAL: "this file system cannot hold such a name or file: try --portable-names",
    errno.EILSEQ: "this file system cannot hold such a name: try --portable-names",
    errno.EACCES: "permission denied: make its folder writable for you, and run the same command again",
    errno.EPERM: "not permitted: check whether its folder is immutable, and run the same command again",
    errno.EMLINK: f"its folder is full: {_ELSEWHERE}",
}
"""Errors of one file for which we have a better message than the system."""


class InTheWayError(KropotError):
    """Something that is not ours has the name, or is where a folder is needed. It was left alone."""


class UnplaceableError(KropotError):
    """The target refuses this one file; others can be fine."""


class TooLargeError(UnplaceableError):
    """The file is larger than the target can take; smaller ones can be fine."""


class TreeError(KropotError):
    """The folder cannot be written at all: nothing further can be placed."""


class NoRoomError(TreeError):
    """The disk or the quota is full."""


def is_whole_target(error: OSError) -> bool:
    """Return whether nothing further can be written after this error."""
    return error.errno in _WHOLE_TARGET


def refusal(error: OSError, doing: str) -> TreeError | InTheWayError | UnplaceableError:
    """Return the meaning of an error that came while `doing` something for one file ("writing a file in /srv/x")."""
    number = error.errno or 0
    if number in _WHOLE_TARGET:
        return trouble(error, doing)
    if number in _IN_THE_WAY:
        what = "a symbolic link" if number == errno.ELOOP else "something that this program did not write"
        return InTheWayError(f"{what} is in the way ({error.strerror}): move it away and run the same command again")
    kind = TooLargeError if number == errno.EFBIG else UnplaceableError
    return kind(_ONE_FILE.get(number) or f"the target refuses it ({error.strerror or error})")


def trouble(error: OSError, doing: str) -> TreeError:
    """Return the exception for an error that stops the whole run, whatever its number is."""
    number = error.errno or 0
    advice = _WHOLE_TARGET.get(number) or f"fix this and {_GOES_ON}"
    kind = NoRoomError if number in _NO_ROOM else TreeError
    return kind(f"{doing}: {error.strerror or error}; {advice}")
