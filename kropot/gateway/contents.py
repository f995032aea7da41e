"""The content route. It is raw ASGI, because a collector calls it a million times."""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from errno import ENOENT, errorcode
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import structlog

from kropot.errors import KropotError
from kropot.gateway.access import RefusedError, answer, failure, in_pool, refusal
from kropot.gateway.catalogue import UnsettledError
from kropot.gateway.entries import element_of, mark_of
from kropot.gateway.guard import ABORT
from kropot.gateway.ranges import Span, wanted_span
from kropot.gateway.serving import ChangedError, can_begin, plain_chunks, sealed_chunks, small_body
from kropot.gateway.sources import FolderAwayError, NotServedError
from kropot.gateway.tokenspec import STREAM_ROLE
from kropot.securecopy.sealing import sealed_size
from kropot.securecopy.wire import CONTENT_TYPE, IV_HEADER

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Executor

    from starlette.responses import Response
    from starlette.types import Receive, Scope, Send

    from kropot.gateway.access import Access
    from kropot.gateway.catalogue import Catalogue
    from kropot.gateway.entries import Sealings
    from kropot.gateway.serving import Blocks
    from kropot.gateway.sources import FolderSource, Seen
    from kropot.gateway.state import FileRow, State
    from kropot.gateway.tokens import Token

log = structlog.get_logger()

STREAMS: Final = 32
"""How many large contents are sent at once for each token. Each holds a few chunks in memory; further requests wait.

The readers of one token, however slow, never make those of another wait.
"""

_INLINE = 64 * 1024
_MOST_RECENT = 16_384
_TRIES = 3
_TIMER_S = 0.005
_WHOLE = 200
_CACHE_CONTROL = b"max-age=0, must-revalidate, private"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """What to send: the number of the token, the open file, the bytes of it, and the headers."""

    token: int
    descriptor: int
    looks: Seen
    span: Span
    status: int
    headers: list[tuple[bytes, bytes]]
    iv: bytes | None
    key: bytes | None


class RecentFiles:
    """Files that were listed or requested recently, so that a content request rarely needs the database.

    A row here may be older than the one in the database. The open file decides what is served: see `Catalogue.renewed`.
    """

    def __init__(self, most: int = _MOST_RECENT) -> None:
        """Remember up to `most` files."""
        self._most = most
        self._rows: OrderedDict[tuple[int, bytes], FileRow] = OrderedDict()

    def put(self, scope: int, mark: bytes, row: FileRow) -> None:
        """Remember a file under its mark."""
        self._rows[scope, mark] = row
        if len(self._rows) > self._most:
            self._rows.popitem(last=False)

    def get(self, scope: int, mark: bytes) -> FileRow | None:
        """Return a remembered file."""
        return self._rows.get((scope, mark))


