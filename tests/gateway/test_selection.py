"""What is excluded and included: restic's documented meaning, as tables, and restic itself where it is installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kropot.errors import UsageError
from kropot.gateway.marks import CACHE, FolderMark, mark_from
from kropot.gateway.patterns import PathPatterns, parse
from kropot.gateway.selection import patterns_of, selection_from
from kropot.gateway.sources import FolderSource, ScannedFile

if TYPE_CHECKING:
    from pathlib import Path


def matches(patterns: list[str], path: str) -> bool:
    """Whether the patterns match an absolute path."""
    found = PathPatterns(parse(text, "--exclude") for text in patterns)
    states = found.start
    for name in path.strip("/").split("/"):
        states = found.advance(states, name)
    return found.match(states)


@pytest.mark.parametrize(
    ("pattern", "path", "matched"),
    [
        # A pattern matches whole components, anywhere, and everything below a folder.
        ("foo", "/dir1/foo/dir2/file", True),
        ("foo", "/dir/foo", True),
        ("foo", "/dir/foobar", False),
        ("foo", "/barfoo", False),
        ("foo/bar", "/x/foo/bar/y", True),
        ("foo/bar", "/x/foo/y/bar", False),
        ("Foo", "/dir/foo", False),
        # A leading slash begins at the root, a trailing one says nothing.
        ("/bin", "/bin/bash", True),
        ("/bin", "/usr/bin/restic", False),
        ("/bin/", "/bin", True),
        ("bin/", "/usr/bin/restic", True),
        ("//bin//sh", "/bin/sh", True),
        ("/bin/../usr", "/usr/x", True),
        ("./foo", "/x/foo", True),
        ("/", "/anything", True),
        # Wildcards stay within a component.
        ("b*ash", "/bin/bash", True),
        ("b*ash", "/bin/ash", False),
        ("*", "/a", True),
        ("*.c", "/src/a.c", True),
        ("*.c", "/src/.c", True),
        ("*.c", "/src/a.c.o", False),
        ("/src/*", "/src", False),
        ("/src/*", "/src/a/b", True),
        ("/*/a", "/x/a", True),
        ("/*/a", "/a", False),
        ("*/a", "/a", False),
        ("*/a", "/x/y/a", True),
        ("a*b*c", "/a-b-b-c", True),
        ("a*b*c", "/a-c-b", False),
        ("a**c", "/abc", True),
        ("a**c", "/a/c", False),
        ("?at", "/cat", True),
        ("?at", "/at", False),
        ("?", "/é", True),
        # ** stands for any number of folders.
        ("foo/**/bar", "/dir1/foo/dir2/bar/file", True),
        ("foo/**/bar", "/foo/bar/file", True),
        ("foo/**/bar", "/var/foo/bar", True),
        ("foo/**/bar", "/var/bar/foo", False),
        ("foo/**/bar/**/x", "/srv/foo/a/b/bar/c/d/x", True),
        ("foo/**/bar/**/x", "/srv/foo/a/b/x", False),
        ("/foo/**", "/foo", True),
        ("/foo/**", "/foo/a/b", True),
        ("/foo/**/a", "/bar/foo/a", False),
        ("**", "/a", True),
        ("**/a", "/a", True),
        ("**/a", "/x/y/a/z", True),
        ("/**/a/*.o", "/x/a/b/a/c.o", True),
        # Classes and backslashes are those of filepath.Match.
        ("[a-c]x", "/bx", True),
        ("[a-c]x", "/dx", False),
        ("[^a-c]x", "/dx", True),
        ("[^a-c]x", "/bx", False),
        ("[!b]x", "/bx", True),
        ("[!b]x", "/!x", True),
        ("[!b]x", "/ax", False),
        ("[a-cx-z0]", "/y", True),
        (r"[\]\-]", "/]", True),
        (r"[\]\-]", "/-", True),
        (r"[\]\-]", r"/\\", False),
        ("[z-a]", "/b", False),
        ("[^z-a]", "/b", True),
        ("[[]", "/[", True),
        ("[^^]", "/^", False),
        (r"\*", "/*", True),
        (r"\*", "/a", False),
        (r"\!a", "/!a", True),
        (r"a\b", "/ab", True),
        ("a]", "/a]", True),
        ("a+(b)", "/a+(b)", True),
        ("*.(x", "/a.(x", True),
        ("*", "/line\nbreak", True),
        ("a?b", "/a\nb", True),
        ("\udcff*", "/\udcffx", True),
    ],
)
def test_one_pattern_matches_as_in_restic(pattern: str, path: str, *, matched: bool) -> None:
    assert matches([pattern], path) == matched


@pytest.mark.parametrize(
    ("patterns", "path", "matched"),
    [
        (["*.x", "!b.x"], "/u/a.x", True),
        (["*.x", "!b.x"], "/u/b.x", False),
        (["!b.x", "*.x"], "/u/b.x", True),
        (["*.x", "!b.x", "b.*"], "/u/b.x", True),
        (["!b.x"], "/u/b.x", False),
        (["/h/*", "!/h/docs", "*~"], "/h/docs/a", False),
        (["/h/*", "!/h/docs", "*~"], "/h/docs/a~", True),
        (["/h/*", "!/h/docs", "*~"], "/h/tmp/a", True),
        (["/h/*", "!/h/docs", "*~"], "/h", False),
    ],
)
def test_an_exclamation_mark_cancels_what_earlier_patterns_match(
    patterns: list[str], path: str, *, matched: bool
) -> None:
    assert matches(patterns, path) == matched


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("", "an empty pattern"),
        ("!", "an empty pattern"),
        (".", "matches nothing"),
        ("..", "matches nothing"),
        ("../x", "matches nothing"),
        ("a/[", "has no ]"),
        ("[a", "has no ]"),
        ("[", "has no ]"),
        ("[^", "has no ]"),
        ("x/**/[a-", "has no ]"),
        ("[]", "] is in [ ]"),
        ("[]a]", "] is in [ ]"),
        ("[^]", "] is in [ ]"),
        ("[a-]", "] is in [ ]"),
        ("[-a]", "- is in [ ]"),
        ("[a/b]", "has no ]"),
        ("[\\", "a \\ is at the end"),
        ("a\\", "a \\ is at the end"),
        ("ok/x\\/y", "a \\ is at the end"),
    ],
)
def test_a_pattern_that_is_not_valid_is_refused_in_one_sentence(pattern: str, reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(pattern, "--exclude")
    assert str(caught.value).startswith("--exclude has ")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.text(alphabet="ab*?[]^-\\!/.é\udcff", max_size=12), st.text(alphabet="ab-]\\/.é", max_size=12))
def test_any_text_is_either_a_pattern_or_refused(text: str, path: str) -> None:
    try:
        pattern = parse(text, "--exclude")
    except UsageError:
        return
    state = pattern.start
    for name in filter(None, path.split("/")):
        before = state
        state = pattern.advance(state, name)
        assert not before & pattern.accepts or state & pattern.accepts, "what matches a folder matches all below"


def test_no_pattern_takes_long() -> None:
    began = time.process_time()
    assert not matches(["*a" * 60 + "*b"], "/" + "a" * 255)
    assert not matches(["**/a/" * 20 + "b"], "/a" * 1000)
    assert time.process_time() - began < 20, "a pattern that tries all combinations never ends"


@pytest.mark.parametrize(
    ("includes", "path", "served", "may_hold"),
    [
        ([], "/s/a", True, True),
        (["/s/a/*.c"], "/s", False, True),
        (["/s/a/*.c"], "/s/a", False, True),
        (["/s/a/*.c"], "/s/b", False, False),
        (["/s/a/*.c"], "/s/a/x.c", True, True),
        (["/s/a/*.c"], "/s/a/x.h", False, False),
        (["*.c"], "/s/b", False, True),
        (["/s/**/c"], "/s/x/y", False, True),
        (["/s/a"], "/s/a/x/y", True, True),
        (["*.c", "!bad.c"], "/s/bad.c", False, True),
        (["*.c"], "/s/x.o/old.c", False, False),
    ],
)
def test_includes_keep_to_what_they_match_and_excludes_win(
    includes: list[str], path: str, *, served: bool, may_hold: bool
) -> None:
    place = selection_from(includes=includes, excludes=["*.o"], environ={}).at(path)
    assert (place.is_served, place.may_hold) == (served, may_hold)


def test_a_pattern_for_the_folder_itself_is_refused_and_an_idle_one_is_named() -> None:
    def check(**options: list[str]) -> list[str]:
        return selection_from(environ={}, **options).check("/srv/files")  # type: ignore[arg-type]

    assert check(excludes=["*.o", "/srv/files/tmp", "/srv/*/x"], includes=["/srv", "*.c"]) == []
    assert check(excludes=["/var", "/srv/file/x", "!/home"], includes=["/srv", "/opt"]) == [
        "/var",
        "/srv/file/x",
        "!/home",
        "/opt",
    ]
    for pattern in ("files", "srv", "*", "**", "/", "/srv/**", "/srv/files"):
        with pytest.raises(UsageError, match=r"excludes the whole folder /srv/files.*begin it with /srv/files/ "):
            check(excludes=["a", pattern])
    assert check(excludes=["*", "!/srv/files"]) == []
    with pytest.raises(UsageError, match=r"nothing in /srv/files is served.*'/opt'"):
        check(includes=["/opt"])


def test_a_file_of_patterns_has_comments_and_variables() -> None:
    data = b"# go\n\n  *.go \r\n\\#note\n$HOME/*\n!${HOME}/docs\ncost$$\nfoo bar\n5$\n\xff*\n"
    found = patterns_of(data, "ex.txt", {"HOME": "/users/u"})
    assert [each.text for each in found] == [
        *("*.go", "\\#note", "/users/u/*", "!/users/u/docs", "cost$", "foo bar", "5$", "\udcff*"),
    ]
    for mark, encoding in ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")):
        assert [each.text for each in patterns_of(mark + "é*\n".encode(encoding), "ex.txt", {})] == ["é*"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("$HOEM/*", "line 2 of ex.txt uses the variable $HOEM, which is not set"),
        ("${HOME/*", "line 2 of ex.txt uses the variable ${, which is not set"),
        ("${}", "which is not set"),
        ("a$*b", "the variable $*"),
        ("a[", "line 2 of ex.txt has the pattern 'a['"),
        ("!", "line 2 of ex.txt has an empty pattern"),
    ],
)
def test_a_bad_line_of_a_file_is_named(line: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        patterns_of(f"ok\n{line}\n".encode(), "ex.txt", {"HOME": "/users/u"})
    assert said in str(caught.value)


def test_marks_are_names_with_or_without_a_header() -> None:
    assert mark_from(".nobackup") == FolderMark(name=".nobackup", header=b"")
    assert mark_from("TAG:keep: no") == FolderMark(name="TAG", header=b"keep: no")
    assert selection_from(caches=True, marks=["x"], environ={}).marks == (FolderMark(name="x", header=b""), CACHE)
    for text in ("", ":x", "a/b", ".", "..", "a\0b"):
        with pytest.raises(UsageError, match="--exclude-if-present does not understand"):
            mark_from(text)


CASES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    # The names of each case are its own, so that restic, which is slow to start, runs once for all.
    "a": (("*.c", "!k.c"), ("a.c", "a.C", "d/b.c", "a.c.x", "k.c")),
    "b": (("tmp_/",), ("tmp_/x", "d/tmp_/y", "d/xtmp_/z", "tmp_x")),
    "c": (("foo/**/bar",), ("foo/bar/f", "foo/x/bar/f", "foo/x/y/bar/f", "bar/foo/f", "foo/x/f")),
    "d": (("{root}/d/*", "!{root}/d/docs"), ("docs/f", "docs/d/f", "other/f", "file")),
    "e": (("{root}/e/e1/**", "/e1"), ("e1/f", "d/e1/f")),
    "f": (("f[!1]", "f[^45]x", r"f[\]\-]", "f[z-a]"), ("f1", "f2", "f!", "f4x", "f5x", "f6x", "f]", "f-", "fz")),
    "g": ((r"g\[x\]", r"g\*", r"g\\"), ("g[x]", "gx", "g*", "gg", "g\\")),
    "h": (("h??", "h/h/../i"), ("h12", "h1", "h123", "h/i", "d/h/i", "i")),
    "i": (("!ik*", "ik*.o", "*/id/*", "!ikeep"), ("ik.o", "id/x", "d/id/d/x", "id/ikeep", "id/d/ikeep")),
    "j": (("é*", "j k", "*jj*jj*"), ("éa", "ea", "j k", "j  k", "ajjbjjc", "ajjc", "jjj", "jjjj")),
    "k": (("{root}/k/*/kx",), ("kx", "d/kx", "d/d/kx")),
    "l": (("**/lx/**/ly", "./lz"), ("lx/ly", "lx/d/ly/f", "d/lx/d/d/ly", "ly", "d/lz")),
}


@pytest.mark.skipif(shutil.which("restic") is None, reason="restic is not installed: nothing to compare with")
def test_restic_itself_would_back_up_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "r"
    patterns = []
    for case, (asked, names) in CASES.items():
        patterns += [each.replace("{root}", str(root)) for each in asked]
        for name in names:
            write(root / case / name, name.encode())
    marked = {"m1/CACHEDIR.TAG": CACHE.header + b"\n", "m2/CACHEDIR.TAG": b"x", "m3/.no": b"", "m4/TAG": b"out: 1"}
    marked |= {"m5/TAG": b"out", "m6/d/.no": b""}
    for name, data in marked.items():
        write(root / name, data)
        write((root / name).parent / "d" / "f", b"")
    lines = ["# a comment", "", " ex*.a ", "!exkeep.a", "$ROOT/ex", "ex$$", r"\#ex"]
    for name in ("ex1.a", "exkeep.a", "ex/f", "d/ex/f", "ex$", "#ex", "ex5"):
        write(root / name, b"")
    (tmp_path / "excludes").write_text("\n".join(lines))
    for name, value in {"RESTIC_PASSWORD": "x", "HOME": str(tmp_path), "ROOT": str(root)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RESTIC_REPOSITORY", str(tmp_path / "repo"))
    options = [*(f"--exclude={each}" for each in patterns), f"--exclude-file={tmp_path / 'excludes'}"]
    options += ["--exclude-caches", "--exclude-if-present=.no", "--exclude-if-present=TAG:out:"]
    subprocess.run(["restic", "--no-cache", "init"], check=True, capture_output=True)
    ran = subprocess.run(
        ["restic", "--no-cache", "--json", "-vv", "backup", "-n", *options, root],
        check=True,
        capture_output=True,
        text=True,
    )
    told = [json.loads(line) for line in ran.stdout.splitlines()]
    theirs = {each["item"] for each in told if each.get("action") == "new" and not each["item"].endswith("/")}
    assert len(theirs) > len(CASES)
    selection = selection_from(
        excludes=patterns,
        exclude_files=[("excludes", (tmp_path / "excludes").read_bytes())],
        caches=True,
        marks=[".no", "TAG:out:"],
        environ=os.environ,
    )
    walk = FolderSource(os.fsencode(root), place=selection.at(str(root))).walk()
    assert {str(root / os.fsdecode(item.path)) for item in walk if isinstance(item, ScannedFile)} == theirs


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
