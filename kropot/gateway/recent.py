"""Files that were listed or requested a moment ago."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from kropot.gateway.births import LONGEST_REMEMBERED

if TYPE_CHECKING:
    from kropot.gateway.state import FileRow

_MOST_RECENT: Final = 16_384


class RecentFiles:
    """Files that were listed or requested recently, so that a content request rarely needs the database.

    A row here may be older than the one in the database. The open file decides what is served: see `Catalogue.renewed`.
    """

    def __init__(self, most: int = _MOST_RECENT) -> None:
        """Remember up to `most` files."""
        self._most = most
        self._rows: OrderedDict[tuple[int, bytes], FileRow] = OrderedDict()

    def put(self, scope: int, mark: bytes, row: FileRow) -> None:
        """Remember a file under its mark. A long birth stays in the database."""
        if row.birth is not None and len(row.birth) > LONGEST_REMEMBERED:
            row = replace(row, birth=None)
        self._rows[scope, mark] = row
        if len(self._rows) > self._most:
            self._rows.popitem(last=False)

    def get(self, scope: int, mark: bytes) -> FileRow | None:
        """Return a remembered file."""
        return self._rows.get((scope, mark))
