"""The parts under replay and restore: sets and arrays in files, journals, patterns, threads in order."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kropot.durable.refusals import InTheWayError, TreeError
from kropot.durable.target import TargetFolder
from kropot.errors import UsageError
from kropot.replay.pointers import Pointers
from kropot.restore.fingerprints import Fingerprints
from kropot.restore.journal import Journal, read_name, show_name
from kropot.restore.parallel import in_order
from kropot.restore.patterns import Patterns
from kropot.restore.spool import Spool
from kropot.securecopy.sealing import Kit
from kropot.wording import written

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# --- fingerprints ----------------------------------------------------------------------------------------------------


@given(st.lists(st.binary(min_size=16, max_size=16) | st.just(bytes(16)), max_size=50))
def test_fingerprints_are_a_set(taken: list[bytes]) -> None:
    known: set[bytes] = set()
    fingerprints = Fingerprints()
    for each in taken:
        assert fingerprints.add(each) == (each not in known)
        known.add(each)
        assert each in fingerprints
    assert len(fingerprints) == len(known)
    assert bytes(15) + b"\x02" not in fingerprints or bytes(15) + b"\x02" in known
    fingerprints.close()


def test_fingerprints_grow_beyond_their_first_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice, and even where all of them belong into one slot, so that each is looked for behind all others."""
    monkeypatch.setattr("kropot.restore.fingerprints._FIRST_SLOTS", 1024)
    fingerprints = Fingerprints()
    taken = [number.to_bytes(16, "little") for number in range(1, 1_300)]
    assert all(fingerprints.add(each) for each in taken)
    assert all(each in fingerprints for each in taken)
    assert not any(fingerprints.add(each) for each in taken)
    assert (9_999).to_bytes(16, "little") not in fingerprints


def test_only_sixteen_bytes_are_a_fingerprint() -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        Fingerprints().add(b"short")
    assert "text" not in Fingerprints()


# --- pointers --------------------------------------------------------------------------------------------------------


@given(st.dictionaries(st.integers(1, 20_000), st.integers(1, 2**63), max_size=30))
def test_pointers_keep_what_they_are_filled_with(pairs: dict[int, int]) -> None:
    with Pointers(20_000) as pointers:
        pointers.fill((position, stream) for stream, position in pairs.items())
        assert dict(pointers.known()) == pairs
        assert [stream for stream, _ in pointers.known()] == sorted(pairs)
        assert all(pointers[stream] == position for stream, position in pairs.items())
        assert pointers[30_000] == 0
        with Pointers(20_000) as other:
            for start in range(0, len(pointers), 7_000):
                other.put(start, pointers.chunk(start, start + 7_000))
            assert dict(other.known()) == pairs
        pointers.clear()
        assert list(pointers.known()) == []


def test_slots_beyond_the_end_are_dropped() -> None:
    with Pointers(3) as pointers:
        pointers.put(2, (1).to_bytes(8, "little") * 5)
        assert dict(pointers.known()) == {2: 1, 3: 1}


# --- names in JSON, journals -----------------------------------------------------------------------------------------


@given(st.binary())
def test_a_shown_name_is_read_back(name: bytes) -> None:
    shown = show_name("file", name)
    assert read_name("file", dict(shown)) == name
    shown["file"].encode()


def found(size: int, mtime_ns: int, root: Path) -> os.stat_result:
    path = root / f"{size} {mtime_ns}"
    path.write_bytes(bytes(size))
    os.utime(path, ns=(mtime_ns, mtime_ns))
    return path.stat()


def test_a_journal_remembers_what_was_written_and_how_it_looked(tmp_path: Path) -> None:
    one, other = found(3, 10**18, tmp_path), found(4, 10**18, tmp_path)
    with TargetFolder(tmp_path / "tree") as tree:
        with Journal(tree, b"journal") as journal:
            journal.wrote((b"a", b"\xff"), bytes(32), one, b"\x05" * 32, {"more": "ż"})
            assert journal.is_done((b"a", b"\xff"), bytes(32), one)
        with Journal(tree, b"journal") as journal:
            assert journal.is_done((b"a", b"\xff"), bytes(32), one)
            assert journal.is_ours((b"a", b"\xff"), b"\x05" * 32)
            assert not journal.is_done((b"a", b"\xff"), b"\x01" * 32, one)
            assert not journal.is_done((b"a", b"\xff"), bytes(32), other)
            assert not journal.is_ours((b"a", b"\xff"), bytes(32))
            assert not journal.is_ours((b"a",), b"\x05" * 32)


