"""Nothing that a keeper makes of sealed data is opened, and nothing unauthenticated is given out before the refusal."""

from __future__ import annotations

import copy
import io
from base64 import b64encode
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kropot.errors import Exit
from kropot.sc2.form import pad_form
from kropot.sc2.layout import CHUNK, HEADER_BYTES, OVERHEAD, head_length, list_form_bytes, parse_header
from kropot.sc2.opening import open_list_form, open_object
from kropot.sc2.refused import NoKeyError, Reason, RefusedError
from kropot.sc2.seal import CONTENT, FORM, Pieces, seal_list_form
from kropot.sc2.vault import keyring
from tests.faults.mutate import mutate
from tests.kropot.sc2_world import (
    RING,
    SOURCE,
    VAULT,
    drawn,
    form_of,
    given_out,
    made_vault,
    opened,
    refused,
    sealed,
    sealing,
    version_of,
)

SMALL = drawn("small", 40)
LARGE = drawn("large", 2 * CHUNK + 100)
BEGIN = head_length(256)
STEP = CHUNK + OVERHEAD
OBJECT = sealed(SMALL)
LONG = sealed(LARGE)


def chunks(data: bytes) -> list[bytes]:
    return [data[at : at + STEP] for at in range(BEGIN, len(data), STEP)]


def pieces(path: bytes = b"a/b", version: str = "1") -> tuple[bytes, Pieces]:
    """Return the header and the pieces of a version, as only somebody with the kit can make them."""
    keys = VAULT.keys(source=SOURCE, element=VAULT.element(path), version=version_of(version))
    return keys.header.encode(), Pieces(keys)


def assembled(head: bytes, form: bytes, *rest: bytes) -> bytes:
    return head + len(form).to_bytes(2, "big") + form + b"".join(rest)


@pytest.mark.parametrize("change", [1, 0x80])
def test_no_byte_can_be_changed(change: int) -> None:
    for at in range(len(OBJECT)):
        damaged = bytearray(OBJECT)
        damaged[at] ^= change
        refused(bytes(damaged), SMALL)


