"""The content route. It is raw ASGI, because a collector calls it a million times."""

from __future__ import annotations

import asyncio
import os
from errno import ENOENT, errorcode
from functools import partial
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from msgspec import Struct

from kropot.errors import KropotError
from kropot.gateway.access import NotAcceptedError, RequestRefusedError
from kropot.gateway.catalogue import UnsettledError
from kropot.gateway.entries import MARK_BYTES, element_of, mark_of
from kropot.gateway.facts import Audience
from kropot.gateway.ivs import NONCE_BYTES
from kropot.gateway.ranges import Span, wanted_span
from kropot.gateway.serving import (
    ChangedError,
    ContentReading,
    can_begin,
    plain_chunks,
    sealed_chunks,
    sealed_whole,
    vault_chunks,
    whole,
)
from kropot.gateway.sources import FolderAwayError, NotServedError, Seen
from kropot.logs import log
from kropot.sc2.layout import MEDIA_TYPE
from kropot.securecopy.sealing import sealed_size
from kropot.securecopy.wire import CONTENT_TYPE, IV_HEADER
from kropot.serving.answers import answer, failure, refusal
from kropot.serving.pools import in_pool
from kropot.serving.sending import cut_off, noticing_hang_up

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Executor

    from starlette.responses import Response
    from starlette.types import Receive, Scope, Send

    from kropot.gateway.access import Access
    from kropot.gateway.births import Birth, Births, ReadAt
    from kropot.gateway.catalogue import Catalogue
    from kropot.gateway.entries import Sealings
    from kropot.gateway.recent import RecentFiles
    from kropot.gateway.serving import Blocks
    from kropot.gateway.sources import FolderSource
    from kropot.gateway.state import FileRow, State
    from kropot.gateway.token import Token
    from kropot.sc2.seal import Sealing
    from kropot.serving.pools import Opens


STREAMS: Final = 32
"""How many large contents each token gets at once. Each holds a few chunks in memory; further requests wait.

Readers of one token, however slow, never delay those of another.
"""

_INLINE = 64 * 1024
_TRIES = 3
_TIMER_S = 0.005
_WHOLE = 200
_CACHE_CONTROL = b"max-age=0, must-revalidate, private"


class _Opened(Struct, frozen=True, kw_only=True):
    """An open file: its row, its bytes if it is small (and then no descriptor), and what its IV derives from.

    A file that `is_moving` is sent as it is now, under its own nonce. A token of sc2 uses the `birth` of its version
    instead.
    """

    row: FileRow
    descriptor: int | None
    looks: Seen
    plain: bytes | None
    nonce: bytes
    origin: bytes
    is_moving: bool
    birth: Birth | None


class _Part(Struct, frozen=True, kw_only=True):
    """What to send: the open file, the bytes of it, and the headers."""

    opened: _Opened
    span: Span
    is_whole: bool
    status: int
    headers: list[tuple[bytes, bytes]]
    iv: bytes | None = None
    key: bytes | None = None
    sealing: Sealing | None = None

    def sealed(self, plain: bytes) -> bytes:
        """Return a small content as it is sent."""
        if self.sealing is not None:
            return self.sealing.whole(plain)
        if self.iv is not None and self.key is not None:
            return sealed_whole(plain, iv=self.iv, key=self.key)
        return plain


