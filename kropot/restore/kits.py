"""Key kits: the JSON that made a token, read as what opens the elements collected under it; pure."""

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


def read_kit(text: bytes, *, name: str) -> tuple[Kit, ...]:
    """Return what the kit can mean, most likely first; the four fields stand at the top level or under `data`.

    Servers take the white space around a passphrase off when a token is made, so a kit that has some is read both
    ways. `name` is the file's, for messages; the passphrase never stands in one.

    Raises:
        UsageError: it is no JSON object, or a field is missing or impossible.

    """
    fields = _fields(text, name)
    passphrase = _text(fields, _KEY, name)
    guard(passphrase)
    rounds = fields.get(_ROUNDS)
    if not isinstance(rounds, int) or isinstance(rounds, bool):
        raise UsageError(f"the kit {name} has no whole number as {_ROUNDS}")
    spellings = dict.fromkeys((trimmed(passphrase), passphrase))
    method, digest = _text(fields, _METHOD, name), _text(fields, _DIGEST, name)
    try:
        return tuple(Kit(each, method=method, digest=digest, rounds=rounds) for each in spellings if each)
    except UsageError as error:
        raise UsageError(f"the kit {name} cannot be used: {error}") from None


def describe(kits: Sequence[Kit]) -> str:
    """Return that these kits do not open something, for messages; nothing of what they hold."""
    return "the key does not open" if len(kits) == 1 else "none of the keys opens"


def _fields(text: bytes, name: str) -> dict[str, Any]:
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        raise UsageError(f"the kit {name} is no JSON: it should be the request that made the token") from None
    candidates = [parsed, parsed.get("data")] if isinstance(parsed, dict) else []
    for each in candidates:
        if isinstance(each, dict) and _KEY in each:
            return each
    raise UsageError(
        f"the kit {name} has no {_KEY}, neither at its top nor under data: it should be the request with the key in it "
        "that made the token, or the kit that the gateway wrote, not a server's answer"
    )


def _text(fields: dict[str, Any], field: str, name: str) -> str:
    value = fields.get(field)
    if not isinstance(value, str) or not value:
        raise UsageError(f"the kit {name} has no text as {field}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UsageError(f"the kit {name} has half a character in {field}") from None
    return value
