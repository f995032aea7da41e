"""Where a restore can put small files without a second look: in folders that it made itself."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from kropot.durable.refusals import InTheWayError, UnplaceableError

if TYPE_CHECKING:
    from kropot.durable.dirfd import Parts
    from kropot.durable.target import TargetFolder

_MOST: Final = 20_000
"""How many folders to remember. In a forgotten one, each name is checked."""


class NewPlaces:
    """Makes the folders of small files, and remembers which of them are new. Memory stays flat."""

    def __init__(self, tree: TargetFolder, *, is_top_new: bool) -> None:
        """Start with the top folder, which is new if it was empty when the first run began."""
        self._tree = tree
        self._is_new: dict[Parts, bool] = {}
        self._is_top_new = is_top_new

    def are_free(self, path: Parts) -> bool:
        """Return whether nothing has this path, and its folder exists. Raises: TreeError."""
        folder = path[:-1]
        is_new = self._is_top_new if not folder else self._is_new.get(folder)
        if is_new is None:
            with suppress(InTheWayError, UnplaceableError):
                is_new = self._made(folder)
        return bool(is_new) or (is_new is not None and self._tree.look(path) is None)

    def _made(self, folder: Parts) -> bool:
        """Return whether the folder was made just now."""
        is_new = self._tree.look(folder) is None
        if is_new:
            self._tree.make_folder(folder)
        if len(self._is_new) >= _MOST:
            self._is_new.clear()
        self._is_new[folder] = is_new
        return is_new
