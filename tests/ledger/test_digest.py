"""The state digest's rows: the canonical msgpack of ten values, however they were put together."""

from __future__ import annotations

import hashlib

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.digest import StateDigest, head_of, row
from ledger.events import Copy, Element, StreamKey

COPIES = st.builds(
    Copy,
    sha256=st.binary(min_size=32, max_size=32),
    size=st.integers(0, (1 << 63) - 1),
    iv=st.none() | st.binary(min_size=16, max_size=16),
    revision=st.integers(1, 2),
    instance=st.just("main"),
)
ELEMENTS = st.builds(
    Element,
    date=st.integers(-(1 << 63), (1 << 63) - 1),
    tz=st.text(max_size=300),
    form=st.binary(max_size=40),
    revision=st.integers(1, 2),
    present=st.booleans(),
    epoch=st.just(0),
    size=st.none(),
    etag=st.none(),
    copy=st.none() | COPIES,
    damage=st.sampled_from([None, None, "damaged", "lost"]),
    failure=st.none(),
)
NAMES = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), min_size=1, max_size=200)


@given(ELEMENTS, NAMES)
def test_a_row_is_the_msgpack_that_the_format_describes(element: Element, name: str) -> None:
    key = StreamKey(source=bytes(range(16)), kind="file", id=name)
    copy = element.copy
    stored = [None, None, None] if copy is None else [copy.sha256, copy.size, copy.iv]
    form = hashlib.sha256(element.form).digest()
    values = [key.source, "file", name, element.date, element.tz, form, element.state, *stored]
    assert row(key, element) == msgpack.packb(values, use_bin_type=True)
    assert row(key, element).startswith(head_of(key.stored))


@pytest.mark.parametrize("length", [1, 31, 32, 255, 256, 599, 600, 65_535, 65_536])
def test_a_row_begins_as_it_does_in_msgpack_however_long_the_id_is(length: int) -> None:
    stored = bytes(16) + b"file\x00" + b"x" * length
    assert head_of(stored) == b"\x9a" + b"".join(map(msgpack.packb, (bytes(16), "file", "x" * length)))


def test_keys_seen_out_of_order_are_refused() -> None:
    digest = StateDigest()
    digest.look([b"a", b"b"])
    for keys in ([b"b"], [b"c", b"c"]):
        with pytest.raises(ValueError, match="bytewise"):
            digest.look(keys)
