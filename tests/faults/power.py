"""The disk as a power cut would have left it, built from a recording of everything that a command did to its files.

The shim (tests/faults/shim.c) records each operation with its bytes. Here they are done again, up to a cut, on a model
of the disk in which a file's bytes are durable once it, or its volume, was synced, and a name once its folder was. Of
what was not, a seed decides what is kept: nothing, everything, a beginning, or any part in any order, torn at any
sector. Bytes whose sync failed are gone for good, though a later sync of the same file succeeds, as on Linux. This is
harsher than the file systems in use and no harsher than POSIX allows. SQLite's files get no mercy.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_HEAD = struct.Struct("<iiiqqIII")
SECTOR = 512
MARK = "!"
# What a cut may stand after: everything but marks, and the opening and closing of what is there.
CHANGES = frozenset("wsStTrlumy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One operation: `kind` as the shim writes it, process and descriptor, offset (or mark), size, paths, and bytes."""

    kind: str
    pid: int
    fd: int
    at: int
    size: int
    old: str
    path: str
    data: bytes


def read_recording(path: Path) -> list[Record]:
    """Return the operations in the order in which they were done."""
    raw = path.read_bytes()
    found, at = [], 0
    while at < len(raw):
        kind, pid, fd, offset, size, *lengths = _HEAD.unpack_from(raw, at)
        at += _HEAD.size
        parts = []
        for length in lengths:
            parts.append(raw[at : at + length])
            at += length
        old, new, data = parts
        paths = {"old": os.fsdecode(old), "path": os.path.normpath(os.fsdecode(new)) if new else ""}
        found.append(Record(kind=chr(kind), pid=pid, fd=fd, at=offset, size=size, data=data, **paths))
    return found


def cuts(records: Sequence[Record]) -> list[int]:
    """Return after how many records a power cut makes a difference; the last is the end of the command."""
    found = [
        number
        for number, record in enumerate(records, start=1)
        if record.kind in CHANGES or (record.kind == "o" and record.size)
    ]
    return [*found[:-1], len(records)] if found else []


def promised(records: Sequence[Record], cut: int) -> int:
    """Return the last position of the ledger that was acknowledged before the cut; 0 where none was."""
    return max((record.at for record in records[:cut] if record.kind == MARK), default=0)


@dataclass(eq=False, slots=True)
class _File:
    """What the disk has of a file for certain, and what it may have beside: (offset, bytes), or a new size."""

    durable: bytes = b""
    pending: list[tuple[int, bytes] | int] = field(default_factory=list)

    def sync(self) -> None:
        if self.pending:
            self.durable = _written(self.durable, self.pending)
            self.pending.clear()

    def fail(self) -> None:
        """Lose what was to be synced: the system takes it for written after that, and tries it never again."""
        self.pending.clear()

    def kept(self, dice: random.Random) -> bytes:
        """Return what is found after the cut."""
        if not self.pending:
            return self.durable
        fate = dice.randrange(5)
        if fate == 0:
            return self.durable
        if fate == 1:
            return _written(self.durable, self.pending)
        if fate == 2:  # a beginning, its last operation torn
            count = dice.randrange(len(self.pending))
            return _written(self.durable, [*self.pending[:count], *_some(_sectors(self.pending[count]), dice)])
        if fate == 3:  # the size without the bytes
            return _written(self.durable, [max(len(self.durable), len(_written(self.durable, self.pending)))])
        parts = [part for operation in self.pending for part in _sectors(operation)]
        return _written(self.durable, _some(parts, dice))


@dataclass(eq=False, slots=True)
class _Link:
    target: str


@dataclass(eq=False, slots=True)
class _Folder:
    """The names as the program sees them, those that the disk has for certain, and the changes that it may have."""

    names: dict[str, _File | _Folder | _Link] = field(default_factory=dict)
    durable: dict[str, _File | _Folder | _Link] = field(default_factory=dict)
    pending: list[dict[str, _File | _Folder | _Link | None]] = field(default_factory=list)

    def change(self, names: dict[str, _File | _Folder | _Link | None]) -> None:
        """Change names, all of them or none."""
        self.pending.append(names)
        _rename(self.names, names)

    def sync(self) -> None:
        for change in self.pending:
            _rename(self.durable, change)
        self.pending.clear()

    def kept(self, dice: random.Random) -> dict[str, _File | _Folder | _Link]:
        """Return the names that are found after the cut: in order up to one, or any of them."""
        names = dict(self.durable)
        if dice.random() < 0.5:
            kept = self.pending[: dice.randrange(len(self.pending) + 1)]
        else:
            kept = [change for change in self.pending if dice.random() < 0.5]
        for change in kept:
            _rename(names, change)
        return names


