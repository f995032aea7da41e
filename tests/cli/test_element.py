"""How sources and elements are named on a command line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kropot.errors import UsageError
from kropot.query.names import check_label, find_source, long_name, readings, short_name
from kropot.wording import as_written, one_line, written
from ledger.events import StreamKey

ONE = bytes.fromhex("a1b2" + "00" * 14)
TWO = bytes.fromhex("a1c3" + "00" * 14)
BARE = dict.fromkeys([ONE, TWO])
IDS = st.binary(min_size=16, max_size=16)


@given(st.lists(IDS, min_size=1, max_size=5, unique=True), st.data())
def test_a_source_is_found_by_its_whole_id(known: list[bytes], data: st.DataObject) -> None:
    wanted = data.draw(st.sampled_from(known))
    assert find_source(dict.fromkeys(known), wanted.hex()) == wanted
    assert find_source(dict.fromkeys(known), wanted.hex().upper()) == wanted


def test_a_source_is_found_by_the_beginning_that_only_it_has() -> None:
    assert find_source(BARE, "a1b") == ONE


@pytest.mark.parametrize("text", ["a1", "ff", "", "zz", "a1b200" + "0" * 40])
def test_what_names_none_or_several_sources_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        find_source(BARE, text)


def test_an_element_without_a_source_is_looked_for_in_all() -> None:
    assert readings(BARE, "x") == [StreamKey(source=s, kind="file", id="x") for s in (ONE, TWO)]


def test_an_id_with_a_colon_is_read_both_ways() -> None:
    found = readings(BARE, "a1b2:x")
    assert StreamKey(source=ONE, kind="file", id="x") in found
    assert StreamKey(source=ONE, kind="file", id="a1b2:x") in found
    assert StreamKey(source=TWO, kind="file", id="x") not in found


def test_a_label_names_its_source_before_any_id_does() -> None:
    labels = {ONE: None, TWO: "A1b"}
    assert find_source(labels, "a1b") == TWO
    assert find_source(labels, "a1b2") == ONE
    assert (short_name(labels, ONE), short_name(labels, TWO)) == ("a1b20000", "A1b")
    assert long_name(labels, TWO) == f"A1b ({TWO.hex()})"
    assert StreamKey(source=TWO, kind="file", id="x") in readings(labels, "a1B:x")


@pytest.mark.parametrize("label", ["", " web", "web ", "a:b", "a\nb", "x" * 65, "deadbeef", "DEADBEEF00", "Taken"])
def test_a_label_that_could_mean_something_else_is_refused(label: str) -> None:
    with pytest.raises(UsageError):
        check_label({ONE: None, TWO: "taken"}, ONE, label)


@pytest.mark.parametrize("label", ["web 1", "dead-beef", "cafe", "taken", "\u017c\u00f3\u0142w"])
def test_a_label_that_only_one_source_has_is_good(label: str) -> None:
    check_label({ONE: "taken", TWO: None}, ONE, label)


@given(st.binary(max_size=40))
def test_a_name_that_is_shown_is_one_printable_line_and_is_taken_back(name: bytes) -> None:
    assert written(name).isprintable()
    assert as_written(written(name)) == name


@pytest.mark.parametrize(
    ("typed", "meant"), [("a\\b", b"a\\b"), ("c:\\x", b"c:\\x"), ("\\xzz", b"\\xzz"), ("\\", b"\\")]
)
def test_a_backslash_that_begins_no_escape_stands_for_itself(typed: str, meant: bytes) -> None:
    assert as_written(typed) == meant


def test_an_id_is_taken_as_it_is_shown() -> None:
    id_ = "a\tb\\n"
    assert StreamKey(source=ONE, kind="file", id=id_) in readings(BARE, one_line(id_))
    assert StreamKey(source=ONE, kind="file", id=id_) in readings(BARE, f"a1b2:{one_line(id_)}")
    assert StreamKey(source=ONE, kind="file", id=id_) in readings(BARE, id_)
