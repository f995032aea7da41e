"""The bulk route: many small contents in one answer, each of them whole or refused on its own. Raw ASGI."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from kropot.errors import KropotError
from kropot.gateway.contents import failed
from kropot.logs import log
from kropot.securecopy.bulkwire import MEDIA_TYPE, BadBulkRequestError, parse_request
from kropot.serving.answers import failure
from kropot.serving.sending import cut_off, noticing_hang_up

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.types import Receive, Scope, Send

    from kropot.gateway.access import Access
    from kropot.gateway.batch import BulkAnswers
    from kropot.gateway.token import Token
    from kropot.serving.pools import Opens, Turns

AT_ONCE: Final = 8
"""How many bulk answers each token gets at once. Each holds one piece in memory; further requests wait."""

_HEADERS: Final = [(b"content-type", MEDIA_TYPE.encode()), (b"cache-control", b"no-store")]


class Bulk:
    """Serves bulk requests."""

    def __init__(self, *, batches: BulkAnswers, access: Access, opens: Opens, turns: Turns) -> None:
        """Make the pieces of answers in `opens`, so a file system that hangs delays only requests for its files."""
        self._turns = turns
        self._batches = batches
        self._access = access
        self._opens = opens
        self._places: dict[int, asyncio.Semaphore] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["method"] != "POST":
            await failure("Method not allowed", 405, {"allow": "POST", "connection": "close"})(scope, receive, send)
            return
        try:
            token = await self._access.admit_to_contents(scope)
            asked = parse_request(await _body(receive))
        except BadBulkRequestError as error:
            await failure(str(error), error.http_status, {"connection": "close"})(scope, receive, send)
            return
        except KropotError as error:
            await failed(error)(scope, receive, send)
            return
        async with self._places.setdefault(token.number, asyncio.Semaphore(AT_ONCE)):
            await self._send(scope, receive, send, token, asked)

    async def _send(
        self, scope: Scope, receive: Receive, send: Send, token: Token, asked: list[tuple[str, str]]
    ) -> None:
        """Send the pieces. While the client receives one, the next is made. No thread waits for the client."""
        pieces: Iterator[bytes] = self._batches.pieces(token, asked)
        try:
            piece = await self._opens.run(self._turns.take, next, pieces, b"")
        except (KropotError, OSError) as error:
            await failed(error)(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        try:
            async with noticing_hang_up(receive) as gone:
                while piece and not gone.done():
                    following = asyncio.ensure_future(self._opens.run(self._turns.take, next, pieces, b""))
                    try:
                        await send({"type": "http.response.body", "body": piece, "more_body": True})
                        piece = await following
                    finally:
                        if not following.cancel():
                            following.exception()
                if not gone.done():
                    await send({"type": "http.response.body", "body": b""})
        except (KropotError, OSError) as error:
            # The end frame is missing.
            log.warning("transfer_broken", reason=type(error).__name__)
            cut_off(scope)


async def _body(receive: Receive) -> bytes:
    """Return the whole body. It has arrived, and is within its bound, before the application is called."""
    parts = []
    while (message := await receive())["type"] == "http.request":
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            break
    return b"".join(parts)
