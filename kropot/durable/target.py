"""A folder that files are given back into: nothing leaves it, nothing half written has a name, nothing is overwritten.

Every step below the folder is taken by descriptor and never through a symbolic link, so that a link planted in the
folder, before or meanwhile, leads nowhere.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import sys
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from kropot.durable.dirfd import USUAL, descend, make_root, open_below, open_folder, open_regular, sync_names
from kropot.durable.draft import Draft
from kropot.durable.filesystem import OsFiles
from kropot.durable.refusals import InTheWayError, TooLargeError, TreeError, is_whole_target, refusal, trouble
from kropot.errors import LockedError
from kropot.wording import amount

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kropot.durable.dirfd import Parts

WORK = b".kropot-tmp"
"""The folder's own workroom: temporary files, and the lock that keeps two runs apart."""

MUCH_ROOM = 64 << 20
"""A disk with so many free bytes is not called full when one file does not fit."""

_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OURS = re.compile("[0-9]+\\.part(\\.link)?|kropot[:-](probe\\??|\u00e9|\udcff)")
_IMPOSSIBLE = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.EXDEV, errno.ENOSYS, errno.EMLINK, errno.EINVAL})


@dataclass(frozen=True, slots=True, kw_only=True)
class NameRules:
    """What the target's file system can hold.

    `portable`: names that Windows cannot hold are escaped too. `fold_case`, `fold_unicode`: names that differ only in
    case, or only in Unicode normalisation, are one name there. `utf8_only`: names are text there.
    """

    portable: bool = False
    fold_case: bool = False
    fold_unicode: bool = False
    utf8_only: bool = False


