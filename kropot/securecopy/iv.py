"""The IV as written in headers and envelopes, and the cipher's block size: what is known without any key."""

from __future__ import annotations

BLOCK = 16


def parse_iv(text: str) -> bytes | None:
    """Return the IV (16 bytes) that 32 lower-case hexadecimal digits spell, or None.

    Lower case only: the key derives from this text, so an IV in capitals goes with another key.
    """
    if len(text) != 2 * BLOCK or not set(text) <= set("0123456789abcdef"):
        return None
    return bytes.fromhex(text)
