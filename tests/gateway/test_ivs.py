"""The bytes of IVs and entity tags, frozen, and what tells them apart."""

from __future__ import annotations

import hashlib
import hmac

from hypothesis import given
from hypothesis import strategies as st

from kropot.gateway.ivs import content_iv, etag, form_iv, labelled

K, SOURCE, TOKEN, ELEMENT, NONCE, FILE = bytes(range(32)), b"s" * 16, "token", "ab" * 32, b"n" * 16, b"i" * 48


def framed(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)


def test_ivs_are_what_the_document_says() -> None:
    whole = framed(b"content", SOURCE, b"token", ELEMENT.encode(), NONCE, FILE)
    assert (
        content_iv(K, SOURCE, TOKEN, ELEMENT, NONCE, identity=FILE) == hmac.new(K, whole, hashlib.sha256).digest()[:16]
    )
    form = b'{"a":1}'
    whole = framed(b"form", SOURCE, b"token", ELEMENT.encode(), hashlib.sha256(form).digest())
    assert form_iv(K, SOURCE, TOKEN, ELEMENT, form) == hmac.new(K, whole, hashlib.sha256).digest()[:16]


def test_frozen_bytes() -> None:
    assert content_iv(K, SOURCE, TOKEN, ELEMENT, NONCE, identity=FILE).hex() == "a017cb7dbbfa7c083b40beb1e11c683f"
    assert form_iv(K, SOURCE, TOKEN, ELEMENT, b"{}").hex() == "85c2afe95ae497d3b2d858fac8e79eb0"
    assert etag(K, SOURCE, TOKEN, ELEMENT, NONCE) == '"bf216359cff57fe1a63a4f2e5300e310"'


def test_purposes_do_not_share_an_iv() -> None:
    form = b"form"
    v = hashlib.sha256(form).digest()
    assert content_iv(K, SOURCE, TOKEN, ELEMENT, v, identity=b"") != form_iv(K, SOURCE, TOKEN, ELEMENT, form)
    assert etag(K, SOURCE, TOKEN, ELEMENT, v)[1:-1] != content_iv(K, SOURCE, TOKEN, ELEMENT, v, identity=b"").hex()


parts = st.lists(st.binary(max_size=8), max_size=5)


@given(one=parts, other=parts)
def test_no_two_lists_of_parts_look_alike(one: list[bytes], other: list[bytes]) -> None:
    assert (labelled(K, *one) == labelled(K, *other)) == (one == other)
