"""Sign-in to the keeper's page, by a token that is typed in or the one-time address that the keeper printed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kropot.keeper.visitor import Role, Visitor
from kropot.keeper.window import ReplicaWindow

if TYPE_CHECKING:
    from kropot.keeper.answering import KeeperAnswers
    from kropot.keeper.tokens import KeeperTokens
    from kropot.page.doors import OneTimeCodes
    from kropot.page.window import Window
    from ledger.log import Ledger

KEEPER = Visitor(number=0, role=Role.OWNER, label="keeper")
"""Visitors from the printed address. They see only what the person who keeps the replica can see anyway."""


class KeeperDoor:
    """Admits by token or code. The cookie holds the token itself, so revoking it takes effect at the next request."""

    takes_token = True

    def __init__(
        self, ledger: Ledger, answers: KeeperAnswers, tokens: KeeperTokens, codes: OneTimeCodes, *, is_secure: bool
    ) -> None:
        """Accept these tokens and codes. `is_secure` says that browsers reach the page only over TLS."""
        self._ledger, self._answers, self._tokens, self._codes = ledger, answers, tokens, codes
        self.is_secure = is_secure

    def enter(self, code: str) -> str | None:
        """Return the cookie for a printed code."""
        return self._codes.enter(code)

    def sign_in(self, token: str) -> str | None:
        """Return the cookie for a token."""
        return None if self._visitor(token) is None else token

    def window(self, cookie: str | None, bearer: str | None) -> Window | None:
        """Return what this visitor may see."""
        if bearer is None and self._codes.knows(cookie):
            return ReplicaWindow(self._ledger, self._answers, KEEPER)
        visitor = self._visitor(cookie if bearer is None else bearer)
        return None if visitor is None else ReplicaWindow(self._ledger, self._answers, visitor)

    def _visitor(self, text: str | None) -> Visitor | None:
        return None if not text else self._tokens.visitor(text)