class Disk:
    """A folder on a disk: as it was before, what is done to it, and what a power cut leaves."""

    def __init__(self, before: Path, seen_as: Path) -> None:
        """Take over everything below `before` as durable; the recording calls it `seen_as`."""
        self._prefix = str(seen_as)
        self._root = _load(before)
        self._fds: dict[tuple[int, int], _File | _Folder] = {}

    def replay(self, records: Sequence[Record]) -> None:
        """Do the operations."""
        for record in records:
            self._do(record)

    def lose_power(self, into: Path, dice: random.Random) -> None:
        """Build in the new folder `into` what is left."""
        into.mkdir(mode=0o700)
        _build(self._root, into, dice)

    def _do(self, record: Record) -> None:
        {
            "o": self._open,
            "c": lambda one: self._fds.pop((one.pid, one.fd), None),
            "d": self._duplicate,
            "w": lambda one: self._file(one).pending.append((one.at, one.data)),
            "t": lambda one: self._file(one).pending.append(one.size),
            "T": lambda one: _as_file(self._find(one.path)).pending.append(one.size),
            "s": self._sync,
            "S": self._sync_volume,
            "r": self._rename,
            "l": lambda one: self._name(one.path, self._find(one.old, one.pid)),
            "u": lambda one: self._name(one.path, None),
            "m": lambda one: self._name(one.path, _Folder()),
            "y": lambda one: self._name(one.path, _Link(one.old)),
            MARK: lambda _: None,
        }[record.kind](record)

    def _name(self, path: str, node: _File | _Folder | _Link | None) -> None:
        folder, name = self._place(path)
        folder.change({name: node})

    def _duplicate(self, record: Record) -> None:
        node = self._fds.get((record.pid, record.at))
        if node is not None:  # else of something outside
            self._fds[record.pid, record.fd] = node

    def _sync(self, record: Record) -> None:
        node = self._fds.get((record.pid, record.fd))
        if node is not None:  # else of something outside
            _sync_one(node, failed=bool(record.size))

    def _sync_volume(self, record: Record) -> None:
        for node in _all(self._root):
            _sync_one(node, failed=bool(record.size))

    def _open(self, record: Record) -> None:
        if record.path == self._prefix:
            self._fds[record.pid, record.fd] = self._root
            return
        if not record.path.startswith(self._prefix + "/"):
            return  # a look at what lies outside, through `..`; a write to it would find no descriptor here
        folder, name = self._place(record.path)
        node = folder.names.get(name)
        if isinstance(node, _Link):
            node = self._find(node.target if node.target.startswith("/") else f"{record.path}/../{node.target}")
        if node is None:
            if not record.size:
                raise ValueError(f"{record.path} was opened without having been made")
            node = _File()
            folder.change({name: node})
        elif record.at and isinstance(node, _File):
            node.pending.append(0)
        self._fds[record.pid, record.fd] = node

    def _rename(self, record: Record) -> None:
        old, was = self._place(os.path.normpath(record.old))
        new, name = self._place(record.path)
        node = old.names[was]
        if old is new:
            old.change({was: None, name: node})
        else:
            new.change({name: node})
            old.change({was: None})

    def _file(self, record: Record) -> _File:
        return _as_file(self._fds[record.pid, record.fd])

    def _find(self, path: str, pid: int = 0) -> _File | _Folder | _Link:
        if path.startswith("/proc/self/fd/"):
            return self._fds[pid, int(path.rpartition("/")[2])]
        path = os.path.normpath(path)
        if path == self._prefix:
            return self._root
        folder, name = self._place(path)
        return folder.names[name]

    def _place(self, path: str) -> tuple[_Folder, str]:
        """Return the folder that holds the path's last name."""
        if not path.startswith(self._prefix + "/"):
            raise ValueError(f"{path} lies outside {self._prefix}")
        *folders, name = path[len(self._prefix) + 1 :].split("/")
        node = self._root
        for each in folders:
            below = node.names[each]
            if not isinstance(below, _Folder):
                raise TypeError(f"{each} in {path} is no folder")
            node = below
        return node, name


def _sync_one(node: _File | _Folder, *, failed: bool) -> None:
    """Make a node durable; where that failed, a file loses its bytes, and names may still be kept or not."""
    if not failed:
        node.sync()
    elif isinstance(node, _File):
        node.fail()


def _as_file(node: _File | _Folder | _Link) -> _File:
    if not isinstance(node, _File):
        raise TypeError("bytes were written to what is no file")
    return node


def _rename(names: dict[str, _File | _Folder | _Link], change: dict[str, _File | _Folder | _Link | None]) -> None:
    for name, node in change.items():
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


def _written(data: bytes, operations: Sequence[tuple[int, bytes] | int]) -> bytes:
    """Return a file's bytes after the operations; what lies between them is zero."""
    made = bytearray(data)
    for operation in operations:
        if isinstance(operation, int):
            if operation < len(made):
                del made[operation:]
            else:
                made.extend(bytes(operation - len(made)))
        else:
            at, new = operation
            made.extend(bytes(max(0, at - len(made))))
            made[at : at + len(new)] = new
    return bytes(made)


def _sectors(operation: tuple[int, bytes] | int) -> list[tuple[int, bytes] | int]:
    if isinstance(operation, int):
        return [operation]
    at, data = operation
    edges = [0, *range(SECTOR - at % SECTOR, len(data), SECTOR), len(data)]
    return [(at + low, data[low:high]) for low, high in pairwise(edges) if high > low]


def _some(parts: Sequence[tuple[int, bytes] | int], dice: random.Random) -> list[tuple[int, bytes] | int]:
    return [part for part in parts if dice.random() < 0.5]


def _all(node: _Folder) -> Iterator[_File | _Folder]:
    yield node
    for below in node.names.values():
        if isinstance(below, _Folder):
            yield from _all(below)
        elif isinstance(below, _File):
            yield below


def _load(folder: Path) -> _Folder:
    found = _Folder()
    for path in folder.iterdir():
        node: _File | _Folder | _Link
        if path.is_symlink():
            node = _Link(os.readlink(path))  # noqa: PTH115 -- the text as it is, not a path that is tidied up
        elif path.is_dir():
            node = _load(path)
        else:
            node = _File(durable=path.read_bytes())
        found.names[path.name] = found.durable[path.name] = node
    return found


def _build(folder: _Folder, into: Path, dice: random.Random) -> None:
    for name, node in sorted(folder.kept(dice).items()):
        path = into / name
        if isinstance(node, _Folder):
            path.mkdir(mode=0o700)
            _build(node, path, dice)
        elif isinstance(node, _Link):
            path.symlink_to(node.target)
        else:
            path.write_bytes(node.kept(dice))
            path.chmod(0o600)
