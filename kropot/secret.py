"""Secrets, and the wall that keeps them out of every output: a value that hides itself, and `redact`."""

from __future__ import annotations

import hmac
import json
from typing import Final
from urllib.parse import quote

HIDDEN: Final = "[hidden]"

_SHORTEST: Final = 4
"""Shorter texts are not looked for: they are not secrets, and hiding them would damage ordinary words."""

_known: set[str] = set()
"""Every secret this process holds, in the spellings in which it could slip out; one wall serves the whole process."""


class Secret:
    """A text that shows itself only to `reveal`; its repr, its str and every log line say `[hidden]`.

    Making one raises the second wall too: from then on `redact` blots the text out wherever it turns up.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        """Keep `text`, and have `redact` look for it from now on."""
        self._text = text
        guard(text)

    def reveal(self) -> str:
        """Return the text itself."""
        return self._text

    def __repr__(self) -> str:
        """Say that there is something, and not what."""
        return f"Secret({HIDDEN})"

    def __str__(self) -> str:
        """Say that there is something, and not what."""
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
    """Have `redact` blot out `text` from now on, also as it is spelt in JSON, in a URL and in a Python literal."""
    if len(text) >= _SHORTEST:
        _known.update({text, json.dumps(text)[1:-1], quote(text, safe=""), repr(text)[1:-1]})


def redact(text: str) -> str:
    """Return `text` with every known secret blotted out."""
    for secret in _known:
        if secret in text:
            text = text.replace(secret, HIDDEN)
    return text