def test_no_byte_at_a_border_of_a_long_object_can_be_changed() -> None:
    borders = {BEGIN + number * STEP + near for number in range(3) for near in (-17, -16, -1, 0, 11, 12, 13)}
    for at in sorted({*borders, len(LONG) - 1, BEGIN + STEP // 2}):
        damaged = bytearray(LONG)
        damaged[at] ^= 4
        refused(bytes(damaged), LARGE)


def test_nothing_can_be_cut_off() -> None:
    for size in range(len(OBJECT)):
        assert refused(OBJECT[:size], SMALL).reason is Reason.CUT
    for size in (BEGIN, BEGIN + 1, BEGIN + STEP, BEGIN + STEP + 12, BEGIN + 2 * STEP, len(LONG) - 1):
        assert refused(LONG[:size], LARGE).reason is Reason.CUT


@pytest.mark.parametrize("more", [b"\0", bytes(28), OBJECT, chunks(LONG)[2]])
def test_nothing_can_be_added(more: bytes) -> None:
    assert refused(OBJECT + more, SMALL).reason is Reason.EXCESS
    assert refused(LONG + more, LARGE).reason is Reason.EXCESS


@pytest.mark.parametrize(
    "order", [(1, 0, 2), (0, 0, 2), (0, 2), (1, 2), (2,), (0, 1, 1), (0, 2, 1), (0, 1, 2, 2), (0, 1, 1, 2)]
)
def test_chunks_stay_where_they_are(order: tuple[int, ...]) -> None:
    parts = chunks(LONG)
    refused(LONG[:BEGIN] + b"".join(parts[number] for number in order), LARGE)


@pytest.mark.parametrize("other", [sealed(LARGE, path=b"a/c"), sealed(LARGE, version="2"), sealed(LARGE[::-1])])
def test_parts_of_two_objects_do_not_fit_together(other: bytes) -> None:
    """Another file with the same bytes, another version of the same file, and the same version with other bytes."""
    mine, theirs = chunks(LONG), chunks(other)
    for number in range(3):
        mixed = [*mine[:number], theirs[number], *mine[number + 1 :]]
        whole = LONG[:BEGIN] + b"".join(mixed)
        if theirs[number] != mine[number]:
            out, error = given_out(whole)
            # One version MUST have one content. Where a gateway broke this, each chunk is still one that it sealed.
            assert (error is not None and LARGE.startswith(out)) or other[:HEADER_BYTES] == LONG[:HEADER_BYTES]
    if other[:HEADER_BYTES] != LONG[:HEADER_BYTES]:
        assert refused(other[:HEADER_BYTES] + LONG[HEADER_BYTES:], LARGE).reason is Reason.FORM
        assert refused(LONG[:HEADER_BYTES] + other[HEADER_BYTES:BEGIN] + b"".join(mine), LARGE).reason is Reason.FORM
        assert refused(other[:BEGIN] + LONG[BEGIN:], LARGE).reason is Reason.CONTENT


def test_a_content_is_never_taken_for_a_form_nor_a_form_for_a_content() -> None:
    """Who gets a chosen file backed up owns its bytes: here they are a padded form that would move the file."""
    evil = pad_form(form_of(SMALL, path=b"root/.ssh/authorized_keys").encode())
    carrier = sealed(evil)
    chunk = carrier[BEGIN:]
    assert len(chunk) == len(evil) + OVERHEAD
    forged = assembled(carrier[:HEADER_BYTES], chunk, chunk)
    assert refused(forged, evil).reason is Reason.FORM
    text = b64encode(carrier[:HEADER_BYTES] + chunk).decode()
    with pytest.raises(RefusedError) as caught:
        open_list_form(text, RING)
    assert caught.value.reason is Reason.FORM
    form = carrier[HEADER_BYTES + 2 : BEGIN]
    assert refused(carrier[:BEGIN] + form, evil).reason is Reason.CONTENT


def test_a_form_of_a_list_is_never_taken_for_that_of_an_object() -> None:
    text = seal_list_form(VAULT, replace(form_of(SMALL), mode=0), source=SOURCE, version=version_of("1"))
    listed = list_form_bytes(text)
    assert listed[:HEADER_BYTES] == OBJECT[:HEADER_BYTES]
    forged = assembled(OBJECT[:HEADER_BYTES], listed[HEADER_BYTES:], OBJECT[BEGIN:])
    assert refused(forged, SMALL).reason is Reason.FORM
    with pytest.raises(RefusedError):
        open_list_form(b64encode(OBJECT[:HEADER_BYTES] + OBJECT[HEADER_BYTES + 2 : BEGIN]).decode(), RING)


def test_every_field_of_the_header_is_bound() -> None:
    header = parse_header(OBJECT)
    other = made_vault("w")
    ring = keyring([VAULT, other])
    cases = {
        Reason.VAULT: {"vault": bytes(16)},
        Reason.KEY: {"key_id": bytes(8)},
    }
    for reason, change in cases.items():
        error = refused(header._replace(**change).encode() + OBJECT[HEADER_BYTES:], SMALL)
        assert (error.reason, error.exit_code, type(error)) == (reason, Exit.WRONG_KEY, NoKeyError)
    for change in (
        {"key_id": VAULT.key_ids[0]},
        {"source": bytes(16)},
        {"element": bytes(32)},
        {"version": version_of("2")},
        {"commitment": bytes(32)},
        {"vault": other.id, "key_id": other.key_ids[-1]},
    ):
        damaged = header._replace(**change).encode() + OBJECT[HEADER_BYTES:]
        with pytest.raises(RefusedError) as caught:
            open_object(io.BytesIO(damaged), ring)
        assert (caught.value.reason, caught.value.exit_code) == (Reason.COMMITMENT, Exit.FINDINGS)


def test_the_vault_of_another_is_named() -> None:
    with pytest.raises(NoKeyError, match=VAULT.id.hex()):
        open_object(io.BytesIO(OBJECT), keyring([made_vault("w")]))
    with pytest.raises(NoKeyError, match="newer kit"):
        open_object(io.BytesIO(OBJECT), keyring([made_vault(masters=1)]))


def test_a_refusal_comes_out_of_another_process_as_it_was() -> None:
    for error in (RefusedError(Reason.CUT, "it ends"), NoKeyError(Reason.KEY, "no key")):
        back = copy.copy(error)  # by the same way as pickle
        assert (type(back), back.reason, str(back)) == (type(error), error.reason, str(error))


class Counting(io.BytesIO):
    """Refuses to be asked for more than an honest object ever needs."""

    def read(self, size: int | None = -1) -> bytes:
        assert size is not None
        assert 0 <= size <= STEP
        return super().read(size)


@pytest.mark.parametrize("length", [0, 1, 28, 283, 285, 16_383 + 28, 65_535])
def test_lengths_are_bounded_before_anything_is_read(length: int) -> None:
    damaged = OBJECT[:HEADER_BYTES] + length.to_bytes(2, "big") + bytes(70_000)
    with pytest.raises(RefusedError) as caught:
        open_object(Counting(damaged), RING)
    assert caught.value.reason is Reason.FORM


def test_a_form_that_promises_much_makes_nobody_wait_for_it() -> None:
    """Only the owner can seal such a form; still nothing is allocated that the object does not hold."""
    head, sealer = pieces()
    huge = replace(form_of(b""), size=1 << 47)
    whole = assembled(head, sealer.seal(FORM, 0, pad_form(huge.encode()), last=True), bytes(100))
    with pytest.raises(RefusedError) as caught:
        list(open_object(Counting(whole), RING).chunks)
    assert caught.value.reason is Reason.CUT


def test_what_is_sealed_wrongly_by_somebody_with_the_kit_is_refused_too() -> None:
    head, sealer = pieces()
    form = sealer.seal(FORM, 0, pad_form(form_of(SMALL).encode()), last=True)
    good = sealer.seal(CONTENT, 0, SMALL, last=True)
    assert given_out(assembled(head, form, good)) == (SMALL, None)
    for reason, chunk in (
        (Reason.CONTENT, sealer.seal(CONTENT, 0, SMALL, last=False)),
        (Reason.CONTENT, sealer.seal(CONTENT, 1, SMALL, last=True)),
        (Reason.EXCESS, good + sealer.seal(CONTENT, 1, b"", last=True)),
        (Reason.CUT, sealer.seal(CONTENT, 0, SMALL[:-1], last=True)),
    ):
        assert refused(assembled(head, form, chunk), SMALL).reason is reason
    elsewhere = sealer.seal(FORM, 0, pad_form(form_of(SMALL, path=b"else").encode()), last=True)
    assert refused(assembled(head, elsewhere, good), SMALL).reason is Reason.NAME
    padded = sealer.seal(FORM, 0, pad_form(form_of(SMALL, padding=True).encode()), last=True)
    dirty = sealer.seal(CONTENT, 0, SMALL.ljust(256, b"x"), last=True)
    assert refused(assembled(head, padded, dirty), SMALL).reason is Reason.CONTENT
    unpadded = sealer.seal(FORM, 0, pad_form(form_of(SMALL).encode())[:-1] + b"x", last=True)
    assert refused(assembled(head, unpadded, good), SMALL).reason is Reason.FORM


def test_a_list_form_is_refused_like_an_object() -> None:
    text = seal_list_form(VAULT, form_of(SMALL), source=SOURCE, version=version_of("1"))
    raw = list_form_bytes(text)
    for at in range(len(raw)):
        damaged = bytearray(raw)
        damaged[at] ^= 1
        with pytest.raises(RefusedError):
            open_list_form(b64encode(damaged).decode(), RING)
    for wrong in ("", text[:-1], text + "A", "é" + text[1:], "-" + text[1:], "=" * len(text)):
        with pytest.raises(RefusedError):
            open_list_form(wrong, RING)


@given(st.integers(0, 1 << 64))
@settings(max_examples=150)
def test_damage_is_refused_or_leaves_the_object_as_it_was(seed: int) -> None:
    damaged = mutate([OBJECT], seed)
    if damaged != OBJECT:
        refused(damaged, SMALL)


def test_the_honest_objects_open() -> None:
    assert given_out(OBJECT) == (SMALL, None)
    assert given_out(LONG) == (LARGE, None)
    assert opened(OBJECT).header == sealing(form_of(SMALL)).header
