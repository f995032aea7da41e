"""The served folder: walks it and opens files in it, without ever leaving it.

Each component of a path is opened on its own, relative to the folder before it and never through a symlink. So a person
who can write to the folder cannot lead a reader out of it, not even by swapping things at the worst moment.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import struct
from typing import TYPE_CHECKING, Final, Literal, Protocol

from msgspec import Struct

from kropot.durable.dirfd import open_entry
from kropot.errors import KropotError, UsageError
from kropot.gateway.selection import ServedSelection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kropot.gateway.selection import SelectedPlace

SkipKind = Literal["sockets", "pipes", "devices", "links", "excluded"]
"""Why an entry is not served: its kind, or that the owner excludes it."""

MAX_LINKS: Final = 40
MAX_PATH: Final = 4095
"""The longest path that is served, in bytes. Most programs cannot restore a longer one."""

_OPEN_LEVELS = 32
_LOST = "lost+found"
"""A folder that the file system makes, which only root can read. It would raise an alarm on every mounted disk."""

_NS: Final = 1_000_000_000
_IDENTITY = struct.Struct(">QQQqIqI")
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEARBY: Final = 8
"""How many folders stay open while neighbouring files are opened."""

_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_GONE = frozenset(
    {errno.ENOENT, errno.EINVAL, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.ENAMETOOLONG, errno.ENODEV}
)


class NotServedError(KropotError):
    """The folder does not serve this path: it is gone, is not a regular file, or is outside the folder."""

    http_status = 404


class FolderAwayError(OSError):
    """The folder itself is missing, or another one is in its place, so nothing is known about its files."""


class Seen(Struct, frozen=True, kw_only=True):
    """A regular file as the file system describes it.

    Times are in nanoseconds since 1970, `size` is in bytes, and `mode` holds the permission bits.
    """

    dev: int
    ino: int
    size: int
    mtime_ns: int
    ctime_ns: int
    mode: int

    @property
    def identity(self) -> bytes:
        """48 bytes that change whenever device, inode, size, mtime or ctime changes."""
        return _identity(self.dev, self.ino, self.size, self.mtime_ns, self.ctime_ns)

    def is_of(self, found: os.stat_result) -> bool:
        """Whether this is what the operating system reports: `seen(found) == self`."""
        return (
            found.st_mtime_ns == self.mtime_ns
            and found.st_ctime_ns == self.ctime_ns
            and found.st_size == self.size
            and found.st_ino == self.ino
            and found.st_dev == self.dev
            and stat.S_IMODE(found.st_mode) == self.mode
        )

    def is_settled(self, now_ns: int, settle_ns: int) -> bool:
        """Whether every later write is certain to change the identity.

        Timestamps are coarse: two writes within one tick look alike. No later write can get a ctime this far from now.
        """
        return abs(now_ns - self.ctime_ns) >= settle_ns


class ScannedFile(Struct, frozen=True, kw_only=True):
    """A file that a walk found: its path (bytes, relative to the folder) and its metadata.

    A file that cannot be read is listed all the same, so that somebody notices.
    """

    path: bytes
    seen: Seen
    is_readable: bool = True
    is_followed: bool = False
    """Whether a symlink has this path, and this is the file that it leads to."""


class ScannedEntry(Struct, frozen=True, kw_only=True):
    """A folder that a walk went into (the served one, too), or a symlink itself, wherever it leads."""

    path: bytes
    seen: Seen


class Unreadable(Struct, frozen=True, kw_only=True):
    """A path that a walk could not read. Nothing at or below it counts as gone."""

    path: bytes
    reason: str


class Skipped(Struct, frozen=True, kw_only=True):
    """An entry that a walk found but that is not served. A skipped symlink leads to no file inside the folder.

    An excluded entry can be a folder. Nothing below it is looked at.
    """

    path: bytes
    kind: SkipKind


Walked = ScannedFile | ScannedEntry | Unreadable | Skipped
"""What a walk yields."""


class _Level(Struct, frozen=True, kw_only=True):
    """An open folder of a walk: its path with a slash, its remaining entries, its place, and the marks in it."""

    prefix: bytes
    folder: int
    entries: Iterator[os.DirEntry[str]]
    place: SelectedPlace
    marks: tuple[str, ...]

    def enter(self, name: str) -> SelectedPlace | None:
        """Return the place of an entry, or None if a mark excludes it."""
        return None if self.marks and any(mark != name for mark in self.marks) else self.place.enter(name)


def identity_parts(identity: bytes) -> tuple[int, int]:
    """Return (size in bytes, mtime in ns) from a `Seen.identity`."""
    _, _, size, mtime_s, mtime_rest, _, _ = _IDENTITY.unpack(identity)
    return size, mtime_s * _NS + mtime_rest


def path_key(path: bytes) -> bytes:
    """Return 32 bytes that stand for a path.

    Files of one folder share the first 8 bytes, so that a scan reads neighbouring rows.
    """
    folder = path.rpartition(b"/")[0]
    return hashlib.sha256(folder).digest()[:8] + hashlib.sha256(path).digest()[:24]


def entry_key(path: bytes) -> bytes:
    """Return 32 bytes that stand for a folder or a symlink itself. What a symlink leads to has the key of its path."""
    return path_key(b"\0" + path)


class FolderSource:
    """A folder on this machine."""

    def __init__(self, root: bytes, *names: bytes, place: SelectedPlace | None = None) -> None:
        """Serve the files below `root`, an absolute path. `names` are other absolute paths of the same folder.

        `place` is the folder's place in a selection of what is served.

        Raises:
            UsageError: `root` is not a folder, or cannot be read.
        """
        self.root = root
        self._names = (root, *names)
        self._place = place or ServedSelection().at("")
        self._marks = self._place.selection.marks
        try:
            os.close(self._open_root())
        except OSError as error:
            raise UsageError(
                f"the gateway cannot serve {os.fsdecode(root)!r} ({error.strerror}): name a readable folder with "
                "--source"
            ) from error

    def mark(self) -> bytes:
        """Return 16 bytes that identify this folder.

        They differ from those of another folder in its place, for example its bare mount point.

        Raises:
            OSError: the folder cannot be read.
        """
        root = self._open_root()
        try:
            found = os.fstat(root)
        finally:
            os.close(root)
        return struct.pack(">QQ", found.st_dev, found.st_ino)

    def device_number(self) -> int:
        """Return the number of the device that the folder is on. Raises: OSError."""
        root = self._open_root()
        try:
            return os.fstat(root).st_dev
        finally:
            os.close(root)

    def walk(self) -> Iterator[Walked]:
        """Yield the root and every file and folder below it, in no particular order. At most 32 folders are open.

        A symlink is yielded as itself. In addition, it is yielded as a file if it leads to one inside the folder. Every
        other entry that is not served is yielded as `Skipped`.

        Raises:
            OSError: the root itself cannot be read.
        """
        root = self._open_root()
        deeper: list[bytes] = []
        yield ScannedEntry(path=b"", seen=seen(os.fstat(root)))
        yield from self._walk_from(b"", root, deeper)
        while deeper:
            path = deeper.pop()
            try:
                folder = self._open_folder(path)
            except FolderAwayError:
                raise
            except OSError as error:
                if error.errno not in _GONE:
                    yield Unreadable(path=path, reason=_reason(error))
                continue
            yield from self._walk_from(path + b"/", folder, deeper)

    def _walk_from(self, base: bytes, start: int, deeper: list[bytes]) -> Iterator[Walked]:
        """Walk one folder, open at `start`. Folders 32 levels below it are added to `deeper` instead."""
        stack: list[_Level] = []
        try:
            stack.append(self._level(base, start, self._place_of(base)))
            while stack:
                prefix, folder, entries = stack[-1].prefix, stack[-1].folder, stack[-1].entries
                try:
                    entry = next(entries, None)
                except OSError as error:
                    yield Unreadable(path=prefix, reason=_reason(error))
                    entry = None
                if entry is None:
                    stack.pop()
                    os.close(folder)
                    continue
                path = prefix + os.fsencode(entry.name)
                place = stack[-1].enter(entry.name)
                found = self._look(entry, folder, path, place)
                if not isinstance(found, int):
                    if found is not None:
                        yield found
                    if (link := self._look_at_link(entry, folder, path, place)) is not None:
                        yield link
                    continue
                yield ScannedEntry(path=path, seen=seen(os.fstat(found)))
                if len(stack) < _OPEN_LEVELS and place is not None:
                    stack.append(self._level(path + b"/", found, place))
                else:
                    os.close(found)
                    deeper.append(path)
        finally:
            for level in stack:
                os.close(level.folder)

    def _level(self, prefix: bytes, folder: int, place: SelectedPlace) -> _Level:
        """Return an open folder as a walk goes through it."""
        marks = tuple(mark.name for mark in self._marks if mark.lies_in(folder))
        return _Level(prefix=prefix, folder=folder, entries=_entries(folder), place=place, marks=marks)

    def serves(self, path: bytes) -> bool:
        """Whether the owner's patterns leave a file with this path in."""
        return self._place_of(path).is_served

    def _place_of(self, path: bytes) -> SelectedPlace:
        """Return the place of a path."""
        place = self._place
        if place.is_everywhere:
            return place
        for part in path.split(b"/"):
            if part:
                place = place.enter(os.fsdecode(part))
        return place

    def open(self, path: bytes) -> tuple[int, Seen]:
        """Return an open descriptor of a file, and its metadata. The caller must close the descriptor.

        Raises:
            NotServedError: the path does not lead to a regular file inside the folder.
            FolderAwayError: the folder is missing, so the file might still exist.
            OSError: the file exists but cannot be read.
        """
        try:
            descriptor = self._resolve(path)
        except FolderAwayError:
            raise
        except OSError as error:
            if error.errno in _GONE:
                raise NotServedError("there is no such file") from None
            raise
        return _regular(descriptor)

    def open_entry(self, path: bytes) -> int:
        """Open a file, a folder or a symlink itself, through no symlink. The caller must close the descriptor.

        Raises:
            FolderAwayError: the folder is missing.
            OSError: there is no such entry, or it cannot be opened.
        """
        root = self._open_root()
        try:
            return open_entry(root, path)
        finally:
            os.close(root)

    def has_entry(self, path: bytes) -> bool:
        """Whether the folder serves a folder or a symlink with this path.

        Raises:
            OSError: it is unknown whether it exists.
        """
        folder, through = self._open_root(), list[bytes]()
        try:
            *above, name = path.split(b"/")
            for part in above:
                folder = self._enter(folder, through, part)
            if not name:
                return True
            self._refuse_excluded(folder, through, name)
            mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
        except NotServedError:
            return False
        except OSError as error:
            if error.errno in _GONE:
                return False
            raise
        finally:
            os.close(folder)
        place = self._place_of(path)
        return (stat.S_ISDIR(mode) and place.may_hold) or (stat.S_ISLNK(mode) and place.is_served)

    def nearby(self) -> NearbyFiles:
        """Return an object that opens many files one after another. The caller MUST close it."""
        return NearbyFiles(self)

    def open_folder_of(self, path: bytes) -> int:
        """Open the folder that a path is in, through no symlink. The caller must close the descriptor.

        Raises:
            NotServedError: the folder's other contents are not served, because a mark is in it or above it.
            OSError: there is no such folder, or a symlink is in the way.
        """
        folder, through = self._open_root(), list[bytes]()
        try:
            for part in path.split(b"/")[:-1]:
                folder = self._enter(folder, through, part)
            self._refuse_excluded(folder, through, b"")
        except BaseException:
            os.close(folder)
            raise
        return folder

    def look(self, path: bytes) -> Seen | None:
        """Return a file's metadata, or None if the folder does not serve such a file.

        Raises:
            OSError: it is unknown whether the file exists.
        """
        try:
            descriptor, found = self.open(path)
        except NotServedError:
            return None
        os.close(descriptor)
        return found

    def _open_root(self) -> int:
        """Open the root itself. Its path can contain symlinks, because the owner chose it.

        Raises:
            FolderAwayError: the root cannot be opened.
        """
        try:
            return os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise FolderAwayError(error.errno, error.strerror) from error

    def _look(
        self, entry: os.DirEntry[str], folder: int, path: bytes, place: SelectedPlace | None
    ) -> Walked | int | None:
        """Return what an entry is, an open descriptor if it is a folder, or None if it is gone.

        `place` is None if a mark in its folder excludes it.
        """
        try:
            is_folder = entry.is_dir(follow_symlinks=False)
            if place is None or not (place.may_hold if is_folder else place.is_served):
                return Skipped(path=path, kind="excluded")
            if len(path) > MAX_PATH:
                return Unreadable(path=path, reason="ENAMETOOLONG")
            if is_folder:
                return os.open(entry.name, _FOLDER, dir_fd=folder)
            return self._look_at_file(entry, folder, path)
        except OSError as error:
            if error.errno in _GONE or (entry.name == _LOST and error.errno == errno.EACCES):
                return None
            return Unreadable(path=path, reason=_reason(error))

    def _look_at_link(
        self, entry: os.DirEntry[str], folder: int, path: bytes, place: SelectedPlace | None
    ) -> ScannedEntry | None:
        """Return a symlink itself, or None if this is not a symlink, or is excluded or gone."""
        if not entry.is_symlink() or place is None or not place.is_served or len(path) > MAX_PATH:
            return None
        try:
            found = os.stat(entry.name, dir_fd=folder, follow_symlinks=False)
        except OSError:
            # The look at the file behind it has reported this already.
            return None
        return ScannedEntry(path=path, seen=seen(found)) if stat.S_ISLNK(found.st_mode) else None

    def _look_at_file(self, entry: os.DirEntry[str], folder: int, path: bytes) -> Walked | None:
        """Return what an entry other than a folder is, or None if it has just become a folder. Raises: OSError."""
        if entry.is_symlink():
            looks = self.look(path)
            if looks is None:
                return Skipped(path=path, kind="links")
            return ScannedFile(path=path, seen=looks, is_followed=True)
        found = os.stat(entry.name, dir_fd=folder, follow_symlinks=False)
        if not stat.S_ISREG(found.st_mode):
            kind = _kind(found.st_mode)
            return None if kind is None else Skipped(path=path, kind=kind)
        # A file that everybody can read needs no second check.
        can_read = found.st_mode & stat.S_IROTH or os.access(entry.name, os.R_OK, dir_fd=folder, effective_ids=True)
        return ScannedFile(path=path, seen=seen(found), is_readable=bool(can_read))

    def _resolve(self, path: bytes) -> int:
        """Open a path component by component. Symlinks are read and followed by hand, never above the root.

        Two descriptors are open at most, however deep the path is.
        """
        waiting = list(reversed(path.split(b"/")))
        if b"\0" in path or any(part in {b"", b".", b".."} for part in waiting) or not self._place_of(path).is_served:
            raise NotServedError("there is no such file")
        folder, through, links = self._open_root(), list[bytes](), 0
        try:
            while waiting:
                part = waiting.pop()
                if part in {b"", b"."}:
                    continue
                if part == b"..":
                    # Go back to the folder that we came through, not to where ".." leads now. Never go above the root.
                    if not through:
                        raise NotServedError("there is no such file")
                    waiting.extend([*reversed(through[:-1])])
                    folder, through = self._again(folder), []
                    continue
                self._refuse_excluded(folder, through, part)
                opened = _open_or_read(part, _FOLDER if waiting else _FILE, folder)
                if isinstance(opened, bytes):
                    links += 1
                    target = self._inside(opened)
                    if links > MAX_LINKS or target is None:
                        raise NotServedError("there is no such file")
                    if opened.startswith(b"/"):
                        folder, through = self._again(folder), []
                    waiting.extend(reversed(target.split(b"/")))
                elif waiting:
                    os.close(folder)
                    folder = opened
                    through.append(part)
                else:
                    return opened
        finally:
            os.close(folder)
        raise NotServedError("there is no such file")

    def _enter(self, folder: int, through: list[bytes], part: bytes) -> int:
        """Open a folder inside an open one, through no symlink, and close the outer one. `through` then leads to it.

        Raises: NotServedError if it is excluded; OSError if it cannot be opened. `folder` is still open then.
        """
        self._refuse_excluded(folder, through, part)
        opened = os.open(part, _FOLDER, dir_fd=folder)
        os.close(folder)
        through.append(part)
        return opened

    def _refuse_excluded(self, folder: int, through: list[bytes], part: bytes) -> None:
        """Refuse an entry of an open folder that is excluded. A symlink must not lead to one either.

        `through` leads to the folder. Raises: NotServedError.
        """
        is_excluded = any(mark.name != os.fsdecode(part) and mark.lies_in(folder) for mark in self._marks)
        if is_excluded or self._place_of(b"/".join([*through, part])).is_excluded:
            raise NotServedError("there is no such file")

    def _again(self, folder: int) -> int:
        """Open the root, and close `folder`."""
        root = self._open_root()
        os.close(folder)
        return root

    def _inside(self, target: bytes) -> bytes | None:
        """Return a symlink's target: as is if relative, from the root on if absolute. None if it leads elsewhere."""
        if not target.startswith(b"/"):
            return target
        for name in self._names:
            if target == name or target.startswith(name.rstrip(b"/") + b"/"):
                return target[len(name) :].lstrip(b"/")
        return None

    def _open_folder(self, path: bytes) -> int:
        """Open a folder that a walk met, without following symlinks."""
        folder = self._open_root()
        for part in path.split(b"/"):
            above = folder
            try:
                folder = os.open(part, _FOLDER, dir_fd=above)
            finally:
                os.close(above)
        return folder


