"""Objects of sc2: what was sealed comes back, any range can be sealed alone, and no nonce serves two plain texts."""

from __future__ import annotations

import io
import tracemalloc
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kropot.errors import UsageError
from kropot.sc2.form import Form, Kind, fitted, merged
from kropot.sc2.layout import (
    CHUNK,
    METHOD,
    OVERHEAD,
    chunk_count,
    list_form_bytes,
    padded_content_size,
    parse_header,
)
from kropot.sc2.opening import open_list_form
from kropot.sc2.seal import LengthChangedError, read_exactly, seal_list_form
from kropot.sc2.vault import Vault, keyring
from tests.kropot.sc2_world import RING, SOURCE, VAULT, drawn, form_of, made_vault, opened, sealed, sealing, version_of

SIZES = [0, 1, 255, 256, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK - 7]


@pytest.mark.parametrize("padding", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_what_was_sealed_comes_back_by_every_way(size: int, *, padding: bool) -> None:
    plain = drawn("plain", size)
    form = form_of(plain, padding=padding)
    one = sealing(form)
    whole = one.whole(plain)
    assert len(whole) == one.length
    assert b"".join(one.stream(io.BytesIO(plain))) == whole
    back = opened(whole)
    assert (back.form, back.header) == (form, one.header)
    assert b"".join(back.chunks) == plain
    assert back.header.element == VAULT.element(b"a/b")
    assert plain[:64] not in whole or size < 8


@given(
    size=st.integers(0, 3 * CHUNK), start=st.integers(0, 3 * CHUNK), length=st.integers(0, CHUNK), padding=st.booleans()
)
@example(size=CHUNK, start=0, length=1, padding=False)
@settings(max_examples=60)
def test_any_range_can_be_sealed_alone(size: int, start: int, length: int, *, padding: bool) -> None:
    plain = drawn("plain", size)
    form = form_of(plain, padding=padding)
    whole = sealing(form).whole(plain)
    asked: list[tuple[int, int]] = []

    def read_at(offset: int, count: int) -> bytes:
        asked.append((offset, count))
        return plain[offset : offset + count]

    assert b"".join(sealing(form).span(read_at, start, start + length)) == whole[start : start + length]
    assert sum(count for _, count in asked) <= length + 2 * CHUNK, "a range reads only the chunks that it touches"


def test_the_same_version_gives_the_same_bytes_and_another_version_none_of_them() -> None:
    plain = bytes(4096)
    assert sealed(plain) == sealed(plain)
    pieces = [sealed(plain), sealed(plain, version="2"), sealed(plain, path=b"c"), sealed(plain, padding=True)]
    bodies = [{each[at : at + 12] for at in range(144, len(each))} for each in pieces[:3]]
    assert not bodies[0] & bodies[1]
    assert not bodies[0] & bodies[2]


def test_keys_differ_where_any_part_of_the_header_does() -> None:
    """A nonce follows from the plain bytes: under one key, two headers for it would give away the key of the tags."""
    parts = {"source": SOURCE, "element": drawn("element"), "version": drawn("version")}
    made = [VAULT.keys(**parts)]
    made += [VAULT.keys(**{**parts, name: bytes(len(value))}) for name, value in parts.items()]
    made.append(VAULT.keys(**parts, key_id=VAULT.key_ids[0]))
    made.append(replace(VAULT, id=bytes(16)).keys(**parts))
    for values in ({each.seal for each in made}, {each.nonce for each in made}, {each.header for each in made}):
        assert len(values) == len(made)
    assert len({each.header.etag for each in made}) == len(made), "a range is never resumed in another object"


def test_a_nonce_repeats_only_with_the_plain_bytes_in_the_same_place() -> None:
    first, second = bytes(3 * CHUNK), bytes(CHUNK) + b"x" + bytes(2 * CHUNK - 1)
    bodies = []
    for plain in (first, second):
        whole = sealed(plain)
        step = CHUNK + OVERHEAD
        bodies.append([whole[at : at + step] for at in range(len(whole) - 3 * step, len(whole), step)])
    assert bodies[0][0] == bodies[1][0]
    assert bodies[0][2] == bodies[1][2]
    nonces = {chunk[:12] for chunk in (*bodies[0], *bodies[1])}
    assert len(nonces) == 4


def test_a_content_that_is_not_as_long_as_its_form_says_never_reaches_its_end() -> None:
    form = form_of(bytes(CHUNK + 10))
    for size in (0, 10, CHUNK, CHUNK + 9, CHUNK + 11, 3 * CHUNK):
        out: list[bytes] = []
        with pytest.raises(LengthChangedError):
            out.extend(sealing(form).stream(io.BytesIO(bytes(size))))
        assert sum(map(len, out)) < sealing(form).length
        with pytest.raises(LengthChangedError):
            sealing(form).whole(bytes(size))
    with pytest.raises(LengthChangedError):
        list(sealing(form_of(b"")).stream(io.BytesIO(b"x")))


class Dripping(io.BytesIO):
    """Gives less than was asked for, as a socket does."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(min(size or 0, 1000))


def test_a_stream_that_drips_is_read_as_any_other() -> None:
    plain = drawn("plain", CHUNK + 5)
    assert b"".join(sealing(form_of(plain)).stream(Dripping(plain))) == sealed(plain)
    assert read_exactly(Dripping(b"ab"), 5) == b"ab"


def test_memory_does_not_grow_with_the_content() -> None:
    size = 24 << 20
    form = Form(path=b"big", kind=Kind.FILE, sealed_us=1, size=size)
    tracemalloc.start()
    try:
        taken = 0
        for piece in sealing(form).span(lambda _, count: bytes(count)):
            taken += len(piece)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (
        taken == sealing(form).length == len(sealing(form_of(b"")).whole(b"")) + size + OVERHEAD * (size // CHUNK - 1)
    )
    assert peak < 1 << 20


def test_padding_shows_the_size_only_roughly() -> None:
    lengths = {size: sealing(form_of(bytes(size), padding=True)).length for size in range(0, 5000, 7)}
    assert len(set(lengths.values())) < 80
    assert len({lengths[size] for size in lengths if size <= 256}) == 1
    for size in (0, 9, 255, 256, 257, 4097, 10**6, 10**9, 1 << 40):
        padded = padded_content_size(size)
        assert padded >= size
        assert padded <= max(256, size * 1.12)
        assert padded_content_size(padded) == padded


def test_forms_are_always_padded() -> None:
    lengths = {sealing(form_of(b"", path=b"p" * size)).length for size in range(1, 120)}
    assert len(lengths) == 1


def test_the_number_of_chunks_is_never_zero() -> None:
    assert [chunk_count(size) for size in (0, 1, CHUNK, CHUNK + 1)] == [1, 1, 1, 2]


def test_list_forms_come_back_and_name_their_version_to_everybody() -> None:
    form = form_of(bytes(10), user=b"emma")
    text = seal_list_form(VAULT, form, source=SOURCE, version=version_of("1"))
    back = open_list_form(text, RING)
    assert (back.form, back.header) == (form, parse_header(list_form_bytes(text)))
    assert back.header.element_id == VAULT.element(b"a/b").hex()
    newer = seal_list_form(VAULT, replace(form, mode=0o600), source=SOURCE, version=version_of("1"))
    assert list_form_bytes(newer)[:144] == list_form_bytes(text)[:144]
    assert list_form_bytes(newer)[144:156] != list_form_bytes(text)[144:156]


def test_large_attributes_travel_in_front_of_the_content() -> None:
    xattrs = tuple((b"user.%03d" % number, drawn(str(number), 900)) for number in range(200))
    plain = b"data"
    form = Form(path=b"x", kind=Kind.FILE, sealed_us=1, size=100, content=4, holes=((2, 96),), xattrs=xattrs)
    short, blob = fitted(form)
    assert len(blob) > 2 * CHUNK
    assert merged(short, blob) == form
    back = opened(sealing(short).whole(blob + plain))
    assert back.form == form
    assert b"".join(back.chunks) == plain
    small = form_of(plain)
    assert fitted(small) == (small, b"")


def test_an_older_and_a_newer_kit_of_a_vault_are_put_together() -> None:
    newer = VAULT.with_new_master(entropy=bytes)
    assert keyring([VAULT, newer]) == keyring([newer, VAULT, newer]) == {VAULT.id: newer}
    plain = b"x"
    by_first = sealing(form_of(plain), key_id=VAULT.key_ids[0]).whole(plain)
    assert b"".join(opened(by_first).chunks) == plain
    with pytest.raises(UsageError, match="different keys"):
        keyring([VAULT, replace(VAULT, id_key=bytes(32))])


def test_a_vault_has_keys_of_its_own_and_names_what_others_cannot_link() -> None:
    one, other = Vault.make(), Vault.make()
    assert one.element(b"a") != other.element(b"a")
    assert one.version(b"n") != other.version(b"n")
    assert one.masters[0].hex() not in repr(one)
    assert METHOD == "sc2"
    for wrong in ({"id": b""}, {"id_key": bytes(31)}, {"masters": ()}, {"masters": (one.id_key,)}):
        with pytest.raises(UsageError):
            replace(one, **wrong)
    with pytest.raises(ValueError, match="lengths"):
        one.keys(source=b"short", element=bytes(32), version=bytes(32))
    assert made_vault().key_ids == VAULT.key_ids
