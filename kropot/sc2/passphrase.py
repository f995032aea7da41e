"""A kit behind a person's passphrase. Argon2id stretches it to wrap the keys; changing it does not change the keys."""

from __future__ import annotations

import binascii
import hmac
import os
import unicodedata
from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, Any, Final

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from msgspec import Struct

from kropot.errors import IntegrityError, UsageError, WrongKeyError
from kropot.sc2.kit import FORMAT, MAX_KIT, hex_field, load_object, read_fields
from kropot.sc2.layout import NONCE_BYTES, VAULT_BYTES
from kropot.secret import guard, repr_without
from kropot.securecopy.wire import canonical_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kropot.sc2.kit import OwnerKit

MIN_PASSPHRASE: Final = 12
"""The shortest passphrase of a kit, in characters."""

SALT_BYTES: Final = 16

_KEY: Final = 32
_MAX_PASSPHRASE: Final = 1024
_MAX_MEMORY_KIB: Final = 1 << 20
_MAX_PASSES: Final = 64
_MAX_LANES: Final = 64
_MEMORY_A_LANE: Final = 8
_FIELDS: Final = frozenset({"format", "vault", "argon2id", "check", "wrapped"})


class Stretch(Struct, frozen=True, kw_only=True):
    """How Argon2id stretches a passphrase: memory in KiB, passes over it, lanes.

    The default is the second recommendation of RFC 9106, section 4. Raises UsageError for more than 1 GiB, 64 passes
    or 64 lanes.
    """

    salt: bytes
    memory_kib: int = 64 << 10
    passes: int = 3
    lanes: int = 4

    __repr__ = repr_without("salt")

    def __post_init__(self) -> None:
        """Refuse values that Argon2id does not allow, or that a hostile kit could ask for."""
        numbers = (self.memory_kib, self.passes, self.lanes)
        if len(self.salt) != SALT_BYTES or any(type(number) is not int for number in numbers):
            raise UsageError("the numbers for Argon2id are not whole numbers")
        if not (
            1 <= self.lanes <= _MAX_LANES
            and 1 <= self.passes <= _MAX_PASSES
            and _MEMORY_A_LANE * self.lanes <= self.memory_kib <= _MAX_MEMORY_KIB
        ):
            raise UsageError("the numbers for Argon2id are beyond this version's limits")

    def keys(self, passphrase: str) -> tuple[bytes, bytes]:
        """Return the wrapping key, and 32 bytes that show whether the passphrase is right."""
        text = unicodedata.normalize("NFC", passphrase).encode("utf-8", "surrogatepass")
        try:
            deriver = Argon2id(
                salt=self.salt, length=2 * _KEY, iterations=self.passes, lanes=self.lanes, memory_cost=self.memory_kib
            )
        except UnsupportedAlgorithm:
            raise UsageError(
                "the installed cryptography cannot compute Argon2id: install its wheel from PyPI, or use OpenSSL 3.2"
            ) from None
        both = deriver.derive(text)
        return both[:_KEY], both[_KEY:]


class LockedKit(Struct, frozen=True, kw_only=True):
    """A kit that its passphrase opens. `vault` (16 bytes) says which vault it opens, or is None if it holds none."""

    vault: bytes | None
    stretch: Stretch
    check: bytes
    wrapped: bytes
    name: str = "that was given"

    __repr__ = repr_without("check", "wrapped")

    def open(self, passphrase: str) -> OwnerKit:
        """Return the kit. This takes about as long as the stretching was set to take.

        Raises:
            WrongKeyError: the passphrase is wrong.
            IntegrityError: the passphrase is right, but the kit was altered.
            UsageError: the wrapped data is not a kit.
        """
        guard(passphrase)
        key, check = self.stretch.keys(passphrase)
        if not hmac.compare_digest(check, self.check):
            raise WrongKeyError(f"the passphrase does not open the kit {self.name}: check it for typing errors")
        try:
            text = AESGCM(key).decrypt(
                self.wrapped[:NONCE_BYTES], self.wrapped[NONCE_BYTES:], _public(self.vault, self.stretch)
            )
        except InvalidTag:
            raise IntegrityError(f"the kit {self.name} was altered or is damaged: use another copy of it") from None
        kit = read_fields(load_object(text, self.name), self.name)
        if (None if kit.vault is None else kit.vault.id) != self.vault:
            raise IntegrityError(f"the kit {self.name} names another vault than it holds: use another copy of it")
        return kit

    def encode(self) -> bytes:
        """Return the locked kit as canonical JSON, with a newline. It shows no key."""
        shown = _shown(self.vault, self.stretch)
        shown |= {"check": self.check.hex(), "wrapped": b64encode(self.wrapped).decode()}
        return canonical_json(shown) + b"\n"


