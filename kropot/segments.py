"""Segments of the ledger's events, kept as files next to the objects and written as the ledger grows.

Each is written to a temporary file, synced and renamed, and then the folder is synced. Every collector writes the same
bytes, so any number of them can do this.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from msgspec import Struct

from kropot.durable.dirfd import NotRegularError, open_named
from kropot.durable.errors import storage_error
from kropot.durable.filesystem import OsFiles
from kropot.durable.newfile import replace_file
from kropot.errors import IntegrityError
from ledger.errors import LedgerError, MalformedSegmentError
from ledger.merkle import Frontier
from ledger.transfer.segments import SEGMENT_EVENTS, encode, reach_of, read

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from kropot.durable.filesystem import FileSystem
    from ledger.log import Ledger
    from ledger.rows import StoredEvent
    from ledger.transfer.segments import Reach

FOLDER = "ledger"
_NAME = re.compile(r"(\d{8})\.(?:segment|partial-(\d+))")
_WAY_OUT = (
    "Nothing was appended. Recover the newest ledger into an empty database with `kropotcli db recover "
    "--from-storage` and use that, or give this ledger a storage path of its own."
)


class SegmentFile(Struct, frozen=True, kw_only=True, order=True):
    """A segment in the storage path, from its name: it holds events up to `last`, and is `partial` until it is full."""

    last: int
    index: int
    partial: bool
    path: Path | str


class ToldByName(NamedTuple):
    """The meaning of a segment's name: its number from 0, the last event that it holds, and whether it is partial."""

    number: int
    last: int
    partial: bool


