"""For long answers: notice that the client hung up, and cut off an answer that cannot be finished."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from kropot.serving.guard import ABORT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import Receive, Scope


@asynccontextmanager
async def noticing_hang_up(receive: Receive) -> AsyncIterator[asyncio.Future[None]]:
    """Yield a future that is done once the client hangs up, so that nothing more is read or sealed for it."""
    gone = asyncio.ensure_future(_until_gone(receive))
    try:
        yield gone
    finally:
        gone.cancel()
        with suppress(asyncio.CancelledError):
            await gone


def cut_off(scope: Scope) -> None:
    """Close the connection in the middle of an answer, so that no client can mistake it for complete.

    A server without this extension closes the connection itself after an unfinished answer.
    """
    abort = scope.get("extensions", {}).get(ABORT)
    if abort is not None:
        abort["abort"]()


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
