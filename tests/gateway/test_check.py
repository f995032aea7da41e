"""`kropotcli gateway check` names what a gateway does not serve, and why."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

from kropot.cli.main import cli
from kropot.gateway import catalogue
from kropot.gateway.sources import FolderSource

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a working directory with a folder to serve; files in it settle at once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(catalogue, "SETTLE_NS", 20_000_000)
    for name in ("a", "b.o", "cache/x", "sub/c"):
        (tmp_path / "files" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "files" / name).write_text(name)
    (tmp_path / "files/cache/CACHEDIR.TAG").write_text("Signature: 8a477f597d28d172789f06886806bc55")
    return tmp_path


def check(*args: str) -> Result:
    return CliRunner().invoke(cli, ["gateway", "check", *args])


def names(done: Result) -> list[tuple[str, str]]:
    rows: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    return sorted((row["path"], row["kind"]) for row in rows)


def test_a_folder_that_is_served_whole_gives_nothing_to_say(here: Path) -> None:
    done = check("--source", "files")
    assert (done.exit_code, done.stdout) == (0, "")
    assert "5 files served; not served: -" in done.stderr
    assert {path.name for path in here.iterdir()} == {"files"}, "nothing was made"


def test_what_is_missing_is_named_with_its_reason_and_gives_exit_3(here: Path) -> None:
    os.mkfifo(here / "files/pipe")
    (here / "files/outside").symlink_to("/etc")
    (here / "files/\udcff\nname").symlink_to("nowhere")
    done = check("--source", "files")
    assert done.exit_code == 3
    assert sorted(done.stdout.splitlines()) == [
        r"\xff\nname  is a symlink to a folder, to the outside, or to nothing",
        "outside  is a symlink to a folder, to the outside, or to nothing",
        "pipe  is a pipe, which has no content",
    ]
    assert "5 files served; not served: links 2, pipes 1" in done.stderr
    assert names(check("--source", "files", "--json")) == [
        *(("\\xff\\nname", "links"), ("outside", "links"), ("pipe", "pipes")),
    ]


def test_what_is_excluded_counts_as_wanted_and_is_listed_on_request(here: Path) -> None:
    options = ("--source", "files", "--exclude", "*.o", "--exclude-caches", "--exclude", "sub")
    done = check(*options)
    assert (done.exit_code, done.stdout) == (0, "")
    assert "2 files served; not served: excluded 3" in done.stderr
    done = check(*options, "--excluded", "--json")
    assert done.exit_code == 0
    assert names(done) == [("b.o", "excluded"), ("cache/x", "excluded"), ("sub", "excluded")]
    os.mkfifo(here / "files/pipe")
    assert check(*options).exit_code == 3
    assert check(*options, "--exclude", "pipe").exit_code == 0


def test_what_cannot_be_read_is_named(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "files/a").chmod(0o600)
    real, really = os.access, os.open

    def no_folder(path: Any, flags: int, *args: Any, **more: Any) -> int:
        if path == "sub":
            raise PermissionError(13, "no")
        return really(path, flags, *args, **more)

    monkeypatch.setattr(os, "access", lambda path, *args, **more: path != "a" and real(path, *args, **more))
    monkeypatch.setattr(os, "open", no_folder)
    done = check("--source", "files")
    assert done.exit_code == 3
    assert sorted(done.stdout.splitlines()) == ["a  cannot be read (EACCES)", "sub  cannot be read (EACCES)"]


def test_a_file_that_is_being_written_to_gets_a_second_look(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "SETTLE_NS", 10**9)
    real = FolderSource.look

    def look(self: FolderSource, path: bytes) -> Any:
        if path == b"a":
            (here / "files/a").write_text("again")
        return real(self, path)

    monkeypatch.setattr(FolderSource, "look", look)
    done = check("--source", "files")
    assert (done.exit_code, done.stdout) == (3, "a  is being written to\n")


def test_the_options_of_serve_in_the_file_and_the_environment_hold_here_too(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "wanted.txt").write_text("# mine\n$WHAT\n!keep.o\n")
    (here / "files/keep.o").touch()
    text = (
        '[gateway.serve]\nsource = "files"\nexclude = ["sub"]\nexclude-file = ["wanted.txt"]\nexclude-caches = true\n'
    )
    (here / "config.toml").write_text(text)
    monkeypatch.setenv("WHAT", "*.o")
    monkeypatch.setenv("KROPOT_CONFIG", "config.toml")
    done = check("--excluded", "--json")
    assert done.exit_code == 0
    assert names(done) == [("b.o", "excluded"), ("cache/x", "excluded"), ("sub", "excluded")]
    monkeypatch.setenv("KROPOT_GATEWAY_EXCLUDE", "b.o\nno such name")
    assert names(check("--excluded", "--json")) == [("b.o", "excluded"), ("cache/x", "excluded")]
    (here / "config.toml").write_text(text + "[gateway.check]\nexclude = ['a', 'sub']\nexclude-file = []\n")
    monkeypatch.delenv("KROPOT_GATEWAY_EXCLUDE")
    assert ("a", "excluded") in names(check("--excluded", "--json"))


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--exclude", "a["], "--exclude has the pattern 'a[', which is not valid: a [ has no ]"),
        (["--exclude", ""], "--exclude has an empty pattern"),
        (["--exclude", "files"], "excludes the whole folder"),
        (["--include", "/nowhere"], "--include names only '/nowhere'"),
        (["--include", "a\\"], "--include has the pattern"),
        (["--exclude-file", "nothing"], "cannot read the file of patterns nothing"),
        (["--exclude-file", "bad.txt"], "line 2 of bad.txt uses the variable $NO_SUCH"),
        (["--exclude-file", "large.txt"], "large.txt is larger than 1024 KiB"),
        (["--exclude-file", "files"], "cannot read the file of patterns files"),
        (["--exclude-if-present", "a/b"], "--exclude-if-present does not understand 'a/b'"),
    ],
)
def test_a_bad_option_is_one_sentence_and_exit_2(here: Path, args: list[str], said: str) -> None:
    (here / "bad.txt").write_text("ok\n$NO_SUCH/x\n")
    (here / "large.txt").write_text("#" * (1 << 20) + "\nx\n")
    done = check("--source", "files", *args)
    assert done.exit_code == 2
    assert said in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_a_pattern_that_matches_nothing_in_the_folder_is_a_warning(here: Path) -> None:
    (here / "shared.txt").write_text("/proc\n")
    done = check(
        "--source", "files", "--exclude", "/sub", "--exclude-file", "shared.txt", "--exclude", str(here / "files/a")
    )
    assert done.exit_code == 0
    assert f"warning: the pattern '/sub' matches nothing in {here / 'files'}" in done.stderr
    assert "/proc" not in done.stderr, "a file of patterns may be meant for other folders, too"