@given(cut=st.integers(0, 300))
def test_a_journal_cut_anywhere_keeps_its_whole_lines(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    root = tmp_path_factory.mktemp("cut")
    state = found(3, 10**18, root)
    with TargetFolder(root / "tree") as tree:
        with Journal(tree, b"journal") as journal:
            for number in range(3):
                journal.wrote((b"%d" % number,), bytes(32), state, bytes(32), {})
        path = root / "tree/journal"
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(lines)[:cut])
        whole = [number for number in range(3) if sum(map(len, lines[: number + 1])) <= cut]
        with Journal(tree, b"journal") as journal:
            assert [number for number in range(3) if journal.is_ours((b"%d" % number,), bytes(32))] == whole
            journal.wrote((b"9",), bytes(32), state, bytes(32), {})
        assert len(path.read_bytes().splitlines()) == len(whole) + 1


@pytest.mark.parametrize("line", [b"{}\n", b"[]\n", b'{"file": 5}\n', b'{"file": "a", "file_size": "x"}\n', b"\xff\n"])
def test_a_foreign_journal_is_refused(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "journal").write_bytes(line)
    with TargetFolder(tmp_path) as tree, pytest.raises(UsageError, match="line 1"):
        Journal(tree, b"journal")
    assert (tmp_path / "journal").read_bytes() == line


def test_a_journal_is_never_followed_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/journal").symlink_to(tmp_path / "elsewhere")
    with TargetFolder(tmp_path / "tree") as tree, pytest.raises(InTheWayError):
        Journal(tree, b"journal")
    assert not (tmp_path / "elsewhere").exists()


# --- the tree --------------------------------------------------------------------------------------------------------


def test_a_name_given_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    with TargetFolder(tmp_path) as tree:
        draft = tree.draft()
        draft.write(b"ours")
        draft.sync()
        (tmp_path / "a").write_bytes(b"theirs")
        with pytest.raises(InTheWayError):
            tree.place(draft, (b"a",))
        draft.drop()
    assert (tmp_path / "a").read_bytes() == b"theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_without_hard_links_a_name_is_still_given_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "no links here")

    with TargetFolder(tmp_path) as tree:
        monkeypatch.setattr(os, "link", refuse)
        for content in (b"first", b"second"):
            draft = tree.draft()
            draft.write(content)
            draft.sync()
            if content == b"first":
                tree.place(draft, (b"folder", b"a"))
            else:
                with pytest.raises(InTheWayError):
                    tree.place(draft, (b"folder", b"a"))
            draft.drop()
    assert (tmp_path / "folder/a").read_bytes() == b"first"


def test_a_stopped_tree_takes_nothing_more(tmp_path: Path) -> None:
    with TargetFolder(tmp_path) as tree:
        draft = tree.draft()
        draft.write(b"half")
        tree.stop()
        with pytest.raises(TreeError, match="stopped"):
            draft.write(b"of it")
        draft.drop()
    assert list(tmp_path.iterdir()) == []


# --- patterns --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("glob", "means", "not_"),
    [
        ("*.txt", ["a.txt", "deep/down/a.txt"], ["a.txt.gz", "txt"]),
        ("docs", ["docs", "docs/a", "x/docs/y"], ["docs2", "adocs"]),
        ("docs/", ["docs/a"], ["docs2"]),
        ("docs/*.txt", ["docs/a.txt"], ["docs/b/a.txt", "x/docs/a.txt"]),
        ("docs/**/a", ["docs/a", "docs/x/y/a"], ["docs/b"]),
        ("docs/**", ["docs/a", "docs/b/c"], ["docs2/a"]),
        ("/a/b", ["a/b", "a/b/c"], ["x/a/b"]),
        ("?.bin", ["1.bin"], ["12.bin", "/.bin"]),
        ("[a-c]x", ["ax", "cx"], ["dx", "a"]),
        ("[!a]x", ["bx"], ["ax"]),
        ("[]x]", ["]", "x"], ["y"]),
        ("[z-a]", ["[z-a]"], ["z", "a"]),
        ("a[", ["a["], ["a"]),
        ("a.b", ["a.b"], ["axb"]),
        ("żółć*", ["żółć.txt"], ["zolc.txt"]),
    ],
)
def test_globs_mean_what_they_say(glob: str, means: list[str], not_: list[str]) -> None:
    patterns = Patterns([glob])
    assert [name for name in means if not patterns.fits([name.encode()])] == []
    assert [name for name in not_ if patterns.fits([name.encode()])] == []


