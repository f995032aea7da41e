"""A folder to restore into: nothing is written outside it, no half-written file has a name, nothing is overwritten.

Every step below the folder uses descriptors and never follows a symbolic link, so that a link planted in the folder,
before or during the run, leads nowhere.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import sys
import threading
from collections import Counter
from contextlib import contextmanager, suppress
from itertools import islice
from typing import TYPE_CHECKING, Self

from msgspec import Struct

from kropot.durable.attributes import put_on, put_on_link
from kropot.durable.batch import choose_method
from kropot.durable.dirfd import (
    USUAL,
    descend,
    link_below,
    make_root,
    open_below,
    open_folder,
    open_regular,
    sync_names,
)
from kropot.durable.draft import Draft
from kropot.durable.filesystem import OsFiles
from kropot.durable.refusals import InTheWayError, TooLargeError, TreeError, is_whole_target, refusal, trouble
from kropot.durable.rename import rename_new
from kropot.errors import LockedError
from kropot.wording import amount

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from kropot.durable.attributes import Attributes, Refused
    from kropot.durable.dirfd import Parts

WORK = b".kropot-tmp"
"""The run's own folder inside the target: temporary files, and the lock that keeps two runs apart."""

_PRIVATE = 0o700
_USUAL_PROBE = b"kropot-usual"

MUCH_ROOM = 64 << 20
"""A disk with this many free bytes is not full just because one file does not fit."""

_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OURS = re.compile("[0-9]+\\.part(\\.link)?|kropot[:-](probe\\??|\u00e9|\udcff)")
_IMPOSSIBLE = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.EXDEV, errno.ENOSYS, errno.EMLINK, errno.EINVAL})


class NameRules(Struct, frozen=True, kw_only=True):
    """Which names the target's file system can hold.

    `portable`: names that Windows cannot hold are escaped too. `fold_case`, `fold_unicode`: names that differ only in
    case, or only in Unicode normalisation, are the same name there. `utf8_only`: names must be text there.
    """

    portable: bool = False
    fold_case: bool = False
    fold_unicode: bool = False
    utf8_only: bool = False


