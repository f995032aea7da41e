"""Describes a file system entry as a form of `sc2`: everything that Linux knows about it and a restore needs.

All of it comes from one open descriptor, never from the entry's name. If the entry changes meanwhile, no form is made.
"""

from __future__ import annotations

import errno
import hmac
import os
import stat
import struct
from collections import OrderedDict
from heapq import nlargest
from operator import itemgetter
from typing import TYPE_CHECKING, Final

from kropot.gateway.serving import ChangedError
from kropot.gateway.sources import NotServedError, seen
from kropot.sc2.form import Form, Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kropot.gateway.sources import Seen

MOST_HOLES: Final = 200_000
"""How many holes of a file are kept: the longest ones. The content has zeros in place of the others."""

_GROUP_BYTES: Final = 16
_MOST_NAMES: Final = 4096
_LONGEST_NAME: Final = 255
_BLOCK: Final = 512
_NO_ATTRIBUTES: Final = frozenset({errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOENT})
_NOT_READ: Final = frozenset({errno.EACCES, errno.EPERM, errno.ENODATA, errno.ENOTSUP, errno.EOPNOTSUPP})
_DEVICE: Final = struct.Struct(">QQ")


class OwnerNames:
    """The names of users and groups. Each is looked up once, and up to 4,096 are remembered."""

    def __init__(self) -> None:
        """Start empty. Names can change, so make a new object for each scan."""
        self._names: OrderedDict[tuple[str, int], bytes | None] = OrderedDict()

    def user(self, uid: int) -> bytes | None:
        """Return a user's name, or None if the system knows none."""
        return self._name("user", uid)

    def group(self, gid: int) -> bytes | None:
        """Return a group's name, or None if the system knows none."""
        return self._name("group", gid)

    def _name(self, what: str, number: int) -> bytes | None:
        if (what, number) not in self._names:
            self._names[what, number] = _looked_up(what, number)
            if len(self._names) > _MOST_NAMES:
                self._names.popitem(last=False)
        return self._names[what, number]


class Describer:
    """Makes forms of the entries of one folder."""

    def __init__(self, device: int, key: bytes) -> None:
        """Describe the entries of a folder that is on `device`. `key` (32 bytes) hides which inode a group means."""
        self._device = device
        self._key = key
        self._owners = OwnerNames()

    def form(
        self, descriptor: int, path: bytes, *, sealed_us: int, sha256: bytes | None = None, padding: bool = False
    ) -> tuple[Form, Seen]:
        """Return the complete form of an open entry, and its metadata. See `dirfd.open_entry` and `form.fitted`.

        `sha256` is the file's SHA-256, if it is known for the version that is open.

        Raises:
            ChangedError: the entry changed meanwhile.
            NotServedError: it is not a file, folder or symlink.
            RefusedError: no form can describe it, for example because its path is too long.
            OSError: it cannot be read.
        """
        found = os.fstat(descriptor)
        kind = kind_of(found)
        if kind is None:
            raise NotServedError("there is no such entry")
        is_file = kind is Kind.FILE
        holes = _holes(descriptor, found) if is_file else ()
        target = os.readlink(b"", dir_fd=descriptor) if kind is Kind.SYMLINK else None
        xattrs = _xattrs(descriptor, is_link=kind is Kind.SYMLINK)
        if seen(os.fstat(descriptor)) != seen(found):
            raise ChangedError("the entry changed while it was read")
        size = found.st_size if is_file else 0
        content = size - sum(length for _, length in holes)
        form = Form(
            path=path,
            kind=kind,
            sealed_us=sealed_us,
            size=size,
            content=None if content == size else content,
            padding=padding,
            mode=None if kind is Kind.SYMLINK else stat.S_IMODE(found.st_mode),
            mtime_ns=found.st_mtime_ns,
            sha256=sha256 if is_file else None,
            target=target,
            link_group=self._group(found) if is_file and found.st_nlink > 1 else None,
            uid=found.st_uid,
            gid=found.st_gid,
            user=self._owners.user(found.st_uid),
            group=self._owners.group(found.st_gid),
            xattrs=xattrs,
            holes=holes,
        )
        return form, seen(found)

    def _group(self, found: os.stat_result) -> bytes:
        """Return 16 bytes that all names of one file share.

        The number of the folder's own device is left out, because it can change at a reboot.
        """
        device = 0 if found.st_dev == self._device else found.st_dev + 1
        return hmac.digest(self._key, b"link group" + _DEVICE.pack(device, found.st_ino), "sha256")[:_GROUP_BYTES]


def kind_of(found: os.stat_result) -> Kind | None:
    """Return an entry's kind, or None if it is not a file, folder or symlink."""
    if stat.S_ISREG(found.st_mode):
        return Kind.FILE
    if stat.S_ISDIR(found.st_mode):
        return Kind.FOLDER
    return Kind.SYMLINK if stat.S_ISLNK(found.st_mode) else None


def _holes(descriptor: int, found: os.stat_result) -> tuple[tuple[int, int], ...]:
    """Return the holes of a file, in order. A file with all its blocks allocated is not searched."""
    if found.st_blocks * _BLOCK >= found.st_size:
        return ()
    return tuple(sorted(nlargest(MOST_HOLES, _each_hole(descriptor, found.st_size), key=itemgetter(1))))


def _each_hole(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    at = 0
    try:
        while at < size and (hole := os.lseek(descriptor, at, os.SEEK_HOLE)) < size:
            at = _next_data(descriptor, hole, size)
            yield hole, at - hole
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOTSUP, errno.ENXIO}:
            raise
    finally:
        os.lseek(descriptor, 0, os.SEEK_SET)


def _next_data(descriptor: int, hole: int, size: int) -> int:
    try:
        return min(os.lseek(descriptor, hole, os.SEEK_DATA), size)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return size


def _xattrs(descriptor: int, *, is_link: bool) -> tuple[tuple[bytes, bytes], ...]:
    """Return the extended attributes, including ACLs, sorted by name.

    Attributes that this user may not read are left out: most belong to the system, and only root may read them.
    """
    # These calls do not accept a symlink's descriptor, but its name in /proc stands for the symlink itself.
    place: int | str = f"/proc/self/fd/{descriptor}" if is_link else descriptor
    try:
        names = os.listxattr(place)
    except OSError as error:
        if error.errno in _NO_ATTRIBUTES:
            return ()
        raise
    found = []
    for name in names:
        try:
            found.append((os.fsencode(name), os.getxattr(place, name)))
        except OSError as error:
            if error.errno not in _NOT_READ:
                raise
    return tuple(sorted(found))


def _looked_up(what: str, number: int) -> bytes | None:
    import grp
    import pwd

    ask: Callable[[int], str] = (
        (lambda uid: pwd.getpwuid(uid).pw_name) if what == "user" else lambda gid: grp.getgrgid(gid).gr_name
    )
    try:
        name = os.fsencode(ask(number))
    except (KeyError, OverflowError):
        return None
    return name if 0 < len(name) <= _LONGEST_NAME else None
