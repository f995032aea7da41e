"""The index of names: what a folder shows, what is found, and what differs between two moments."""

from __future__ import annotations

from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kropot.browse.names import NamedFile, NameIndex
from kropot.browse.screens import _differences
from kropot.browse.sealed_pieces import SealedPieces, UnusableFileError
from kropot.sc2.form import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

PARTS = st.sampled_from([b"a", b"a-b", b"a0", b"B", b"\xff", "ż".encode(), b"a.b", b"c\nd"])
PATHS = st.lists(PARTS, min_size=1, max_size=4).map(b"/".join)


def file(path: bytes, *, state: str = "current", kind: Kind = Kind.FILE, mark: int = 1) -> NamedFile:
    return NamedFile(path=path, kind=kind, size=1, mtime_ns=None, state=state, place=0, mark=mark, is_stored=True)


@contextmanager
def names_of(files: list[NamedFile], *, block: int = 2) -> Iterator[NameIndex]:
    """Give an index of these files, in blocks and runs so small that there are several."""
    with closing(NameIndex(block=block, run=2 * block)) as names:
        for each in files:
            names.add(each)
        names.sort()
        yield names


@given(known=st.dictionaries(PATHS, st.sampled_from(["current", "vanished"]), max_size=30), gone=st.booleans())
def test_a_folder_shows_what_is_directly_in_it(known: dict[bytes, str], *, gone: bool) -> None:
    with names_of([file(path, state=state) for path, state in known.items()]) as names:
        _shows_what_is_there(names, known, gone=gone)


def _shows_what_is_there(names: NameIndex, known: dict[bytes, str], *, gone: bool) -> None:
    assert [each.path for each in names.below(b"")] == sorted(known)
    seen = {path for path, state in known.items() if gone or state != "vanished"}
    for folder in {b"", *(path.rpartition(b"/")[0] for path in known)}:
        prefix = folder + b"/" if folder else b""
        below = {path[len(prefix) :].split(b"/")[0] for path in seen if path.startswith(prefix)}
        assert {each.name for each in names.children(folder, gone=gone)} == below
        paged, start = [], 0
        while True:
            found = next(names.children(folder, start=start, gone=gone), None)
            if found is None:
                break
            paged.append(found)
            start = found.following
        assert paged == list(names.children(folder, gone=gone))


@given(st.sets(PATHS, max_size=30), st.sampled_from(["A", "b", "Ż", "a/", "a0", "\n", "zz"]))
def test_a_part_of_a_name_is_found_in_any_case(paths: set[bytes], text: str) -> None:
    wanted = text.replace("\n", "").casefold()
    with names_of([file(path) for path in paths]) as names:
        if wanted:
            expected = [path for path in sorted(paths) if wanted in path.decode(errors="surrogateescape").casefold()]
            assert [each.path for each in names.search(text, most=100)] == expected
        assert names.search("", most=9) == []


@given(*(st.dictionaries(PATHS, st.sampled_from([("current", 1), ("current", 2), ("vanished", 1)])) for _ in "12"))
def test_differences_are_those_of_two_dictionaries(
    one: dict[bytes, tuple[str, int]], other: dict[bytes, tuple[str, int]]
) -> None:
    def walk(known: dict[bytes, tuple[str, int]]) -> AbstractContextManager[NameIndex]:
        return names_of([file(path, state=state, mark=mark) for path, (state, mark) in known.items()])

    def there(known: dict[bytes, tuple[str, int]]) -> dict[bytes, int]:
        return {path: mark for path, (state, mark) in known.items() if state != "vanished"}

    before, after = there(one), there(other)
    expected = dict.fromkeys(after.keys() - before.keys(), "added")
    expected |= dict.fromkeys(before.keys() - after.keys(), "removed")
    expected |= {path: "altered" for path in before.keys() & after.keys() if before[path] != after[path]}
    with walk(one) as first, walk(other) as second:
        found = _differences(first.below(b""), second.below(b""))
        assert {path: change for change, path in found} == expected


def test_a_folder_element_is_one_child() -> None:
    files = [file(b"a", kind=Kind.FOLDER), file(b"a-b"), file(b"a/x"), file(b"e", kind=Kind.FOLDER)]
    with names_of(files) as names:
        found = [(each.name, each.is_folder, each.file is not None) for each in names.children(b"")]
    assert found == [(b"a-b", False, True), (b"a", True, True), (b"e", True, True)]


def test_every_value_comes_back_and_the_first_of_two_with_one_path_is_first() -> None:
    kinds = [(kind, is_stored) for kind in Kind for is_stored in (True, False)]
    files = [
        NamedFile(
            path=b"same" if number < 3 else b"%d" % number,
            kind=kind,
            size=2**40 + number,
            mtime_ns=(None, -5, 2**60)[number % 3],
            state=("current", "pending", "vanished", "damaged", "lost")[number % 5],
            place=number << 33,
            mark=2**64 - 1 - number,
            is_stored=is_stored,
        )
        for number, (kind, is_stored) in enumerate(kinds * 2)
    ]
    with names_of(files) as names:
        assert [names.at(number) for number in range(len(files))] == sorted(files, key=lambda each: each.path)
        assert names.find(b"same") == files[0]


def test_names_on_the_disk_are_sealed_and_have_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with closing(SealedPieces()) as pieces:
        assert list(tmp_path.iterdir()) == []
        places = [pieces.add(b"Aunt Mary's letters") for _ in range(2)]
        data = bytearray(pieces._file.seek(0) or pieces._file.read())
        assert b"Mary" not in data
        assert data[: len(data) // 2] != data[len(data) // 2 :]
        assert [pieces.read(place) for place in places] == [b"Aunt Mary's letters"] * 2
        data[-1] ^= 1
        pieces._file.seek(0)
        pieces._file.write(data)
        with pytest.raises(UnusableFileError, match="damaged"):
            pieces.read(places[1])
    with pytest.raises(UnusableFileError):
        pieces.read(places[0])
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(UnusableFileError, match="TMPDIR"):
        SealedPieces()