def meant(texts: list[str], names: list[bytes]) -> list[bytes]:
    patterns = Patterns(texts)
    fits = {name: patterns.fits([name]) for name in names}
    return [name for name in names if patterns.mean(fits[name])]


def test_no_pattern_means_everything_and_several_mean_any() -> None:
    assert meant([], [b"anything\xff"]) == [b"anything\xff"]
    assert meant(["a", "b"], [b"a", b"b", b"c"]) == [b"a", b"b"]


@pytest.mark.parametrize(
    ("text", "exact", "others"),
    [
        ("a[1].txt", b"a[1].txt", [b"a1.txt"]),
        ("*", b"*", [b"a", b"b"]),
        ("notes.txt", b"notes.txt", [b"docs/notes.txt"]),
        ("a\\nb", b"a\nb", [b"a\\nb"]),
        ("a\\\\b", b"a\\b", [b"a\\\\b"]),
        ("\\xff?", b"\xff?", [b"\xffx"]),
    ],
)
def test_a_file_with_exactly_the_name_beats_the_glob(text: str, exact: bytes, others: list[bytes]) -> None:
    assert meant([text], [*others, exact, b"else"]) == [exact]
    assert meant([text], others) == others


@given(
    st.lists(st.binary(min_size=1, max_size=6).filter(lambda name: name.strip(b"/") == name), min_size=1, max_size=6)
)
def test_every_name_is_taken_back_as_it_is_printed_and_means_this_file_alone(names: list[bytes]) -> None:
    for name in names:
        assert set(meant([written(name)], names)) == {name}


@pytest.mark.parametrize("glob", ["", "/", "//", "x" * 5000])
def test_a_glob_that_can_match_nothing_is_refused(glob: str) -> None:
    with pytest.raises(UsageError):
        Patterns([glob])


@given(st.text(alphabet="ab*?[]!-/\\^.", min_size=1, max_size=12), st.text(alphabet="ab/.-", max_size=8))
def test_any_glob_is_compiled_or_refused(glob: str, name: str) -> None:
    try:
        patterns = Patterns([glob])
    except UsageError:
        return
    assert patterns.mean(patterns.fits([name.encode()])) in {True, False}


# --- in the order of keys --------------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=3), max_size=30), st.integers(1, 5), st.integers(1, 4))
def test_a_spool_gives_all_items_in_the_order_of_their_keys(keys: list[bytes], run: int, files: int) -> None:
    with pytest.MonkeyPatch.context() as patch, Spool[int](run=run) as spool:
        patch.setattr("kropot.restore.spool.MOST_FILES", files)
        for number, key in enumerate(keys):
            spool.add(key, number)
            assert len(spool._files) <= files
        assert list(spool.in_order()) == sorted(range(len(keys)), key=lambda number: (keys[number], number))


def test_a_kit_never_reaches_the_files_of_a_spool() -> None:
    kit = Kit("correct horse battery staple")
    with Spool[tuple[str, Kit]](kept=[kit], run=2) as spool:
        for name in "bdac":
            spool.add(name.encode(), (name, kit))
        for file in spool._files:
            assert b"horse" not in file.read()
            file.seek(0)
        assert [(name, found is kit) for name, found in spool.in_order()] == [(name, True) for name in "abcd"]


# --- several at a time -----------------------------------------------------------------------------------------------


def test_answers_come_in_order_and_few_items_are_taken_ahead() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    with ThreadPoolExecutor(4) as pool:
        seen = []
        for answer in in_order(pool, lambda number: number * 2, items(), window=5):
            seen.append(answer)
            assert len(taken) <= len(seen) + 5
    assert seen == [number * 2 for number in range(100)]


def test_a_failure_comes_at_its_turn_and_stops_the_rest() -> None:
    began = threading.Event()

    def work(number: int) -> int:
        began.set()
        if number == 3:
            raise ValueError("three")
        return number

    with ThreadPoolExecutor(2) as pool:
        answers = in_order(pool, work, iter(range(1_000_000)), window=4)
        assert [next(answers) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(ValueError, match="three"):
            next(answers)
    assert began.is_set()
