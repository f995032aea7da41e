"""Files that were listed or requested a moment ago."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from kropot.gateway.births import LONGEST_REMEMBERED

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kropot.gateway.state import FileRow

_MOST_RECENT: Final = 16_384


class RecentFiles:
    """Files that were listed or requested recently, so that a content request rarely needs the database.

    A row here can be older than the one in the database. The open file decides what is served: see `Catalogue.renewed`.
    """

    def __init__(self, most: int = _MOST_RECENT) -> None:
        """Remember up to `most` files."""
        self._most = most
        self._rows: OrderedDict[tuple[int, str], FileRow] = OrderedDict()

    def put(self, scope: int, files: Iterable[tuple[str, FileRow]]) -> None:
        """Remember files under the ids that tokens of this scope know them by. A long birth stays in the database.

        Ids MUST be those of the paths, and this gateway MUST have vouched for the births: both are trusted later.
        """
        rows = self._rows
        for element, row in files:
            if row.birth is not None and len(row.birth) > LONGEST_REMEMBERED:
                row = row._replace(birth=None)  # noqa: PLW2901 -- the same file
            rows[scope, element] = row
        while len(rows) > self._most:
            rows.popitem(last=False)

    def get(self, scope: int, element: str) -> FileRow | None:
        """Return a remembered file."""
        return self._rows.get((scope, element))
