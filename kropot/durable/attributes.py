"""What an entry has beside its content: owner, extended attributes, permissions, time. Given as far as a target can."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Iterator

Refused = Literal["owner", "xattrs", "mode", "time"]
"""What a target refused."""

_PERMISSIONS = 0o777
_STICKY = 0o1000
_ALL = 0o7777
_ACLS = ("system.posix_acl_access", "system.posix_acl_default")


class Attributes(Struct, frozen=True, kw_only=True):
    """What to give to an entry. None leaves it as it is.

    `owner` is (user, group) as numbers. Set-uid and set-gid bits of `mode` are given only together with the owner: they
    say who runs the file. `xattrs` are (name, value); None if nothing is known about them. `is_folder`: the mode may
    have the sticky bit, which protects what is in the folder and gives nobody anything.
    """

    mode: int | None = None
    mtime_ns: int | None = None
    owner: tuple[int, int] | None = None
    xattrs: tuple[tuple[bytes, bytes], ...] | None = None
    is_folder: bool = False


def put_on(fd: int, wanted: Attributes) -> tuple[Refused, ...]:
    """Give an open file or folder its attributes, and return what the file system refused.

    The order matters: a new owner takes set-uid bits and capabilities away, an ACL sets the mode of the group, and
    everything but the time itself can change the time.
    """
    refused = list(_own_and_extend(fd, wanted))
    if wanted.mode is not None:
        has_owner = wanted.owner is not None and "owner" not in refused
        mode = wanted.mode & (_ALL if has_owner else _PERMISSIONS | (_STICKY if wanted.is_folder else 0))
        try:
            os.fchmod(fd, mode)
        except OSError:
            refused.append("mode")
    if wanted.mtime_ns is not None:
        try:
            os.utime(fd, ns=(wanted.mtime_ns, wanted.mtime_ns))
        except (OSError, OverflowError):
            refused.append("time")
    return tuple(refused)


def put_on_link(folder: int, name: bytes, wanted: Attributes) -> tuple[Refused, ...]:
    """Give a symlink its attributes, not what it leads to. A symlink has no mode of its own."""
    try:
        fd = os.open(name, getattr(os, "O_PATH", 0) | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        return ("owner",)
    try:
        refused = list(_own_and_extend(fd, wanted, link=(folder, name)))
    finally:
        os.close(fd)
    if wanted.mtime_ns is not None:
        try:
            os.utime(name, ns=(wanted.mtime_ns, wanted.mtime_ns), dir_fd=folder, follow_symlinks=False)
        except (OSError, OverflowError, NotImplementedError):
            refused.append("time")
    return tuple(refused)


def _own_and_extend(fd: int, wanted: Attributes, link: tuple[int, bytes] | None = None) -> Iterator[Refused]:
    """Give owner and extended attributes; yield what was refused."""
    if wanted.owner is not None:
        try:
            if link is None:
                os.fchown(fd, *wanted.owner)
            else:
                os.chown(link[1], *wanted.owner, dir_fd=link[0], follow_symlinks=False)
        except OSError:
            yield "owner"
    if wanted.xattrs is not None:
        # A descriptor of a symlink takes no such call, but its name in /proc stands for the symlink itself.
        yield from _extend(fd if link is None else f"/proc/self/fd/{fd}", wanted.xattrs)


def _extend(place: int | str, xattrs: tuple[tuple[bytes, bytes], ...]) -> Iterator[Refused]:
    """Give extended attributes. An ACL that came from the folder above is taken away."""
    is_refused = False
    for name, value in xattrs:
        try:
            os.setxattr(place, name, value)
        except OSError:
            is_refused = True
    with suppress(OSError):
        for inherited in {*os.listxattr(place)}.intersection(_ACLS):
            if os.fsencode(inherited) not in dict(xattrs):
                os.removexattr(place, inherited)
    if is_refused:
        yield "xattrs"
