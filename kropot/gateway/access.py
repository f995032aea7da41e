"""Authorization: finds the token of a request and decides whether to accept it."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qs

import orjson
from starlette.responses import Response

from kropot.errors import KropotError

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

    from starlette.types import Scope

    from kropot.gateway.token import Token
    from kropot.gateway.tokens import TokenBook

_T = TypeVar("_T")
_MOST_FIELDS = 64
_STUCK_S = 0.05


class RequestRefusedError(KropotError):
    """The client may not have what it asks for."""

    http_status = 403


class Access:
    """Checks the token of each request."""

    def __init__(self, book: TokenBook, pool: Executor, clock_s: Callable[[], int]) -> None:
        """Accept the tokens of `book`. Database queries run in `pool`."""
        self._book = book
        self._pool = pool
        self._clock_s = clock_s

    async def admit(self, scope: Scope, role: str) -> Token:
        """Return the token of a request, if it is valid now, allowed for this client, and has the role.

        Raises:
            RefusedError: the request has no token, or one that is not accepted.
        """
        headers = dict(scope["headers"])
        presented = _presented(scope["query_string"], headers)
        if presented is None:
            raise RequestRefusedError("Invalid authorization. Details: no token was sent")
        token = self._book.remembered(presented) or await in_pool(self._pool, self._book.load, presented)
        if token is None:
            raise RequestRefusedError(
                "Invalid authorization. Details: Invalid token, cannot find token id in the persistent database"
            )
        client = scope.get("client")
        why = token.refusal(
            now_s=self._clock_s(),
            ip=None if client is None else client[0],
            user_agent=headers.get(b"user-agent", b"").decode("latin-1"),
        )
        if why is not None:
            raise RequestRefusedError(f"Invalid authorization. Details: {why}")
        if not token.may(role):
            raise RequestRefusedError("Current token does not allow to replicate the data")
        return token


async def in_pool(pool: Executor, work: Callable[..., _T], *args: Any) -> _T:
    """Run a function that may block in a thread of the pool."""
    return await asyncio.get_running_loop().run_in_executor(pool, work, *args)


class Opens:
    """Runs what may hang, on a file system for example, without holding up what does not.

    A few threads do all the work as long as nothing hangs: many would only get into each other's way. Work that could
    not begin within 50 ms goes to a pool that grows to 128 threads.
    """

    def __init__(self) -> None:
        """Start no thread yet."""
        self._few = ThreadPoolExecutor(2, thread_name_prefix="open")
        self._many = ThreadPoolExecutor(128, thread_name_prefix="open-slow")

    async def run(self, work: Callable[..., _T], *args: Any) -> _T:
        """Run a function that may block for long."""
        job = self._few.submit(work, *args)
        moved: list[bool] = []
        timer = asyncio.get_running_loop().call_later(_STUCK_S, lambda: moved.append(job.cancel()))
        try:
            return await asyncio.wrap_future(job)
        except asyncio.CancelledError:
            if moved != [True]:
                raise
        finally:
            timer.cancel()
        return await in_pool(self._many, work, *args)

    def close_file(self, descriptor: int) -> None:
        """Close a file some time soon: even this can wait for a network file system."""
        self._many.submit(os.close, descriptor)

    def shutdown(self) -> None:
        """End the threads when their work is done."""
        for pool in (self._few, self._many):
            pool.shutdown(cancel_futures=True)


def answer(value: Any, status: int, headers: dict[str, str] | None = None) -> Response:
    """Return a JSON answer."""
    return Response(orjson.dumps(value), status_code=status, headers=headers, media_type="application/json")


def failure(sentence: str, status: int, headers: dict[str, str] | None = None) -> Response:
    """Return an error in the old server's JSON shape."""
    return Response(failure_json(sentence, status), status, headers, media_type="application/json")


def refusal(sentence: str, status: int = 403) -> Response:
    """Return an error to a client that has shown no valid token. It keeps no connection."""
    return failure(sentence, status, {"connection": "close"})


def failure_json(sentence: str, status: int) -> bytes:
    """Return the body of an error, in the old server's shape."""
    return orjson.dumps({"status": sentence, "error_code": status, "http_code": status})


def _presented(query: bytes, headers: dict[bytes, bytes]) -> str | None:
    """Return the token that the client sent: in the query, else in the header `token`, else in `x-auth-token`."""
    if b"_token" in query:
        # A token in the query takes precedence over a header, even if it is invalid. The old server does the same.
        try:
            sent = parse_qs(query.decode("latin-1"), keep_blank_values=True, max_num_fields=_MOST_FIELDS)
        except ValueError:
            raise RequestRefusedError("Invalid authorization. Details: too many parameters") from None
        if "_token" in sent:
            return sent["_token"][-1]
    found = headers.get(b"token") or headers.get(b"x-auth-token")
    return None if found is None else found.decode("latin-1")
