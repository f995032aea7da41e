"""The state digest: one SHA-256 over what a replica holds, the same on every database and machine (docs/format.md).

A row is the canonical msgpack array `[source, type, id, date, tz, SHA-256(form), state, sha256, size, iv]` of one
element; the digest is taken over the rows in bytewise order of the stream keys. No position, time, writer or retry is
in it.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgpack

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ledger.events import Element, StreamKey

PREFIX = "sd1:"
"""Names the version of the row and of the hash; another row is another prefix."""

_HEAD = b"\x9a\xc4\x10"
_DIGEST = b"\xc4\x20"
_SOURCE_BYTES = 16
_SHORT, _ONE_BYTE, _TWO_BYTES = 32, 1 << 8, 1 << 16
_LONGEST_KEY = 600


def row(key: StreamKey, element: Element) -> bytes:
    """Return the element's row: an array of ten, the copy's three nil where no copy was ever stored."""
    return head_of(key.stored) + pack_tail(element)


def head_of(stored_key: bytes) -> bytes:
    """Return how the row begins of the element with this stored key: the array's head, source, type and id."""
    kind, _, name = stored_key[_SOURCE_BYTES:].partition(b"\x00")
    if len(stored_key) > _LONGEST_KEY:  # nothing that this program writes
        return b"".join((_HEAD, stored_key[:_SOURCE_BYTES], _lead(len(kind)), kind, _lead(len(name)), name))
    return b"".join((_HEAD, stored_key[:_SOURCE_BYTES], _LEADS[len(kind)], kind, _LEADS[len(name)], name))


def tail_of(  # noqa: PLR0917 - the row's own order, for millions of calls
    date: bytes, tz: bytes, form: bytes, state: str, sha256: bytes, size: bytes, iv: bytes
) -> bytes:
    """Return how the row goes on behind its id, from canonical msgpack; `form` is the form itself."""
    return b"".join((date, tz, _DIGEST, hashlib.sha256(form).digest(), _STATES[state], sha256, size, iv))


def pack_tail(element: Element) -> bytes:
    """Return how the row goes on behind its id, for an element that is there as a whole."""
    copy = element.copy
    stored = (None, None, None) if copy is None else (copy.sha256, copy.size, copy.iv)
    sha256, size, iv = map(_pack, stored)
    return tail_of(_pack(element.date), _pack(element.tz), element.form, element.state, sha256, size, iv)


def _lead(length: int) -> bytes:
    """Return what stands before a string of so many bytes in msgpack."""
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
    """Takes rows in, one by one in bytewise key order, and gives the digest of those seen so far."""

    def __init__(self) -> None:
        """Begin with no rows."""
        self._hash = hashlib.sha256()
        self._last = b""

    def add(self, key: StreamKey, element: Element) -> None:
        """Take one element in. Raises: ValueError as `add_row` does."""
        self.add_row(key.stored, row(key, element))

    def add_row(self, stored_key: bytes, packed: bytes) -> None:
        """Take one element's row in.

        Raises:
            ValueError: the key does not come after the one before it, so the digest would be another.

        """
        self.look([stored_key])
        self._hash.update(packed)

    def look(self, stored_keys: Sequence[bytes]) -> None:
        """See the keys whose rows come next, which `add_rows` then takes in. Raises: ValueError as `add_row` does."""
        for key in stored_keys:
            if key <= self._last:
                msg = "rows of a state digest come in bytewise key order, each key once"
                raise ValueError(msg)
            self._last = key

    def add_rows(self, packed: bytes) -> None:
        """Take rows in whose keys were seen before, in the order of those."""
        self._hash.update(packed)

    @property
    def text(self) -> str:
        """`sd1:` and the hash in 64 hex digits."""
        return PREFIX + self._hash.hexdigest()
