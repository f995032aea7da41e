"""The parameters of a request to the page, read strictly, and links that pass them on. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

from msgspec import Struct, field

from kropot.errors import UsageError
from kropot.wording import as_written, written

if TYPE_CHECKING:
    from collections.abc import Mapping

_POSITION: Final = re.compile(r"@?([0-9]{1,15})")
_WHOLE: Final = re.compile(r"[0-9]{1,15}")
_SOURCE: Final = re.compile(r"[0-9a-f]{32}")
_CURSOR: Final = re.compile(r"[0-9a-f]{32}/[a-z]{1,32}/[^/\x00-\x1f]{0,512}")
_LONGEST: Final = 20_000


class NoSuchPageError(UsageError):
    """There is nothing here."""

    http_status = 404


class PageQuery(Struct, frozen=True):
    """The parameters of one request."""

    given: Mapping[str, str] = field(default_factory=dict)

    def text(self, name: str) -> str:
        """Return a parameter as is, empty if it is missing. Raises: UsageError if it is too long."""
        value = self.given.get(name, "")
        if len(value) > _LONGEST:
            raise UsageError(f"{name} is too long")
        return value

    def position(self, name: str = "at") -> int | None:
        """Return the position that a parameter names, None if it is missing. Raises: UsageError."""
        return self._matched(name, _POSITION)

    def whole(self, name: str) -> int | None:
        """Return a whole number, None if it is missing. Raises: UsageError."""
        return self._matched(name, _WHOLE)

    def source(self) -> str | None:
        """Return a source's id, None if it is missing. Raises: UsageError."""
        value = self.text("source")
        if value and not _SOURCE.fullmatch(value):
            raise UsageError("the source must be an id of 32 digits")
        return value or None

    def cursor(self) -> str | None:
        """Return where a page of elements continues, None for the first page. Raises: UsageError."""
        value = self.text("after")
        if value and not _CURSOR.fullmatch(value):
            raise UsageError("this page of elements does not exist")
        return value or None

    def path(self, name: str) -> bytes:
        """Return the path in a link, which `written` encoded; empty if it is missing."""
        return as_written(self.text(name))

    def flag(self, name: str) -> bool:
        """Return whether a parameter is set."""
        return self.given.get(name) == "1"

    def _matched(self, name: str, wanted: re.Pattern[str]) -> int | None:
        value = self.text(name).strip()
        if not value:
            return None
        found = wanted.fullmatch(value)
        if found is None:
            raise UsageError(f"{name} must be a number, and is {value[:40]!a}")
        return int(found[found.lastindex or 0])


def link(screen: str, **values: object) -> str:
    """Return the address of a screen. Values that are None, empty or False are left out. `written` encodes paths."""
    query = {}
    for name, value in values.items():
        if value is None or value is False or value in {"", b""}:
            continue
        text = written(value) if isinstance(value, bytes) else "1" if value is True else str(value)
        query[name] = f"@{text}" if name in {"at", "with"} else text
    return f"/page/{screen}" + (f"?{urlencode(query)}" if query else "")
