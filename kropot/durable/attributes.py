"""An entry's attributes: owner, extended attributes, permissions, time. They are set as far as the target allows."""

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
    """The attributes to set on an entry. None leaves an attribute as is.

    `owner` is (user, group) as numbers. Set-uid and set-gid bits of `mode` are set only together with the owner: they
    say who runs the file. `xattrs` are (name, value); None if nothing is known about them. `is_folder`: the mode can
    have the sticky bit, which protects the folder's entries and grants nobody any rights.
    """

    mode: int | None = None
    mtime_ns: int | None = None
    owner: tuple[int, int] | None = None
    xattrs: tuple[tuple[bytes, bytes], ...] | None = None
    is_folder: bool = False


def put_on(fd: int, wanted: Attributes) -> tuple[Refused, ...]:
    """Set the attributes of an open file or folder, and return those that the file system refused.

    The order matters: a new owner removes set-uid bits and capabilities, an ACL sets the group's mode, and
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
    """Set the attributes of a symlink, not of its target. A symlink has no mode of its own."""
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
    """Set owner and extended attributes; yield those that were refused."""
    if wanted.owner is not None:
        try:
            if link is None:
                os.fchown(fd, *wanted.owner)
            else:
                os.chown(link[1], *wanted.owner, dir_fd=link[0], follow_symlinks=False)
        except OSError:
            yield "owner"
    if wanted.xattrs is not None:
        # A descriptor of a symlink does not support this call, but its name in /proc means the symlink itself.
        yield from _extend(fd if link is None else f"/proc/self/fd/{fd}", wanted.xattrs)


def _extend(place: int | str, xattrs: tuple[tuple[bytes, bytes], ...]) -> Iterator[Refused]:
    """Set extended attributes. An ACL that was inherited from the parent folder is removed."""
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
