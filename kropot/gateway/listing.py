"""List pages: parses the request's parameters and builds the page."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple

from msgspec.structs import replace

from kropot.errors import UsageError
from kropot.gateway.state import FOR_OTHERS, FOR_SEALED
from kropot.securecopy import bulkwire
from kropot.securecopy.wire import encode_page

if TYPE_CHECKING:
    from kropot.gateway.state import FileRow, State
    from kropot.gateway.telling import Tellings
    from kropot.gateway.token import Token
    from ledger.events import Unserved

DEFAULT_LIMIT: Final = 256
MAX_LIMIT: Final = 8191

_LIMIT = re.compile(r"[ \t\n\r\v\f]*([+-]?[0-9]{1,9})")
_UNIX = re.compile(r"@(-?[0-9]{1,12})")
_LONGEST_SINCE = 64


class BadParameterError(UsageError):
    """A parameter of a list request is invalid. `name` is the parameter's name."""

    def __init__(self, name: str, message: str) -> None:
        """Keep the parameter's name and the message about it."""
        super().__init__(message)
        self.name = name
        self.message = message


def parse_limit(text: str | None) -> int:
    """Return how many entries to list: 1 to 8191, or 256 by default. The text is read as PHP casts it to a number.

    Raises:
        BadParameterError: the text is not such a number.
    """
    if text is None:
        return DEFAULT_LIMIT
    found = _LIMIT.match(text)
    limit = 0 if found is None else int(found[1])
    if not 1 <= limit <= MAX_LIMIT:
        raise BadParameterError("limit", "Invalid limit specified")
    return limit


def parse_since(text: str | None) -> int | None:
    """Return the second since 1970 after which the page begins, or None to start from the beginning.

    A time without a zone is in UTC, the only zone of this server. ISO times with an offset and `@seconds` are read as
    such. Fractions are cut off, as on the old server, so that the page skips nothing within that second.

    Raises:
        BadParameterError: the text is not a time.
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


class PageWanted(NamedTuple):
    """A list page that a client asks for, and what its header says about the folder.

    It begins after the second `since`, and has about `limit` entries. `base_url` is the gateway's address for clients.
    """

    since: int | None
    limit: int
    base_url: str
    unserved: Unserved | None = None
    unscanned_since: int | None = None


def build_page(
    state: State, tellings: Tellings, token: Token, wanted: PageWanted
) -> tuple[bytes, list[tuple[str, FileRow]]]:
    """Return a list page as it is sent, and its files, each as (id, row). Raises: as `Tellings.of`."""
    audiences = FOR_OTHERS if token.held is None else FOR_SEALED
    found = state.page(wanted.since, wanted.limit, audiences, token.scope)
    entries = tellings.of(token, found.files, found.tellings) if found.files else []
    # Sort by date and id. No two entries share both.
    entries.sort()
    unserved = wanted.unserved
    page = encode_page(
        [entry.line for entry in entries],
        remaining=found.remaining,
        metadata_url=f"{wanted.base_url}/secure-copy/file/%file_id%/submitdata?_token=%token%",
        fetch_url=f"{wanted.base_url}/secure-copy/file/%file_id%/content?_token=%token%",
        closed=found.closed,
        vault=None if token.held is None else token.held.vault.id,
        unserved=unserved if unserved is None or token.held is None else replace(unserved, links=0),
        unscanned_since=wanted.unscanned_since,
        bulk=bulkwire.VERSION,
    )
    return page, [(entry.element, entry.row) for entry in entries]


def empty_page(base_url: str) -> bytes:
    """Return an empty page, for a type that this server does not have."""
    return encode_page(
        [],
        remaining=0,
        metadata_url=f"{base_url}/secure-copy/file/%file_id%/submitdata?_token=%token%",
        fetch_url=f"{base_url}/secure-copy/file/%file_id%/content?_token=%token%",
    )
