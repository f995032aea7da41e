"""Read kits: the JSON request that made a token holds the key to its elements. Pure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from kropot.errors import UsageError
from kropot.secret import guard
from kropot.securecopy.sealing import Kit, trimmed

if TYPE_CHECKING:
    from collections.abc import Sequence

_KEY = "secureCopyEncryptionKey"
_METHOD = "secureCopyEncryptionMethod"
_DIGEST = "secureCopyDigestMethod"
_ROUNDS = "secureCopyDigestRounds"
_EXPECTED = "give the request that made the token, or the kit that the gateway wrote"


def read_kit(text: bytes, *, name: str) -> tuple[Kit, ...]:
    """Return the possible readings of a kit, the most likely first.

    The four fields are at the top level or under `data`. When a server makes a token, it removes white space around the
    passphrase. A passphrase with such white space therefore gives two kits: without it, and with it. `name` is the
    file's name for messages. No message contains the passphrase.

    Raises:
        UsageError: the kit is not a JSON object, or a field is missing or has an impossible value.

    """
    fields = _fields(text, name)
    passphrase = _text(fields, _KEY, name)
    guard(passphrase)
    rounds = fields.get(_ROUNDS)
    if not isinstance(rounds, int) or isinstance(rounds, bool):
        raise UsageError(f"the kit {name} has no whole number as {_ROUNDS}: {_EXPECTED}")
    spellings = dict.fromkeys((trimmed(passphrase), passphrase))
    method, digest = _text(fields, _METHOD, name), _text(fields, _DIGEST, name)
    try:
        return tuple(Kit(each, method=method, digest=digest, rounds=rounds) for each in spellings if each)
    except UsageError as error:
        raise UsageError(f"the kit {name} cannot be used: {error}") from None


def describe(kits: Sequence[object]) -> str:
    """Return the first words of a message that says that these kits do not open something. It shows no key."""
    return "the key does not open" if len(kits) == 1 else "none of the keys opens"


def _fields(text: bytes, name: str) -> dict[str, Any]:
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        raise UsageError(f"the kit {name} is not valid JSON: {_EXPECTED}") from None
    candidates = [parsed, parsed.get("data")] if isinstance(parsed, dict) else []
    for each in candidates:
        if isinstance(each, dict) and _KEY in each:
            return each
    raise UsageError(
        f"the kit {name} has no {_KEY}, neither at the top level nor under data: {_EXPECTED}; a server's answer "
        "does not hold the key"
    )


def _text(fields: dict[str, Any], field: str, name: str) -> str:
    value = fields.get(field)
    if not isinstance(value, str) or not value:
        raise UsageError(f"the kit {name} has no text as {field}: {_EXPECTED}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UsageError(f"the kit {name} has half a character in {field}: {_EXPECTED}") from None
    return value
