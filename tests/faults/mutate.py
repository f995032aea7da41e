"""Damaged examples: bytes that a parser takes, with pieces changed, cut, doubled or replaced by what hurts parsers."""

from __future__ import annotations

import random

NASTY = (
    b"",
    b"\x00",
    b"\xff\xfe",
    b"\r\n",
    b"\n\n",
    b"-1",
    b"1e999",
    b"NaN",
    b"9" * 5000,
    b"18446744073709551616",
    b"[" * 5000,
    b'{"a":' * 2000,
    b"\\ud800",
    b'"\\u0000"',
    b"null",
    b"true",
    b"[]",
    b"{}",
    b"../",
    b"\xed\xa0\x80",
    "\N{ARABIC-INDIC DIGIT ONE}".encode(),
    "\N{RIGHT-TO-LEFT OVERRIDE}".encode(),
    b"A" * 70_000,
    b"\xdf\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"2026-02-30",
    b"0001-01-01T00:00:00-23:59",
    b"9999-12-31T23:59:59.999999-14:00",
)


def mutate(examples: list[bytes], seed: int) -> bytes:
    """Return one of the examples with one to four changes, all drawn by the seed."""
    dice = random.Random(seed)
    data = bytearray(dice.choice(examples))
    for _ in range(dice.randint(1, 4)):
        low = dice.randint(0, len(data))
        high = min(len(data), low + dice.choice((0, 1, 1, 4, 32)))
        change = dice.randrange(5)
        if change == 0:
            data[low:high] = dice.randbytes(high - low)
        elif change == 1:
            del data[low : dice.choice((high, len(data)))]
        elif change == 2:
            data[low:low] = data[low:high] * dice.choice((1, 2, 500))
        elif change == 3:
            data[low:high] = dice.choice(NASTY)
        elif low < len(data):
            data[low] ^= 1 << dice.randrange(8)
    return bytes(data)
