"""Make written files durable: one `syncfs` for a whole batch where its errors can be trusted, else an fsync for each.

`syncfs` reports a failed write-back once to each descriptor that was open when it failed, and only since Linux 5.8.
So one descriptor is opened before the first write. After an error, everything written under it is given up, because
the kernel has dropped those pages and a second sync would report success.
"""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from kropot.durable.errors import DiscardedError, StorageError, storage_error
from kropot.durable.filesystem import file_system_type

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kropot.durable.filesystem import FileSystem

Method = Literal["syncfs", "fsync"]

FSYNC_THREADS = 16

MANY_FOLDERS = 4
"""From this many folders on, one sync of the whole volume is cheaper than one sync per folder."""

_SYNCFS_REPORTS_ERRORS_SINCE = (5, 8)

# Local file systems whose write-back errors reach syncfs. Network and FUSE file systems, and overlays (whose errors
# stay in the layer below), get one fsync per file.
_TRUSTED = {
    0xEF53: "ext4",
    0x58465342: "xfs",
    0x9123683E: "btrfs",
    0xF2F52010: "f2fs",
    0x01021994: "tmpfs",
}


class Choice(Struct, frozen=True, kw_only=True):
    """The chosen method, and the reason, worded for a log."""

    method: Method
    why: str


def choose_method(root: str) -> Choice:
    """Choose how to make files below `root` durable; `root` MUST exist. Raises: OSError."""
    return choose(platform=sys.platform, release=os.uname().release, magic=file_system_type(root))


def choose(*, platform: str, release: str, magic: int | None) -> Choice:
    """Choose from the platform, the kernel's release ("6.1.0-13-amd64") and the file system's magic number."""
    if not platform.startswith("linux") or magic is None:
        return Choice(method="fsync", why="syncfs is Linux's own")
    if kernel_version(release) < _SYNCFS_REPORTS_ERRORS_SINCE:
        return Choice(method="fsync", why=f"syncfs of kernel {release} does not report write errors")
    name = _TRUSTED.get(magic)
    if name is None:
        return Choice(method="fsync", why=f"file system type {magic:#x} is not known to report write errors to syncfs")
    return Choice(method="syncfs", why=f"{name} on kernel {release}")


def kernel_version(release: str) -> tuple[int, int]:
    """Return (major, minor) of a kernel's release; (0, 0), which is never trusted, if it cannot be parsed."""
    parts = release.split(".")
    try:
        return int(parts[0]), int("".join(c for c in parts[1].split("-")[0] if c.isdigit()))
    except (IndexError, ValueError):
        return 0, 0


class Pending(Struct, frozen=True):
    """What a written file waits for until it is durable: a sync of its generation of the volume, or a running fsync."""

    generation: int
    fsync: Future[None] | None = None


class Durability:
    """Makes files durable in batches; one thread can stage while another settles.

    After a failed `syncfs` it continues with an fsync for each file, which tells the sound ones from the others.
    """

    def __init__(self, root: str, files: FileSystem, method: Method) -> None:
        """Open nothing before the first `begin`."""
        self._root = root
        self._files = files
        self._method: Method = method
        self._lock = threading.Lock()
        self._volume: int | None = None
        self._generation = 0
        self._pool: ThreadPoolExecutor | None = None

    @property
    def method(self) -> Method:
        """The method for files that are created from now on."""
        return self._method

    def begin(self) -> int:
        """Return the generation for a file that is about to be created. MUST be called before the file's first write.

        Raises: OSError.
        """
        with self._lock:
            if self._method == "syncfs" and self._volume is None:
                self._volume = self._files.open_volume(self._root)
            return self._generation

    def hand_over(self, fd: int, generation: int) -> Pending:
        """Take over the descriptor of a completely written file, and close it. Raises: OSError."""
        if self._method == "syncfs" or generation != self._generation:
            self._files.close(fd)
            return Pending(generation)
        return Pending(generation, self._threads().submit(self._sync_and_close, fd))

    def settle(self, batch: Sequence[Pending]) -> list[StorageError | None]:
        """Wait for each file. Return, in order, None if it is durable, or the error: then it MUST be written again."""
        if any(p.fsync is None and p.generation == self._generation for p in batch):
            failure = self._sync_volume()
            if failure is not None:
                return [failure if p.fsync is None else _outcome(p.fsync) for p in batch]
        return [self._verdict(p) for p in batch]

    def sync_folders(self, folders: Sequence[str]) -> dict[str, StorageError]:
        """Sync each folder, and return the errors by folder.

        Many folders are synced at once with the whole volume, where that can be trusted, because an fsync of each one
        makes the disk flush its cache each time (256 folders: 500-900 ms against 3-12 ms).
        """
        if self._method == "syncfs" and len(folders) >= MANY_FOLDERS:
            failure = self._sync_volume()
            return {} if failure is None else dict.fromkeys(folders, failure)
        outcomes = self.each(self._files.sync_folder, folders)
        return {
            folder: storage_error(error, f"syncing the folder {folder}")
            for folder, error in zip(folders, outcomes, strict=True)
            if error is not None
        }

    def each(self, act: Callable[[str], None], paths: Sequence[str]) -> list[OSError | None]:
        """Call `act` for every path, in threads if each would wait for the disk by itself; return errors or None."""

        def attempt(path: str) -> OSError | None:
            try:
                act(path)
            except OSError as error:
                return error
            return None

        # One journal commit makes all folders of a local file system durable, so threads would only cost time.
        if self._method == "syncfs" or len(paths) < 2:  # noqa: PLR2004 -- one path needs no thread
            return [attempt(path) for path in paths]
        return list(self._threads().map(attempt, paths))

    def close(self) -> None:
        """Close the descriptor and end the threads. Files that were not settled are not durable."""
        with self._lock:
            volume, self._volume = self._volume, None
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=False)
        if volume is not None:
            self._files.close(volume)

    def _sync_volume(self) -> StorageError | None:
        with self._lock:
            volume = self._volume
        if volume is None:
            return DiscardedError(f"{self._root} was closed before its files were durable")
        try:
            self._files.sync_volume(volume)
        except OSError as error:
            with self._lock:
                self._generation += 1
                self._method = "fsync"
                self._volume = None
            self._files.close(volume)
            return storage_error(error, f"making files durable in {self._root}")
        return None

    def _verdict(self, pending: Pending) -> StorageError | None:
        if pending.fsync is not None:
            return _outcome(pending.fsync)
        if pending.generation != self._generation:
            return DiscardedError(
                f"a file in {self._root} was written before a sync that failed; it will be fetched again"
            )
        return None

    def _sync_and_close(self, fd: int) -> None:
        try:
            self._files.sync_file(fd)
        finally:
            self._files.close(fd)

    def _threads(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(FSYNC_THREADS, thread_name_prefix="fsync")
            return self._pool


def _outcome(fsync: Future[None]) -> StorageError | None:
    try:
        fsync.result()
    except OSError as error:
        return storage_error(error, "making a file durable")
    return None