class TargetFolder:
    """A folder open for giving files back; any number of threads may draft and place at once."""

    def __init__(self, root: Path, *, mode: int = USUAL) -> None:
        """Open the folder, and take it for this run alone. Folders that are missing are made with this mode.

        Raises: LockedError while another run works in it; TreeError where it cannot be made or written.
        """
        self.root = root
        self._lock = threading.Lock()
        self._drafts = 0
        self._mode = mode
        self._stopping = threading.Event()
        self._was_there = root.is_dir()
        try:
            make_root(root, mode)
            self._fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._room = open_folder(self._fd, WORK)
        except OSError as error:
            raise TreeError(f"{root} cannot be written: {error.strerror}; name another folder") from None
        try:
            fcntl.flock(self._room, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise LockedError(f"another run is at work in {root}: wait for it, or name another folder") from None
        self._sweep()
        self.rules = self._probe()

    def __enter__(self) -> Self:
        """Return the tree itself; the block's end lets go of it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Sweep the workroom and let go of the folder."""
        self._sweep()
        with suppress(OSError):
            os.rmdir(WORK, dir_fd=self._fd)
            sync_names(self._fd)  # a workroom that came back after a power cut would look like something unfinished
        self.close()

    def close(self) -> None:
        """Let go of the folder."""
        os.close(self._room)
        os.close(self._fd)

    def stop(self) -> None:
        """Have drafts under way end as soon as may be: what is not whole by now gets no name."""
        self._stopping.set()

    def draft(self) -> Draft:
        """Begin a file. Raises: TreeError."""
        with self._lock:
            self._drafts += 1
            number = self._drafts
        try:
            return Draft(self._room, b"%d.part" % number, self._stopping, where=str(self.root))
        except OSError as error:
            raise trouble(error, f"making a file in {self.root}") from None

    def place(self, draft: Draft, path: Parts, *, replace: bool = False) -> None:
        """Give a synced draft its name, durably; only with `replace` may something have it already.

        Raises: InTheWayError, UnplaceableError, TreeError.
        """
        try:
            with self._folder(path[:-1], make=True) as folder:
                if replace:
                    os.replace(draft.name, path[-1], src_dir_fd=self._room, dst_dir_fd=folder)
                else:
                    self._name(draft, folder, path[-1])
                sync_names(folder)
        except OSError as error:
            raise refusal(error, f"naming a file in {self.root}") from None

    def too_large(self, size: int) -> TooLargeError | None:
        """Return the error if a file of `size` bytes filled the disk and yet much is free: others may still fit."""
        found = os.fstatvfs(self._fd)
        room = found.f_bavail * found.f_frsize
        if not size > room >= MUCH_ROOM:
            return None
        return TooLargeError(
            f"it has {amount(size)}, and {amount(room)} are free in {self.root}: make room and run the same command "
            "again, or restore it into a folder of another file system"
        )

    def look(self, path: Parts) -> os.stat_result | None:
        """Return what has this name, without following a link; None where nothing has or could have it."""
        try:
            with self._folder(path[:-1], make=False) as folder:
                return os.stat(path[-1], dir_fd=folder, follow_symlinks=False)
        except OSError:
            return None

    def read(self, path: Parts) -> int:
        """Open a regular file below the folder for reading, return its descriptor. Raises: OSError."""
        return open_below(self._fd, path)

    def open_log(self, name: bytes) -> int:
        """Open a file in the top folder for reading and appending, made where it is missing.

        Raises: InTheWayError where something else has the name; TreeError.
        """
        try:
            return open_regular(name, os.O_RDWR | os.O_APPEND | os.O_CREAT, self._fd)
        except OSError as error:
            shown = f"{self.root}/{os.fsdecode(name)}"
            if error.errno in {errno.ELOOP, errno.EISDIR, errno.ENXIO}:
                raise InTheWayError(f"{shown} is not a regular file: move it away, or name another folder") from None
            raise trouble(error, f"opening {shown}") from None

    def sync(self) -> None:
        """Make the names in the top folder durable."""
        sync_names(self._fd)

    def settle(self) -> None:
        """Make durable what an earlier run may have left without: a name that it gave just before it was killed.

        Nothing tells such a name from others, so the whole volume is synced, once. Raises: TreeError.
        """
        if not self._was_there:
            return
        try:
            if sys.platform.startswith("linux"):
                OsFiles().sync_volume(self._fd)
            else:
                os.sync()
        except OSError as error:
            raise trouble(error, f"syncing {self.root}") from None

    # --- helpers ---

    @contextmanager
    def _folder(self, path: Parts, *, make: bool) -> Iterator[int]:
        """Open a folder step by step, making those that are missing."""
        fd = descend(self._fd, path, make=self._mode if make else None)
        try:
            yield fd
        finally:
            os.close(fd)

    def _name(self, draft: Draft, folder: int, name: bytes) -> None:
        """Give the draft a name that nothing has, atomically."""
        try:
            os.link(draft.name, name, src_dir_fd=self._room, dst_dir_fd=folder, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _IMPOSSIBLE:
                raise
        else:
            os.unlink(draft.name, dir_fd=self._room)
            return
        # No hard links here: an empty file of our own takes the name, and the draft takes its place.
        os.close(os.open(name, _NEW, 0o600, dir_fd=folder))
        os.replace(draft.name, name, src_dir_fd=self._room, dst_dir_fd=folder)

    def _sweep(self) -> None:
        """Remove the drafts that an earlier run left, and nothing that has another name."""
        with os.scandir(self._room) as found:
            ours = [entry.name for entry in found if _OURS.fullmatch(entry.name)]
        for name in ours:
            with suppress(OSError):
                os.unlink(name, dir_fd=self._room)

    def _probe(self) -> NameRules:
        """Return what this file system can hold, found out by trying in the workroom."""
        return NameRules(
            portable=not self._holds(b"kropot:probe?"),
            fold_case=self._holds(b"kropot-probe", b"KROPOT-Probe"),
            fold_unicode=self._holds("kropot-\u00e9".encode(), "kropot-e\u0301".encode()),
            utf8_only=not self._holds(b"kropot-\xff"),
        )

    def _holds(self, name: bytes, other: bytes | None = None) -> bool:
        """Return whether a file can have the name and is then found by the other one."""
        try:
            os.close(os.open(name, _NEW, 0o600, dir_fd=self._room))
        except OSError as error:
            if is_whole_target(error):
                raise trouble(error, f"making a file in {self.root}") from None
            return False
        try:
            os.stat(other or name, dir_fd=self._room, follow_symlinks=False)
        except OSError:
            return False
        finally:
            with suppress(OSError):
                os.unlink(name, dir_fd=self._room)
        return True
