"""Keeps secrets out of all output, by a value that hides itself and by `redact`."""

from __future__ import annotations

import hmac
import json
import re
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, unquote_plus

if TYPE_CHECKING:
    from collections.abc import Callable

    from msgspec import Struct

HIDDEN: Final = "[hidden]"

_SHORTEST: Final = 4
"""Shorter texts are not looked for, because they are not secrets and hiding them would damage ordinary words."""

_USER_INFO: Final = re.compile(r"[\w.+-]+://[^:/]*:([^@]*(?:@[^@/?#]*)*)@")
"""The password before a URL's host, as SQLAlchemy reads it: it can contain a slash and, by mistake, an "@".

The user before it can contain anything except a colon and a slash: a hosted MySQL has users like `me@server`.
"""

_PARAMETER: Final = re.compile(r"[?&;]([^=&;]*)=([^&;]*)")
_CONFIDENTIAL: Final = re.compile(r"pass|pwd|secret|token|key", re.IGNORECASE)
"""A parameter whose name contains this is a credential: `password`, `sslpassword`, `passwd`, `hexkey`, ..."""

_known: set[str] = set()
"""Every secret of the whole process, in every spelling in which it could leak."""


def repr_without(*hidden: str) -> Callable[[Struct], str]:
    """Return a `__repr__` for a class with secret or very long fields: it shows all fields except these."""

    def shown(self: Struct) -> str:
        fields = (name for name in self.__struct_fields__ if name not in hidden)
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in fields)})"

    return shown


class Secret:
    """A text that only `reveal` returns; its repr, its str and every log line say `[hidden]`.

    Making one adds a second protection: from then on, `redact` hides the text wherever it occurs.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        """Keep `text`, and have `redact` hide it from now on."""
        self._text = text
        guard(text)

    def reveal(self) -> str:
        """Return the text itself."""
        return self._text

    def __repr__(self) -> str:
        """Say that there is a secret, but not which."""
        return f"Secret({HIDDEN})"

    def __str__(self) -> str:
        """Say that there is a secret, but not which."""
        return HIDDEN

    def __eq__(self, other: object) -> bool:
        """Compare in constant time."""
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._text.encode(), other.reveal().encode())

    def __hash__(self) -> int:
        """Hash like the text."""
        return hash(self._text)


def guard(text: str) -> None:
    """Have `redact` hide `text` from now on, also in its spelling in JSON, in a URL and in a Python literal."""
    if len(text) >= _SHORTEST:
        _known.update({text, json.dumps(text)[1:-1], quote(text, safe=""), repr(text)[1:-1]})


def credentials_in(url: str) -> list[str]:
    """Return every credential in a URL, as spelt there: the password before the host, and those in the query."""
    return [url[start:end] for start, end in _spans(url)]


def hide_credentials(url: str) -> str:
    """Return a URL with every credential in it hidden, and any other text as is."""
    for start, end in reversed(_spans(url)):
        url = url[:start] + HIDDEN + url[end:]
    return url


def shown_url(text: str) -> str:
    """Return the text of an option that should be a URL, with its credentials hidden, or all of it if it is no URL.

    Nobody can say where the password is in a mistyped URL.
    """
    return hide_credentials(text) if "://" in text else f"{HIDDEN}, because it is not a URL"


def guard_credentials(url: str) -> None:
    """Have `redact` hide every credential in a URL from now on, encoded and decoded."""
    for credential in credentials_in(url):
        guard(credential)
        guard(unquote_plus(credential))


def redact(text: str) -> str:
    """Return `text` with every known secret hidden."""
    for secret in _known:
        if secret in text:
            text = text.replace(secret, HIDDEN)
    return text


def _spans(url: str) -> list[tuple[int, int]]:
    """Return where the credentials of a URL begin and end, in order."""
    if "://" not in url:
        return []
    spans = []
    query = url.find("?")
    if (found := _USER_INFO.search(url)) is not None:
        spans.append(found.span(1))
        query = url.find("?", found.end())
    if query >= 0:
        spans += [
            each.span(2) for each in _PARAMETER.finditer(url, query) if _CONFIDENTIAL.search(unquote_plus(each[1]))
        ]
    return [(start, end) for start, end in spans if start < end]
