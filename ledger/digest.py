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
    from ledger.events import Element, StreamKey

PREFIX = "sd1:"
"""Names the version of the row and of the hash; another row is another prefix."""


def row(key: StreamKey, element: Element) -> bytes:
    """Return the element's row: an array of ten, the copy's three nil where no copy was ever stored."""
    copy = element.copy
    stored = (None, None, None) if copy is None else (copy.sha256, copy.size, copy.iv)
    return pack_row(key.stored, element.date, element.tz, element.form, element.state, *stored)


def pack_row(  # noqa: PLR0917 - the row's own order, for millions of calls
    stored_key: bytes,
    date: int,
    tz: str,
    form: bytes,
    state: str,
    sha256: bytes | None,
    size: int | None,
    iv: bytes | None,
) -> bytes:
    """Return the row of an element that is known by its fields."""
    kind, _, name = stored_key[16:].partition(b"\x00")
    form_digest = hashlib.sha256(form).digest()
    packed: bytes = msgpack.packb(
        (stored_key[:16], kind.decode(), name.decode(), date, tz, form_digest, state, sha256, size, iv),
        use_bin_type=True,
    )
    return packed


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
        if stored_key <= self._last:
            msg = "rows of a state digest come in bytewise key order, each key once"
            raise ValueError(msg)
        self._last = stored_key
        self._hash.update(packed)

    @property
    def text(self) -> str:
        """`sd1:` and the hash in 64 hex digits."""
        return PREFIX + self._hash.hexdigest()
