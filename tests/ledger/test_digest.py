"""The state digest's rows are canonical, ordered, and free of what differs between two runs that ended alike."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.digest import StateDigest, row
from ledger.events import Copy, Element, Failure, StreamKey

KEY = StreamKey(source=bytes(range(16)), kind="file", id="392154")
COPY = Copy(sha256=b"\x11" * 32, size=32, iv=b"\x22" * 16, revision=1, instance="main")
ELEMENT = Element(
    date=1_795_413_941,
    tz="UTC",
    form=b'{"encrypted":"QUJD"}',
    revision=1,
    present=True,
    epoch=0,
    size=None,
    etag=None,
    copy=COPY,
    damage=None,
    failure=None,
)


def test_row_is_the_documented_array_of_ten() -> None:
    assert msgpack.unpackb(row(KEY, ELEMENT)) == [
        KEY.source,
        "file",
        "392154",
        1_795_413_941,
        "UTC",
        hashlib.sha256(ELEMENT.form).digest(),
        "current",
        COPY.sha256,
        32,
        COPY.iv,
    ]


def test_row_without_a_copy_holds_three_nils() -> None:
    assert msgpack.unpackb(row(KEY, replace(ELEMENT, copy=None)))[-4:] == ["pending", None, None, None]


def test_digest_is_frozen() -> None:
    digest = StateDigest()
    assert digest.text == "sd1:" + hashlib.sha256(b"").hexdigest()
    digest.add(KEY, ELEMENT)
    assert digest.text == "sd1:" + hashlib.sha256(row(KEY, ELEMENT)).hexdigest()
    assert digest.text == "sd1:335c9755d808c17bae66e9c9ef5a499cc19fb7af14b040a8c90b520e7eee08b9"


def test_rows_out_of_order_or_twice_are_refused() -> None:
    digest = StateDigest()
    digest.add(KEY, ELEMENT)
    with pytest.raises(ValueError, match="key order"):
        digest.add(KEY, ELEMENT)
    with pytest.raises(ValueError, match="key order"):
        digest.add(replace(KEY, id="0"), ELEMENT)


@given(revision=st.integers(1, 9), epoch=st.integers(0, 3), instance=st.text(max_size=5), attempts=st.integers(1, 99))
def test_retries_writers_and_revision_counts_leave_no_trace(
    revision: int, epoch: int, instance: str, attempts: int
) -> None:
    failure = Failure(reason="truncated", attempts=attempts, since_us=attempts, next_try_us=attempts + 1)
    other = replace(
        ELEMENT,
        revision=revision,
        epoch=epoch,
        size=32,
        etag='"x"',
        copy=replace(COPY, revision=revision, instance=instance),
        failure=failure,
    )
    assert row(KEY, other) == row(KEY, ELEMENT)
