"""Rows of the projection recognised as plainly right: only right ones, and with the digest's own bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from ledger.audit.fast.entry import EntryRecogniser
from ledger.codec import encode_payload
from ledger.digest import row as digest_row
from ledger.events import CopyStored, Element, Failure, StreamKey
from ledger.projection import Happened, entry_row
from tests.ledger.facts import COPY, ELEMENT

SOURCE = b"\x05" * 16
KEY = StreamKey(source=SOURCE, kind="file", id="x" * 40)
FAILURE = Failure(reason="http_500", attempts=1, since_us=1, next_try_us=1 << 40)
ELEMENTS = [
    ELEMENT,
    replace(ELEMENT, present=False),
    replace(ELEMENT, failure=FAILURE),
    replace(ELEMENT, copy=COPY, revision=COPY.revision),
    replace(ELEMENT, copy=replace(COPY, iv=None), revision=COPY.revision + 1, size=5),
    replace(ELEMENT, copy=COPY, revision=COPY.revision + 1, failure=FAILURE, present=False),
]


def projected(element: Element, key: StreamKey = KEY) -> tuple[object, ...]:
    """The page row of an element that was projected as it should be."""
    fact = CopyStored(element=element)
    row = entry_row(Happened(9, 4, 2, 1 << 50, SOURCE, fact), 1, element)
    return (key.stored, *row, 4, "CopyStored", 1, 1 << 50, encode_payload(fact))


@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize("length", [1, 31, 32, 255, 256, 512])
def test_a_right_row_gives_the_bytes_of_the_state_digest(element: Element, length: int) -> None:
    key = replace(KEY, id="ä" * (length // 2) + "x" * (length % 2))
    assert EntryRecogniser({SOURCE: 1}).digest_row(projected(element, key)) == digest_row(key, element)


@pytest.mark.parametrize("element", ELEMENTS)
@given(st.data())
def test_a_row_that_differs_in_any_column_is_not_plain(element: Element, data: st.DataObject) -> None:
    row = list(projected(element))
    # Version and position are compared with the log before, and the key's id is where the row was found.
    at = data.draw(st.sampled_from([1, 2, 5, 6, 7, 8, 9, 10, 11]))
    row[at] = data.draw(
        st.one_of(
            st.integers(0, 9), st.none(), st.sampled_from(["current", "pending", "vanished", "damaged", b"x" * 32])
        )
    )
    if row[at] != projected(element)[at]:
        assert EntryRecogniser({SOURCE: 1}).digest_row(tuple(row)) is None


def test_a_damaged_copy_is_looked_at_closely() -> None:
    element = replace(ELEMENT, copy=COPY, damage="lost")
    assert EntryRecogniser({SOURCE: 1}).digest_row(projected(element)) is None
    assert EntryRecogniser({}).digest_row(projected(ELEMENT)) is None
