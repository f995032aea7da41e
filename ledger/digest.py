"""The state digest: one SHA-256 over a replica's projection, the same on every database and machine (docs/format.md).

A row is the canonical msgpack array `[source, type, id, date, tz, SHA-256(form), state, sha256, size, iv]` of one
element. The digest covers the rows in bytewise order of the stream keys. It contains no position, time, writer or
retry.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgpack

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ledger.events import Element, StreamKey

PREFIX = "sd1:"
"""Names the version of the row and of the hash. A change of the row needs a new prefix."""

_HEAD = b"\x9a\xc4\x10"
_DIGEST = b"\xc4\x20"
_SOURCE_BYTES = 16
_SHORT, _ONE_BYTE, _TWO_BYTES = 32, 1 << 8, 1 << 16
_LONGEST_KEY = 600


def row(key: StreamKey, element: Element) -> bytes:
    """Return the element's row: an array of ten values. The copy's three are nil if no copy was ever stored."""
    return head_of(key.stored) + pack_tail(element)


def head_of(stored_key: bytes) -> bytes:
    """Return the beginning of an element's row, from its stored key: the array's head, source, type and id."""
    kind, _, name = stored_key[_SOURCE_BYTES:].partition(b"\x00")
    if len(stored_key) > _LONGEST_KEY:  # this program never writes such a key
        return b"".join((_HEAD, stored_key[:_SOURCE_BYTES], _lead(len(kind)), kind, _lead(len(name)), name))
    return b"".join((_HEAD, stored_key[:_SOURCE_BYTES], _LEADS[len(kind)], kind, _LEADS[len(name)], name))


def tail_of(  # noqa: PLR0917 - the row's own order, for millions of calls
    date: bytes, tz: bytes, form: bytes, state: str, sha256: bytes, size: bytes, iv: bytes
) -> bytes:
    """Return the rest of the row after its id, from parts in canonical msgpack. `form` is the form itself."""
    return b"".join((date, tz, _DIGEST, hashlib.sha256(form).digest(), _STATES[state], sha256, size, iv))


def pack_tail(element: Element) -> bytes:
    """Return the rest of the row after its id, from an element."""
    copy = element.copy
    stored = (None, None, None) if copy is None else (copy.sha256, copy.size, copy.iv)
    sha256, size, iv = map(_pack, stored)
    return tail_of(_pack(element.date), _pack(element.tz), element.form, element.state, sha256, size, iv)


def _lead(length: int) -> bytes:
    """Return the msgpack head of a string of `length` bytes."""
    if length < _SHORT:
        return bytes((0xA0 | length,))
    if length < _ONE_BYTE:
        return bytes((0xD9, length))
    return b"\xda" + length.to_bytes(2, "big") if length < _TWO_BYTES else b"\xdb" + length.to_bytes(4, "big")


def _pack(value: object) -> bytes:
    packed: bytes = msgpack.packb(value, use_bin_type=True)
    return packed


_LEADS = tuple(map(_lead, range(_LONGEST_KEY + 1)))
_STATES = {state: _pack(state) for state in ("current", "pending", "vanished", "damaged", "lost")}


class StateDigest:
    """Takes rows in bytewise key order, and gives the digest of all rows so far."""

    def __init__(self) -> None:
        """Start without rows."""
        self._hash = hashlib.sha256()
        self._last = b""

    def add(self, key: StreamKey, element: Element) -> None:
        """Add one element. Raises: ValueError as `add_row` does."""
        self.add_row(key.stored, row(key, element))

    def add_row(self, stored_key: bytes, packed: bytes) -> None:
        """Add one element's row.

        Raises:
            ValueError: the key does not come after the one before it, so the digest would be wrong.

        """
        self.look([stored_key])
        self._hash.update(packed)

    def look(self, stored_keys: Sequence[bytes]) -> None:
        """Check the keys of the rows that the next `add_rows` adds. Raises: ValueError as `add_row` does."""
        for key in stored_keys:
            if key <= self._last:
                msg = "rows of a state digest must come in bytewise key order, each key once"
                raise ValueError(msg)
            self._last = key

    def add_rows(self, packed: bytes) -> None:
        """Add rows whose keys were given to `look`, in the same order."""
        self._hash.update(packed)

    @property
    def text(self) -> str:
        """`sd1:` and the hash in 64 hex digits."""
        return PREFIX + self._hash.hexdigest()
