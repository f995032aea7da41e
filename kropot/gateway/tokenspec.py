"""The JSON that asks for a token: its rules, and the messages about errors in it (docs/protocol.md).

All functions are pure. The messages under `fields` are the old server's where it has them.
"""

from __future__ import annotations

import ipaddress
import re
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from msgspec import Struct

from kropot.errors import UsageError
from kropot.sc2.layout import METHOD as SC2
from kropot.secret import repr_without
from kropot.securecopy.sealing import DIGESTS, MAX_ROUNDS, METHOD, trimmed

STREAM_ROLE: Final = "securecopy.stream"
ADMIN_ROLE: Final = "security.administrator"

NOT_VALID: Final = "This value is not valid."
EXTRA: Final = "This form should not contain extra fields."
ALL_OR_NOTHING: Final = "secure_copy_options_incomplete_fill_all_or_nothing"
NOT_UUID: Final = "id_expects_to_be_uuidv4_format"

MIN_PASSPHRASE: Final = 12
"""The shortest passphrase of a new token, in characters. Someone with a copy can try guesses without being noticed."""

MIN_ROUNDS: Final = 1000
"""Fewer rounds cause a warning if a person chose the passphrase."""

TOO_SHORT: Final = (
    f"this has fewer than {MIN_PASSPHRASE} characters, so it can be guessed: leave it out and the gateway makes a key, "
    "or choose a longer one"
)

NOT_OF_SC2: Final = "sc2 takes its keys from a vault: leave this out"

KEY, SALT = "secureCopyEncryptionKey", "secureCopyDigestSalt"
CIPHER, DIGEST, ROUNDS = "secureCopyEncryptionMethod", "secureCopyDigestMethod", "secureCopyDigestRounds"
CRYPTO_FIELDS: Final = (KEY, CIPHER, DIGEST, ROUNDS, SALT)
PADDING: Final = "padding"
PADME: Final = "padme"
"""The only kind of padding."""

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", re.IGNORECASE)
_ROLE = re.compile(r"[a-z][a-z0-9_]*(\.[a-z0-9_]+)+")
_TAG = re.compile(r"[A-Za-z0-9._-]{3,32}")
_TOP = frozenset({"id", "roles", "expires", "data"})
_LISTS = ("tags", "allowedMimeTypes", "allowedIpAddresses", "allowedUserAgents")
_DATA = frozenset({*_LISTS, "maxAllowedFileSize", *CRYPTO_FIELDS, PADDING})
_MADE_KEY = re.compile(r"[0-9a-f]{64}")
_MOST = 256
_LONGEST = 1024
_MAX_SIZE = (1 << 63) - 1


class SpecError(UsageError):
    """The request for a token is not valid. `fields` maps each wrong field's name to the messages about it."""

    def __init__(self, fields: dict[str, list[str]]) -> None:
        """Keep the fields. The message names all of them, but no values."""
        listed = "; ".join(f"{name}: {', '.join(messages)}" for name, messages in fields.items())
        super().__init__(f"the request for a token is not valid, correct these fields: {listed}")
        self.fields = fields


class TokenSealing(Struct, frozen=True, kw_only=True):
    """How a token seals. `passphrase` None asks for a key of 256 random bits, and `salt` None for a random salt."""

    passphrase: str | None
    salt: str | None
    digest: str
    rounds: int

    __repr__ = repr_without("passphrase", "salt")

    @property
    def warning(self) -> str | None:
        """Say what is weak about the passphrase that was asked for, and what to do. None if nothing is."""
        if self.passphrase is None or _MADE_KEY.fullmatch(self.passphrase) or self.rounds >= MIN_ROUNDS:
            return None
        return (
            f"with {self.rounds:,} rounds, anyone with one copy can guess passphrases fast: leave out {KEY} and the "
            f"gateway makes a key that nobody can guess, or ask for at least {MIN_ROUNDS:,} rounds in {ROUNDS}"
        )


class VaultSealing(Struct, frozen=True, kw_only=True):
    """The token seals by sc2, with the keys of a vault. `padding` hides how long contents are."""

    padding: bool


