"""LtHash16: a hash of a set, to which elements can be added and from which they can be removed, in any order.

Its value is 1,024 lanes of 16 bits. An element's lanes are the SHAKE128 of its bytes, and the value is the sum of the
elements' lanes, each lane modulo 2^16. So two sets have the same value only if they are the same set, as far as anybody
can compute (Bellare and Micciancio, "A new paradigm for collision-free hashing"; Lewi and others, "Securing update
propagation with homomorphic hashing"). docs/format.md defines it to the byte.
"""

from __future__ import annotations

from hashlib import shake_128
from typing import Annotated, Final

from msgspec import Struct

from ledger.bounds import Length, Ordinal

LANES: Final = 1_024
LANES_BYTES: Final = 2 * LANES
"""The length of a value in bytes. Every lane has two, the less significant one first."""

EMPTY: Final = bytes(LANES_BYTES)
"""The value of the empty set."""

_PREFIX: Final = b"sd2\x00"
_ALL: Final = (1 << 8 * LANES_BYTES) - 1
_EVEN: Final = int.from_bytes(b"\xff\xff\x00\x00" * (LANES // 2), "little")
_ONE: Final = _EVEN // 0xFFFF
_ROOM: Final = 1 << 15


class ErasedRow(Struct, frozen=True, kw_only=True):
    """The lanes of an erased element's row in the state digest, from the event at `position` to the next row's."""

    position: Ordinal
    lanes: Annotated[bytes, Length(LANES_BYTES)]


class LtHash:
    """The hash of a set that changes.

    While elements are added, every even-numbered lane has 32 bits, so that its sum does not overflow into the next
    lane. The odd-numbered lanes are what remains of the sum of all lanes. Both are cut to 16 bits now and then.
    """

    __slots__ = ("_even", "_removed", "_room", "_sum")

    def __init__(self, lanes: bytes = EMPTY) -> None:
        """Start with a set's value. Raises: ValueError if it does not have 2,048 bytes."""
        if len(lanes) != LANES_BYTES:
            raise ValueError(f"the value of a set has {LANES_BYTES} bytes, not {len(lanes)}")
        self._sum = int.from_bytes(lanes, "little")
        self._even = self._sum & _EVEN
        self._removed = 0
        self._room = _ROOM

    def add(self, element: bytes) -> None:
        """Add an element that is not in the set."""
        self._add(int.from_bytes(shake_128(_PREFIX + element).digest(LANES_BYTES), "little"))

    def remove(self, element: bytes) -> None:
        """Remove an element that is in the set."""
        self._remove(int.from_bytes(shake_128(_PREFIX + element).digest(LANES_BYTES), "little"))

    def add_all(self, other: bytes) -> None:
        """Add all elements of the set that has this value."""
        self._add(int.from_bytes(other, "little"))

    def remove_all(self, other: bytes) -> None:
        """Remove all elements of the set that has this value."""
        self._remove(int.from_bytes(other, "little"))

    @property
    def lanes(self) -> bytes:
        """The value: 2,048 bytes."""
        self._settle()
        return self._sum.to_bytes(LANES_BYTES, "little")

    def _add(self, number: int) -> None:
        self._sum += number
        self._even += number & _EVEN
        self._room -= 1
        if not self._room:
            self._settle()

    def _remove(self, number: int) -> None:
        # In 16 bits, -x is 1 more than the complement of x. These ones are counted, and added when lanes are cut.
        self._removed += 1
        self._add(number ^ _ALL)

    def _settle(self) -> None:
        """Cut every lane to its 16 bits."""
        ones = self._removed * _ONE
        even = (self._even + ones) & _EVEN
        odd = (((self._sum - self._even) >> 16) + ones) & _EVEN
        self._sum, self._even = even | odd << 16, even
        self._removed, self._room = 0, _ROOM
