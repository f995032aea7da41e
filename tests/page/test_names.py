"""Names in memory: what a folder shows, what is found, and what differs between two moments."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kropot.browse.names import NamedFile, NameIndex
from kropot.browse.screens import _differences
from kropot.sc2.form import Kind

PARTS = st.sampled_from([b"a", b"a-b", b"a0", b"B", b"\xff", "ż".encode(), b"a.b", b"c\nd"])
PATHS = st.lists(PARTS, min_size=1, max_size=4).map(b"/".join)


def file(path: bytes, *, state: str = "current", kind: Kind = Kind.FILE, mark: int = 1) -> NamedFile:
    return NamedFile(path=path, kind=kind, size=1, mtime_ns=None, state=state, place=0, mark=mark, is_stored=True)


def names_of(files: list[NamedFile]) -> NameIndex:
    names = NameIndex()
    for each in files:
        names.add(each)
    names.sort()
    return names


@given(known=st.dictionaries(PATHS, st.sampled_from(["current", "vanished"]), max_size=30), gone=st.booleans())
def test_a_folder_shows_what_is_directly_in_it(known: dict[bytes, str], *, gone: bool) -> None:
    names = names_of([file(path, state=state) for path, state in known.items()])
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
    names = names_of([file(path) for path in paths])
    wanted = text.replace("\n", "").casefold()
    if wanted:
        expected = [path for path in sorted(paths) if wanted in path.decode(errors="surrogateescape").casefold()]
        assert [each.path for each in names.search(text, most=100)] == expected
    assert names.search("", most=9) == []


@given(*(st.dictionaries(PATHS, st.sampled_from([("current", 1), ("current", 2), ("vanished", 1)])) for _ in "12"))
def test_differences_are_those_of_two_dictionaries(
    one: dict[bytes, tuple[str, int]], other: dict[bytes, tuple[str, int]]
) -> None:
    def walk(known: dict[bytes, tuple[str, int]]) -> NameIndex:
        return names_of([file(path, state=state, mark=mark) for path, (state, mark) in known.items()])

    def there(known: dict[bytes, tuple[str, int]]) -> dict[bytes, int]:
        return {path: mark for path, (state, mark) in known.items() if state != "vanished"}

    before, after = there(one), there(other)
    expected = dict.fromkeys(after.keys() - before.keys(), "added")
    expected |= dict.fromkeys(before.keys() - after.keys(), "removed")
    expected |= {path: "altered" for path in before.keys() & after.keys() if before[path] != after[path]}
    found = _differences(walk(one).below(b""), walk(other).below(b""))
    assert {path: change for change, path in found} == expected


def test_a_folder_element_is_one_child() -> None:
    names = names_of([file(b"a", kind=Kind.FOLDER), file(b"a-b"), file(b"a/x"), file(b"e", kind=Kind.FOLDER)])
    found = [(each.name, each.is_folder, each.file is not None) for each in names.children(b"")]
    assert found == [(b"a-b", False, True), (b"a", True, True), (b"e", True, True)]
