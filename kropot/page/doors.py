"""Who may look at the page: a one-time code or a token is exchanged for a cookie, which only this page gets back."""

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
    """Lets people in. `takes_token` says whether a token can be typed in, `is_secure` whether the page has TLS."""

    takes_token: bool
    is_secure: bool

    def enter(self, code: str) -> str | None:
        """Return the cookie for a one-time code, None if it is not good."""
        ...

    def sign_in(self, token: str) -> str | None:
        """Return the cookie for a token, None if it is not good."""
        ...

    def window(self, cookie: str | None, bearer: str | None) -> Window | None:
        """Return what whoever has this cookie or token may look at, None for nobody."""
        ...


class OneTimeCodes:
    """Codes that are good once, and the sessions that they become. All are kept as hashes, in memory alone."""

    def __init__(self, *, code_s: float = CODE_S, clock_s: Callable[[], float] = time.monotonic) -> None:
        """Make codes that are good for so long."""
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
        """Return a new session for a code, which is used up; None if it is not good."""
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
    """The door of `kropotcli browse`: one window, for whoever has the address that was printed."""

    takes_token = False
    is_secure = False

    def __init__(self, window: Window, codes: OneTimeCodes) -> None:
        """Open this window."""
        self._window = window
        self._codes = codes

    def enter(self, code: str) -> str | None:
        """Return the cookie for the code that was printed."""
        return self._codes.enter(code)

    def sign_in(self, token: str) -> str | None:
        """Take no token: there is none."""
        del token
        return None

    def window(self, cookie: str | None, bearer: str | None) -> Window | None:
        """Return the window to whoever has a session."""
        del bearer
        return self._window if self._codes.knows(cookie) else None


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
