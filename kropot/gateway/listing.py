"""A list page: what its parameters mean, and what stands on it."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from kropot.errors import UsageError
from kropot.gateway.entries import mark_of
from kropot.securecopy.wire import encode_page

if TYPE_CHECKING:
    from kropot.gateway.entries import Sealings
    from kropot.gateway.state import FileRow, State
    from kropot.gateway.tokens import Token

DEFAULT_LIMIT: Final = 256
MAX_LIMIT: Final = 8191

_LIMIT = re.compile(r"[ \t\n\r\v\f]*([+-]?[0-9]{1,9})")
_UNIX = re.compile(r"@(-?[0-9]{1,12})")
_LONGEST_SINCE = 64


class BadParameterError(UsageError):
    """A parameter of a list request makes no sense; `name` is which."""

    def __init__(self, name: str, message: str) -> None:
        """Remember the parameter and what is said about it."""
        super().__init__(message)
        self.name = name
        self.message = message


def parse_limit(text: str | None) -> int:
    """Return how many entries are asked for, read as PHP casts to a number: 256 if not said, 1 to 8191.

    Raises:
        BadParameterError: it is not such a number.
    """
    if text is None:
        return DEFAULT_LIMIT
    found = _LIMIT.match(text)
    limit = 0 if found is None else int(found[1])
    if not 1 <= limit <= MAX_LIMIT:
        raise BadParameterError("limit", "Invalid limit specified")
    return limit


def parse_since(text: str | None) -> int | None:
    """Return the second (since 1970) behind which the page begins, None for the beginning.

    A wall clock is UTC, the only zone this server has; ISO times with an offset and `@seconds` mean what they say.
    Fractions are cut off, as the old server does, so that nothing of the second itself is skipped.

    Raises:
        BadParameterError: it is not a time.
    """
    if text is None or text in {"", "0"}:
        return None
    if found := _UNIX.fullmatch(text):
        return int(found[1])
    try:
        when = datetime.fromisoformat(text[:_LONGEST_SINCE].strip())
        when = when.replace(tzinfo=UTC) if when.tzinfo is None else when
        return int(when.replace(microsecond=0).timestamp())
    except (ValueError, OverflowError):
        raise BadParameterError(
            "since", "Invalid date specified, expected UTC like 2030-05-01 01:06:01, ISO 8601, or @seconds"
        ) from None


def build_page(
    state: State, sealings: Sealings, token: Token, *, since: int | None, limit: int, base_url: str
) -> tuple[bytes, list[tuple[bytes, FileRow]]]:
    """Return a list page as it is sent, and the files on it with their marks.

    The ids on it are remembered before it is given out, so that each of them can be asked for.
    """
    rows, remaining, closed = state.page(since, limit)
    entries = [(sealings.entry(token, row), row) for row in rows]
    entries.sort(key=lambda pair: (pair[0].date, pair[0].id))
    files = [(mark, row) for entry, row in entries if (mark := mark_of(entry.id)) is not None]
    if files:
        state.give_ids(token.scope, [(mark, row.id) for mark, row in files])
    page = encode_page(
        [entry for entry, _ in entries],
        remaining=remaining,
        metadata_url=f"{base_url}/secure-copy/file/%file_id%/submitdata?_token=%token%",
        fetch_url=f"{base_url}/secure-copy/file/%file_id%/content?_token=%token%",
        closed=closed,
    )
    return page, files


def empty_page(base_url: str) -> bytes:
    """Return the page of a type that this server has nothing of."""
    return encode_page(
        [],
        remaining=0,
        metadata_url=f"{base_url}/secure-copy/file/%file_id%/submitdata?_token=%token%",
        fetch_url=f"{base_url}/secure-copy/file/%file_id%/content?_token=%token%",
    )
