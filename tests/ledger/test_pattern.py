"""Payloads recognised by their bytes: never one that reading closely would refuse, and nearly every real one."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from ledger.codec import encode_payload, read_payload
from ledger.errors import MalformedEventError
from ledger.events import FACTS, Copy, CopyStored, Element, Fact, Failure, HeldListing, RemoteObserved, Source
from ledger.pattern import is_whole, number, recogniser
from ledger.quick import plain_types
from ledger.shape import hints_of
from tests.ledger.facts import COPY, ELEMENT, facts

ELEMENTS = recogniser(RemoteObserved, "element_copy_sha256", "element_copy_size", "element_date")


def recognised(payload: bytes) -> bool:
    match = ELEMENTS.match(payload)
    return match is not None and is_whole(match)


def is_good(payload: bytes) -> bool:
    """What a close look says."""
    try:
        return read_payload("RemoteObserved", 1, 0, payload).canonical
    except MalformedEventError:
        return False


@given(facts())
def test_what_is_recognised_is_canonical_and_of_this_class(fact: Fact) -> None:
    payload = encode_payload(fact)
    assert not recognised(payload) or is_good(payload)
    assert not recognised(payload) or (fact.TYPE, fact.VERSION) in plain_types()


@given(facts(), st.data())
def test_changed_bytes_that_are_recognised_are_still_good(fact: Fact, data: st.DataObject) -> None:
    payload = bytearray(encode_payload(fact))
    for _ in range(data.draw(st.integers(1, 2))):
        at = data.draw(st.integers(0, len(payload) - 1))
        payload[at] = data.draw(st.one_of(st.integers(0, 255), st.sampled_from(sorted(set(payload)))))
    assert not recognised(bytes(payload)) or is_good(bytes(payload))


@pytest.mark.parametrize("at", range(len(encode_payload(CopyStored(element=replace(ELEMENT, copy=COPY))))))
def test_no_byte_of_a_recognised_payload_is_passed_over(at: int) -> None:
    payload = encode_payload(CopyStored(element=replace(ELEMENT, copy=COPY)))
    for value in range(256):
        changed = payload[:at] + bytes([value]) + payload[at + 1 :]
        assert not recognised(changed) or is_good(changed)


@pytest.mark.parametrize(
    "element",
    [
        ELEMENT,
        replace(ELEMENT, copy=COPY),
        replace(ELEMENT, form=b"", tz="", etag="x" * 31),
        replace(ELEMENT, form=b"x" * 255, tz="x" * 32, etag="x" * 72),
        replace(ELEMENT, form=b"x" * 256, present=False, damage="lost"),
        replace(ELEMENT, form=b"\xa7present" * 1000, copy=replace(COPY, iv=None, size=0)),
        replace(ELEMENT, failure=Failure(reason="http_500", attempts=3, since_us=1 << 33, next_try_us=(1 << 62) - 1)),
        *(replace(ELEMENT, date=1 << bits) for bits in (0, 6, 7, 8, 15, 16, 31, 32, 62)),
        *(replace(ELEMENT, size=(1 << bits) - 1) for bits in (0, 7, 8, 16, 32, 63)),
    ],
)
def test_what_elements_have_is_recognised_and_read_as_it_is(element: Element) -> None:
    payload = encode_payload(CopyStored(element=element))
    match = ELEMENTS.match(payload)
    assert match is not None
    assert is_whole(match)
    assert match["bytes" if len(element.form) < 256 else "long"] == element.form
    assert number(match["element_date"]) == element.date
    if element.copy is not None:
        assert match["element_copy_sha256"][2:] == element.copy.sha256
        assert number(match["element_copy_size"]) == element.copy.size


@pytest.mark.parametrize(
    "element",
    [replace(ELEMENT, date=-1), replace(ELEMENT, tz="Zürich"), replace(ELEMENT, etag="x" * 73)],
)
def test_what_is_rare_is_left_to_a_close_look(element: Element) -> None:
    assert not recognised(encode_payload(RemoteObserved(element=element)))


def test_the_length_of_the_form_counts() -> None:
    payload = encode_payload(RemoteObserved(element=replace(ELEMENT, form=b"x" * 20)))
    assert recognised(payload)
    assert not recognised(payload.replace(b"\xc4\x14", b"\xc4\x15"))
    assert not recognised(payload.replace(b"x" * 20, b"x" * 21))
    assert not recognised(payload.replace(b"\xc4\x14", b"\xc5\x01\x14"))
    long = encode_payload(RemoteObserved(element=replace(ELEMENT, form=b"x" * 300, tz="\x00C")))
    assert recognised(long)
    assert not recognised(long.replace(b"\xc5\x01\x2c", b"\xc5\x01\x2d"))
    held = msgpack.unpackb(payload)
    assert not recognised(msgpack.packb(held, use_bin_type=True) + b"\x00")


@pytest.mark.parametrize("cls", [Source, HeldListing, Copy])
def test_a_class_that_cannot_be_recognised_says_so_or_is(cls: type) -> None:
    """Nothing is passed over in silence: a field of an unknown kind is an error when the pattern is made."""
    if cls is Source:
        with pytest.raises(TypeError):
            recogniser(cls)
    else:
        assert recogniser(cls).match(b"") is None


def test_every_plain_type_has_the_shape_of_the_one_that_stands_for_them() -> None:
    names = {"RemoteObserved", "RemoteChanged", "RemoteVanished", "RemoteReappeared", "CopyStored", "FetchFailed"}
    names |= {"ElementDismissed", "DismissedFetchFailed", "DismissalWithdrawn", "RemoteCopied"}
    assert plain_types() == {(name, RemoteObserved.VERSION) for name in names}
    shapes = {name: list(hints_of(FACTS[name]).items()) for name in names}
    assert set(map(tuple, shapes.values())) == {tuple(shapes["RemoteObserved"])}