class OpensFiles(Protocol):
    """Opens files of a folder: a `FolderSource`, or what its `nearby` returns."""

    def open(self, path: bytes) -> tuple[int, Seen]:
        """Return an open descriptor, and the file's metadata. Raises: as `FolderSource.open`."""


class NearbyFiles:
    """Opens many files one after another. The last folders stay open, so a neighbouring file costs one step.

    The caller MUST compare the metadata of each file, because a folder that is renamed meanwhile keeps its files.
    """

    def __init__(self, tree: FolderSource) -> None:
        """Open files of `tree`."""
        self._tree = tree
        self._folders: dict[bytes, int] = {}

    def open(self, path: bytes) -> tuple[int, Seen]:
        """Return what `FolderSource.open` returns. Raises: as it does."""
        descriptor = self._descriptor(path)
        return self._tree.open(path) if descriptor is None else _regular(descriptor)

    def whole(self, path: bytes, identity: bytes, is_settled: Callable[[int], bool]) -> bytes | None:
        """Return all bytes of a file that has this `Seen.identity` before and after reading, and a settled ctime.

        The identity says how many bytes come into memory. Return None if anything differs or is in the way. Then
        `open`, and a comparison of what it returns, tell what it is.
        """
        descriptor = self._descriptor(path)
        if descriptor is None:
            return None
        try:
            found = os.fstat(descriptor)
            if _identity_of(found) != identity or not is_settled(found.st_ctime_ns) or not stat.S_ISREG(found.st_mode):
                return None
            # Read one byte more, because some file systems report too small a size.
            plain = os.pread(descriptor, found.st_size + 1, 0)
            is_same = len(plain) == found.st_size and _identity_of(os.fstat(descriptor)) == identity
        except OSError:
            return None
        finally:
            os.close(descriptor)
        return plain if is_same else None

    def _descriptor(self, path: bytes) -> int | None:
        """Return an open descriptor of whatever is there, or None if it must be opened from the root."""
        base, _, name = path.rpartition(b"/")
        folder = self._folders.get(base)
        if folder is None:
            try:
                folder = self._tree.open_folder_of(path)
            except (KropotError, OSError):
                return None
            if len(self._folders) >= _NEARBY:
                os.close(self._folders.pop(next(iter(self._folders))))
            self._folders[base] = folder
        if name in {b"", b".", b".."} or b"\0" in path or not self._tree.serves(path):
            return None
        try:
            return os.open(name, _FILE, dir_fd=folder)
        except OSError:
            # A symlink or something else is in the way. Opening the file from the root finds out what it is.
            return None

    def close(self) -> None:
        """Close the folders that are open."""
        while self._folders:
            os.close(self._folders.popitem()[1])


