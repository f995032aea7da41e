"""Make packs: written to the instance's own folder, synced, renamed to `packs/ab/<name>`, the folder synced."""

# ruff: noqa: PTH120 -- paths are strings here

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from kropot.durable.errors import StorageError, storage_error
from kropot.objects.packs.format import MOST_BYTES, MOST_OBJECTS, footer_of, index_of, lay_out, name_of
from ledger.places import Placement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from kropot.durable.filesystem import FileSystem
    from kropot.objects.layout import Layout

PACK_BELOW = 1 << 20
"""Objects smaller than this go into packs, unless the user says otherwise."""

PACK_FROM = 8 << 20
"""A pack's worth: with fewer bytes, small objects stay separate files for now, unless there are many of them."""

PACK_MANY = 2000

_AT_ONCE = 1 << 20
"""The fewest bytes per write: larger writes cost memory, more writes cost calls."""

WholeObject = tuple[bytes, bytes]
"""An object's SHA-256 and its bytes."""


class PackWriter:
    """Writes packs for one instance; one thread at a time."""

    def __init__(self, layout: Layout, files: FileSystem, path: Callable[[], str]) -> None:
        """Touch nothing yet. `path` returns a new temporary file's path at each call."""
        self._layout = layout
        self._files = files
        self._path = path
        # Folders ab/ whose own name this process has made durable.
        self._named: set[str] = set()

    def write(self, objects: Sequence[WholeObject]) -> list[Placement | StorageError]:
        """Make durable packs of these objects, all different, in their order; return where each object is.

        The result for an object that cannot be written is the error: its pack is gone, or nothing names it.
        """
        outcomes: list[Placement | StorageError] = []
        for group in grouped(objects):
            try:
                outcomes += self.write_one(group)
            except StorageError as error:
                outcomes += [error] * len(group)
        return outcomes

    def write_all(self, objects: Sequence[WholeObject]) -> list[Placement]:
        """Make packs of these objects as `write` does, for a caller that needs them all.

        Raises: StorageError. Then some of the packs may exist, but nothing names them.
        """
        made: list[Placement] = []
        for result in self.write(objects):
            if isinstance(result, StorageError):
                raise result
            made.append(result)
        return made

    def write_one(self, objects: Sequence[WholeObject]) -> list[Placement]:
        """Make one pack, durably. Raises: StorageError; ValueError if the objects do not make a pack."""
        entries = lay_out([(sha256, len(data)) for sha256, data in objects])
        index = index_of(entries)
        name = name_of(index)
        self._put(name, [*[data for _, data in objects], index, footer_of(index)])
        return [Placement(sha256, name, offset, length) for sha256, offset, length in entries]

    def _put(self, name: bytes, pieces: list[bytes]) -> None:
        """Write a pack of these bytes under its name, durably. Raises: StorageError."""
        temporary = self._path()
        try:
            self._fill(temporary, pieces)
            self._name(temporary, self._layout.pack(name))
        except OSError as error:
            # If this fails, the file is removed as a leftover at the next start.
            with contextlib.suppress(OSError):
                self._files.unlink(temporary)
            raise storage_error(error, f"writing the pack {temporary}") from error

    def _fill(self, path: str, pieces: list[bytes]) -> None:
        """Write a file, and make it durable. Raises: OSError."""
        files = self._files
        fd = files.create(path)
        try:
            for part in _joined(pieces):
                view = memoryview(part)
                while view:
                    view = view[files.write(fd, view) :]
            # Sync the file, not the volume, because other data that waits to be written does not matter here.
            files.sync_file(fd)
        except OSError:
            with contextlib.suppress(OSError):
                files.close(fd)
            raise
        files.close(fd)

    def _name(self, temporary: str, path: str) -> None:
        """Name the pack, durably. A pack that has the name has the same objects, and is replaced. Raises: OSError."""
        files, folder = self._files, os.path.dirname(path)
        try:
            files.rename(temporary, path)
        except FileNotFoundError:
            self._named.discard(folder)
            with contextlib.suppress(FileExistsError):
                files.make_folder(folder)
            files.rename(temporary, path)
        files.sync_folder(folder)
        if folder not in self._named:
            files.sync_folder(self._layout.packs)
            self._named.add(folder)


def grouped(objects: Sequence[WholeObject]) -> Iterator[Sequence[WholeObject]]:
    """Divide objects, in their order, among as few packs as can hold them, of about the same size."""
    size = sum([len(data) for _, data in objects])
    packs = max(-(-size // MOST_BYTES), -(-len(objects) // MOST_OBJECTS), 1)
    if packs == 1:
        if objects:
            yield objects
        return
    fair, begin, within = -(-size // packs), 0, 0
    for at, (_, data) in enumerate(objects):
        is_full = within + len(data) > MOST_BYTES or at - begin == MOST_OBJECTS
        if at > begin and (is_full or (within >= fair and packs > 1)):
            yield objects[begin:at]
            packs, begin, within = packs - 1, at, 0
        within += len(data)
    if begin < len(objects):
        yield objects[begin:]


def _joined(pieces: list[bytes]) -> Iterator[bytes]:
    """Join pieces into parts of about `_AT_ONCE` bytes."""
    part: list[bytes] = []
    size = 0
    for piece in pieces:
        part.append(piece)
        size += len(piece)
        if size >= _AT_ONCE:
            yield b"".join(part)
            part, size = [], 0
    if part:
        yield b"".join(part)
