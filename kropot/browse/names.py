"""The names of all files at a moment, sorted, in memory: folders are found by bisection, and parts of names by a scan.

A name takes about twice its length and 50 bytes. Names are never written to a disk.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final

from kropot.sc2.form import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

_KINDS: Final = tuple(Kind)
_STATES: Final = ("current", "pending", "vanished", "damaged", "lost")
_GONE: Final = _STATES.index("vanished")
_NO_TIME: Final = -(1 << 63)


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedFile:
    """A file, folder or symlink: its path, its sizes in bytes, when it was modified (ns), and where its copy is kept.

    `size` is that of the plain content as far as the form says it, else of the sealed one. `place` finds the rest.
    `mark` changes whenever the copy does.
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
        """Whether the source no longer has it."""
        return self.state == "vanished"


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """What a folder shows: a name, and the file of this name, or None for a folder that no form tells of.

    `following` is the place to go on from.
    """

    name: bytes
    path: bytes
    file: NamedFile | None
    is_folder: bool
    following: int


class NameIndex:
    """All names of one moment. `add` them, then `sort` once, then ask."""

    def __init__(self) -> None:
        """Start empty."""
        self._paths: list[bytes] = []
        self._order: array[int] = array("Q")
        self._sizes, self._times, self._places, self._marks = array("Q"), array("q"), array("Q"), array("Q")
        self._kinds, self._states = bytearray(), bytearray()
        self._text = b""
        self._starts: array[int] = array("Q")

    def __len__(self) -> int:
        """Return how many names there are."""
        return len(self._paths)

    def add(self, file: NamedFile) -> None:
        """Take a name."""
        self._paths.append(file.path)
        self._sizes.append(file.size)
        self._times.append(_NO_TIME if file.mtime_ns is None else max(_NO_TIME + 1, min(file.mtime_ns, 2**63 - 1)))
        self._places.append(file.place)
        self._marks.append(file.mark)
        self._kinds.append(_KINDS.index(file.kind) + (0 if file.is_stored else 8))
        self._states.append(_STATES.index(file.state) if file.state in _STATES else 1)

    def sort(self) -> None:
        """Put them in order. Of two with one path, the first that came is the first."""
        order = sorted(range(len(self._paths)), key=self._paths.__getitem__)
        self._order = array("Q", order)
        self._paths = [self._paths[at] for at in order]
        text = bytearray()
        for path in self._paths:
            self._starts.append(len(text))
            text += _folded(path) + b"\n"
        self._text = bytes(text)

    def at(self, number: int) -> NamedFile:
        """Return the file with this number in the order of paths."""
        own = self._order[number]
        time, kind = self._times[own], self._kinds[own]
        return NamedFile(
            path=self._paths[number],
            kind=_KINDS[kind & 7],
            size=self._sizes[own],
            mtime_ns=None if time == _NO_TIME else time,
            state=_STATES[self._states[own]],
            place=self._places[own],
            mark=self._marks[own],
            is_stored=kind < 8,  # noqa: PLR2004 -- the bit that `add` sets
        )

    def find(self, path: bytes) -> NamedFile | None:
        """Return the file with exactly this path, None if there is none."""
        at = bisect_left(self._paths, path)
        return self.at(at) if at < len(self._paths) and self._paths[at] == path else None

    def below(self, folder: bytes, *, gone: bool = True) -> Iterator[NamedFile]:
        """Yield everything in a folder, at any depth, in the order of paths. The empty path is the top."""
        first, last = self._range(folder)
        for number in range(first, last):
            if gone or not self._is_gone(number):
                yield self.at(number)

    def children(self, folder: bytes, *, start: int = 0, gone: bool = True) -> Iterator[Child]:
        """Yield what is directly in a folder, in the order of names, from the place `start` (`Child.following`) on."""
        prefix = folder + b"/" if folder else b""
        first, end = self._range(folder)
        at = max(first, start)
        while at < end:
            path = self._paths[at]
            name, slash, _ = path[len(prefix) :].partition(b"/")
            inner = prefix + name
            following = bisect_left(self._paths, inner + b"0", at, end) if slash else at + 1
            file = self.find(inner) if slash else self.at(at)
            if slash and name and (gone or self._has_below(inner, gone=False)):
                folder_file = file if file is not None and file.kind is Kind.FOLDER else None
                yield Child(name=name, path=inner, file=folder_file, is_folder=True, following=following)
            elif not slash and name and file is not None and (gone or not file.is_gone):
                is_folder = file.kind is Kind.FOLDER
                # A folder with something in it comes where that is: "a-b" lies between "a" and "a/b".
                if not (is_folder and self._has_below(path, gone=gone)):
                    yield Child(name=name, path=path, file=file, is_folder=is_folder, following=following)
            at = following

    def search(self, text: str, *, most: int, gone: bool = True) -> list[NamedFile]:
        """Return at most `most` files whose path has this text in it, whatever its case."""
        wanted = text.casefold().encode(errors="surrogateescape").replace(b"\n", b"")
        return list(islice(self._hits(wanted, gone=gone), most)) if wanted else []

    def _hits(self, wanted: bytes, *, gone: bool) -> Iterator[NamedFile]:
        at = self._text.find(wanted)
        while at >= 0:
            number = bisect_right(self._starts, at) - 1
            if gone or not self._is_gone(number):
                yield self.at(number)
            following = self._starts[number + 1] if number + 1 < len(self._starts) else len(self._text)
            at = self._text.find(wanted, following)

    def _range(self, folder: bytes) -> tuple[int, int]:
        if not folder:
            return 0, len(self._paths)
        return bisect_left(self._paths, folder + b"/"), bisect_left(self._paths, folder + b"0")

    def _has_below(self, folder: bytes, *, gone: bool) -> bool:
        first, last = self._range(folder)
        return first < last if gone else any(not self._is_gone(number) for number in range(first, last))

    def _is_gone(self, number: int) -> bool:
        return self._states[self._order[number]] == _GONE


def _folded(path: bytes) -> bytes:
    """Return a path as it is searched. A newline in a name never begins a new one."""
    return path.decode(errors="surrogateescape").casefold().encode(errors="surrogateescape").replace(b"\n", b" ")
