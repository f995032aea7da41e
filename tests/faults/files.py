"""File operations that can be watched, broken at any step, or robbed of everything that was not synced."""

from __future__ import annotations

import contextlib
import os
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from kropot.durable.filesystem import OsFiles

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from pathlib import Path

    from kropot.durable.filesystem import FileSystem

T = TypeVar("T")

_FOLDER = "a folder"
_GONE = "a name that was removed"


class Killed(BaseException):
    """The process died here: no error of the program, but what `kill -9` is to it."""


class UnsyncedFiles(OsFiles):
    """The system's files without the waiting for the disk: a killed process loses nothing that the kernel has."""

    def sync_file(self, fd: int) -> None:
        os.fstat(fd)

    def sync_folder(self, path: str) -> None:
        os.lstat(path)

    def sync_volume(self, fd: int) -> None:
        os.fstat(fd)


class WatchedFiles:
    """Passes every step on, in order, and notes it; `before` is called ahead of each and may raise instead."""

    def __init__(self, inner: FileSystem, before: Callable[[int, str], None] | None = None) -> None:
        self._inner = inner
        self._before = before
        self._lock = threading.RLock()
        self._open: set[int] = set()
        self._buried: set[int] = set()
        self.steps: list[tuple[str, tuple[object, ...]]] = []
        self.dead = False
        self.killed: set[threading.Thread] = set()
        """The threads that met the kill."""

    def bury(self) -> None:
        """Close what the dead process had open."""
        with self._lock:
            for fd in self._open:
                with contextlib.suppress(OSError):
                    os.close(fd)
            self._buried, self._open = self._open, set()

    def _step(self, name: str, args: tuple[object, ...], act: Callable[[], T]) -> T:
        with self._lock:
            if self.dead:
                self.killed.add(threading.current_thread())
                raise Killed
            self.steps.append((name, args))
            try:
                if self._before is not None:
                    self._before(len(self.steps) - 1, name)
            except Killed:
                self.dead = True
                self.killed.add(threading.current_thread())
                raise
            return act()

    def make_folder(self, path: str) -> None:
        self._step("make_folder", (path,), lambda: self._inner.make_folder(path))

    def create(self, path: str) -> int:
        fd = self._step("create", (path,), lambda: self._inner.create(path))
        self._open.add(fd)
        return fd

    def write(self, fd: int, data: bytes | bytearray | memoryview) -> int:
        return self._step("write", (fd, len(data)), lambda: self._inner.write(fd, data))

    def start_writing(self, fd: int, offset: int, size: int) -> None:
        self._step("start_writing", (fd, offset, size), lambda: self._inner.start_writing(fd, offset, size))

    def open_read(self, path: str) -> int:
        return self._step("open_read", (path,), lambda: self._inner.open_read(path))

    def read_into(self, fd: int, buffer: memoryview) -> int:
        return self._step("read_into", (fd,), lambda: self._inner.read_into(fd, buffer))

    def sync_file(self, fd: int) -> None:
        self._step("sync_file", (fd,), lambda: self._inner.sync_file(fd))

    def sync_folder(self, path: str) -> None:
        self._step("sync_folder", (path,), lambda: self._inner.sync_folder(path))

    def open_volume(self, path: str) -> int:
        fd = self._step("open_volume", (path,), lambda: self._inner.open_volume(path))
        self._open.add(fd)
        return fd

    def sync_volume(self, fd: int) -> None:
        self._step("sync_volume", (fd,), lambda: self._inner.sync_volume(fd))

    def rename(self, source: str, target: str) -> None:
        self._step("rename", (source, target), lambda: self._inner.rename(source, target))

    def unlink(self, path: str) -> None:
        self._step("unlink", (path,), lambda: self._inner.unlink(path))

    def close(self, fd: int) -> None:
        def act() -> None:
            self._open.discard(fd)
            self._inner.close(fd)

        try:
            self._step("close", (fd,), act)
        except Killed:
            # The kernel closes what a dead process had open, once: the number may be another file's by now.
            with self._lock:
                if fd not in self._buried:
                    act()
            raise


def killed_at(step: int) -> Callable[[int, str], None]:
    """Kill the process just before step number `step`, that is just after the one before."""

    def before(number: int, _name: str) -> None:
        if number >= step:  # a process that is gone takes no later step either, whichever thread met the kill
            raise Killed

    return before


def failing_at(step: int, number: int) -> Callable[[int, str], None]:
    """Let step number `step` fail with the errno `number`, without doing anything."""

    def before(at: int, _name: str) -> None:
        if at == step:
            raise OSError(number, os.strerror(number))

    return before


@dataclass(eq=False)
class _Inode:
    """A file's bytes as the kernel has them, and as the disk has them."""

    data: bytearray = field(default_factory=bytearray)
    durable: bytes = b""


