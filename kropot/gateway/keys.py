"""The master key: where it is kept, and what it seals; it never stands in the database."""

from __future__ import annotations

import binascii
import os
from base64 import b64decode, b64encode
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from kropot.durable.newfile import settle, write_new
from kropot.errors import UsageError, WrongKeyError
from kropot.gateway.ivs import labelled

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KEY_BYTES = 32

_GCM_NONCE = 12
_LONGEST_FILE = 4096


class MasterKey:
    """Seals what is kept at rest, and makes the keyed hashes by which tokens are looked up."""

    __slots__ = ("_aead", "_check", "_lookup")

    def __init__(self, key: bytes) -> None:
        """Derive one key for each use; `key` is 32 random bytes."""
        if len(key) != KEY_BYTES:
            raise UsageError(f"a master key has {KEY_BYTES} bytes, this one has {len(key)}")
        self._aead = AESGCM(labelled(key, b"seal"))
        self._lookup = labelled(key, b"lookup")
        self._check = labelled(key, b"check")

    @property
    def check(self) -> bytes:
        """32 bytes that tell whether a database was made with this key, and nothing else about it."""
        return self._check

    def lookup(self, token: str) -> bytes:
        """Return the keyed hash (32 bytes) under which a token is stored.

        An attacker who times an index look-up learns about a hash that he can neither compute nor choose.
        """
        return labelled(self._lookup, token.encode("utf-8", "surrogatepass"))

    def seal(self, plain: bytes, *, bound_to: bytes, entropy: Callable[[int], bytes] = os.urandom) -> bytes:
        """Return `plain` sealed with AES-256-GCM, nonce (12 bytes) in front; it opens only with the same `bound_to`."""
        nonce = entropy(_GCM_NONCE)
        return nonce + self._aead.encrypt(nonce, plain, bound_to)

    def open(self, sealed: bytes, *, bound_to: bytes) -> bytes:
        """Undo `seal`.

        Raises:
            WrongKeyError: another key sealed it, or it is damaged.
        """
        try:
            return self._aead.decrypt(sealed[:_GCM_NONCE], sealed[_GCM_NONCE:], bound_to)
        except (InvalidTag, ValueError):
            raise WrongKeyError("a token in the gateway's database does not open with this master key") from None


def read_key(path: Path) -> bytes:
    """Return the master key in a file (base64, one line).

    Raises:
        UsageError: the file holds no such key, or other users can read it.
        OSError: it cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if os.fstat(descriptor).st_mode & 0o077:
            raise UsageError(f"other users can read the master key {path}: chmod 600 it")
        text = file.read(_LONGEST_FILE)
    settle(path)
    return parse_key(text, f"the file {path}")


def parse_key(text: bytes, origin: str) -> bytes:
    """Return the master key that base64 text spells.

    Raises:
        UsageError: it spells none; `origin` says where it stood.
    """
    try:
        key = b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise UsageError(f"{origin} holds no master key: {KEY_BYTES} random bytes in base64 are expected")
    return key


def write_new_key(path: Path, *, entropy: Callable[[int], bytes] = os.urandom) -> bytes:
    """Make a master key, write it to a new file that only its owner can read, and return it.

    The key MUST be durable before anything is sealed under it.

    Raises:
        FileExistsError: there is a file of this name.
    """
    key = entropy(KEY_BYTES)
    write_new(path, b64encode(key) + b"\n")
    return key
