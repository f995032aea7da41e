"""The parameters of a request, read strictly. A misspelt filter would filter nothing, so it is refused."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from kropot.errors import UsageError
from kropot.query.names import find_source
from kropot.query.past import labels_of
from kropot.replay.moment import resolve
from kropot.replay.until import parse_when
from ledger.events import StreamKey
from ledger.log import utc_now_us

if TYPE_CHECKING:
    from collections.abc import Collection

    from starlette.datastructures import QueryParams

    from kropot.keeper.visitor import Visitor
    from kropot.replay.moment import Moment
    from ledger.log import Ledger

MOST_ROWS: Final = 1000
"""The maximum number of rows in a page."""

ROWS: Final = 100
"""The default number of rows in a page."""

_MOST_DIGITS: Final = 18
_WHOLE: Final = re.compile(rf"[0-9]{{1,{_MOST_DIGITS}}}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_SOURCE: Final = re.compile(r"[0-9a-f]{32}")
_KIND: Final = re.compile(r"[a-z]{1,32}")
_LONGEST_ID: Final = 512


class NotFoundError(UsageError):
    """It does not exist, or this visitor may not see it. The answer does not reveal which."""

    http_status = 404


class Asked:
    """The parameters of one request by one visitor."""

    def __init__(self, ledger: Ledger, visitor: Visitor, query: QueryParams, known: Collection[str]) -> None:
        """Take the query. Raises: UsageError if a parameter is not `known`, or is given twice."""
        self._ledger = ledger
        self._visitor = visitor
        self._query = query
        names = [name for name, _ in query.multi_items()]
        for name in names:
            if name not in known:
                few = ", ".join(sorted(known)) or "none"
                raise UsageError(f"the parameter {name[:40]!a} is not known: this request takes {few}")
        if len(names) > len(set(names)):
            raise UsageError("a parameter is given twice: give each one once")

    def text(self, name: str) -> str | None:
        """Return a parameter as is, None if it is missing."""
        return self._query.get(name)

    def flag(self, name: str) -> bool:
        """Return whether a parameter is `true`. Raises: UsageError if it is neither that nor `false`."""
        value = self._query.get(name, "false")
        if value not in {"true", "false"}:
            raise UsageError(f"{name} must be true or false, and is {value[:40]!a}")
        return value == "true"

    def whole(self, name: str, default: int, *, most: int | None = None) -> int:
        """Return a whole number from 0. Raises: UsageError if it is not one, or is more than `most`."""
        value = self._query.get(name)
        if value is None:
            return default
        if not _WHOLE.fullmatch(value):
            raise UsageError(f"{name} must be a whole number of at most {_MOST_DIGITS} digits, and is {value[:40]!a}")
        number = int(value)
        if most is not None and number > most:
            raise UsageError(f"{name} must be at most {most}, and is {number}")
        return number

    def rows(self, *, most: int = MOST_ROWS) -> int:
        """Return the requested number of rows in a page, at least one. Raises: UsageError."""
        count = self.whole("limit", min(ROWS, most), most=most)
        if not count:
            raise UsageError("limit must be at least 1")
        return count

    def moment(self, name: str = "until") -> Moment:
        """Return the moment that a parameter names, now if it is missing. A checkpoint is given as its whole text.

        Raises: UsageError, IntegrityError, as `parse_when` and `resolve`.
        """
        text = self._query.get(name)
        now_us = utc_now_us()
        when = None if text is None else parse_when(text, now_us=now_us, read=_as_note)
        return resolve(self._ledger, when, now_us=now_us)

    def source(self) -> bytes | None:
        """Return the requested source, named by its label or the beginning of its id; None for all.

        Raises: NotFoundError, a UsageError, if the visitor may see no such source, or the name fits several.
        """
        text = self._query.get("source")
        if text is None:
            return None
        labels = {id_: label for id_, label in labels_of(self._ledger).items() if self._visitor.sees(id_)}
        try:
            return find_source(labels, text)
        except UsageError:
            raise NotFoundError("no source has this name, or several have: see /api/1/sources") from None

    def after(self) -> bytes:
        """Return the stored key after which a page begins, b"" for the first page. Raises: UsageError."""
        text = self._query.get("after")
        if text is None:
            return b""
        source, _, rest = text.partition("/")
        kind, _, id_ = rest.partition("/")
        if not _SOURCE.fullmatch(source) or not _KIND.fullmatch(kind) or len(id_) > _LONGEST_ID:
            raise UsageError("after must be the value of `next` in the page before: SOURCE/TYPE/ID")
        return key_of(source, kind, id_).stored


def cursor_of(stored: bytes | None) -> str | None:
    """Return the value of `after` that continues after a stored key, None for None."""
    if stored is None:
        return None
    key = StreamKey.parse(stored)
    return f"{key.source.hex()}/{key.kind}/{key.id}"


def key_of(source: str, kind: str, id_: str) -> StreamKey:
    """Return the element that a path or cursor names. Raises: NotFoundError if the name is not valid."""
    if not _SOURCE.fullmatch(source) or not _KIND.fullmatch(kind) or not 0 <= len(id_) <= _LONGEST_ID:
        raise NotFoundError("there is no such element")
    try:
        id_.encode()
    except UnicodeEncodeError:
        raise NotFoundError("there is no such element") from None
    return StreamKey(source=bytes.fromhex(source), kind=kind, id=id_)


def sha256_of(text: str) -> bytes:
    """Return the SHA-256 that a path names. Raises: NotFoundError if it is not one."""
    if not _SHA256.fullmatch(text):
        raise NotFoundError("there is no such object")
    return bytes.fromhex(text)


def _as_note(text: str) -> bytes | None:
    """Return the text of a checkpoint, None for other text. A request never names a file on this machine."""
    return text.encode(errors="replace") if "\n" in text else None
