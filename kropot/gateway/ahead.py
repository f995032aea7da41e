"""Makes the entries of lists before anybody asks: ids, births of versions and sealed forms, right after a scan.

The first list then finds everything, and later ones find what changed. Nothing depends on it: a list makes the rest.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from kropot.errors import WrongKeyError
from kropot.gateway.entries import seals_quickly
from kropot.gateway.revocations import RevocationsError
from kropot.gateway.serving import ChangedError
from kropot.gateway.state import FOR_OTHERS, FOR_SEALED
from kropot.gateway.tokenspec import STREAM_ROLE
from kropot.gateway.vaults import RetiredMasterError

if TYPE_CHECKING:
    from collections.abc import Callable

    from kropot.gateway.state import State
    from kropot.gateway.telling import Tellings
    from kropot.gateway.token import Token
    from kropot.gateway.tokens import TokenBook

_AT_ONCE: Final = 1024
_SECOND: Final = struct.Struct(">q")


class Ahead:
    """Makes list entries for the tokens of one gateway in advance."""

    def __init__(self, state: State, tellings: Tellings, book: TokenBook, clock_s: Callable[[], int]) -> None:
        """Make entries with `tellings`, as lists do."""
        self._state = state
        self._tellings = tellings
        self._book = book
        self._clock_s = clock_s
        self._until: dict[int, int] = {}

    def prepare(self, stop: Callable[[], bool]) -> None:
        """Make the entries of all versions that were dated since the last call, for each token that may list them.

        The database remembers how far this got. Without such tokens, only its source and tokens are read. Plain tokens
        are left out because nothing is sealed for them, and so are tokens with a passphrase that makes forms slow.

        Raises:
            StateError: the database cannot be used.
        """
        source = self._state.source()
        closed = source.last_date
        if not source.is_ready or closed is None:
            return
        try:
            tokens = self._book.all()
        except (WrongKeyError, RevocationsError):
            # A request with a token reports this error.
            return
        done = set[int]()
        for token in tokens:
            if token.scope not in done and not token.is_plain and self._is_live(token) and seals_quickly(token):
                done.add(token.scope)
                self._tell(token, closed, stop)

    def _tell(self, token: Token, closed: int, stop: Callable[[], bool]) -> None:
        until = begun = self._begun(token.scope)
        while until < closed and not stop():
            rows = self._state.versions_after(until, _AT_ONCE, FOR_OTHERS if token.held is None else FOR_SEALED)
            try:
                if rows:
                    self._tellings.of(token, rows)
            except (ChangedError, RetiredMasterError):
                # A list request reports why.
                break
            until = rows[-1].date or closed if rows else closed
        self._until[token.scope] = until
        if until != begun:
            self._state.keep_value(_name(token.scope), _SECOND.pack(until))

    def _begun(self, scope: int) -> int:
        """Return the second up to which the entries of all versions were made for a scope."""
        if scope not in self._until:
            kept = self._state.value(_name(scope))
            self._until[scope] = -1 if kept is None else _SECOND.unpack(kept)[0]
        return self._until[scope]

    def _is_live(self, token: Token) -> bool:
        return token.revoked_s is None and self._clock_s() < token.expires_s and token.may(STREAM_ROLE)


def _name(scope: int) -> str:
    return f"told ahead {scope}"
