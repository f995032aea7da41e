"""Whatever a form claims, the name stays inside the folder, is legal there, and is nobody else's."""

from __future__ import annotations

import os
import tempfile
import unicodedata
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kropot.durable.target import NameRules
from kropot.restore.names import COMPONENT_BYTES, NameGiver, safe_component, safe_path, split_path

UNIX = NameRules()
PORTABLE = NameRules(portable=True)
FOLDING = NameRules(fold_case=True, fold_unicode=True)

RULES = st.builds(
    NameRules, portable=st.booleans(), fold_case=st.booleans(), fold_unicode=st.booleans(), utf8_only=st.booleans()
)
NASTY = st.sampled_from(
    [
        *(b"", b".", b"..", b"...", b"/", b"a/b", b"\x00", b"con", b"NUL.txt", b"aux ", b"a.", b"a ", b"%2E%2E", b"%"),
        *(b"~", b"x" * 255, b"x" * 256, "ż".encode() * 200, b"\xff\xfe", b"A", b"a", b"a\\b"),
        *("é".encode(), "e\u0301".encode()),
    ]
)
COMPONENT = NASTY | st.binary(max_size=300) | st.text(max_size=40).map(lambda text: text.encode(errors="replace"))


def giver(rules: NameRules, reserved: tuple[bytes, ...] = ()) -> NameGiver:
    return NameGiver(rules, Claimed(), reserved)


class Claimed(set[bytes]):
    """A set whose `add` says whether the element is new."""

    def add(self, fingerprint: bytes) -> bool:  # type: ignore[override]
        new = fingerprint not in self
        super().add(fingerprint)
        return new


def assert_safe(part: bytes, rules: NameRules) -> None:
    assert part not in {b"", b".", b".."}
    assert b"/" not in part
    assert b"\x00" not in part
    assert len(part) <= COMPONENT_BYTES
    if rules.utf8_only or rules.portable:
        part.decode()
    if rules.portable:
        assert part[-1:] not in {b".", b" "}
        assert not set(part) & (set(b'<>:"|?*\\') | set(range(32)))
        assert part.split(b".")[0].rstrip().lower() not in {b"con", b"prn", b"aux", b"nul", b"com1", b"lpt9"}


@given(COMPONENT, RULES)
@example(b"nul" + b"." * 300, PORTABLE)
def test_every_component_is_legal(true: bytes, rules: NameRules) -> None:
    assert_safe(safe_component(true, rules), rules)


@given(COMPONENT, RULES)
def test_a_safe_name_is_left_alone(true: bytes, rules: NameRules) -> None:
    safe = safe_component(true, rules)
    assert safe_component(safe, rules) == safe


@pytest.mark.parametrize(
    ("true", "rules", "safe"),
    [
        (b"report.pdf", UNIX, b"report.pdf"),
        (b"aux.c", UNIX, b"aux.c"),
        (b"aux.c", PORTABLE, b"%61ux.c"),
        (b"a:b", UNIX, b"a:b"),
        (b"a:b", PORTABLE, b"a%3Ab"),
        (b"..", UNIX, b"%2E%2E"),
        (b"", UNIX, b"%00"),
        (b"a/b", UNIX, b"a%2Fb"),
        (b"a/100%", UNIX, b"a%2F100%25"),
        (b"100%", UNIX, b"100%"),
        (b"end.", PORTABLE, b"end%2E"),
        (b"\xffx", UNIX, b"\xffx"),
        (b"\xffx", NameRules(utf8_only=True), b"%FFx"),
        ("zażółć".encode(), PORTABLE, "zażółć".encode()),
    ],
)
def test_escapes_are_as_documented(true: bytes, rules: NameRules, safe: bytes) -> None:
    assert safe_component(true, rules) == safe


def test_an_overlong_name_keeps_its_beginning_and_ending() -> None:
    safe = safe_component("ż".encode() * 200 + b".jpeg", UNIX)
    assert safe.startswith("żżż".encode())
    assert safe.endswith(b".jpeg")
    safe.decode()
    assert safe != safe_component("ż".encode() * 201 + b".jpeg", UNIX)


@given(st.lists(COMPONENT, max_size=150).map(tuple), RULES)
@example((b"..",) * 20, UNIX)
@example((b"d" * 200,) * 30, UNIX)
@example((), PORTABLE)
def test_every_path_is_short_legal_and_inside(components: tuple[bytes, ...], rules: NameRules) -> None:
    safe = safe_path(components, rules)
    assert 1 <= len(safe) <= 100
    assert sum(map(len, safe)) <= 2_000
    for part in safe:
        assert_safe(part, rules)


@given(st.binary(max_size=60) | st.lists(COMPONENT, max_size=6).map(b"/".join))
def test_a_claimed_path_can_never_leave_the_folder(claimed: bytes) -> None:
    path = b"/".join((b"/to", *safe_path(split_path(claimed), UNIX)))
    assert os.path.normpath(path) == path
    assert path.startswith(b"/to/")


@given(st.lists(st.lists(COMPONENT, max_size=4).map(tuple), max_size=30), RULES)
@example([(b"a",), (b"a", b"b"), (b"a", b"c"), (b"A",), (b"A", b"b")], FOLDING)
@example([("é".encode(),), ("e\u0301".encode(),), ("É".encode(),)], FOLDING)
@example([(b"a", b"b"), (b"a",)], UNIX)
def test_no_two_files_meet_and_no_file_meets_a_folder(claims: list[tuple[bytes, ...]], rules: NameRules) -> None:
    names = giver(rules, (b"manifest",))
    given_paths = [names.give(claim, b"%d" % number) for number, claim in enumerate(claims)]

    def folded(path: tuple[bytes, ...]) -> str:
        text = b"/".join(path).decode(errors="surrogateescape")
        if rules.portable or rules.fold_unicode:
            text = unicodedata.normalize("NFC", text)
        if rules.portable or rules.fold_case:
            text = unicodedata.normalize("NFC", text.lower())
        return text

    files = [folded(path) for path in given_paths]
    folders = {folded(path[:depth]) for path in given_paths for depth in range(1, len(path))}
    assert len(set(files)) == len(files)
    assert not folders & set(files)
    assert "manifest" not in files
    assert "manifest" not in folders
    for path in given_paths:
        for part in path:
            assert_safe(part, rules)


@given(st.lists(st.lists(COMPONENT, max_size=4).map(tuple), max_size=20), RULES)
def test_the_same_claims_in_the_same_order_get_the_same_names(
    claims: list[tuple[bytes, ...]], rules: NameRules
) -> None:
    first, second = giver(rules), giver(rules)
    for number, claim in enumerate(claims):
        assert first.give(claim, b"%d" % number) == second.give(claim, b"%d" % number)


def test_a_taken_name_is_numbered_before_its_ending() -> None:
    names = giver(UNIX)
    assert names.give((b"a.txt",), b"1") == (b"a.txt",)
    (second,) = names.give((b"a.txt",), b"2")
    assert second.startswith(b"a~")
    assert second.endswith(b".txt")


def test_unix_keeps_names_apart_that_differ_in_case_only() -> None:
    names = giver(UNIX)
    assert names.give((b"README",), b"1") == (b"README",)
    assert names.give((b"readme",), b"2") == (b"readme",)


@given(COMPONENT)
def test_the_file_system_takes_every_name(true: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, os.fsdecode(safe_component(true, UNIX))).touch(exist_ok=False)
        assert len(list(Path(folder).iterdir())) == 1
