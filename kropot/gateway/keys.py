"""The master key, and what it seals. It is never stored in the database."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from kropot.errors import UsageError, WrongKeyError
from kropot.gateway.ivs import framed, labelled
from kropot.sc2.keyed import KeyedHash
from kropot.serving.keyfile import KEY_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

_GCM_NONCE = 12


class MasterKey:
    """Seals secrets for the database, and computes the keyed hashes that find tokens there."""

    __slots__ = ("_aead", "_check", "_lookup", "_rows")

    def __init__(self, key: bytes) -> None:
        """Derive one key for each use. `key` is 32 random bytes.

        Raises:
            UsageError: `key` has another length.
        """
        if len(key) != KEY_BYTES:
            raise UsageError(f"the master key has {len(key)} bytes: give one of {KEY_BYTES} bytes")
        self._aead = AESGCM(labelled(key, b"seal"))
        self._lookup = labelled(key, b"lookup")
        self._check = labelled(key, b"check")
        self._rows = KeyedHash(labelled(key, b"rows"))

    @property
    def check(self) -> bytes:
        """32 bytes that show whether a database was made with this key. They reveal nothing else about the key."""
        return self._check

    def lookup(self, token: str) -> bytes:
        """Return the keyed hash (32 bytes) under which a token is stored.

        An attacker who times an index lookup learns only about this hash, which they can neither compute nor choose.
        """
        return labelled(self._lookup, token.encode("utf-8", "surrogatepass"))

    def vouch(self, *parts: bytes) -> bytes:
        """Return a keyed hash (32 bytes) over a row's parts. Write access to the database is not enough to make one."""
        return self._rows(framed(parts))

    def seal(self, plain: bytes, *, bound_to: bytes, entropy: Callable[[int], bytes] = os.urandom) -> bytes:
        """Return the nonce (12 bytes) and `plain` sealed with AES-256-GCM. Only the same `bound_to` opens it."""
        nonce = entropy(_GCM_NONCE)
        return nonce + self._aead.encrypt(nonce, plain, bound_to)

    def open(self, sealed: bytes, *, bound_to: bytes) -> bytes:
        """Return the plain bytes that `seal` sealed.

        Raises:
            WrongKeyError: another key sealed them, or they are damaged.
        """
        try:
            return self._aead.decrypt(sealed[:_GCM_NONCE], sealed[_GCM_NONCE:], bound_to)
        except (InvalidTag, ValueError):
            raise WrongKeyError(
                "this master key does not open a secret in the gateway's database: use the key that the database was "
                "made with"
            ) from None