class ForgetfulFiles:
    """Real files, and beside them what a disk that was robbed of its power would keep of them.

    Names that were added or removed in a folder stay only once the folder was synced, each on its own else; bytes stay
    only once the file was synced, else as they were, cut, or as zeros. This is harsher than any file system in use, and
    no harsher than POSIX allows.
    """

    def __init__(self, root: Path) -> None:
        self._root = str(root)
        self._inner = UnsyncedFiles()
        self._inodes: dict[str, _Inode] = {}
        self._by_fd: dict[int, str | _Inode] = {}
        self._folders: set[str] = set()
        # For every folder: the durable names, and the changes that are not.
        self._names: dict[str, dict[str, _Inode | str]] = {}
        self._changes: dict[str, list[tuple[str, _Inode | str]]] = {}

    def make_folder(self, path: str) -> None:
        self._inner.make_folder(path)
        self._folders.add(path)
        self._change(path, _FOLDER)

    def create(self, path: str) -> int:
        fd = self._inner.create(path)
        self._inodes[path] = self._by_fd[fd] = inode = _Inode()
        self._change(path, inode)
        return fd

    def write(self, fd: int, data: bytes | bytearray | memoryview) -> int:
        count = self._inner.write(fd, data)
        self._inode(fd).data += data[:count]
        return count

    def start_writing(self, fd: int, offset: int, size: int) -> None:
        """A hint promises nothing: the disk keeps what it would have kept without it."""

    def open_read(self, path: str) -> int:
        fd = self._inner.open_read(path)
        self._by_fd[fd] = self._inodes[path]
        return fd

    def read_into(self, fd: int, buffer: memoryview) -> int:
        return self._inner.read_into(fd, buffer)

    def sync_file(self, fd: int) -> None:
        inode = self._inode(fd)
        inode.durable = bytes(inode.data)

    def sync_folder(self, path: str) -> None:
        self._inner.sync_folder(path)
        self._keep(path, self._changes.pop(path, []))

    def open_volume(self, path: str) -> int:
        fd = self._inner.open_volume(path)
        self._by_fd[fd] = path
        return fd

    def sync_volume(self, fd: int) -> None:
        assert isinstance(self._by_fd[fd], str)
        for inode in self._inodes.values():
            inode.durable = bytes(inode.data)
        for folder in list(self._changes):
            self._keep(folder, self._changes.pop(folder))

    def rename(self, source: str, target: str) -> None:
        self._inner.rename(source, target)
        inode = self._inodes.pop(source)
        self._inodes[target] = inode
        self._change(source, _GONE)
        self._change(target, inode)

    def unlink(self, path: str) -> None:
        self._inner.unlink(path)
        del self._inodes[path]
        self._change(path, _GONE)

    def close(self, fd: int) -> None:
        # First, for another thread may get the number as soon as it is free.
        self._by_fd.pop(fd, None)
        self._inner.close(fd)

    def rot(self, path: str, data: bytes) -> None:
        """Let the disk itself change a file's bytes."""
        with open(path, "wb") as file:  # noqa: PTH123 -- one of the strings that this layer deals in
            file.write(data)
        self._inodes[path].data[:] = data
        self._inodes[path].durable = data

    def lose_power(self, survivors: Path, chance: random.Random) -> None:
        """Build in `survivors` what the disk kept of the root."""
        for folder, changes in self._changes.items():
            self._keep(folder, [change for change in changes if chance.random() < 0.5])
        self._changes.clear()
        self._build(self._root, survivors, chance)

    def _build(self, folder: str, into: Path, chance: random.Random) -> None:
        into.mkdir(parents=True, exist_ok=True)
        for name, inode in self._names.get(folder, {}).items():
            if isinstance(inode, str):
                self._build(f"{folder}/{name}", into / name, chance)
            else:
                (into / name).write_bytes(_kept(inode, chance))

    def _inode(self, fd: int) -> _Inode:
        inode = self._by_fd[fd]
        assert isinstance(inode, _Inode)
        return inode

    def _change(self, path: str, inode: _Inode | str) -> None:
        folder, _, name = path.rpartition("/")
        self._changes.setdefault(folder, []).append((name, inode))

    def _keep(self, folder: str, changes: list[tuple[str, _Inode | str]]) -> None:
        names = self._names.setdefault(folder, {})
        for name, inode in changes:
            if inode == _GONE:
                names.pop(name, None)
            else:
                names[name] = inode


def _kept(inode: _Inode, chance: random.Random) -> bytes:
    if inode.durable == inode.data:
        return inode.durable
    whole = bytes(inode.data)
    return chance.choice([inode.durable, whole, whole[: len(whole) // 2], bytes(len(whole)), b""])