def lock(
    kit: OwnerKit,
    passphrase: str,
    *,
    entropy: Callable[[int], bytes] = os.urandom,
    stretch: Callable[[bytes], Stretch] = lambda salt: Stretch(salt=salt),
) -> LockedKit:
    """Return the kit behind a passphrase. To change it, open the kit and lock it again; the keys do not change.

    Anyone who has an older copy of the file and its passphrase can still open that copy.

    Raises:
        UsageError: the passphrase is too short or too long.
    """
    if not MIN_PASSPHRASE <= len(passphrase) <= _MAX_PASSPHRASE:
        raise UsageError(
            f"the passphrase has {len(passphrase)} characters: use {MIN_PASSPHRASE} to {_MAX_PASSPHRASE}, ideally "
            f"several words that nobody would guess"
        )
    guard(passphrase)
    vault = None if kit.vault is None else kit.vault.id
    stretched = stretch(entropy(SALT_BYTES))
    key, check = stretched.keys(passphrase)
    nonce = entropy(NONCE_BYTES)
    # Each wrapping has its own salt, and so its own key.
    wrapped = nonce + AESGCM(key).encrypt(nonce, canonical_json(kit.fields()), _public(vault, stretched))
    return LockedKit(vault=vault, stretch=stretched, check=check, wrapped=wrapped)


def read_locked(found: Mapping[str, Any], name: str) -> LockedKit:
    """Return a locked kit from the fields of its JSON. Raises: UsageError."""
    asked = found.get("argon2id")
    if not found.keys() <= _FIELDS or not isinstance(asked, dict):
        raise UsageError(f"the locked kit {name} lacks a field or has an unknown one: it was altered")
    if asked.keys() != {"salt", "memory_kib", "passes", "lanes"}:
        raise UsageError(f"the locked kit {name} does not say how its passphrase is stretched")
    try:
        stretch = Stretch(**{**asked, "salt": hex_field(asked, "salt", SALT_BYTES, name)})
    except UsageError as error:
        raise UsageError(f"the kit {name} cannot be used: {error}") from None
    text = found.get("wrapped")
    try:
        wrapped = b64decode(text, validate=True) if isinstance(text, str) and len(text) <= 2 * MAX_KIT else b""
    except (binascii.Error, ValueError):
        wrapped = b""
    if len(wrapped) <= NONCE_BYTES:
        raise UsageError(f"the kit {name} has no base64 text as wrapped")
    return LockedKit(
        vault=hex_field(found, "vault", VAULT_BYTES, name) if "vault" in found else None,
        stretch=stretch,
        check=hex_field(found, "check", _KEY, name),
        wrapped=wrapped,
        name=name,
    )


def _shown(vault: bytes | None, stretch: Stretch) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "format": FORMAT,
        "argon2id": {
            "salt": stretch.salt.hex(),
            "memory_kib": stretch.memory_kib,
            "passes": stretch.passes,
            "lanes": stretch.lanes,
        },
    }
    if vault is not None:
        shown["vault"] = vault.hex()
    return shown


def _public(vault: bytes | None, stretch: Stretch) -> bytes:
    """Return the associated data of the wrapped keys: the file's fields other than `check` and `wrapped`."""
    return canonical_json(_shown(vault, stretch))
