"""The master key: its file, and what it seals. It is never stored in the database."""

from __future__ import annotations

import binascii
import hmac
import os
from base64 import b64decode, b64encode
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from kropot.durable.dirfd import open_named
from kropot.durable.newfile import settle, write_new
from kropot.errors import UsageError, WrongKeyError
from kropot.gateway.ivs import framed, labelled
from kropot.user_folders import is_credential

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KEY_BYTES = 32

_GCM_NONCE = 12
_LONGEST_FILE = 4096


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
        self._rows = hmac.new(labelled(key, b"rows"), digestmod="sha256")

    @property
    def check(self) -> bytes:
        """32 bytes that show whether a database was made with this key. They reveal nothing else about the key."""
        return self._check

    def lookup(self, token: str) -> bytes:
        """Return the keyed hash (32 bytes) under which a token is stored.

        An attacker who times an index lookup learns only about this hash, which he can neither compute nor choose.
        """
        return labelled(self._lookup, token.encode("utf-8", "surrogatepass"))

    def vouch(self, *parts: bytes) -> bytes:
        """Return a keyed hash (32 bytes) over a row's parts. Whoever can only write the database cannot make one."""
        # A copy saves the key's own rounds.
        made = self._rows.copy()
        made.update(framed(parts))
        return made.digest()

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


def read_key(path: Path) -> bytes:
    """Return the master key (32 bytes) from a file that holds it in base64, on one line.

    Raises:
        UsageError: the file does not hold such a key, or other users can read it.
        OSError: the file cannot be read.
    """
    with open_named(path) as file:
        if os.fstat(file.fileno()).st_mode & 0o077 and not is_credential(path):
            raise UsageError(f"other users can read the master key {path}: run `chmod 600` on it")
        text = file.read(_LONGEST_FILE)
    settle(path)
    return parse_key(text, f"the file {path}")


def parse_key(text: bytes, origin: str) -> bytes:
    """Return the master key (32 bytes) from base64 text.

    Raises:
        UsageError: the text is not such a key. The message names `origin`, the place that the text comes from.
    """
    try:
        key = b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise UsageError(f"{origin} does not hold a master key: put {KEY_BYTES} random bytes in base64 there")
    return key


def write_new_key(path: Path, *, entropy: Callable[[int], bytes] = os.urandom) -> bytes:
    """Create a master key (32 bytes), write it to a new file that only its owner can read, and return it.

    The key MUST be durable before anything is sealed with it.

    Raises:
        FileExistsError: a file with this name exists already.
    """
    key = entropy(KEY_BYTES)
    write_new(path, b64encode(key) + b"\n")
    return key
