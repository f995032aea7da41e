"""Access to the page: exchange a one-time code or a token for a cookie, which the browser sends only to this page."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from kropot.page.window import Window

CODE_S: Final = 600.0
SESSION_S: Final = 12 * 3600.0
_BYTES: Final = 32
_MOST_SESSIONS: Final = 64


class Door(Protocol):
    """Admits people. `takes_token` says whether a token can be typed in, `is_secure` whether the page has TLS."""

    takes_token: bool
    is_secure: bool

    def enter(self, code: str) -> str | None:
        """Return the cookie for a one-time code, None if the code is not valid."""
        ...

    def sign_in(self, token: str) -> str | None:
        """Return the cookie for a token, None if the token is not valid."""
        ...

    def window(self, cookie: str | None, bearer: str | None) -> Window | None:
        """Return the window for the holder of this cookie or token, None if neither is valid."""
        ...


class OneTimeCodes:
    """Codes that work once, and the sessions that they become. All are kept as hashes, and only in memory."""

    def __init__(self, *, code_s: float = CODE_S, clock_s: Callable[[], float] = time.monotonic) -> None:
        """Make codes that are valid for `code_s` seconds."""
        self._code_s = code_s
        self._clock_s = clock_s
        self._codes: dict[bytes, float] = {}
        self._sessions: dict[bytes, float] = {}

    def code(self) -> str:
        """Return a new code."""
        made = secrets.token_urlsafe(_BYTES)
        self._codes[_hash(made)] = self._clock_s() + self._code_s
        return made

    def enter(self, code: str) -> str | None:
        """Use up a code and return a new session, None if the code is not valid."""
        until = self._codes.pop(_hash(code), None)
        if until is None or until < self._clock_s():
            return None
        if len(self._sessions) >= _MOST_SESSIONS:
            del self._sessions[min(self._sessions, key=self._sessions.__getitem__)]
        made = secrets.token_urlsafe(_BYTES)
        self._sessions[_hash(made)] = self._clock_s() + SESSION_S
        return made

    def knows(self, session: str | None) -> bool:
        """Return whether this is a session that has not ended."""
        if session is None:
            return False
        wanted = _hash(session)
        found = [until for known, until in self._sessions.items() if hmac.compare_digest(known, wanted)]
        return bool(found) and found[0] >= self._clock_s()


class OwnDoor:
    """The door of `kropotcli browse`: one window, for anyone who has the printed address."""

    takes_token = False
    is_secure = False

    def __init__(self, window: Window, codes: OneTimeCodes) -> None:
        """Admit visitors to this window."""
        self._window = window
        self._codes = codes

    def enter(self, code: str) -> str | None:
        """Return the cookie for the printed code."""
        return self._codes.enter(code)

    def sign_in(self, token: str) -> str | None:
        """Return None, because this page has no tokens."""
        del token
        return None

    def window(self, cookie: str | None, bearer: str | None) -> Window | None:
        """Return the window if the cookie is a valid session."""
        del bearer
        return self._window if self._codes.knows(cookie) else None


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
