"""Files with holes go through an object: only their data is sealed, and every byte comes back in its place."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from kropot.sc2.form import Form, Kind, fitted
from kropot.sc2.sparse import content_reader, data_ranges, placed
from tests.kropot.sc2_world import drawn, opened, sealing

layouts = st.lists(st.tuples(st.integers(0, 40_000), st.integers(1, 90_000)), max_size=5)


def sparse(layout: list[tuple[int, int]], rest: int) -> tuple[Form, bytes]:
    """Return a form and its file: data and holes by turns, then `rest` bytes of data."""
    file, holes = bytearray(), []
    for data, hole in layout:
        file += drawn("data", data)
        holes.append((len(file), hole))
        file += bytes(hole)
    file += drawn("rest", rest)
    content = len(file) - sum(length for _, length in holes)
    form = Form(
        path=b"disk.img",
        kind=Kind.FILE,
        sealed_us=1,
        size=len(file),
        content=content if holes else None,
        holes=tuple(holes),
    )
    return form, bytes(file)


@given(layout=layouts, rest=st.integers(0, 90_000), attributed=st.booleans(), start=st.integers(0, 200_000))
@settings(max_examples=40)
def test_every_byte_comes_back_in_its_place(
    layout: list[tuple[int, int]], rest: int, *, attributed: bool, start: int
) -> None:
    form, file = sparse(layout, rest)
    if attributed:
        form = replace(form, xattrs=((b"user.large", bytes(9000)),))
    short, blob = fitted(form)
    assert bool(blob) is attributed
    read_at = content_reader(form, lambda at, size: file[at : at + size], blob)
    whole = b"".join(sealing(short).span(read_at))
    assert b"".join(sealing(short).span(read_at, start)) == whole[start:]
    back = opened(whole)
    assert back.form == form
    out = bytearray(back.form.size)
    for at, data in placed(back.form, back.chunks):
        out[at : at + len(data)] = data
    assert bytes(out) == file
    assert sum(length for _, length in data_ranges(form)) == form.plain_length


def test_what_is_missing_in_the_file_is_missing_in_the_content() -> None:
    form, file = sparse([(10, 10)], 10)
    read_at = content_reader(form, lambda at, size: file[:25][at : at + size])
    assert read_at(0, 20) == file[:10] + file[20:25]
    assert read_at(8, 4) == file[8:10] + file[20:22]
    assert read_at(0, 0) == b""
