"""What a token's 32 random bytes K_iv decide: initialization vectors and entity tags (docs/gateway.md).

Each is HMAC-SHA-256(K_iv, purpose, source, token, element, v), every part behind its length, cut to 16 bytes. Pure.
"""

from __future__ import annotations

import hashlib
import hmac

IV_KEY_BYTES = 32
NONCE_BYTES = 16

_KEPT = 16
_LENGTH_BYTES = 8


def content_iv(iv_key: bytes, source: bytes, token: str, element: str, nonce: bytes) -> bytes:
    """Return the IV (16 bytes) of a content; `nonce` MUST be another one as soon as the content may be another one."""
    return labelled(iv_key, b"content", source, token.encode(), element.encode(), nonce)[:_KEPT]


def form_iv(iv_key: bytes, source: bytes, token: str, element: str, form: bytes) -> bytes:
    """Return the IV (16 bytes) of a form: its own SHA-256 decides, so that another form never shares an IV."""
    v = hashlib.sha256(form).digest()
    return labelled(iv_key, b"form", source, token.encode(), element.encode(), v)[:_KEPT]


def etag(iv_key: bytes, source: bytes, token: str, element: str, nonce: bytes) -> str:
    """Return the strong entity tag of a content, with its quotes; it tells nothing about the plain bytes."""
    tag = labelled(iv_key, b"etag", source, token.encode(), element.encode(), nonce)[:_KEPT]
    return f'"{tag.hex()}"'


def labelled(key: bytes, *parts: bytes) -> bytes:
    """Return HMAC-SHA-256 over the parts, each behind its length in 8 bytes: no two lists of parts look alike."""
    framed = b"".join([len(part).to_bytes(_LENGTH_BYTES, "big") + part for part in parts])
    return hmac.digest(key, framed, "sha256")