def told_by(name: str, span: int) -> ToldByName | None:
    """Parse a segment's name; full segments have `span` events. Return None if it is not such a name."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    number, partial = int(match[1]), match[2] is not None
    return ToldByName(number, int(match[2]) if partial else (number + 1) * span, partial)


def open_segment(path: Path) -> BinaryIO:
    """Open a segment for reading. Raises: MalformedSegmentError if it is not a regular file; OSError."""
    try:
        return open_named(path)
    except NotRegularError as error:
        raise MalformedSegmentError(str(error.strerror)) from None


class SegmentFolder:
    """The segments below `root`, the storage path; `scratch` is the writer's own folder for temporary files."""

    def __init__(
        self, root: Path, *, scratch: Path | None = None, files: FileSystem | None = None, span: int = SEGMENT_EVENTS
    ) -> None:
        """Read nothing yet. Without `scratch`, this cannot write. A full segment has `span` events."""
        self._local = root / FOLDER
        self.folder = str(self._local)
        self._span = span
        self._scratch = scratch
        self._files: FileSystem = OsFiles() if files is None else files

    def found(self) -> list[SegmentFile]:
        """Return the segments that exist, ordered by how far they reach. Raises: StorageError."""
        return sorted(file for name in sorted(self._names()) if (file := self._file(name)) is not None)

    def open(self, file: SegmentFile) -> BinaryIO:
        """Open a segment for reading. Raises: MalformedSegmentError if it is not a regular file; OSError."""
        return open_segment(Path(file.path))

    def newest(self) -> Reach | None:
        """Return how far the stored history reaches, ignoring files with damaged ends.

        Raises: StorageError.
        """
        for file in reversed(self.found()):
            try:
                with self.open(file) as opened:
                    return reach_of(opened)
            except (MalformedSegmentError, FileNotFoundError):
                continue  # `verify` reports damaged files; a missing file was replaced by a longer one
            except OSError as error:
                raise storage_error(error, f"reading {file.path}") from error
        return None

    def check(self, ledger: Ledger | None) -> None:
        """Check that the stored history belongs to this ledger and is not longer; None means a new ledger.

        This MUST happen before a collector's first append and before a segment is written. Otherwise a database that
        was restored from an older copy would start a second history.

        Raises:
            IntegrityError: if the storage has events that the ledger does not have, or different ones.
            StorageError: if the storage cannot be read.
        """
        there = self.found()  # before the head, because a segment's events were committed before it was written
        reach = self.newest()
        if reach is None:
            return
        head = None if ledger is None else ledger.head()
        if ledger is None or head is None or head.position == 0:
            raise IntegrityError(
                f"{self.folder} holds the history of ledger {reach.ledger_id.hex()} up to event {reach.last}, "
                f"but the database is new. {_WAY_OUT}"
            )
        if ledger.identity().ledger_id != reach.ledger_id:
            raise IntegrityError(
                f"{self.folder} holds the history of ledger {reach.ledger_id.hex()}, and the database is ledger "
                f"{ledger.identity().ledger_id.hex()}. {_WAY_OUT}"
            )
        claimed = max(reach.last, there[-1].last if there else 0)  # a damaged file's name still says where it ends
        if claimed > head.position:
            raise IntegrityError(
                f"the database was rolled back: it ends at event {head.position}, and {self.folder} holds its history "
                f"up to event {claimed}. {_WAY_OUT}"
            )
        if ledger.frontier_at(reach.last) != reach.frontier:
            raise IntegrityError(
                f"the database and {self.folder} have different histories: they differ somewhere in the first "
                f"{reach.last} events. Run `kropotcli verify`. {_WAY_OUT}"
            )

    def write(self, ledger: Ledger, *, tail: bool = True, until: int | None = None) -> list[Path | str]:
        """Write the missing full segments, and with `tail` the partial one too. Return their paths.

        With `until`, write no events after that position.

        Raises:
            IntegrityError: as `check` does; nothing was written.
            StorageError: if the storage cannot be written.
        """
        self.check(ledger)
        there = self.found()
        head = ledger.head().position if until is None else min(until, ledger.head().position)
        full = {file.index for file in there if not file.partial}
        written = [
            self._write(ledger, index, (index + 1) * self._span, f"{index:08d}.segment")
            for index in range(head // self._span)
            if index not in full
        ]
        index = head // self._span
        if tail and head % self._span and not any(file.last >= head for file in there):
            written.append(self._write(ledger, index, head, f"{index:08d}.partial-{head}"))
        if written:
            self._replace_partials()
        return written

    def write_erased(self, ledger: Ledger, positions: Collection[int]) -> list[Path | str]:
        """Rewrite the segments that still hold payloads of these erased events. Return their paths.

        The events that erased them are written first: without them, a recovered ledger would take the gaps for damage.

        Raises: as `write`.
        """
        self.write(ledger)
        written = []
        for file in self.found():
            within = {position for position in positions if file.index * self._span < position <= file.last}
            if within and self._holds(ledger, file, within):
                written.append(self._write(ledger, file.index, file.last, str(file.path).rpartition("/")[2]))
        return written

    def _holds(self, ledger: Ledger, file: SegmentFile, positions: Collection[int]) -> bool:
        """Whether a segment has the payload of one of these events, or could have it because it is damaged."""
        try:
            with self.open(file) as opened:
                start = ledger.frontier_at(file.index * self._span)
                return any(event.payload is not None for event, _ in read(opened, start) if event.seq in positions)
        except FileNotFoundError:
            return False  # it was replaced by a longer one, which is written from the current events
        except MalformedSegmentError:
            return True
        except OSError as error:
            raise storage_error(error, f"reading {file.path}") from error

    def events(self) -> Iterator[tuple[StoredEvent, bytes | None]]:
        """Yield (event, stored key) of the whole stored history from event 1, and check each segment to its end.

        Raises:
            MalformedSegmentError: at the first error; it names the file.
            StorageError: if the storage cannot be read.
        """
        frontier = Frontier()
        ledger_id: bytes | None = None
        for file in self._chain():
            try:
                with self.open(file) as opened:
                    reach = reach_of(opened)
                    if ledger_id not in (None, reach.ledger_id):
                        raise MalformedSegmentError("it belongs to another ledger")  # noqa: TRY301 -- named below
                    ledger_id = reach.ledger_id
                    yield from read(opened, frontier)
                    frontier = reach.frontier
            except MalformedSegmentError as error:
                raise MalformedSegmentError(f"{file.path}: {error.why}", position=error.position) from None
            except OSError as error:
                raise storage_error(error, f"reading {file.path}") from error

    def _chain(self) -> list[SegmentFile]:
        """Return the files that hold the longest history: full segments from the first on, then the longest partial."""
        there = self.found()
        full = {file.index: file for file in there if not file.partial}
        chain: list[SegmentFile] = []
        while len(chain) in full:
            chain.append(full[len(chain)])
        partial = [file for file in there if file.partial and file.index == len(chain)]
        return chain + partial[-1:]

    def _file(self, name: str) -> SegmentFile | None:
        told = told_by(name, self._span)
        if told is None:
            return None
        return SegmentFile(last=told.last, index=told.number, partial=told.partial, path=self._path(name))

    def _write(self, ledger: Ledger, index: int, last: int, name: str) -> Path | str:
        start = ledger.frontier_at(index * self._span)
        self._put(name, index, encode(ledger.identity().ledger_id, ledger.log, start, last))
        return self._path(name)

    # --- access to files: a storage on another machine overrides these methods ----------------------------------------

    def _names(self) -> list[str]:
        """Return the names of all files in the folder. Raises: StorageError."""
        try:
            return [path.name for path in self._local.iterdir()]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise storage_error(error, f"listing {self.folder}") from error

    def _path(self, name: str) -> Path | str:
        return self._local / name

    def _put(self, name: str, index: int, chunks: Iterable[bytes]) -> None:
        """Write a file, durably. Raises: StorageError."""
        if self._scratch is None:
            raise LedgerError("this folder of segments was opened read-only")
        target = str(self._local / name)
        try:
            self._make_folder()
            replace_file(self._files, f"{self._scratch}/segment-{index:08d}", target, chunks)
        except OSError as error:
            raise storage_error(error, f"writing {target}") from error

    def _remove(self, file: SegmentFile) -> None:
        """Remove a file. Raises: StorageError."""
        try:
            self._files.unlink(str(file.path))
        except FileNotFoundError:
            return  # another collector was faster
        except OSError as error:
            raise storage_error(error, f"removing {file.path}") from error

    def _make_folder(self) -> None:
        try:
            self._files.make_folder(self.folder)
        except FileExistsError:
            return
        self._files.sync_folder(str(self._local.parent))

    def _replace_partials(self) -> None:
        """Remove partial segments that a longer one or the full one contains entirely."""
        there = self.found()
        for file in there:
            if file.partial and any(other.index == file.index and other.last > file.last for other in there):
                self._remove(file)
