"""The names of all files at a moment, in the order of paths. They are in sealed blocks on disk, to save memory.

Folders are found by bisection, first among the first paths of all blocks, then within one block. Parts of names are
found by a scan over the blocks, which is fast because each block has its paths as one case-folded text.
"""

from __future__ import annotations

import heapq
import struct
import threading
from array import array
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from kropot.browse.sealed_pieces import SealedPieces
from kropot.sc2.form import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

BLOCK: Final = 1024
"""How many names a block holds."""

RUN: Final = 16 * BLOCK
"""How many names to sort in memory."""

_OPEN: Final = 48
"""How many blocks stay open, enough for the folders on screen."""

_KINDS: Final = tuple(Kind)
_STATES: Final = ("current", "pending", "vanished", "damaged", "lost")
_GONE: Final = _STATES.index("vanished")
_NO_TIME: Final = -(1 << 63)
_NOT_STORED: Final = 8
_HEAD: Final = struct.Struct("=I")
_ROW: Final = struct.Struct("=QqQQIBB")
"""Size, time, place, mark, the end of the path, kind and state."""


class NamedFile(Struct, frozen=True, kw_only=True):
    """A file, folder or symlink: its path, its size in bytes, when it was modified (ns), and where its copy is kept.

    `size` is the size of the plain content if the form gives it, else of the sealed content. `place` finds the record
    of its copy in the sealed pieces. `mark` changes whenever the copy changes.
    """

    path: bytes
    kind: Kind
    size: int
    mtime_ns: int | None
    state: str
    place: int
    mark: int
    is_stored: bool

    @property
    def is_gone(self) -> bool:
        """Whether the element vanished from its source."""
        return self.state == "vanished"


class Child(Struct, frozen=True, kw_only=True):
    """An entry of a folder: a name, and the file with this name, None for a folder without a form.

    `following` is the place to continue from.
    """

    name: bytes
    path: bytes
    file: NamedFile | None
    is_folder: bool
    following: int


