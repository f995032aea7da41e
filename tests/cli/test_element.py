"""How sources and elements are named on a command line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kropot.errors import UsageError
from kropot.query.names import find_source, readings
from ledger.events import StreamKey

ONE = bytes.fromhex("a1b2" + "00" * 14)
TWO = bytes.fromhex("a1c3" + "00" * 14)
IDS = st.binary(min_size=16, max_size=16)


@given(st.lists(IDS, min_size=1, max_size=5, unique=True), st.data())
def test_a_source_is_found_by_its_whole_id(known: list[bytes], data: st.DataObject) -> None:
    wanted = data.draw(st.sampled_from(known))
    assert find_source(known, wanted.hex()) == wanted
    assert find_source(known, wanted.hex().upper()) == wanted


def test_a_source_is_found_by_the_beginning_that_only_it_has() -> None:
    assert find_source([ONE, TWO], "a1b") == ONE


@pytest.mark.parametrize("text", ["a1", "ff", "", "zz", "a1b200" + "0" * 40])
def test_what_names_none_or_several_sources_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        find_source([ONE, TWO], text)


def test_an_element_without_a_source_is_looked_for_in_all() -> None:
    assert readings([ONE, TWO], "x") == [StreamKey(source=s, kind="file", id="x") for s in (ONE, TWO)]


def test_an_id_with_a_colon_is_read_both_ways() -> None:
    found = readings([ONE, TWO], "a1b2:x")
    assert StreamKey(source=ONE, kind="file", id="x") in found
    assert StreamKey(source=ONE, kind="file", id="a1b2:x") in found
    assert StreamKey(source=TWO, kind="file", id="x") not in found