class TokenSpec(Struct, frozen=True, kw_only=True):
    """A valid request for a token. `sealing` is None for a plain token. `expires_s` is in seconds since 1970.

    `max_file_size` is in bytes.
    """

    id: str | None
    roles: tuple[str, ...]
    expires_s: int
    tags: tuple[str, ...]
    mime_types: tuple[str, ...]
    max_file_size: int | None
    ip_addresses: tuple[str, ...]
    user_agents: tuple[str, ...]
    sealing: TokenSealing | VaultSealing | None

    __repr__ = repr_without("id")


def asks_for_sealing(value: Any) -> bool:
    """Whether a request in decoded JSON says anything about sealing."""
    data = value.get("data") if isinstance(value, dict) else None
    return isinstance(data, dict) and any(name.startswith("secureCopy") and data[name] for name in data)


def sealed_by_default(value: Any) -> Any:
    """Return a request that asks for sc2 if it says nothing about sealing. A token that may not pull seals nothing."""
    if not isinstance(value, dict) or STREAM_ROLE not in (_texts(value.get("roles")) or ()) or asks_for_sealing(value):
        return value
    data = value.get("data") or {}
    return {**value, "data": {**data, CIPHER: SC2}} if isinstance(data, dict) else value


def parse_spec(value: Any, *, now_s: int, rounds_of_made_keys: int) -> TokenSpec:
    """Return the request in decoded JSON. A token with "auto" expires in 30 minutes, one with "never" in 40 years.

    Raises:
        SpecError: the request is not valid. The error names every wrong field.
    """
    if not isinstance(value, dict):
        raise SpecError({"form": ["this must be a JSON object"]})
    data = value.get("data")
    data = {} if data is None or data == [] else data
    if not isinstance(data, dict):
        raise SpecError({"data": [NOT_VALID]})
    wrong = {f"form.{name[:64]}": [EXTRA] for name in sorted(set(value) - _TOP)}
    wrong |= {f"form.data.{name[:64]}": [EXTRA] for name in sorted(set(data) - _DATA)}
    token_id = value.get("id") or None
    if token_id is not None and not (isinstance(token_id, str) and _UUID.fullmatch(token_id)):
        wrong["id"] = [NOT_UUID]
    roles = _roles(value.get("roles"))
    if not roles:
        wrong["roles"] = [NOT_VALID]
    expires_s = _expires(value.get("expires"), now_s)
    if expires_s is None:
        wrong["expires"] = ["this must be a UTC time like 2030-05-01 01:06:01, or auto, or never"]
    lists = {name: _list(name, data.get(name)) for name in _LISTS}
    wrong |= {f"form.data.{name}": [NOT_VALID] for name, texts in lists.items() if texts is None}
    size = _size(data.get("maxAllowedFileSize"))
    if size is False:
        wrong["form.data.maxAllowedFileSize"] = [NOT_VALID]
    sealing = _sealing(data, wrong, rounds_of_made_keys)
    if wrong or expires_s is None:
        raise SpecError(wrong)
    return TokenSpec(
        id=token_id,
        roles=roles,
        expires_s=expires_s,
        tags=lists["tags"] or (),
        mime_types=lists["allowedMimeTypes"] or (),
        max_file_size=None if size is None else int(size),
        ip_addresses=lists["allowedIpAddresses"] or (),
        user_agents=lists["allowedUserAgents"] or (),
        sealing=sealing,
    )


def shown_time(seconds: int) -> str:
    """Return seconds since 1970 as the token JSON writes them: in UTC, to the second."""
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%d %H:%M:%S")


