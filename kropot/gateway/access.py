"""Authorization: finds the token of a request and decides whether to accept it."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from kropot.errors import KropotError
from kropot.gateway.accepts import names_media_type
from kropot.gateway.tokenspec import STREAM_ROLE
from kropot.sc2.layout import MEDIA_TYPE
from kropot.serving.pools import in_pool

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

    from starlette.types import Scope

    from kropot.gateway.token import Token
    from kropot.gateway.tokens import TokenBook

_MOST_FIELDS = 64


class RequestRefusedError(KropotError):
    """The client may not have what it asks for."""

    http_status = 403


class NotAcceptedError(KropotError):
    """The client does not accept the method that its token seals with."""

    http_status = 406


class Access:
    """Checks the token of each request."""

    def __init__(self, book: TokenBook, pool: Executor, clock_s: Callable[[], int]) -> None:
        """Accept the tokens of `book`. Database queries run in `pool`."""
        self._book = book
        self._pool = pool
        self._clock_s = clock_s
        self.used: dict[int, int] = {}
        """When each token was last accepted since the start, by its number, in seconds since 1970."""

    async def admit(self, scope: Scope, role: str) -> Token:
        """Return the token of a request, if it is valid now, allowed for this client, and has the role.

        Raises:
            RequestRefusedError: the request has no token, or one that is not accepted.
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
        self.used[token.number] = self._clock_s()
        return token

    async def admit_to_contents(self, scope: Scope) -> Token:
        """Return the token of a request for contents.

        Raises:
            RequestRefusedError: it is not accepted.
            NotAcceptedError: it seals by sc2, and the client does not say that it can read sc2.
        """
        token = await self.admit(scope, STREAM_ROLE)
        if token.held is not None and not names_media_type(scope["headers"], MEDIA_TYPE):
            raise NotAcceptedError(
                f"This token seals by sc2: name {MEDIA_TYPE} in the header Accept, as kropotcli does"
            )
        return token


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
