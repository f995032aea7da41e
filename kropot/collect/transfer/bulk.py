"""Fetches many small contents in one answer, over one connection, in the calling thread.

This is the fast way, and never the only one: a content that does not come this way is fetched singly later, and that
reports why it fails. So a server that breaks off, refuses or sends rubbish costs only time.
"""

from __future__ import annotations

import http.client
from typing import TYPE_CHECKING, Final

from kropot.collect.transfer.asking import AskingConnection
from kropot.collect.transfer.receive import check_framing
from kropot.securecopy.bulkread import BadBulkAnswerError, BulkContent, read_frames
from kropot.securecopy.bulkwire import MAX_ANSWER, MAX_BODY, MAX_ELEMENTS, MEDIA_TYPE, PATH, encode_request
from kropot.securecopy.content import UnbelievableError, media_type

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kropot.collect.transfer.engine import Server
    from kropot.securecopy.bulkread import BulkWanted

LONGEST_S: Final = 600
"""How long one answer may take in all, in seconds: a page of the list waits for it."""

ATTEMPTS: Final = 2
"""How many times to ask in all, if answers break off. What is still missing is then fetched singly."""

_BUFFER: Final = 256 << 10
_LINE: Final = 64
_OK: Final = 200
_UNKNOWN: Final = frozenset({400, 404, 405, 406, 411, 413, 415, 501})
"""Answers of a server that advertises `bulk` but does not implement it: it is not asked again."""


class _CutError(Exception):
    """The answer broke off."""


class BulkFetcher:
    """Asks one server for contents in bulk; for one thread, but `close` may come from another."""

    def __init__(self, server: Server, *, longest_s: float = LONGEST_S) -> None:
        """Prepare; nothing is connected yet."""
        self._asking = AskingConnection(server, longest_s=longest_s, buffer=_BUFFER)
        self.is_off = False

    def fetch(self, wanted: Sequence[BulkWanted]) -> Iterator[BulkContent]:
        """Yield the contents that came and can be believed, with their places in `wanted`; leave out all others.

        If the server turns out not to know bulk requests, or answers nonsense, `is_off` becomes True and nothing more
        is asked.
        """
        for first, last in _portions(wanted):
            for _ in range(ATTEMPTS):
                yield from self._answer(wanted[first:last], first)
                if self._reached == last - first or self._asking.is_closed or self.is_off:
                    break
                first += self._reached  # noqa: PLW2901 -- what came is not asked for again
            else:
                return
            if self._asking.is_closed or self.is_off:
                return

    def close(self) -> None:
        """Break off whatever is under way; nothing more is asked."""
        self._asking.close()

    def _answer(self, wanted: Sequence[BulkWanted], first: int) -> Iterator[BulkContent]:
        """Yield the contents of one answer, with places from `first` on.

        `_reached` is how far the answer came: all of `wanted` if it was whole.
        """
        self._reached = 0
        if self.is_off:
            return
        body = encode_request([(one.id, one.etag) for one in wanted])
        try:
            answer = self._asking.ask("POST", PATH, {"Content-Type": "application/json"}, body)
            if isinstance(answer, str):
                return
            if not self._is_bulk(answer):
                self._asking.leave(answer)
                self._reached = len(wanted)
                return
            stream = _AnswerBody(answer)
            for content in read_frames(stream.read, wanted, first=first):
                self._reached = content.at + 1 - first
                yield content
            self._reached = len(wanted)
            if not stream.is_at_its_end():
                self._asking.disconnect()
        except BadBulkAnswerError:
            self.is_off = True
            self._asking.disconnect()
        except (_CutError, http.client.HTTPException, OSError, ValueError):
            self._asking.disconnect()

    def _is_bulk(self, answer: http.client.HTTPResponse) -> bool:
        """Whether a bulk answer follows this head."""
        self.is_off = answer.status in _UNKNOWN
        if answer.status != _OK:
            return False
        headers = [(name.lower(), value) for name, value in answer.getheaders()]
        fields = dict(headers)
        try:
            check_framing(answer.version, headers)
        except UnbelievableError:
            self.is_off = True
        coding = fields.get("content-encoding", "identity").lower()
        self.is_off = self.is_off or media_type(fields.get("content-type")) != MEDIA_TYPE or coding != "identity"
        return not self.is_off


class _AnswerBody:
    """Reads exact numbers of bytes of an answer's body. Reading its chunks here is faster than in http.client."""

    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self._answer = answer
        self._file = answer.fp
        self._is_chunked = bool(answer.chunked)
        # In a chunked body: what is left of this chunk.
        self._left = 0 if self._is_chunked else (answer.length or 0)
        self._is_first = True

    def read(self, count: int) -> bytes:
        """Return the next `count` bytes. Raises: _CutError, OSError, ValueError."""
        if count <= self._left:
            self._left -= count
            data = self._file.read(count)
            if len(data) != count:
                raise _CutError
            return data
        parts = []
        while count:
            if self._left == 0:
                self._next_chunk()
            part = self._file.read(min(count, self._left))
            if not part:
                raise _CutError
            self._left -= len(part)
            count -= len(part)
            parts.append(part)
        return b"".join(parts)

    def is_at_its_end(self) -> bool:
        """Whether nothing more follows, so that the connection can be used again."""
        if self._left:
            return False
        if self._is_chunked:
            if not self._is_first and self._file.read(2) != b"\r\n":
                return False
            if self._file.readline(_LINE) != b"0\r\n" or self._file.readline(_LINE) != b"\r\n":
                return False
        self._answer.close()
        return not self._answer.will_close

    def _next_chunk(self) -> None:
        if not self._is_chunked:
            raise _CutError
        if not self._is_first and self._file.read(2) != b"\r\n":
            raise _CutError
        self._is_first = False
        line = self._file.readline(_LINE)
        if not line.endswith(b"\r\n"):
            raise _CutError
        digits = line.partition(b";")[0].strip()
        if not digits or not set(digits) <= set(b"0123456789abcdefABCDEF"):
            raise _CutError
        self._left = int(digits, 16)
        if self._left == 0:
            raise _CutError


def _portions(wanted: Sequence[BulkWanted]) -> Iterator[tuple[int, int]]:
    """Yield ranges of `wanted`, each no more than one request may ask for."""
    first = size = body = 0
    for at, one in enumerate(wanted):
        asks = 6 * (len(one.id) + len(one.etag)) + 16
        if at > first and (at - first == MAX_ELEMENTS or size + one.size > MAX_ANSWER or body + asks > MAX_BODY):
            yield first, at
            first, size, body = at, 0, 0
        size, body = size + one.size, body + asks
    if len(wanted) > first:
        yield first, len(wanted)