def _sealing(
    data: dict[str, Any], wrong: dict[str, list[str]], rounds_of_made_keys: int
) -> TokenSealing | VaultSealing | None:
    """Return how the token must seal, according to its five fields; None for a plain token, or if a field is wrong.

    - With none of the fields, the token is plain, as on the old server.
    - With the method sc2, none of the other four may be given, but padding may.
    - With a key, all five fields must be given.
    - Without a key but with any other field, the gateway makes the key and the missing values. More rounds add nothing
      to 256 random bits, so the gateway uses few rounds, whatever the request says.
    """
    given = {name for name in CRYPTO_FIELDS if not any(data.get(name) == empty for empty in (None, "", 0))}
    if data.get(CIPHER) == SC2:
        wrong |= {f"form.data.{name}": [NOT_OF_SC2] for name in CRYPTO_FIELDS if name in given - {CIPHER}}
        padding = data.get(PADDING) or None
        if padding not in (None, PADME):
            wrong[f"form.data.{PADDING}"] = [NOT_VALID]
        return VaultSealing(padding=padding is not None)
    if PADDING in data:
        wrong[f"form.data.{PADDING}"] = [EXTRA]
    if not given:
        return None
    if KEY in given and given != set(CRYPTO_FIELDS):
        wrong["data"] = [ALL_OR_NOTHING]
        return None
    asked = {name: data[name] for name in given}
    passphrase, salt = asked.get(KEY), asked.get(SALT)
    digest, rounds = asked.get(DIGEST, DIGESTS[0]), _number(asked.get(ROUNDS, rounds_of_made_keys))
    checks = (
        (KEY, passphrase is None or _is_secret(passphrase)),
        (SALT, salt is None or _is_secret(salt)),
        (CIPHER, asked.get(CIPHER, METHOD) == METHOD),
        (DIGEST, digest in DIGESTS),
        (ROUNDS, rounds is not None and 1 <= rounds <= MAX_ROUNDS),
    )
    for name, is_fine in checks:
        if not is_fine:
            wrong[f"form.data.{name}"] = [NOT_VALID]
    if f"form.data.{KEY}" not in wrong and passphrase is not None and len(trimmed(passphrase)) < MIN_PASSPHRASE:
        wrong[f"form.data.{KEY}"] = [TOO_SHORT]
    if wrong or rounds is None:
        return None
    return TokenSealing(
        passphrase=None if passphrase is None else trimmed(passphrase),
        salt=None if salt is None else trimmed(salt),
        digest=digest,
        rounds=rounds_of_made_keys if passphrase is None else rounds,
    )


def _is_secret(value: Any) -> bool:
    """Whether this can be a passphrase or a salt: text that UTF-8 can encode, with more than white space."""
    if not isinstance(value, str) or len(value) > _LONGEST or not trimmed(value):
        return False
    return not any("\ud800" <= char <= "\udfff" for char in value)


def _roles(value: Any) -> tuple[str, ...]:
    """Return the roles, or () if they are not valid."""
    texts = _texts(value)
    if texts is None or not all(_ROLE.fullmatch(text) for text in texts):
        return ()
    return tuple(dict.fromkeys(texts))


def _expires(value: Any, now_s: int) -> int | None:
    """Return when the token expires, in seconds since 1970, or None if the value is not valid.

    A time without a zone is in UTC.
    """
    now = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=now_s)
    if value == "auto":
        return now_s + 30 * 60
    if value == "never":
        # Forty calendar years, as on the old server. The year 2100 has no 29 February, so take the 28th in February.
        day = min(now.day, 28) if now.month == 2 else now.day  # noqa: PLR2004 - February
        return int(now.replace(year=now.year + 40, day=day).timestamp())
    if not isinstance(value, str) or len(value) > 40:  # noqa: PLR2004 - no valid time is longer
        return None
    try:
        when = datetime.fromisoformat(value.strip())
    except ValueError:
        return None
    when = when.replace(tzinfo=UTC) if when.tzinfo is None else when
    try:
        return int(when.timestamp())
    except OverflowError:
        return None


def _texts(value: Any) -> tuple[str, ...] | None:
    """Return a list of texts, () if there is no value, or None if the value is not such a list."""
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > _MOST:
        return None
    if not all(isinstance(each, str) and 0 < len(each) <= _LONGEST and each.isprintable() for each in value):
        return None
    return tuple(value)


def _list(name: str, value: Any) -> tuple[str, ...] | None:
    """Return the list with this name, () if there is no value, or None if an element is not valid."""
    texts = _texts(value)
    return texts if texts is not None and all(_is_fine(name, text) for text in texts) else None


def _is_fine(name: str, text: str) -> bool:
    """Whether a text is valid in the list with this name."""
    if name == "allowedIpAddresses":
        try:
            ipaddress.ip_network(text, strict=False)
        except ValueError:
            return False
    return name != "tags" or _TAG.fullmatch(text) is not None


def _size(value: Any) -> int | bool | None:
    """Return a size in bytes, None if there is no value, or False if the value is not a size."""
    if value is None or value == "":
        return None
    number = _number(value)
    return False if number is None or not 0 <= number <= _MAX_SIZE else number


def _number(value: Any) -> int | None:
    """Return an integer given as a number or as digits, or None for anything else."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,19}", value):
        return int(value)
    return value if type(value) is int else None
