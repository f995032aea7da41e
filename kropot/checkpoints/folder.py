"""A folder of exported checkpoints: numbered files that appear complete and are never overwritten."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import time
from typing import TYPE_CHECKING

from msgspec import Struct

from kropot.durable.dirfd import open_named, sync_folder
from kropot.durable.newfile import name_new, sync_written, temporary_file
from kropot.errors import KropotError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_NAME = re.compile(r"checkpoint-([0-9]{8,})\.txt")
MAX_BYTES = 1 << 20
LEFT_S = 24 * 3600
"""A temporary file older than this (seconds) is abandoned. Writing takes moments, but the clocks can differ."""


class KeptCheckpoint(Struct, frozen=True, kw_only=True):
    """An exported checkpoint: its number in its folder, its file, and the signed note in it."""

    number: int
    path: Path
    note: bytes


class CheckpointFolderAwayError(KropotError):
    """A folder for checkpoints is missing, or empty although it held some. Most likely, its disk is not mounted."""


class CheckpointFolder:
    """A folder for exported checkpoints. It should be on another machine or disk than the database."""

    def __init__(self, folder: Path) -> None:
        """Take the folder's path. This touches no file."""
        self.folder = folder

    def exported(self) -> Iterator[KeptCheckpoint]:
        """Yield the exported checkpoints in the order of their numbers. Raises: KropotError if one cannot be read."""
        for number, path in sorted(self._numbered()):
            yield KeptCheckpoint(number=number, path=path, note=read_note(path))

    def newest(self) -> KeptCheckpoint | None:
        """Return the newest exported checkpoint, None if there is none. Raises: KropotError if it cannot be read."""
        last = max(self._numbered(), default=None)
        return None if last is None else KeptCheckpoint(number=last[0], path=last[1], note=read_note(last[1]))

    def demand(self, *, held_some: bool) -> None:
        """Return if the folder is there. `held_some` says whether checkpoints were written to it before.

        It is never made: if its disk is not mounted, a new folder would be on the very disk that is to be protected.

        Raises: CheckpointFolderAwayError; KropotError if it cannot be read.
        """
        if not self.folder.is_dir():
            raise CheckpointFolderAwayError(
                f"there is no folder {self.folder}, so no checkpoint was written to it: is its disk mounted? If it is, "
                "create the folder and sign again"
            )
        if held_some and not self._numbered():
            raise CheckpointFolderAwayError(
                f"the folder {self.folder} held checkpoints before and is empty now, so none was written to it: is its "
                "disk mounted? If you emptied it, name another folder"
            )

    def write(self, note: bytes) -> Path:
        """Write a note durably under the next number, and return its path.

        Raises: KropotError if it cannot be written. The file of that number is then missing or complete.
        """
        try:
            self._sweep()
            with temporary_file(self.folder, f".checkpoint-{secrets.token_hex(8)}.tmp") as (stream, temporary):
                stream.write(note)
                sync_written(stream)
                path = self._name(temporary)
            sync_folder(self.folder)
        except OSError as error:
            raise KropotError(
                f"cannot write the checkpoint to {self.folder} ({error.strerror}): check the folder and sign again"
            ) from error
        return path

    def settle(self) -> None:
        """Make the files in the folder durable. A killed run may have given a file its name without syncing it.

        Raises: KropotError if the folder cannot be synced.
        """
        try:
            sync_folder(self.folder)
        except OSError as error:
            raise KropotError(
                f"cannot sync the checkpoints in {self.folder} ({error.strerror}): check the disk and sign again"
            ) from error

    def _sweep(self) -> None:
        """Remove temporary files of killed runs. Files that can still be in use are kept."""
        for left in self.folder.glob(".checkpoint-*.tmp"):
            with contextlib.suppress(OSError):  # another run removed it, or another user owns it
                if time.time() - left.stat().st_mtime > LEFT_S:
                    left.unlink()

    def _name(self, temporary: Path) -> Path:
        """Give the file the next free number. A number that another writer takes first stays with that writer."""
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
            raise KropotError(
                f"cannot list the checkpoints in {self.folder} ({error.strerror}): make the folder readable"
            ) from error
        return [(int(found[1]), self.folder / name) for name in names if (found := _NAME.fullmatch(name))]


def read_note(path: Path) -> bytes:
    """Return the start of a file: at most one byte more than a note can have. Raises: KropotError if unreadable."""
    try:
        with open_named(path) as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise KropotError(f"cannot read the checkpoint {path} ({error.strerror}): make it readable") from error
