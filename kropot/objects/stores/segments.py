"""The ledger's segments in a storage on another machine: `ledger/<name>`, each written as a whole."""

from __future__ import annotations

import io
import tempfile
from typing import TYPE_CHECKING, BinaryIO, cast

from kropot.durable.errors import storage_error
from kropot.objects.stores.files import PIECE, NoSuchKeyError
from kropot.objects.stores.reading import RemoteReader
from kropot.segments import FOLDER, SegmentFolder
from ledger.errors import LedgerError
from ledger.transfer.segments import SEGMENT_EVENTS

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from kropot.objects.stores.files import RemoteFiles
    from kropot.segments import SegmentFile


class RemoteSegments(SegmentFolder):
    """The segments below the root of a storage on another machine."""

    def __init__(self, files: RemoteFiles, *, writing: bool, span: int = SEGMENT_EVENTS) -> None:
        """Ask nothing yet. Without `writing`, it is read-only."""
        self.folder = f"{files.place}/{FOLDER}"
        self._remote = files
        self._writing = writing
        self._span = span

    def open(self, file: SegmentFile) -> BinaryIO:
        """Open a segment, which is read in pieces. Raises: FileNotFoundError, StorageError."""
        key = self._key(file)
        stat = self._remote.stat(key)
        if stat is None:
            raise FileNotFoundError(2, "it is gone", str(file.path))
        return cast("BinaryIO", io.BufferedReader(RemoteReader(self._remote, key, stat.size), PIECE // 8))

    def _names(self) -> list[str]:
        return [stat.key.removeprefix(f"{FOLDER}/") for stat in self._remote.walk(FOLDER)]

    def _path(self, name: str) -> Path | str:
        return f"{self.folder}/{name}"

    def _put(self, name: str, index: int, chunks: Iterable[bytes]) -> None:  # noqa: ARG002 -- no temporary file
        if not self._writing:
            raise LedgerError("this folder of segments was opened read-only")
        with tempfile.SpooledTemporaryFile(PIECE) as file:
            try:
                for chunk in chunks:
                    file.write(chunk)
                file.seek(0)
            except OSError as error:
                raise storage_error(error, f"keeping a segment in {tempfile.gettempdir()} until it is sent") from error
            self._remote.put_file(f"{FOLDER}/{name}", cast("BinaryIO", file))

    def _remove(self, file: SegmentFile) -> None:
        try:
            self._remote.remove(self._key(file))
        except NoSuchKeyError:
            return

    def _key(self, file: SegmentFile) -> str:
        return f"{FOLDER}/{str(file.path).rpartition('/')[2]}"
