"""Folder stores that read otherwise than they would: object by object, or in parts of a size that a test sets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kropot.objects.bulk.folder import FolderReader
from kropot.objects.layout import Layout

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kropot.objects.directory import DirectoryObjects


class OneByOne:
    """A folder's objects as a store that offers no reading in bulk."""

    def __init__(self, objects: DirectoryObjects) -> None:
        self._objects = objects

    def __getattr__(self, name: str) -> Any:
        if name == "bulk_reader":
            raise AttributeError(name)
        return getattr(self._objects, name)


class InParts(OneByOne):
    """A folder's objects, read in bulk with these `settings` of `FolderReader`."""

    def __init__(self, objects: DirectoryObjects, folder: Path, settings: dict[str, int]) -> None:
        super().__init__(objects)
        self._layout = Layout(str(folder))
        self._settings = settings

    def bulk_reader(self, *, objects: int, size: int, stopped: Callable[[], bool], take: object) -> FolderReader:
        del take
        return FolderReader(self._layout, objects=objects, size=size, stopped=stopped, **self._settings)
