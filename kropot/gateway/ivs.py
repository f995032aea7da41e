"""Initialization vectors and entity tags, derived from a token's 32 random bytes K_iv (docs/gateway.md).

Each is HMAC-SHA-256(K_iv, purpose, source, token, element, ...), cut to 16 bytes. Every part is preceded by its length.
All functions are pure.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

IV_KEY_BYTES = 32
NONCE_BYTES = 16

_KEPT = 16
_LENGTH_BYTES = 8


def content_iv(iv_key: bytes, source: bytes, token: str, element: str, nonce: bytes, *, identity: bytes) -> bytes:
    """Return the IV (16 bytes) of a content.

    `nonce` MUST change whenever the content might have changed. `identity` is the `Seen.identity` of the file when the
    nonce was made. It comes from the file system, or a seal vouches for it (`sameness`), so even someone who can write
    to the database and puts an old nonce back gets no IV twice.
    """
    return labelled(iv_key, b"content", source, token.encode(), element.encode(), nonce, identity)[:_KEPT]


def form_iv(iv_key: bytes, source: bytes, token: str, element: str, form: bytes) -> bytes:
    """Return the IV (16 bytes) of a form. It depends on the form's SHA-256, so two forms never share an IV."""
    v = hashlib.sha256(form).digest()
    return labelled(iv_key, b"form", source, token.encode(), element.encode(), v)[:_KEPT]


def etag(iv_key: bytes, source: bytes, token: str, element: str, nonce: bytes) -> str:
    """Return the strong entity tag of a content, with its quotes. It reveals nothing about the plain bytes."""
    tag = labelled(iv_key, b"etag", source, token.encode(), element.encode(), nonce)[:_KEPT]
    return f'"{tag.hex()}"'


def labelled(key: bytes, *parts: bytes) -> bytes:
    """Return HMAC-SHA-256 (32 bytes) over the parts, each preceded by its length in 8 bytes.

    The lengths make the input unambiguous: two different lists of parts never give the same bytes.
    """
    return hmac.digest(key, framed(parts), "sha256")


def framed(parts: Iterable[bytes]) -> bytes:
    """Return the parts, each preceded by its length in 8 bytes."""
    return b"".join([len(part).to_bytes(_LENGTH_BYTES, "big") + part for part in parts])