def seen(found: os.stat_result) -> Seen:
    """Return a file's metadata from what the operating system reports."""
    return Seen(
        dev=found.st_dev,
        ino=found.st_ino,
        size=found.st_size,
        mtime_ns=found.st_mtime_ns,
        ctime_ns=found.st_ctime_ns,
        mode=stat.S_IMODE(found.st_mode),
    )


def _identity(dev: int, ino: int, size: int, mtime_ns: int, ctime_ns: int) -> bytes:
    return _IDENTITY.pack(dev, ino, size, mtime_ns // _NS, mtime_ns % _NS, ctime_ns // _NS, ctime_ns % _NS)


def _identity_of(found: os.stat_result) -> bytes:
    """Return `seen(found).identity`."""
    return _identity(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _regular(descriptor: int) -> tuple[int, Seen]:
    """Return an open descriptor and its metadata. Close it if that is not a regular file. Raises: NotServedError."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        os.close(descriptor)
        raise
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise NotServedError("there is no such file")
    return descriptor, seen(found)


def _open_or_read(part: bytes, flags: int, folder: int) -> int | bytes:
    """Return an open descriptor, or the target if it is a symlink."""
    try:
        return os.open(part, flags, dir_fd=folder)
    except OSError as error:
        # For a symlink, Linux reports ENOTDIR when a folder was requested, and ELOOP when a file was.
        if error.errno not in {errno.ELOOP, errno.ENOTDIR}:
            raise
    # EINVAL means that this is not a symlink: a file is where a folder was expected.
    return os.readlink(part, dir_fd=folder)


def _kind(mode: int) -> SkipKind | None:
    """Return the kind of an entry that is never served, or None for any other."""
    if stat.S_ISSOCK(mode):
        return "sockets"
    if stat.S_ISFIFO(mode):
        return "pipes"
    return "devices" if stat.S_ISBLK(mode) or stat.S_ISCHR(mode) else None


def _entries(folder: int) -> Iterator[os.DirEntry[str]]:
    """Yield the entries of an open folder. An error is raised on iteration, not on the call."""
    with os.scandir(folder) as entries:
        yield from entries


def _reason(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, "EIO")