class NameIndex:
    """All names of one moment. `add` them, then `sort` once, then query, from any thread. `close` it at the end.

    All methods raise UnusableFileError if the temporary file cannot be used.
    """

    def __init__(self, *, block: int = BLOCK, run: int = RUN) -> None:
        """Start empty, with `block` names in a block, and at most `run` names sorted in memory."""
        self._per_block, self._per_run = block, run
        self._pieces = SealedPieces()
        self._coming: list[NamedFile] = []
        self._runs: list[array[int]] = []
        self._count = 0
        self._firsts: list[bytes] = []
        self._blocks, self._texts = array("Q"), array("Q")
        self._opened: OrderedDict[int, _NameBlock] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Return how many names there are."""
        return self._count

    def close(self) -> None:
        """Forget all names."""
        self._pieces.close()

    def add(self, file: NamedFile) -> None:
        """Add a name."""
        self._coming.append(file)
        self._count += 1
        if len(self._coming) == self._per_run:
            self._runs.append(self._put_away())

    def sort(self) -> None:
        """Put the names in order. Names with the same path stay in the order in which they were added."""
        runs: list[Iterable[NamedFile]] = [self._run(places) for places in self._runs]
        runs.append(sorted(self._coming, key=_path))
        self._coming = []
        ordered = heapq.merge(*runs, key=_path)
        while files := list(islice(ordered, self._per_block)):
            self._firsts.append(files[0].path)
            self._blocks.append(self._pieces.add(_packed(files)))
            self._texts.append(self._pieces.add(_searched(files)))

    def at(self, number: int) -> NamedFile:
        """Return the file with this number in the order of paths."""
        block, at = divmod(number, self._per_block)
        return self._block(block).file(at)

    def find(self, path: bytes) -> NamedFile | None:
        """Return the file with exactly this path, None if there is none."""
        at = self._bisect(path)
        return self.at(at) if at < self._count and self._path(at) == path else None

    def below(self, folder: bytes, *, gone: bool = True) -> Iterator[NamedFile]:
        """Yield everything in a folder, at any depth, in the order of paths. The empty path is the top."""
        first, last = self._range(folder)
        for number in range(first, last):
            if gone or not self._is_gone(number):
                yield self.at(number)

    def children(self, folder: bytes, *, start: int = 0, gone: bool = True) -> Iterator[Child]:
        """Yield what is directly in a folder, in the order of paths, from the place `start` (`Child.following`) on."""
        prefix = folder + b"/" if folder else b""
        first, end = self._range(folder)
        at = max(first, start)
        while at < end:
            path = self._path(at)
            name, slash, _ = path[len(prefix) :].partition(b"/")
            inner = prefix + name
            following = max(at + 1, min(self._bisect(inner + b"0"), end)) if slash else at + 1
            file = self.find(inner) if slash else self.at(at)
            if slash and name and (gone or self._has_below(inner, gone=False)):
                folder_file = file if file is not None and file.kind is Kind.FOLDER else None
                yield Child(name=name, path=inner, file=folder_file, is_folder=True, following=following)
            elif not slash and name and file is not None and (gone or not file.is_gone):
                is_folder = file.kind is Kind.FOLDER
                # A folder with contents is yielded where its contents begin: "a-b" is between "a" and "a/b".
                if not (is_folder and self._has_below(path, gone=gone)):
                    yield Child(name=name, path=path, file=file, is_folder=is_folder, following=following)
            at = following

    def search(self, text: str, *, most: int, gone: bool = True) -> list[NamedFile]:
        """Return at most `most` files whose path contains this text, ignoring case."""
        wanted = text.casefold().encode(errors="surrogateescape").replace(b"\n", b"")
        return list(islice(self._hits(wanted, gone=gone), most)) if wanted else []

    # --- helpers ------------------------------------------------------------------------------------------------------

    def _hits(self, wanted: bytes, *, gone: bool) -> Iterator[NamedFile]:
        for block, place in enumerate(self._texts):
            searched = self._pieces.read(place)
            (count,) = _HEAD.unpack_from(searched)
            base = _HEAD.size * (1 + count)
            at = searched.find(wanted, base)
            if at < 0:
                continue
            ends = array("I", searched[_HEAD.size : base])
            while at >= 0:
                own = bisect_right(ends, at - base)
                if gone or not self._block(block).is_gone(own):
                    yield self._block(block).file(own)
                at = searched.find(wanted, base + ends[own])

    def _block(self, number: int) -> _NameBlock:
        with self._lock:
            found = self._opened.get(number)
            if found is not None:
                self._opened.move_to_end(number)
                return found
        found = _NameBlock(self._pieces.read(self._blocks[number]))
        with self._lock:
            self._opened[number] = found
            while len(self._opened) > _OPEN:
                self._opened.popitem(last=False)
        return found

    def _put_away(self) -> array[int]:
        """Sort the names added so far, store them as one run, and return the places of its blocks."""
        files = sorted(self._coming, key=_path)
        self._coming = []
        blocks = (files[at : at + self._per_block] for at in range(0, len(files), self._per_block))
        return array("Q", [self._pieces.add(_packed(block)) for block in blocks])

    def _run(self, places: array[int]) -> Iterator[NamedFile]:
        for place in places:
            block = _NameBlock(self._pieces.read(place))
            yield from map(block.file, range(len(block.paths)))

    def _path(self, number: int) -> bytes:
        block, at = divmod(number, self._per_block)
        return self._block(block).paths[at]

    def _bisect(self, path: bytes) -> int:
        """Return how many paths come before this one."""
        # The path can only be in the last block whose first path comes before it.
        block = bisect_left(self._firsts, path) - 1
        return 0 if block < 0 else block * self._per_block + bisect_left(self._block(block).paths, path)

    def _range(self, folder: bytes) -> tuple[int, int]:
        if not folder:
            return 0, self._count
        return self._bisect(folder + b"/"), self._bisect(folder + b"0")

    def _has_below(self, folder: bytes, *, gone: bool) -> bool:
        first, last = self._range(folder)
        return first < last if gone else any(not self._is_gone(number) for number in range(first, last))

    def _is_gone(self, number: int) -> bool:
        block, at = divmod(number, self._per_block)
        return self._block(block).is_gone(at)


class _NameBlock:
    """Names as `_packed` wrote them."""

    __slots__ = ("_data", "paths")

    def __init__(self, data: bytes) -> None:
        self._data = data
        (count,) = _HEAD.unpack_from(data)
        at = base = _HEAD.size + count * _ROW.size
        self.paths: list[bytes] = []
        for *_, end, _kind, _state in _ROW.iter_unpack(memoryview(data)[_HEAD.size : base]):
            self.paths.append(data[at : base + end])
            at = base + end

    def file(self, at: int) -> NamedFile:
        size, time, place, mark, _, kind, state = self._row(at)
        return NamedFile(
            path=self.paths[at],
            kind=_KINDS[kind & ~_NOT_STORED],
            size=size,
            mtime_ns=None if time == _NO_TIME else time,
            state=_STATES[state],
            place=place,
            mark=mark,
            is_stored=not kind & _NOT_STORED,
        )

    def is_gone(self, at: int) -> bool:
        return bool(self._row(at)[-1] == _GONE)

    def _row(self, at: int) -> tuple[int, ...]:
        return _ROW.unpack_from(self._data, _HEAD.size + at * _ROW.size)


def _packed(files: Sequence[NamedFile]) -> bytes:
    """Return the names of a block as bytes."""
    rows = bytearray(_HEAD.pack(len(files)))
    end = 0
    for file in files:
        end += len(file.path)
        time = _NO_TIME if file.mtime_ns is None else max(_NO_TIME + 1, min(file.mtime_ns, 2**63 - 1))
        kind = _KINDS.index(file.kind) + (0 if file.is_stored else _NOT_STORED)
        state = _STATES.index(file.state) if file.state in _STATES else 1
        rows += _ROW.pack(max(0, min(file.size, 2**64 - 1)), time, file.place, file.mark, end, kind, state)
    return b"".join((rows, *map(_path, files)))


def _searched(files: Sequence[NamedFile]) -> bytes:
    """Return the paths of a block in the form for searching: their number, their ends, and their text."""
    lines = [_folded(file.path) for file in files]
    ends, end = array("I"), 0
    for line in lines:
        end += len(line)
        ends.append(end)
    return b"".join((_HEAD.pack(len(files)), ends.tobytes(), *lines))


def _folded(path: bytes) -> bytes:
    """Return a path in the form for searching. A newline ends it, so newlines in names become spaces."""
    text = path.decode(errors="surrogateescape").casefold().encode(errors="surrogateescape")
    return text.replace(b"\n", b" ") + b"\n"


_path = attrgetter("path")
