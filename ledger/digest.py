"""The state digests: hashes over a replica's state, the same on every database and machine (docs/format.md).

A row is the canonical msgpack array `[source, type, id, date, tz, SHA-256(form), state, sha256, size, iv]` of one
element. It contains no position, time, writer or retry. `sd1` is one SHA-256 over all rows in bytewise order of the
stream keys. `sd2` is a hash of the set of rows, so it follows from an earlier one and from what changed since.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgpack

from ledger.lthash import EMPTY, LtHash

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ledger.events import Element, StreamKey

PREFIX = "sd1:"
"""Names the version of the row and of the hash. A change of the row needs a new prefix."""

SET_PREFIX = "sd2:"

_HEAD = b"\x9a\xc4\x10"
_SOURCE = slice(len(_HEAD), len(_HEAD) + 16)
_DIGEST = b"\xc4\x20"
_SOURCE_BYTES = 16
_SHORT, _ONE_BYTE, _TWO_BYTES = 32, 1 << 8, 1 << 16
_LONGEST_KEY = 600


def row(key: StreamKey, element: Element) -> bytes:
    """Return the element's row: an array of ten values. The copy's three values are nil if no copy was ever stored."""
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
    """`sd1`: takes rows in bytewise key order, and gives the digest of all rows so far."""

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
            ValueError: if the key does not come after the one before it, so the digest would be wrong.
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


class SetDigest:
    """`sd2`: rows can be added and removed in any order. It keeps 2,048 bytes for each source."""

    __slots__ = ("_sources",)

    def __init__(self, lanes: Mapping[bytes, bytes] | None = None) -> None:
        """Start with each source's lanes, as `lanes` returned them. Raises: ValueError if some are not 2,048 bytes."""
        self._sources = {source: LtHash(value) for source, value in (lanes or {}).items()}

    def add(self, packed: bytes) -> None:
        """Add an element's row, which is not in the set."""
        self._of(packed[_SOURCE]).add(packed)

    def remove(self, packed: bytes) -> None:
        """Remove an element's row, which is in the set."""
        self._of(packed[_SOURCE]).remove(packed)

    def add_all(self, lanes: Mapping[bytes, bytes], times: int = 1) -> None:
        """Add the rows of another digest, given by its lanes. With `times` -1, remove them."""
        for source, value in lanes.items():
            if times == 1:
                self._of(source).add_all(value)
            else:
                self._of(source).remove_all(value)

    @property
    def lanes(self) -> dict[bytes, bytes]:
        """The lanes of each source (16 bytes) that has a row, in the order of the sources."""
        found = ((source, self._sources[source].lanes) for source in sorted(self._sources))
        return {source: value for source, value in found if value != EMPTY}

    @property
    def text(self) -> str:
        """`sd2:` and 64 hex digits, over the rows of all sources."""
        whole = LtHash()
        for value in self.lanes.values():
            whole.add_all(value)
        return text_of(whole.lanes)

    @property
    def sources(self) -> dict[bytes, str]:
        """The digest of each source that has a row, in the order of the sources."""
        return {source: text_of(value) for source, value in self.lanes.items()}

    def _of(self, source: bytes) -> LtHash:
        return self._sources.get(source) or self._sources.setdefault(source, LtHash())


def text_of(lanes: bytes) -> str:
    """Return the text of an `sd2`: its prefix and the SHA-256 of the lanes in hex digits."""
    return SET_PREFIX + hashlib.sha256(lanes).hexdigest()
