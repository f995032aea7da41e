"""Forms of sc2: canonical bytes, strictly read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kropot.sc2.form import MAX_ATTRIBUTES, MAX_PATH, Form, Kind, fitted, merged, pad_form, parse_form, unpad_form
from kropot.sc2.layout import FORM_SIZES
from kropot.sc2.refused import Reason, RefusedError
from tests.kropot.sc2_world import form_of

names = st.binary(min_size=1, max_size=40).filter(lambda name: not set(name) & {0, 47} and name not in {b".", b".."})
maybe_number = st.none() | st.integers(0, 2**32 - 1)
shared = {
    "path": st.lists(names, min_size=1, max_size=4).map(b"/".join),
    "sealed_us": st.integers(0, 2**62),
    "mode": st.none() | st.integers(0, 0o7777),
    "mtime_ns": st.none() | st.integers(-(2**63) + 1, 2**63 - 1),
    "uid": maybe_number,
    "gid": maybe_number,
    "user": st.none() | names,
    "group": st.none() | names,
    "padding": st.booleans(),
    "link_group": st.none() | st.binary(min_size=16, max_size=16),
    "xattrs": st.dictionaries(names, st.binary(max_size=50), max_size=4).map(
        lambda found: tuple(sorted(found.items()))
    ),
}
files = st.builds(
    Form,
    kind=st.just(Kind.FILE),
    size=st.integers(0, 1 << 47),
    sha256=st.none() | st.binary(min_size=32, max_size=32),
    **shared,
)
folders = st.builds(Form, kind=st.just(Kind.FOLDER), **shared)
links = st.builds(Form, kind=st.just(Kind.SYMLINK), target=names, **shared)


def packed(**fields: Any) -> bytes:
    return msgpack.packb(fields)


@given(files | folders | links)
def test_reading_undoes_writing(form: Form) -> None:
    encoded = form.encode()
    assert parse_form(encoded) == form
    padded = pad_form(encoded)
    assert len(padded) in FORM_SIZES
    assert unpad_form(padded) == encoded


@given(holes=st.lists(st.tuples(st.integers(1, 99), st.integers(1, 99)), max_size=9), rest=st.integers(0, 99))
def test_holes_are_left_out_of_the_content(holes: list[tuple[int, int]], rest: int) -> None:
    at, placed = 0, []
    for gap, length in holes:
        placed.append((at + gap, length))
        at += gap + length
    size = at + rest
    content = size - sum(length for _, length in placed)
    form = Form(
        path=b"x",
        kind=Kind.FILE,
        sealed_us=1,
        size=size,
        content=content if placed else None,
        holes=tuple(placed),
    )
    assert parse_form(form.encode()) == form
    assert form.plain_length == content


GOOD: dict[str, Any] = {"kind": "file", "path": b"a", "sealed_us": 1}


@pytest.mark.parametrize(
    "change",
    [
        {"path": b""},
        {"path": b"/a"},
        {"path": b"a/"},
        {"path": b"a//b"},
        {"path": b"a/../b"},
        {"path": b".."},
        {"path": b"./a"},
        {"path": b"a\0b"},
        {"path": b"a" * (MAX_PATH + 1)},
        {"path": "text"},
        {"path": None},
        {"kind": "socket"},
        {"kind": b"file"},
        {"kind": {}},
        {"kind": "symlink"},
        {"kind": "folder", "size": 1},
        {"target": b"x"},
        {"size": -1},
        {"size": 1.0},
        {"size": True},
        {"size": 2**63},
        {"content": 1},
        {"size": 1, "content": 1},
        {"size": 1, "content": 0},
        {"size": (1 << 48) + 1},
        {"attributes": 1},
        {"attributes": MAX_ATTRIBUTES + 1, "content": MAX_ATTRIBUTES + 1},
        {"attributes": 2, "content": 1},
        {"attributes": 1, "content": 3, "size": 1},
        {"size": 9, "content": 8, "holes": [[9, 1]]},
        {"size": 9, "content": 7, "holes": [[3, 1], [3, 1]]},
        {"size": 9, "content": 8, "holes": [[3, 2]]},
        {"size": 9, "content": 9, "holes": [[3, 0]]},
        {"size": 9, "content": 8, "holes": [[3]]},
        {"size": 9, "content": 8, "holes": 3},
        {"mode": 0o10000},
        {"mode": "644"},
        {"mtime_ns": 2**63},
        {"uid": -1},
        {"user": b""},
        {"user": b"x" * 256},
        {"user": "emma"},
        {"sha256": bytes(31)},
        {"link_group": bytes(15)},
        {"padding": 1},
        {"padding": False},
        {"mode": None},
        {"xattrs": []},
        {"xattrs": [[b"b", b""], [b"a", b""]]},
        {"xattrs": [[b"a", b""], [b"a", b""]]},
        {"xattrs": [[b"", b""]]},
        {"xattrs": [[b"a", b"", b""]]},
        {"xattrs": [[b"a", 1]]},
        {"xattrs": [[b"a", bytes(65_537)]]},
        {"xattrs": b"a"},
        {"sealed_us": -1},
        {"sealed_us": msgpack.Timestamp(1)},
        {"owner": b"emma"},
    ],
)
def test_what_no_form_may_say_is_refused(change: dict[str, Any]) -> None:
    assert parse_form(packed(**GOOD)) == Form(path=b"a", kind=Kind.FILE, sealed_us=1)
    fields = {**GOOD, **change}
    with pytest.raises(RefusedError) as caught:
        parse_form(packed(**dict(sorted(fields.items()))))
    assert caught.value.reason is Reason.FORM


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80",
        b"\x90",
        b"\xc1",
        b"\x91" * 5000,
        packed(path=b"a", kind="file", sealed_us=1),
        packed(**GOOD) + b"\0",
        packed(**GOOD).replace(b"\x01", b"\xcc\x01"),
        b"\x84" + packed(**GOOD)[1:] + packed(sealed_us=1)[1:],
        packed(kind="file", sealed_us=1),
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
    ],
)
def test_other_spellings_and_other_things_are_refused(data: bytes) -> None:
    with pytest.raises(RefusedError):
        parse_form(data)


def test_the_served_folder_itself_has_the_empty_path() -> None:
    root = Form(path=b"", kind=Kind.FOLDER, sealed_us=1)
    assert parse_form(root.encode()) == root


def test_the_longest_path_and_target_have_room() -> None:
    form = Form(path=b"p" * MAX_PATH, kind=Kind.SYMLINK, target=b"t" * MAX_PATH, sealed_us=1, user=b"u" * 255)
    assert parse_form(unpad_form(pad_form(form.encode()))) == form


def test_attributes_that_do_not_fit_are_moved_and_too_many_are_refused() -> None:
    form = form_of(b"data", xattrs=((b"user.a", bytes(5000)),))
    with pytest.raises(RefusedError, match="do not fit"):
        form.encode()
    short, blob = fitted(form)
    assert short.plain_length == len(blob) + 4
    assert parse_form(short.encode()) == short
    assert merged(short, blob) == form
    many = tuple((b"user.%04d" % number, bytes(65_536)) for number in range(260))
    with pytest.raises(RefusedError, match="do not fit"):
        fitted(replace(form, xattrs=many))
    for wrong in (blob[:-1], b"", b"\x80", blob.replace(b"user.a", b"user\0a")):
        with pytest.raises(RefusedError):
            merged(short, wrong)


@pytest.mark.parametrize("padded", [b"", b"\0" * 255, b"\xff\xff" + bytes(254), b"\0\1ab" + bytes(252), bytes(512)])
def test_only_one_padding_is_taken(padded: bytes) -> None:
    with pytest.raises(RefusedError):
        unpad_form(padded)
