"""LtHash16 and the state digest made of it: order does not matter, and what is removed was never there."""

from __future__ import annotations

import hashlib
import json
import runpy
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import lthash
from ledger.digest import SetDigest, row, text_of
from ledger.events import StreamKey
from ledger.lthash import EMPTY, LtHash
from tests.ledger.test_digest import ELEMENTS

if TYPE_CHECKING:
    from collections.abc import Iterable
    from random import Random

    from ledger.events import Element

ROOT = Path(__file__).parents[1]
ROWS = st.sets(st.binary(max_size=40), max_size=8)


def plainly(elements: Iterable[bytes]) -> bytes:
    """Add up the lanes one by one, as docs/format.md has it."""
    lanes = [0] * 1024
    for element in elements:
        told = struct.unpack("<1024H", hashlib.shake_128(b"sd2\0" + element).digest(2048))
        lanes = [(one + other) % 65536 for one, other in zip(lanes, told, strict=True)]
    return struct.pack("<1024H", *lanes)


def hashed(elements: Iterable[bytes]) -> LtHash:
    made = LtHash()
    for element in elements:
        made.add(element)
    return made


@given(ROWS, st.randoms(use_true_random=False))
@settings(max_examples=30)
def test_it_is_the_sum_of_the_lanes_in_any_order(elements: set[bytes], random: Random) -> None:
    order = list(elements)
    random.shuffle(order)
    assert hashed(order).lanes == plainly(elements)


@given(ROWS, ROWS, st.integers(1, 5))
@settings(max_examples=60)
def test_what_was_added_and_removed_was_never_there(kept: set[bytes], gone: set[bytes], room: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(lthash, "_ROOM", room)
        made = hashed(kept)
        for element in gone:
            made.add(element)
        for element in gone:
            made.remove(element)
        assert made.lanes == hashed(kept).lanes
        for element in kept:
            made.remove(element)
        assert made.lanes == EMPTY


@given(ROWS, ROWS)
@settings(max_examples=60)
def test_sets_are_the_same_only_if_their_values_are(one: set[bytes], other: set[bytes]) -> None:
    assert (hashed(one).lanes == hashed(other).lanes) is (one == other)


@given(ROWS, ROWS)
@settings(max_examples=30)
def test_whole_sets_can_be_added_and_removed(one: set[bytes], other: set[bytes]) -> None:
    made = LtHash(hashed(one).lanes)
    made.add_all(hashed(other).lanes)
    made.remove_all(hashed(one).lanes)
    assert made.lanes == hashed(other).lanes


def test_lanes_at_their_limits_do_not_run_into_each_other() -> None:
    full = b"\xff" * 2048
    made = LtHash(full)
    for _ in range(3 * lthash._ROOM + 7):
        made.add_all(full)
    assert made.lanes == struct.pack("<H", -(3 * lthash._ROOM + 8) % 65536) * 1024
    for _ in range(3 * lthash._ROOM + 8):
        made.remove_all(full)
    assert made.lanes == EMPTY


@pytest.mark.parametrize("length", [0, 2047, 2049])
def test_a_value_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="2048 bytes"):
        LtHash(bytes(length))


@given(st.dictionaries(st.tuples(st.integers(0, 2), st.text("abc", min_size=1, max_size=3)), ELEMENTS, max_size=5))
@settings(max_examples=20)
def test_sources_have_digests_of_their_own_and_that_of_all_is_of_their_sum(
    elements: dict[tuple[int, str], Element],
) -> None:
    whole, parts = SetDigest(), {}
    for (number, name), element in elements.items():
        key = StreamKey(source=bytes([number]) * 16, kind="file", id=name)
        packed = row(key, element)
        whole.add(packed)
        parts.setdefault(key.source, []).append(packed)
    assert whole.text == text_of(plainly(packed for rows in parts.values() for packed in rows))
    assert whole.sources == {source: text_of(plainly(rows)) for source, rows in sorted(parts.items())}
    again = SetDigest(whole.lanes)
    again.add_all(whole.lanes, -1)
    assert (again.lanes, again.text) == ({}, SetDigest().text)


def test_the_vectors_are_made_again_to_the_byte() -> None:
    made = runpy.run_path(str(ROOT / "tools" / "sd2_vectors.py"))["vectors"]()
    assert made == (ROOT / "vectors" / "sd2.json").read_text()


@pytest.mark.parametrize("vector", json.loads((ROOT / "vectors" / "sd2.json").read_text())["sets"])
def test_the_vectors_are_what_the_document_says(vector: dict[str, object]) -> None:
    told = [bytes.fromhex(each) for each in vector["rows"]]  # type: ignore[attr-defined]
    assert plainly(told).hex() == vector["lanes"]
    assert "sd2:" + hashlib.sha256(plainly(told)).hexdigest() == vector["digest"]
