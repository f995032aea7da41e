"""The quarantine of a directory store: damaged objects, as `quarantine/<sha256>.<number>`."""

# ruff: noqa: PTH120 -- paths are strings here

from __future__ import annotations

import contextlib
import itertools
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kropot.durable.filesystem import FileSystem
    from kropot.objects.layout import Layout


class Quarantine:
    """Takes in damaged objects, durably; nothing is ever overwritten."""

    def __init__(self, layout: Layout, files: FileSystem) -> None:
        """Touch nothing yet."""
        self._layout = layout
        self._files = files

    def move(self, source: str, sha256: bytes) -> str:
        """Move an object's file here; return its new path. Raises: OSError."""
        self._make_folder()
        target = next(path for path in self._paths(sha256) if not os.path.lexists(path))
        self._files.rename(source, target)
        # The new name first, so that the bytes keep at least one name if a crash comes between the two.
        for synced in (self._layout.quarantine, self._layout.root, os.path.dirname(source)):
            self._files.sync_folder(synced)
        return target

    def put(self, data: bytes, sha256: bytes) -> str:
        """Write these bytes to a new file here; return its path. Raises: OSError."""
        self._make_folder()
        for target in self._paths(sha256):
            with contextlib.suppress(FileExistsError):
                fd = self._files.create(target)
                break
        try:
            view = memoryview(data)
            while view:
                view = view[self._files.write(fd, view) :]
            self._files.sync_file(fd)
        finally:
            self._files.close(fd)
        for synced in (self._layout.quarantine, self._layout.root):
            self._files.sync_folder(synced)
        return target

    def _paths(self, sha256: bytes) -> Iterator[str]:
        return (f"{self._layout.quarantine}/{sha256.hex()}.{number}" for number in itertools.count())

    def _make_folder(self) -> None:
        with contextlib.suppress(FileExistsError):
            self._files.make_folder(self._layout.quarantine)
