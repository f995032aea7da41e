"""The owner's commands before and after each scan."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from kropot.errors import UsageError
from kropot.gateway.commands import CommandFailedError, CommandStoppedError, ScanCommands, command_from
from tests.gateway.serve import SETTLE_S, Served

NEVER = threading.Event()


def sh(script: str) -> tuple[str, ...]:
    return ("sh", "-c", script)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("true", ("true",)),
        ("cat 'a b' \"c d\" e\\ f", ("cat", "a b", "c d", "e f")),
        ("sh -c 'x=$(date) | y; z > w'", ("sh", "-c", "x=$(date) | y; z > w")),
        ('sh -c "a | b"', ("sh", "-c", "a | b")),
        ("find . -exec cat --format='%d;' \\;", ("find", ".", "-exec", "cat", "--format=%d;", ";")),
        ("cat \\$HOME", ("cat", "$HOME")),
    ],
)
def test_a_command_is_split_as_a_shell_does_and_nothing_is_expanded(text: str, words: tuple[str, ...]) -> None:
    assert command_from(text, "--before-scan", os.environ) == words


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("   ", "is empty"),
        ("''", "is empty"),
        ("cat a\0b", "a NUL character"),
        ("cat 'a", "a quote that is not closed"),
        ("cat \\", "ends with a backslash"),
        ("cat a | b", "has a | that only a shell understands"),
        ("cat a && b", "has a & that"),
        ("cat $HOME/x", "has a $ that"),
        ('cat "$HOME/x"', "has a $ that"),
        ("cat `date`", "has a ` that"),
        ("cat a > b", "has a > that"),
        ("/no/such/program x", 'the program "/no/such/program", which cannot be run'),
        ("no-such-program-here", "which cannot be run"),
    ],
)
def test_a_command_that_cannot_be_run_is_refused_when_it_is_given(text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        command_from(text, "--before-scan", os.environ)
    assert str(caught.value).startswith("--before-scan ")
    assert said in str(caught.value)


def test_commands_run_around_a_scan_in_order_and_their_output_is_logged(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    root = tmp_path / "source"
    commands = ScanCommands(
        before=sh(f"echo making; echo dump >{root}/dump; printf 'no end'"), after=sh(f"cat {root}/dump; echo gone >&2")
    )
    with capture_logs() as logs, Served(tmp_path, commands=commands) as served:
        assert set(served.client().ids()) == {b"dump"}
    lines = [(each["option"], each["line"]) for each in logs if each["event"] == "scan_command_output"]
    assert lines == [
        *(("--before-scan", "making"), ("--before-scan", "no end")),
        *(("--after-scan", "dump"), ("--after-scan", "gone")),
    ]


def test_a_failing_command_means_no_scan_and_every_list_tells_it(tmp_path: Path) -> None:
    root = tmp_path / "source"
    root.mkdir()
    (root / "a").write_text("a")
    switch, done = tmp_path / "switch", tmp_path / "done"
    commands = ScanCommands(before=sh(f"test ! -e {switch}"), after=sh(f"echo x >>{done}; test ! -e {switch}.after"))
    with Served(tmp_path, commands=commands) as served:
        client = served.client()
        assert client.page().unscanned_since is None
        switch.touch()
        (root / "b").write_text("b")
        time.sleep(2 * SETTLE_S)
        before = done.read_text()
        with pytest.raises(CommandFailedError, match="--before-scan failed with exit code 1"):
            served.server.rescan()
        page = client.page()
        since = page.unscanned_since
        assert since is not None
        assert abs(since - time.time()) < 60
        assert set(client.ids()) == {b"a"}, "there was no scan"
        assert done.read_text() == before, "what was not begun is not ended"
        with pytest.raises(CommandFailedError):
            served.server.rescan()
        assert client.page().unscanned_since == since, "since the first failure"
        switch.rename(f"{switch}.after")
        with pytest.raises(CommandFailedError, match="--after-scan failed"):
            served.server.rescan()
        assert set(client.ids()) == {b"a", b"b"}
        assert client.page().unscanned_since == since
        (tmp_path / "switch.after").unlink()
        served.server.rescan()
        assert client.page().unscanned_since is None


def test_the_second_command_runs_also_if_the_scan_fails(tmp_path: Path) -> None:
    commands = ScanCommands(after=sh(f"touch {tmp_path}/cleaned"))
    with pytest.raises(OSError, match="away"), commands.around(NEVER):
        raise OSError("away")
    assert (tmp_path / "cleaned").exists()


def test_a_command_that_takes_too_long_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    commands = ScanCommands(before=sh(f"sleep 600 & echo $! >{tmp_path}/pid; wait"), limit_s=0.5)
    with pytest.raises(CommandFailedError, match=r"took longer than 0\.5 s and was ended"), commands.around(NEVER):
        raise AssertionError("no scan")
    child = int((tmp_path / "pid").read_text())
    until = time.monotonic() + 20
    while _lives(child) and time.monotonic() < until:
        time.sleep(0.01)
    assert not _lives(child)


def test_a_gateway_that_stops_ends_the_first_command_and_waits_for_the_second(tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(CommandStoppedError), ScanCommands(before=sh("sleep 600")).around(stop):
        raise AssertionError("no scan")
    with ScanCommands(after=sh(f"sleep 0.2; touch {tmp_path}/cleaned")).around(stop):
        pass
    assert (tmp_path / "cleaned").exists()


def test_a_child_that_is_left_behind_holds_nothing_up(tmp_path: Path) -> None:
    began = time.monotonic()
    with ScanCommands(before=sh(f"sleep 30 & echo $! >{tmp_path}/pid")).around(NEVER):
        pass
    os.kill(int((tmp_path / "pid").read_text()), 9)
    assert time.monotonic() - began < 25


def test_no_secret_of_this_program_reaches_a_command_or_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KROPOT_GATEWAY_MASTER_KEY", "top-secret-key")
    monkeypatch.setenv("PGHOST", "db.example.org")
    script = "import os; print(*os.environ); print('postgresql://app:hush-hush@db/x')"
    with capture_logs() as logs, ScanCommands(before=(sys.executable, "-c", script)).around(NEVER):
        pass
    text = repr(logs)
    assert "PGHOST" in text
    assert "KROPOT" not in text
    assert "hush-hush" not in text
    assert "postgresql://app:[hidden]@db/x" in text


def test_a_command_that_prints_without_end_costs_a_bounded_log() -> None:
    script = "for i in range(5000): print('x' * 3000)"
    with capture_logs() as logs, ScanCommands(before=(sys.executable, "-c", script)).around(NEVER):
        pass
    lines = [each["line"] for each in logs if each["event"] == "scan_command_output"]
    assert len(lines) == 100
    assert max(map(len, lines)) == 1000
    assert [each["left_out"] for each in logs if each["event"] == "scan_command_output_cut"] == [4900]


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