class Contents:
    """Serves contents."""

    def __init__(
        self,
        *,
        state: State,
        tree: FolderSource,
        catalogue: Catalogue,
        sealings: Sealings,
        blocks: Blocks,
        access: Access,
        recent: RecentFiles,
        pool: Executor,
    ) -> None:
        """Serve the files of `tree` that `state` knows. Calls that may block for long run in `pool`."""
        self._state = state
        self._tree = tree
        self._catalogue = catalogue
        self._sealings = sealings
        self._blocks = blocks
        self._access = access
        self._recent = recent
        self._pool = pool
        self._streams: dict[int, asyncio.Semaphore] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send, element: str) -> None:
        """Answer one request for the content of an element."""
        if scope["method"] not in {"GET", "HEAD"}:
            await failure("Method not allowed", 405, {"allow": "GET, HEAD", "connection": "close"})(
                scope, receive, send
            )
            return
        try:
            part = await self._prepare(scope, element)
        except (KropotError, OSError) as error:
            await _failed(error)(scope, receive, send)
            return
        try:
            if part.span.stop - part.span.start <= _INLINE or scope["method"] == "HEAD":
                await self._send(scope, receive, send, part)
            else:
                async with self._streams.setdefault(part.token, asyncio.Semaphore(STREAMS)):
                    await self._send(scope, receive, send, part)
        finally:
            os.close(part.descriptor)

    async def _prepare(self, scope: Scope, element: str) -> _Part:
        """Find and open the file; determine its version and which bytes to send."""
        token = await self._access.admit(scope, STREAM_ROLE)
        row = await self._find(token, element)
        for attempt in range(_TRIES):
            descriptor, looks = await self._open(row.path)
            try:
                self._catalogue.check_settled(looks)
                if row.identity != looks.identity:
                    row = await in_pool(self._pool, self._catalogue.renewed, row, looks)
                    self._recent.put(token.scope, bytes.fromhex(element)[:16], row)
                return await self._plan(scope, token, row, element=element, descriptor=descriptor, looks=looks)
            except UnsettledError as error:
                os.close(descriptor)
                if attempt == _TRIES - 1:
                    raise
                # A timer can fire slightly early.
                await asyncio.sleep(error.wait_s + _TIMER_S)
            except BaseException:
                os.close(descriptor)
                raise
        raise AssertionError("every attempt returns or raises")

    async def _open(self, path: bytes) -> tuple[int, Seen]:
        """Open a file. Raises: as `FolderSource.open`; FolderAwayError if the file is missing with its whole folder."""
        try:
            return self._tree.open(path)
        except NotServedError:
            if await in_pool(self._pool, self._catalogue.is_away):
                raise FolderAwayError(ENOENT, os.strerror(ENOENT)) from None
            raise

    async def _find(self, token: Token, element: str) -> FileRow:
        """Return the file behind an id of this token. Raises: NotServedError if there is none."""
        mark = mark_of(element)
        row = None
        if mark is not None:
            row = self._recent.get(token.scope, mark)
            if row is None:
                row = await in_pool(self._pool, self._state.find, token.scope, mark)
                if row is not None:
                    self._recent.put(token.scope, mark, row)
        if row is None or element_of(token, row.path) != element:
            raise NotServedError("there is no such element")
        return row

    async def _plan(
        self, scope: Scope, token: Token, row: FileRow, *, element: str, descriptor: int, looks: Seen
    ) -> _Part:
        """Decide which bytes and headers to send."""
        asked = dict(scope["headers"])
        tag = self._sealings.etag(token, element, row.nonce)
        iv = key = None
        size = looks.size
        if token.kit is not None:
            size = sealed_size(size)
            iv = self._sealings.iv(token, element, row.nonce, looks.identity)
            key = self._sealings.ready_key(token, iv) or await in_pool(self._pool, self._sealings.key, token, iv)
        span = None
        if scope["method"] == "GET" and b"range" in asked:
            if_range = asked.get(b"if-range")
            span = wanted_span(
                asked[b"range"].decode("latin-1"),
                None if if_range is None else if_range.decode("latin-1"),
                etag=tag,
                size=size,
            )
            if span is not None and iv is not None and not can_begin(self._blocks, iv, span.start):
                span = None
        status = _WHOLE
        headers = [
            (b"content-type", CONTENT_TYPE.encode()),
            (b"etag", tag.encode()),
            (b"accept-ranges", b"bytes"),
            (b"cache-control", _CACHE_CONTROL),
        ]
        if iv is not None:
            headers.append((IV_HEADER.encode(), iv.hex().encode()))
        else:
            name = quote(row.path.rpartition(b"/")[2], safe="")
            headers.append((b"content-disposition", b"attachment; filename*=UTF-8''" + name.encode()))
        if span is None:
            span = Span(start=0, stop=size)
        elif span.start == span.stop:
            status = 416
            headers.append((b"content-range", b"bytes */%d" % size))
        else:
            status = 206
            headers.append((b"content-range", b"bytes %d-%d/%d" % (span.start, span.stop - 1, size)))
        headers.append((b"content-length", b"%d" % (span.stop - span.start)))
        return _Part(
            token=token.number,
            descriptor=descriptor,
            looks=looks,
            span=span,
            status=status,
            headers=headers,
            iv=iv,
            key=key,
        )

    def _chunks(self, part: _Part) -> Iterator[bytes]:
        """Yield the bytes to send, produced on demand."""
        if part.iv is None or part.key is None:
            return plain_chunks(part.descriptor, part.looks, part.span)
        return sealed_chunks(part.descriptor, part.looks, part.span, iv=part.iv, key=part.key, blocks=self._blocks)

    async def _send(self, scope: Scope, receive: Receive, send: Send, part: _Part) -> None:
        """Send a part. If it cannot be finished, the connection closes before the announced length is reached."""
        empty = part.span.start == part.span.stop or scope["method"] == "HEAD"
        chunks = iter(()) if empty else self._chunks(part)
        try:
            # Produce the first bytes before sending the status: an early failure is then an error, not half a file.
            body = b"" if empty else None
            if body is None and part.looks.size <= _INLINE and part.status == _WHOLE:
                body = small_body(part.descriptor, part.looks, iv=part.iv, key=part.key)
            chunk = await in_pool(self._pool, next, chunks, b"") if body is None else body
        except (KropotError, OSError) as error:
            await _failed(error)(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": part.status, "headers": part.headers})
        left = part.span.stop - part.span.start - len(chunk)
        if empty or left == 0:
            await send({"type": "http.response.body", "body": chunk})
            return
        gone = asyncio.ensure_future(_gone(receive))
        try:
            while True:
                await send({"type": "http.response.body", "body": chunk, "more_body": left > 0})
                if left <= 0 or gone.done():
                    return
                chunk = await in_pool(self._pool, next, chunks, b"")
                left -= len(chunk)
        except (ChangedError, OSError) as error:
            # The announced length is never reached, so no client can mistake the body for complete.
            log.warning("transfer_broken", reason=type(error).__name__)
            scope.get("extensions", {}).get(ABORT, {}).get("abort", _nothing)()
        finally:
            gone.cancel()
            with suppress(asyncio.CancelledError):
                await gone


def _failed(error: KropotError | OSError) -> Response:
    """Return the answer to a request that failed before anything was sent."""
    match error:
        case RefusedError():
            return refusal(str(error))
        case NotServedError():
            return answer({"status": "Not found", "http_code": 404, "object": None}, 404)
        case UnsettledError() | ChangedError():
            return failure(str(error), 503, {"retry-after": "2"})
        case KropotError():
            log.warning("content_failed", reason=type(error).__name__)
            return failure("The server cannot answer now: try again later", 503, {"retry-after": "10"})
        case FolderAwayError():
            return failure("The served folder is not there now: check that it is mounted", 503, {"retry-after": "10"})
        case _:
            log.warning("content_unreadable", reason=errorcode.get(error.errno or 0, "EIO"))
            return failure("The server cannot read the file: check the disk and the permissions on the server", 500)


def _nothing() -> None:
    """Do nothing: a server without this extension closes the connection itself after an unfinished answer."""


async def _gone(receive: Receive) -> None:
    """Return when the client has disconnected, so that the gateway stops sealing for it."""
    while (await receive())["type"] != "http.disconnect":
        pass
