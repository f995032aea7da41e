"""A set of small integers in which each takes one bit: 10 million elements in 1.25 MB."""

from __future__ import annotations

_PAGE = 1 << 16


class Bitmap:
    """A growing set of integers from 0, kept in pages of 65,536, so that gaps cost nothing."""

    __slots__ = ("_pages", "count")

    def __init__(self) -> None:
        """Start empty."""
        self._pages: dict[int, bytearray] = {}
        self.count = 0

    def add(self, number: int) -> bool:
        """Add a number. Return whether it is new."""
        page = self._pages.get(number >> 16)
        if page is None:
            page = self._pages[number >> 16] = bytearray(_PAGE // 8)
        index, bit = (number & 0xFFFF) >> 3, 1 << (number & 7)
        if page[index] & bit:
            return False
        page[index] |= bit
        self.count += 1
        return True

    def __contains__(self, number: int) -> bool:
        """Whether the set contains a number."""
        page = self._pages.get(number >> 16)
        return page is not None and bool(page[(number & 0xFFFF) >> 3] & (1 << (number & 7)))