class TargetFolder:
    """A folder open for restoring files. Any number of threads can draft and place at once."""

    def __init__(self, root: Path, *, mode: int = USUAL) -> None:
        """Open the folder, and lock it for this run. Missing folders are made with this mode.

        Raises: LockedError while another run works in it; TreeError if it cannot be made or written.
        """
        self.root = root
        self._lock = threading.Lock()
        self._drafts = 0
        self._root_last: Attributes | None = None
        self._made: Callable[[Parts], object] | None = None
        self.refused: Counter[Refused] = Counter()
        self._mode = mode
        self._names_wait = False
        self._stopping = threading.Event()
        self._was_there = root.is_dir()
        self._names_before = _first_names(root)
        try:
            make_root(root, mode)
            self._fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._room = open_folder(self._fd, WORK)
        except OSError as error:
            raise TreeError(f"cannot write to {root} ({error.strerror}): name another folder") from None
        try:
            fcntl.flock(self._room, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise LockedError(f"another run is restoring into {root}: wait for it, or name another folder") from None
        try:
            self._sweep()
            self.rules = self._probe()
            self.usual_mode = self._probe_mode()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        """Return itself. The end of the block closes the folder."""
        return self

    def __exit__(self, *_: object) -> None:
        """Sweep the workroom, and close the folder."""
        self._sweep()
        with suppress(OSError):
            os.rmdir(WORK, dir_fd=self._fd)
            sync_names(self._fd)  # a workroom that came back after a power cut would look like something unfinished
        if self._root_last is not None:
            # This comes last because each new or removed name changes the folder's time.
            self.note(put_on(self._fd, self._root_last))
            with suppress(OSError):
                sync_names(self._fd)
        self.close()

    def close(self) -> None:
        """Close the folder."""
        os.close(self._room)
        os.close(self._fd)

    def stop(self) -> None:
        """End unfinished drafts as soon as possible. A file that is not complete by now gets no name."""
        self._stopping.set()

    def draft(self) -> Draft:
        """Start a file. Raises: TreeError."""
        try:
            return Draft(self._room, self._new_name(), self._stopping, where=str(self.root))
        except OSError as error:
            raise trouble(error, f"making a file in {self.root}") from None

    def place(self, draft: Draft, path: Parts, *, replace: bool = False) -> None:
        """Give a synced draft its name, durably. Only with `replace` may the name be taken.

        Raises: InTheWayError, UnplaceableError, TreeError.
        """
        self._place(draft.name, path, replace=replace)

    def place_symlink(self, target: bytes, wanted: Attributes, path: Parts, *, replace: bool = False) -> None:
        """Make a symlink with these attributes, durably. It is never followed. Raises: as `place`."""
        name = self._new_name()
        try:
            os.symlink(target, name, dir_fd=self._room)
        except OSError as error:
            raise refusal(error, f"making a symlink in {self.root}") from None
        try:
            self.note(put_on_link(self._room, name, wanted))
            self._place(name, path, replace=replace)
        finally:
            self._drop(name)

    def place_link(self, of: Parts, path: Parts, *, replace: bool = False) -> bool:
        """Make another name for the file at `of`, durably. Return False if the file system cannot.

        Raises: as `place`.
        """
        name = self._new_name()
        try:
            with self._folder(of[:-1], make=False) as folder:
                os.link(of[-1], name, src_dir_fd=folder, dst_dir_fd=self._room, follow_symlinks=False)
        except OSError as error:
            if error.errno in _IMPOSSIBLE:
                return False
            raise refusal(error, f"linking a file in {self.root}") from None
        try:
            self._place(name, path, replace=replace)
        finally:
            # If both are the same file already, the rename leaves this name.
            self._drop(name)
        return True

    def make_folder(self, path: Parts) -> None:
        """Make a folder, durably, if it is missing. Raises: as `place`."""
        try:
            with self._folder(path, make=True):
                pass
        except OSError as error:
            raise refusal(error, f"making a folder in {self.root}") from None

    def dress_folder(self, path: Parts, wanted: Attributes) -> None:
        """Set a folder's attributes. Do this when nothing more is written into it. Raises: as `place`."""
        if not path:
            self._root_last = wanted
            return
        try:
            with self._folder(path, make=False) as folder:
                self.note(put_on(folder, wanted))
        except OSError as error:
            raise refusal(error, f"setting the mode of a folder in {self.root}") from None

    def keep_private(self, made: Callable[[Parts], object]) -> None:
        """From now on, make folders private to this user, and call `made` with each path, from any thread.

        The caller gives them their own mode at the end, or `usual_mode`.
        """
        self._made = made

    def let_names_wait(self) -> None:
        """From now on, make names durable only in `settle`, which MUST follow, if a sync of the volume can do that."""
        with suppress(OSError):
            self._names_wait = choose_method(str(self.root)).method == "syncfs"

    def was_empty(self, *ours: bytes) -> bool:
        """Return whether the folder was empty when it was opened, except for files with these names."""
        return self._names_before <= {WORK, *ours}

    def note(self, refused: Iterable[Refused]) -> None:
        """Count the attributes that the target refused. Any thread may call this."""
        with self._lock:
            self.refused.update(refused)

    def too_large(self, size: int) -> TooLargeError | None:
        """Return the error if a file of `size` bytes filled the disk although much is free: others can still fit."""
        found = os.fstatvfs(self._fd)
        room = found.f_bavail * found.f_frsize
        if not size > room >= MUCH_ROOM:
            return None
        return TooLargeError(
            f"it needs {amount(size)}, and {amount(room)} are free in {self.root}: free some space and run the same "
            "command again, or restore it into a folder on another file system"
        )

    def look(self, path: Parts) -> os.stat_result | None:
        """Return the status of this name, without following links; None if nothing has it or could have it."""
        try:
            with self._folder(path[:-1], make=False) as folder:
                return os.stat(path[-1] if path else b".", dir_fd=folder, follow_symlinks=False)
        except OSError:
            return None

    def read(self, path: Parts) -> int:
        """Open a regular file below the folder for reading, and return its descriptor. Raises: OSError."""
        return open_below(self._fd, path)

    def read_link(self, path: Parts) -> bytes | None:
        """Return the target of a symlink, or None for anything else. Raises: OSError."""
        return link_below(self._fd, path)

    def open_log(self, name: bytes) -> int:
        """Open a file in the top folder for reading and appending, and make it if it is missing.

        Raises: InTheWayError if something else has the name; TreeError.
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
        """Make the waiting names durable, and those that an earlier run gave just before it was killed.

        Such names look like any other, so the whole volume is synced once. Raises: TreeError.
        """
        if not (self._was_there or self._names_wait):
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
        """Open a folder step by step. With `make`, make missing ones."""
        mode, made = (self._mode, None) if self._made is None else (_PRIVATE, self._made)
        fd = descend(
            self._fd, path, make=mode if make else None, made=made or (lambda _: None), sync=not self._names_wait
        )
        try:
            yield fd
        finally:
            os.close(fd)

    def _new_name(self) -> bytes:
        """Return a free name in the workroom."""
        with self._lock:
            self._drafts += 1
            return b"%d.part" % self._drafts

    def _drop(self, name: bytes) -> None:
        """Remove a name from the workroom. The next run sweeps what remains."""
        with suppress(OSError):
            os.unlink(name, dir_fd=self._room)

    def _place(self, new: bytes, path: Parts, *, replace: bool) -> None:
        """Move something from the workroom to its name, durably. Raises: as `place`."""
        try:
            with self._folder(path[:-1], make=True) as folder:
                if replace:
                    os.replace(new, path[-1], src_dir_fd=self._room, dst_dir_fd=folder)
                else:
                    rename_new(new, path[-1], src_dir_fd=self._room, dst_dir_fd=folder)
                if not self._names_wait:
                    sync_names(folder)
        except OSError as error:
            raise refusal(error, f"naming a file in {self.root}") from None

    def _sweep(self) -> None:
        """Remove the drafts that an earlier run left, and nothing else."""
        with os.scandir(self._room) as found:
            ours = [entry.name for entry in found if _OURS.fullmatch(entry.name)]
        for name in ours:
            with suppress(OSError):
                os.unlink(name, dir_fd=self._room)

    def _probe(self) -> NameRules:
        """Return which names this file system can hold, by trying in the workroom."""
        return NameRules(
            portable=not self._holds(b"kropot:probe?"),
            fold_case=self._holds(b"kropot-probe", b"KROPOT-Probe"),
            fold_unicode=self._holds("kropot-\u00e9".encode(), "kropot-e\u0301".encode()),
            utf8_only=not self._holds(b"kropot-\xff"),
        )

    def _probe_mode(self) -> int:
        """Return the mode of a new folder, which depends on the umask and on the parent folder's ACL."""
        try:
            with suppress(FileExistsError):
                os.mkdir(_USUAL_PROBE, self._mode, dir_fd=self._room)
            return stat.S_IMODE(os.stat(_USUAL_PROBE, dir_fd=self._room, follow_symlinks=False).st_mode)
        except OSError as error:
            raise trouble(error, f"making a folder in {self.root}") from None
        finally:
            with suppress(OSError):
                os.rmdir(_USUAL_PROBE, dir_fd=self._room)

    def _holds(self, name: bytes, other: bytes | None = None) -> bool:
        """Return whether a file can have the name and is then found under the other one."""
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


def _first_names(root: Path) -> frozenset[bytes]:
    """Return at most three names in a folder; none if it is missing or cannot be read."""
    with suppress(OSError), os.scandir(os.fsencode(root)) as found:
        return frozenset(entry.name for entry in islice(found, 3))
    return frozenset()
