"""HMAC-SHA-256 (RFC 2104) under one key. It starts both hashes once, so each message costs less than half. Pure."""

from __future__ import annotations

import hashlib
from typing import Final

_BLOCK: Final = 64
_INNER: Final = bytes(byte ^ 0x36 for byte in range(256))
_OUTER: Final = bytes(byte ^ 0x5C for byte in range(256))
_sha256 = hashlib.sha256


def keyed_hash(key: bytes, message: bytes) -> bytes:
    """Return the keyed hash (32 bytes) of one message, for a key that is used once."""
    key = (_sha256(key).digest() if len(key) > _BLOCK else key).ljust(_BLOCK, b"\0")
    return _sha256(key.translate(_OUTER) + _sha256(key.translate(_INNER) + message).digest()).digest()


class KeyedHash:
    """Returns the keyed hash (32 bytes) of each message that it is called with."""

    __slots__ = ("_inner", "_outer")

    def __init__(self, key: bytes) -> None:
        """Take a key of any length."""
        if len(key) > _BLOCK:
            key = _sha256(key).digest()
        key = key.ljust(_BLOCK, b"\0")
        self._inner = _sha256(key.translate(_INNER)).copy
        self._outer = _sha256(key.translate(_OUTER)).copy

    def __call__(self, message: bytes) -> bytes:
        """Return the hash of a message."""
        inner, outer = self._inner(), self._outer()
        inner.update(message)
        outer.update(inner.digest())
        return outer.digest()
