"""What reaches stdout and stderr, and what never does."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from io import BufferedWriter, TextIOWrapper
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.progress import Progress

from kropot.cli.output import emit, message_line, printable, printing_beside_the_work, say
from kropot.cli.progress import ProgressDisplay
from kropot.cli.settings import Settings
from kropot.cli.stderr import LastingWriter
from kropot.collect.decide.actions import Say
from kropot.errors import Exit
from kropot.secret import HIDDEN, Secret, redact
from kropot.wording import amount, moment, number, span


@given(st.text(max_size=40), st.text(max_size=20), st.text(max_size=20))
def test_a_secret_is_blotted_out_of_any_text(end: str, before: str, after: str) -> None:
    # The wall is never taken down in a process: what other tests print must not look like this.
    secret = f"only-in-this-test-{end}"
    Secret(secret)
    assert secret not in redact(before + secret + after)
    assert HIDDEN in redact(before + secret + after)


@pytest.mark.parametrize("spelling", ['a"secret\\here', "a%22secret%5Chere", 'a\\"secret\\\\here'])
def test_a_secret_is_blotted_out_in_the_spellings_of_json_and_urls(spelling: str) -> None:
    Secret('a"secret\\here')
    assert "secret" not in redact(f"x {spelling} y")


def test_a_secret_shows_itself_to_nothing_but_reveal() -> None:
    secret = Secret("correct-horse")
    assert "horse" not in f"{secret} {secret!r} {[secret]}"
    assert secret.reveal() == "correct-horse"
    assert secret == Secret("correct-horse")
    assert secret != Secret("battery-staple")
    assert secret != "correct-horse"


@given(st.text())
def test_a_foreign_name_cannot_steer_the_terminal(text: str) -> None:
    shown = printable(text)
    assert all(c.isprintable() or c in "\n\t" for c in shown)


def test_amounts_are_written_for_people() -> None:
    assert amount(1023) == "1023 B"
    assert amount(1536) == "1.5 KiB"
    assert span(3_900 * 1_000_000) == "1 h 5 min"
    assert span(0) == "0 s"
    assert moment(0) == "1970-01-01T00:00:00Z"
    assert moment(None) == "-"
    assert number(1, "element") == "1 element"
    assert number(1234, "element") == "1,234 elements"


def test_a_message_is_written_above_a_progress_bar_and_not_into_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "terminal").open("w+") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        with Progress(console=Console(stderr=True, force_terminal=True, width=80), auto_refresh=False) as bar:
            bar.add_task("collect", total=3)
            bar.refresh()
            say("listed the server")
            bar.refresh()
        terminal.seek(0)
        lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "\n", line) for line in terminal]
    said = "".join(lines).replace("\r", "\n").split("\n")
    assert "listed the server" in [line.strip() for line in said]


@pytest.mark.parametrize(("level", "is_told"), [("info", True), ("error", False)])
def test_the_log_level_holds_beside_a_progress_bar_too(
    level: str, capsys: pytest.CaptureFixture[str], *, is_told: bool
) -> None:
    audience = ProgressDisplay(Settings(log_level=level), Progress())
    audience.hear(Say(level="warning", event="surge", text="much has changed"))
    assert ("much has changed" in capsys.readouterr().err) is is_told


FULL = Path("/dev/full")
needs_a_full_device = pytest.mark.skipif(not FULL.exists(), reason="this system has no device that is always full")


@needs_a_full_device
def test_a_log_on_a_full_disk_fails_nothing_and_is_told_of_when_there_is_room(tmp_path: Path) -> None:
    log = tmp_path / "log"
    there = os.open(log, os.O_WRONLY | os.O_CREAT)
    descriptor = os.dup(there)
    stream = TextIOWrapper(BufferedWriter(LastingWriter(descriptor, message_line)), line_buffering=True)
    full = os.open(FULL, os.O_WRONLY)
    stream.write("one\n")
    os.dup2(full, descriptor)
    stream.write("two\n")
    stream.write("three\nfour\n")
    os.dup2(there, descriptor)
    stream.write("five\n")
    stream.close()
    assert log.read_text() == (
        "one\nwarning: 3 lines of the log could not be written before this one (No space left on device)\nfive\n"
    )
    for each in (full, there, descriptor):
        os.close(each)


def test_a_log_whose_reader_is_gone_fails_nothing() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    stream = TextIOWrapper(BufferedWriter(LastingWriter(writer, message_line)), line_buffering=True)
    for _ in range(1000):
        stream.write("x" * 100 + "\n")
    stream.close()
    os.close(writer)


@needs_a_full_device
@pytest.mark.parametrize("stdout", ["/dev/full", os.devnull])
def test_a_command_ends_as_it_would_without_its_log(kropotcli: Path, tmp_path: Path, stdout: str) -> None:
    with FULL.open("w") as full, Path(stdout).open("w") as out:
        done = subprocess.run([kropotcli, "status"], cwd=tmp_path, stderr=full, stdout=out, timeout=60, check=False)
    assert done.returncode == Exit.NO_LEDGER


@needs_a_full_device
def test_what_tells_only_of_finished_work_may_go_unprinted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with FULL.open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with printing_beside_the_work():
            emit("copied 3 files")
        full.write("discarded, and no error at the end\n")
    assert "could not be printed on stdout (No space left on device)" in capsys.readouterr().err
