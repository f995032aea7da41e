"""Sealing against the real server's bytes, and the properties that hold for all others."""

from __future__ import annotations

import subprocess
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kropot.errors import UsageError, WrongKeyError
from kropot.securecopy.sealing import (
    BadSealError,
    Kit,
    Opener,
    Sealer,
    derive_key,
    element_id,
    open_form,
    open_stream,
    parse_iv,
    seal_form,
    seal_stream,
    sealed_size,
    split_envelope,
    trimmed,
)
from tests.vectors.load import content_bytes, contents, exchange, forms

KEY, IV = bytes(range(16)), bytes(range(16, 32))
each_content = pytest.mark.parametrize("vector", contents(), ids=lambda vector: vector["name"])
each_form = pytest.mark.parametrize("vector", forms(), ids=lambda vector: vector["id"][:8])
chunked = st.lists(st.binary(max_size=70), max_size=8)


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


@each_content
def test_key_of_the_real_server_is_derived(vector: dict[str, Any]) -> None:
    kit = Kit(vector["passphrase"], digest=vector["digest"], rounds=vector["rounds"])
    iv = bytes.fromhex(vector["iv"])
    assert kit.key(iv).hex() == vector["key"]
    assert derive_key(vector["passphrase"], iv, vector["digest"], vector["rounds"]) == kit.key(iv)


@each_content
@pytest.mark.parametrize("size", [13, 8192, 1 << 20])
def test_contents_of_the_real_server_are_opened_and_sealed_again(vector: dict[str, Any], size: int) -> None:
    key, iv = bytes.fromhex(vector["key"]), bytes.fromhex(vector["iv"])
    plain, sealed = content_bytes(vector["name"])
    assert sha256(plain).hexdigest() == vector["plain_sha256"]
    assert sha256(sealed).hexdigest() == vector["sealed_sha256"]
    assert sealed_size(len(plain)) == len(sealed) == vector["sealed_size"]
    if len(plain) < 20_000 or size > 1000:
        assert b"".join(open_stream(pieces(sealed, size), key, iv)) == plain
        assert b"".join(seal_stream(pieces(plain, size), key, iv)) == sealed


@each_form
def test_forms_and_ids_of_the_real_server_are_read_and_made(vector: dict[str, Any]) -> None:
    kit = Kit(vector["passphrase"], digest=vector["digest"], rounds=vector["rounds"])
    assert open_form(vector["sealed"], kit).decode() == vector["form"]
    assert seal_form(vector["form"].encode(), kit, bytes.fromhex(vector["iv"])) == vector["sealed"]
    assert element_id(vector["stored_salt"], vector["file_name"].encode(), vector["digest"]) == vector["id"]
    assert kit.key(split_envelope(vector["sealed"])[0]).hex() == vector["key"]


def test_passphrases_are_trimmed_as_the_real_server_does() -> None:
    import json

    given_one = json.loads(exchange("tokens", "create-padded-passphrase").request_body)["data"][
        "secureCopyEncryptionKey"
    ]
    assert given_one != trimmed(given_one) == given_one.strip()
    assert trimmed(" \t\0\x0ba b\u00a0\r\n") == "a b\u00a0"


def test_openssl_opens_what_was_sealed(tmp_path: Any) -> None:
    plain = b"bread and roses " * 1000
    (tmp_path / "sealed").write_bytes(b"".join(seal_stream([plain], KEY, IV)))
    key = (KEY + bytes(16)).hex()
    command = ["openssl", "enc", "-d", "-aes-256-cbc", "-K", key, "-iv", IV.hex(), "-in", "sealed", "-out", "plain"]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert (tmp_path / "plain").read_bytes() == plain


@given(chunks=chunked)
def test_opening_undoes_sealing_whatever_the_chunks(chunks: list[bytes]) -> None:
    plain = b"".join(chunks)
    sealed = b"".join(seal_stream(chunks, KEY, IV))
    assert sealed == b"".join(seal_stream([plain], KEY, IV))
    assert len(sealed) == sealed_size(len(plain))
    assert b"".join(open_stream(pieces(sealed, 7), KEY, IV)) == plain


@given(blocks=st.integers(1, 6), plain=st.binary(min_size=96, max_size=150))
def test_sealing_goes_on_behind_any_block(blocks: int, plain: bytes) -> None:
    whole = b"".join(seal_stream([plain], KEY, IV))
    offset = 16 * blocks
    rest = b"".join(seal_stream([plain[offset:]], KEY, whole[offset - 16 : offset]))
    assert whole[:offset] + rest == whole


@given(sealed=st.binary(max_size=80))
def test_foreign_bytes_are_opened_with_a_bad_seal_or_some_plain_bytes(sealed: bytes) -> None:
    try:
        plain = b"".join(open_stream([sealed], KEY, IV))
    except BadSealError:
        return
    assert sealed == b"".join(seal_stream([plain], KEY, IV))


@pytest.mark.parametrize("sealed", [b"", bytes(15), bytes(17)])
def test_a_broken_ciphertext_is_a_bad_seal(sealed: bytes) -> None:
    with pytest.raises(BadSealError, match="not a whole number"):
        list(open_stream([sealed], KEY, IV))


def test_another_key_is_a_bad_seal() -> None:
    sealed = b"".join(seal_stream([b"bread"], KEY, IV))
    with pytest.raises(WrongKeyError, match="padding"):
        list(open_stream([sealed], bytes(16), IV))


@given(text=st.text(max_size=60) | st.binary(max_size=60).map(lambda raw: __import__("base64").b64encode(raw).decode()))
def test_foreign_text_is_no_form(text: str) -> None:
    with pytest.raises(BadSealError):
        open_form(text, Kit("x", rounds=1))


@given(form=st.binary(max_size=200), iv=st.binary(min_size=16, max_size=16))
def test_opening_a_form_undoes_sealing_it(form: bytes, iv: bytes) -> None:
    kit = Kit("zażółć gęślą jaźń", digest="sha256", rounds=2)
    assert open_form(seal_form(form, kit, iv), kit) == form


def test_buffers_of_the_told_size_are_enough() -> None:
    sealer, opener = Sealer(KEY, IV), Opener(KEY, IV)
    plain = bytes(range(256)) * 5
    sealed, opened = b"", b""
    for chunk in pieces(plain, 37):
        out = bytearray(Sealer.room(len(chunk)))
        sealed += out[: sealer.update_into(chunk, out)]
    sealed += sealer.finish()
    for chunk in pieces(sealed, 23):
        out = bytearray(Opener.room(len(chunk)))
        opened += out[: opener.update_into(chunk, out)]
    assert opened + opener.finish() == plain


@pytest.mark.parametrize("wrong", [{"method": "aes-128-cbc"}, {"digest": "md5"}, {"rounds": 0}, {"rounds": 100_001}])
def test_a_kit_that_no_server_knows_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Kit("x", **wrong)


def test_a_kit_does_not_show_its_passphrase() -> None:
    assert "bread" not in repr(Kit("bread"))


@pytest.mark.parametrize("text", ["", "0" * 31, "0" * 33, "A" * 32, "g" * 32, "0" * 31 + "\n", "\u0660" * 32])
def test_what_is_not_32_lower_case_hex_digits_is_no_iv(text: str) -> None:
    assert parse_iv(text) is None
    assert parse_iv("0123456789abcdef" * 2) == bytes.fromhex("0123456789abcdef" * 2)
