"""Admit requests by their token, and refuse those without one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kropot.errors import KropotError
from kropot.serving.pools import in_pool

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from starlette.types import Scope

    from kropot.keeper.tokens import KeeperTokens
    from kropot.keeper.visitor import Role, Visitor

_SCHEME: Final = "bearer "


class UnknownVisitorError(KropotError):
    """The request has no token, or one that is not valid here."""

    http_status = 401


class SmallerRoleError(KropotError):
    """The token is valid, but its role does not allow this."""

    http_status = 403


class Admission:
    """Checks the token of each request, in a pool, because each check queries the database."""

    def __init__(self, tokens: KeeperTokens, pool: Executor) -> None:
        """Accept these tokens."""
        self._tokens = tokens
        self._pool = pool

    async def admit(self, scope: Scope) -> Visitor:
        """Return the visitor who sent the request. Raises: UnknownVisitorError."""
        sent = [value for name, value in scope["headers"] if name == b"authorization"]
        text = sent[0].decode("latin-1") if len(sent) == 1 else ""
        if text[: len(_SCHEME)].lower() != _SCHEME:
            raise UnknownVisitorError("send a token of this keeper in the header: Authorization: Bearer TOKEN")
        visitor = await in_pool(self._pool, self._tokens.visitor, text[len(_SCHEME) :].strip())
        if visitor is None:
            raise UnknownVisitorError("this token is not valid here: it is unknown, expired or revoked")
        return visitor


def demand(visitor: Visitor, role: Role) -> None:
    """Return if the visitor's token allows what this role may do. Raises: SmallerRoleError."""
    if not visitor.may(role):
        raise SmallerRoleError(f"this needs a token with the role {role}, but the one sent has the role {visitor.role}")
