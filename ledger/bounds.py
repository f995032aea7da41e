"""The marks that give a fact's fields their lengths and bounds, and the types that the facts share.

`ledger/shape.py` turns them into checks, and docs/format.md, "Payloads", states them.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Struct


class Length(Struct, frozen=True):
    """Marks a byte string that has exactly this many bytes."""

    bytes: int


class Least(Struct, frozen=True):
    """Marks a number's smallest value. Without this mark it is 0."""

    value: int


class Most(Struct, frozen=True):
    """Marks a number's largest value. Without this mark it is 2^63-1."""

    value: int


class NotEmpty(Struct, frozen=True):
    """Marks a tuple that has at least one item."""


MIN_INT, MAX_INT = -(1 << 63), (1 << 63) - 1
MAX_US = 1 << 62
"""The latest time that a fact may name, so that sums of times still fit into 64 bits."""

Sha256 = Annotated[bytes, Length(32)]
Salt = Annotated[bytes, Length(32)]
Iv = Annotated[bytes, Length(16)]
Seconds = Annotated[int, Least(MIN_INT)]
"""Seconds of the server's clock, or a difference of two such times. They can be negative."""
Ordinal = Annotated[int, Least(1)]
"""A number that counts from 1."""
Micros = Annotated[int, Most(MAX_US)]
"""A time in microseconds since 1970 UTC."""
