"""A folder of exported checkpoints: numbered files, written by temporary name and link, never overwritten."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kropot.durable.dirfd import make_root
from kropot.durable.newfile import name_new, sync_folder, temporary_file
from kropot.errors import KropotError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_NAME = re.compile(r"checkpoint-([0-9]{8,})\.txt")
MAX_BYTES = 1 << 20
LEFT_S = 24 * 3600
"""A temporary file of this age has been left behind: writing takes moments, and the clocks of machines may differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptCheckpoint:
    """An exported checkpoint: its number in its folder, its file, and the signed note in it."""

    number: int
    path: Path
    note: bytes


class CheckpointFolder:
    """One place that checkpoints are exported to; best on another machine or medium than the database."""

    def __init__(self, folder: Path) -> None:
        """Nothing is touched yet."""
        self.folder = folder

    def exported(self) -> Iterator[KeptCheckpoint]:
        """Yield what was exported here, in the order of the numbers. Raises: KropotError if it cannot be read."""
        for number, path in sorted(self._numbered()):
            yield KeptCheckpoint(number=number, path=path, note=read_note(path))

    def newest(self) -> KeptCheckpoint | None:
        """Return what was exported last."""
        last = max(self._numbered(), default=None)
        return None if last is None else KeptCheckpoint(number=last[0], path=last[1], note=read_note(last[1]))

    def write(self, note: bytes) -> Path:
        """Write a note under the next number, durably; return its path.

        Raises: KropotError if it cannot be written; then no file of that number exists, or a whole one.
        """
        try:
            make_root(self.folder)
            self._sweep()
            with temporary_file(self.folder, f".checkpoint-{secrets.token_hex(8)}.tmp") as (stream, temporary):
                stream.write(note)
                stream.flush()
                os.fsync(stream.fileno())
                path = self._name(temporary)
            sync_folder(self.folder)
        except OSError as error:
            raise KropotError(f"the checkpoint cannot be written to {self.folder}: {error.strerror}") from error
        return path

    def settle(self) -> None:
        """Make durable what is there: a run that was killed may have given a name and not synced it.

        Raises: KropotError if that cannot be done.
        """
        try:
            make_root(self.folder)
            sync_folder(self.folder)
        except OSError as error:
            raise KropotError(f"the checkpoints in {self.folder} cannot be synced: {error.strerror}") from error

    def _sweep(self) -> None:
        """Remove what runs that were killed in the middle of it have left: nothing that may still be in use."""
        for left in self.folder.glob(".checkpoint-*.tmp"):
            with contextlib.suppress(OSError):  # another run was faster, or it is somebody else's
                if time.time() - left.stat().st_mtime > LEFT_S:
                    left.unlink()

    def _name(self, temporary: Path) -> Path:
        """Give the file the next free number; another writer that was faster keeps its number."""
        number = max((known for known, _ in self._numbered()), default=0) + 1
        while True:
            path = self.folder / f"checkpoint-{number:08d}.txt"
            try:
                name_new(temporary, path)
            except FileExistsError:
                number += 1
                continue
            return path

    def _numbered(self) -> list[tuple[int, Path]]:
        try:
            names = [entry.name for entry in os.scandir(self.folder)]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise KropotError(f"the checkpoints in {self.folder} cannot be listed: {error.strerror}") from error
        return [(int(found[1]), self.folder / name) for name in names if (found := _NAME.fullmatch(name))]


def read_note(path: Path) -> bytes:
    """Return a file's content up to just above what a note may have. Raises: KropotError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise KropotError(f"the checkpoint {path} cannot be read: {error.strerror}") from error