class Contents:
    """Serves contents."""

    def __init__(
        self,
        *,
        state: State,
        tree: FolderSource,
        catalogue: Catalogue,
        sealings: Sealings,
        births: Births,
        blocks: Blocks,
        access: Access,
        recent: RecentFiles,
        lookups: Executor,
        opens: Opens,
        reads: Executor,
    ) -> None:
        """Serve the files of `tree` that `state` knows.

        Everything that can block has its own pool: `lookups` for the database, `opens` for opening files, `reads` for
        reading large ones. So a file system that hangs delays only requests for its files.
        """
        self._state = state
        self._tree = tree
        self._catalogue = catalogue
        self._sealings = sealings
        self._births = births
        self._blocks = blocks
        self._access = access
        self._recent = recent
        self._lookups = lookups
        self._opens = opens
        self._reads = reads
        self._streams: dict[int, asyncio.Semaphore] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send, element: str) -> None:
        """Answer one request for the content of an element."""
        if scope["method"] not in {"GET", "HEAD"}:
            await failure("Method not allowed", 405, {"allow": "GET, HEAD", "connection": "close"})(
                scope, receive, send
            )
            return
        try:
            token = await self._access.admit_to_contents(scope)
            opened = await self._open(scope, token, element)
        except (KropotError, OSError) as error:
            await failed(error)(scope, receive, send)
            return
        try:
            part = await self._plan(scope, token, opened, element=element)
            if opened.plain is not None or scope["method"] == "HEAD":
                await self._send_small(scope, send, part)
            else:
                async with self._streams.setdefault(token.number, asyncio.Semaphore(STREAMS)):
                    await self._send(scope, receive, send, part)
        finally:
            if opened.descriptor is not None:
                self._opens.close_file(opened.descriptor)

    async def _open(self, scope: Scope, token: Token, element: str) -> _Opened:
        """Find and open the file, and determine its version."""
        for attempt in range(_TRIES):
            known = None if attempt else self._recent.get(token.scope, element)
            row = await self._find(token, element) if known is None else known
            try:
                opened = await self._opens.run(self._opened, token, element, row, scope["method"] == "GET")
            except UnsettledError as error:
                if attempt == _TRIES - 1:
                    raise
                # A timer can fire slightly early.
                await asyncio.sleep(error.wait_s + _TIMER_S)
                continue
            if opened.row is not known:
                self._recent.put(token.scope, [(element, opened.row)])
            return opened
        raise AssertionError("every attempt returns or raises")

    def _opened(self, token: Token, element: str, row: FileRow, wants_body: bool) -> _Opened:  # noqa: FBT001 - called through a pool
        """Open a file and read it if it is small. This can block for as long as the file system does.

        Raises: as `FolderSource.open`, `Catalogue.renewed` and `whole`; FolderAwayError if the whole folder is missing.
        """
        if row.audience == Audience.SEALED:
            return self._opened_entry(token, element, row)
        try:
            descriptor, looks = self._tree.open(row.path)
        except NotServedError:
            if self._catalogue.is_away():
                raise FolderAwayError(ENOENT, os.strerror(ENOENT)) from None
            raise
        kept: int | None = None
        try:
            is_moving = row.restless_s is not None and not self._catalogue.is_settled(looks)
            nonce, origin = os.urandom(NONCE_BYTES), looks.identity
            if not is_moving:
                row = self._catalogue.renewed(row, looks)
                nonce, origin = row.nonce, row.origin or looks.identity
            birth = None
            if token.held is not None:
                birth, row = self._births.of(token, bytes.fromhex(element)[:MARK_BYTES], row)
                if not is_moving and birth.form.size != looks.size:
                    raise ChangedError("the file has changed: ask again")
            plain = None
            if wants_body and looks.size <= _INLINE:
                plain = whole(descriptor, looks, is_moving=is_moving)
                if birth is not None and not is_moving:
                    plain = content_of(birth, plain)
            else:
                kept = descriptor
        finally:
            if kept is None:
                os.close(descriptor)
        return _Opened(
            row=row,
            descriptor=kept,
            looks=looks,
            plain=plain,
            nonce=nonce,
            origin=origin,
            is_moving=is_moving,
            birth=birth,
        )

    def _opened_entry(self, token: Token, element: str, row: FileRow) -> _Opened:
        """Return a folder or a symlink. Its content has been known since its birth, so nothing is opened.

        Raises: as `Births.of`.
        """
        birth, row = self._births.of(token, bytes.fromhex(element)[:MARK_BYTES], row)
        nothing = Seen(dev=0, ino=0, size=0, mtime_ns=0, ctime_ns=0, mode=0)
        return _Opened(
            row=row,
            descriptor=None,
            looks=nothing,
            plain=birth.attributes,
            nonce=row.nonce,
            origin=row.identity,
            is_moving=False,
            birth=birth,
        )

    async def _find(self, token: Token, element: str) -> FileRow:
        """Return the file behind an id of this token.

        Raises:
            NotServedError: there is none.
        """
        mark = mark_of(element)
        row = None if mark is None else await in_pool(self._lookups, self._state.find, token.scope, mark)
        if row is None or element_of(token, row.path) != element:
            raise NotServedError("there is no such element")
        return row

    async def _plan(self, scope: Scope, token: Token, opened: _Opened, *, element: str) -> _Part:
        """Decide which bytes and headers to send."""
        asked = dict(scope["headers"])
        row, size = opened.row, opened.looks.size
        tag = None if opened.is_moving else self._sealings.etag(token, element, opened.nonce)
        iv = key = sealing = None
        if opened.birth is not None:
            sealing = opened.birth.sealing(now=opened.looks if opened.is_moving else None)
            size, tag = sealing.length, None if opened.is_moving else sealing.header.etag
        if token.kit is not None:
            size = sealed_size(size)
            iv = self._sealings.iv(token, element, opened.nonce, opened.origin)
            key = self._sealings.ready_key(token, iv) or await self._opens.run(self._sealings.key, token, iv)
        span = None
        if scope["method"] == "GET" and b"range" in asked and tag is not None:
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
            (b"content-type", (CONTENT_TYPE if sealing is None else MEDIA_TYPE).encode()),
            (b"cache-control", _CACHE_CONTROL),
        ]
        if tag is not None:
            headers += [(b"etag", tag.encode()), (b"accept-ranges", b"bytes")]
        if iv is not None:
            headers.append((IV_HEADER.encode(), iv.hex().encode()))
        elif sealing is None:
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
            opened=opened,
            span=span,
            is_whole=span.start == 0 and span.stop == size,
            status=status,
            headers=headers,
            iv=iv,
            key=key,
            sealing=sealing,
        )

    def _chunks(self, part: _Part, descriptor: int) -> Iterator[bytes]:
        """Yield the bytes to send, produced on demand."""
        opened, row = part.opened, part.opened.row
        learn = None
        has_file = opened.birth is None or opened.birth.is_whole
        if part.is_whole and has_file and not opened.is_moving and self._catalogue.needs_digest(row):
            learn = partial(self._catalogue.learn, row)
        reading = ContentReading(is_moving=opened.is_moving, learn=learn)
        if part.sealing is not None:
            as_it_is = opened.birth is None or opened.is_moving
            return vault_chunks(
                descriptor,
                opened.looks,
                part.span,
                sealing=part.sealing,
                content=_unchanged if as_it_is or opened.birth is None else opened.birth.content,
                reading=reading,
            )
        if part.iv is None or part.key is None:
            return plain_chunks(descriptor, opened.looks, part.span, reading)
        return sealed_chunks(
            descriptor, opened.looks, part.span, iv=part.iv, key=part.key, blocks=self._blocks, reading=reading
        )

    async def _send_small(self, scope: Scope, send: Send, part: _Part) -> None:
        """Send an answer whose bytes are all in memory: a small content, or no bytes for HEAD."""
        body = b"" if scope["method"] == "HEAD" else part.sealed(part.opened.plain or b"")
        await send({"type": "http.response.start", "status": part.status, "headers": part.headers})
        await send({"type": "http.response.body", "body": body[part.span.start : part.span.stop]})

    async def _send(self, scope: Scope, receive: Receive, send: Send, part: _Part) -> None:
        """Send a part. If it cannot be finished, the connection closes before the announced length is reached."""
        empty = part.span.start == part.span.stop or part.opened.descriptor is None
        chunks = iter(()) if part.opened.descriptor is None else self._chunks(part, part.opened.descriptor)
        try:
            # Produce the first bytes before sending the status: an early failure is then an error, not half a file.
            chunk = b"" if empty else await in_pool(self._reads, next, chunks, b"")
        except (KropotError, OSError) as error:
            await failed(error)(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": part.status, "headers": part.headers})
        left = part.span.stop - part.span.start - len(chunk)
        if empty or left == 0:
            await send({"type": "http.response.body", "body": chunk})
            return
        try:
            async with noticing_hang_up(receive) as gone:
                while True:
                    await send({"type": "http.response.body", "body": chunk, "more_body": left > 0})
                    if left <= 0 or gone.done():
                        return
                    chunk = await in_pool(self._reads, next, chunks, b"")
                    left -= len(chunk)
        except (ChangedError, OSError) as error:
            # The announced length is never reached.
            log.warning("transfer_broken", reason=type(error).__name__)
            cut_off(scope)


def failed(error: KropotError | OSError) -> Response:  # noqa: PLR0911 -- one for each way to fail
    """Return the answer to a request that failed before anything was sent."""
    match error:
        case RequestRefusedError():
            return refusal(str(error))
        case NotAcceptedError():
            return failure(str(error), error.http_status)
        case NotServedError():
            return answer({"status": "Not found", "http_code": 404, "object": None}, 404)
        case UnsettledError() | ChangedError():
            return failure(str(error), 503, {"retry-after": "2"})
        case KropotError():
            log.warning("content_failed", reason=type(error).__name__)
            return failure("The server cannot answer now: try again later", 503, {"retry-after": "10"})
        case FolderAwayError():
            return failure("The served folder is missing: check that it is mounted", 503, {"retry-after": "10"})
        case _:
            log.warning("content_unreadable", reason=errorcode.get(error.errno or 0, "EIO"))
            return failure("The server cannot read the file: check the disk and the permissions on the server", 500)


def content_of(birth: Birth, plain: bytes) -> bytes:
    """Return the content of an object, given the whole file."""
    if birth.is_whole:
        return plain
    return birth.content(lambda offset, size: plain[offset : offset + size])(0, birth.form.plain_length)


def _unchanged(read_file: ReadAt) -> ReadAt:
    return read_file
