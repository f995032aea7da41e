"""Several sources in one configuration file: what may stand there, and that one source does not stop the others."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import time
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kropot.collect.many import LONGEST_PAUSE_S, code_of_all, pause_s
from kropot.errors import Exit
from tests.json_schema import wrong_line
from tests.oldserver import TOKEN, OldServer
from tests.service.listening import Manager

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import RunCli

OTHER = "b1946ac9-2492-4b1e-8f65-3c4f5e6a7d80"
BAD = {
    "[source.web]\nsurge = 1": "[source.web] surge is not an option that a source can have",
    '[source.web]\ntoken-fil = "x"': "[source.web] token-fil is not an option that a source can have; did you mean "
    "token-file?",
    '[source.web]\nserver-url = "http://h"\ntoken-file = "t"\nfull-every = "x"': "[source.web] full-every: 'x' is",
    '[source.web]\nserver-url = "http://h"\ntoken-file = "t"\nrefresh-time = "x"': "[source.web] refresh-time: 'x' is",
    '[source.web]\ntoken-file = "t"': "[source.web] names no server",
    '[source.web]\nserver-url = "http://h"': "[source.web] names no token",
    "[source]\nweb = 1": "[source.web] is a value",
    '[source."a b"]\nserver-url = "http://h"': "[source.a b] is not a valid name of a source",
    '[source.web]\nserver-url = "ftp://h"': "[source.web] server-url: the server's address must look like",
    "[source.web]\nserver-url = 5": "[source.web] server-url: the server's address must look like",
    '[source.0123456789abcdef]\nserver-url = "http://h"': "is not a valid name of a source",
    '[source.web]\nserver-url = "http://h"\ntoken = "longtoken"\n[source.mail]\nserver-url = "http://i"\n'
    'token = "longtoken"': "[source.web] and [source.mail] have the same token",
    '[notify]\nping-url = "https://h/ping"\n[source.web]\nserver-url = "http://h"\ntoken = "longtoken"\n[source.mail]\n'
    'server-url = "http://i"\ntoken = "longertoken"': "[notify] has one ping-url for the sources web and mail",
}


@pytest.fixture(scope="module")
def server() -> Iterator[OldServer]:
    with OldServer() as server:
        server.add("one.txt", b"one")
        server.add_token(OTHER)
        yield server


@pytest.fixture
def config(tmp_path: Path, server: OldServer) -> Path:
    """Return a file with two sources that work, one that the server refuses, and one whose token file is not there."""
    lines = ['refresh-time = "1s"', "[collect]", 'min-free = "1MiB"', "segments = false"]
    for name, token in (("web", TOKEN), ("mail-2", OTHER), ("refused", "wrongtoken"), ("nofile", None)):
        file = tmp_path / f"{name}.token"
        if token is not None:
            file.write_text(token)
            file.chmod(0o600)
        lines += [f"[source.{name}]", f'server-url = "{server.url}"', f'token-file = "{file}"']
    path = tmp_path / "k.toml"
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize("text", BAD)
def test_a_mistake_in_a_table_is_named(run_cli: RunCli, tmp_path: Path, text: str) -> None:
    file = tmp_path / "k.toml"
    file.write_text(text)
    file.chmod(0o600)
    done = run_cli("--config", str(file), "config", "check")
    assert done.returncode == Exit.USAGE
    assert BAD[text] in done.stdout
    assert "longtoken" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "notify",
    [
        'ping-url = "https://h/{source}"',
        'ping-url = "https://h/ping"\n[notify.source.mail]\nping-url = "https://h/other"',
        '[notify.verify]\nping-url = "https://h/ping"',
    ],
)
def test_sources_that_ping_different_addresses_are_no_mistake(run_cli: RunCli, tmp_path: Path, notify: str) -> None:
    file = tmp_path / "k.toml"
    tables = [f'[source.{name}]\nserver-url = "http://h"\ntoken = "{name}longtoken"\n' for name in ("web", "mail")]
    file.write_text(f"[notify]\n{notify}\n{''.join(tables)}")
    file.chmod(0o600)
    done = run_cli("--config", str(file), "config", "check")
    assert (done.returncode, done.stdout) == (0, f"every value is valid ({file})\n")


def test_a_token_file_that_is_not_there_is_a_mistake(run_cli: RunCli, config: Path, tmp_path: Path) -> None:
    done = run_cli("--config", str(config), "config", "check")
    assert done.returncode == Exit.USAGE
    mistake, count = done.stdout.splitlines()
    assert mistake.startswith(f"cannot read the token file {tmp_path / 'nofile.token'} (No such file or directory): ")
    assert count == f"1 mistake ({config})"
    assert run_cli("--config", str(config), "config", "show").returncode == 0


def test_what_the_tables_say_is_shown_but_no_token(run_cli: RunCli, tmp_path: Path) -> None:
    file = tmp_path / "k.toml"
    file.write_text('[source.web]\nserver-url = "http://me:longpassword@h"\ntoken = "longtoken"\nrefresh-time = "5m"\n')
    file.chmod(0o600)
    done = run_cli("--config", str(file), "config", "show")
    assert (done.returncode, "long" in done.stdout) == (Exit.USAGE, False)
    file.write_text('[source.web]\nserver-url = "http://h"\ntoken = "longtoken"\nrefresh-time = "5m"\n')
    shown = run_cli("--config", str(file), "config", "show").stdout
    rows = dict(re.findall(r"^source\.web ([\w-]+) +(\S+)  \(configuration file\)$", shown, re.MULTILINE))
    assert rows == {"server-url": "http://h", "token": "[hidden]", "refresh-time": "5m"}


def test_what_stops_one_source_does_not_stop_the_others(run_cli: RunCli, config: Path) -> None:
    done = run_cli("--config", str(config), "collect", "--once", "--json")
    assert done.returncode == Exit.PARTIAL
    summaries = {each["name"]: each for each in map(json.loads, done.stdout.splitlines())}
    assert all(each["exit"] == 0 for each in summaries.values()), done.stderr + done.stdout
    assert {name: each["exit"] for name, each in summaries.items()} == {"web": 0, "mail-2": 0}
    assert all(each["copied"] == 1 for each in summaries.values())
    failed = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert {(each.get("source"), each["exit"]) for each in failed} == {("refused", 12), ("nofile", 2), (None, 3)}
    assert "refused (exit code 12), nofile (exit code 2)" in failed[-1]["message"]
    # Their names are labels from now on, and what was never collected is an alarm.
    labels = [
        json.loads(line)["label"]
        for line in run_cli("--config", str(config), "source", "list", "--json").stdout.splitlines()
    ]
    assert sorted(labels) == ["mail-2", "web"]
    status = run_cli("--config", str(config), "status", "--check")
    assert status.returncode == Exit.PARTIAL
    for name in ("refused", "nofile"):
        assert f"nothing was ever collected from {name}" in status.stdout
    # --source picks some; one that is picked alone answers with its own code.
    assert run_cli("--config", str(config), "collect", "--once", "--source", "web").returncode == Exit.DONE
    assert run_cli("--config", str(config), "collect", "--once", "--source", "refused").returncode == Exit.REFUSED
    both = run_cli("--config", str(config), "collect", "--once", "--quiet", "--source", "web", "--source", "mail-2")
    assert (both.returncode, both.stdout, both.stderr) == (Exit.DONE, "", ""), "cron says nothing"
    none = run_cli("--config", str(config), "collect", "--once", "--source", "wob")
    assert none.returncode == Exit.USAGE
    assert "it has web, mail-2, refused, nofile" in none.stderr


def test_no_flag_says_for_all_sources_which_server_is_meant(run_cli: RunCli, config: Path) -> None:
    done = run_cli(
        "--config", str(config), "collect", "--once", "--source", "web", "--server-url", "http://127.0.0.1:9"
    )
    assert done.returncode == Exit.USAGE
    assert "--server-url names one server or token" in done.stderr
    env = {"KROPOT_TOKEN": "sometoken-123"}
    assert run_cli("--config", str(config), "collect", "--once", "--source", "web", env=env).returncode == Exit.USAGE


@contextmanager
def running(kropotcli: Path, config: Path, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    """Collect continuously beside the test, until both sources were listed; the log is beside the configuration."""
    log = config.with_name("log")
    with log.open("wb") as err:
        process = subprocess.Popen(
            [kropotcli, "--config", config, "collect"],
            cwd=config.parent,
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=err,
        )
    try:
        wait_for(lambda: log.read_text().count("listed the server") >= 2)
        yield process
    finally:
        process.kill()
        process.wait(30)


def test_collectors_stop_with_their_parent_and_an_ended_one_is_noticed(kropotcli: Path, config: Path) -> None:
    with running(kropotcli, config) as process:
        os.kill(children(process.pid)[0], signal.SIGKILL)
        wait_for(lambda: "signal 9 killed it" in config.with_name("log").read_text())
        left = children(process.pid)
    wait_for(lambda: not any(is_running(each) for each in left))


def test_one_service_of_several_sources_speaks_for_all(kropotcli: Path, config: Path, tmp_path: Path) -> None:
    with (
        closing(Manager(tmp_path / "notify")) as manager,
        running(kropotcli, config, NOTIFY_SOCKET=str(manager.path)) as process,
    ):
        manager.wait_for("READY=1")
        # Two sources cannot be collected, and wait.
        manager.wait_for("STATUS=collecting from 2 sources; 2 sources to be tried again")
        process.send_signal(signal.SIGHUP)
        for message in ("RELOADING=1", "STOPPING=1", "READY=1"):
            manager.wait_for(message)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == Exit.DONE


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition: object, timeout_s: float = 30) -> None:
    end = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ((0, 0), Exit.DONE),
        ((12, 12), Exit.REFUSED),
        ((0, 12, 1), Exit.PARTIAL),
        ((3, 2), Exit.PARTIAL),
        ((1, 12), Exit.ERROR),
        ((0, 4, 1), Exit.FINDINGS),
        ((0, 130), Exit.INTERRUPTED),
    ],
)
def test_one_exit_code_stands_for_all(codes: tuple[int, ...], expected: Exit) -> None:
    assert code_of_all(codes) == expected


def test_a_failing_source_is_tried_ever_more_rarely() -> None:
    assert [pause_s(each) for each in (1, 2, 3)] == [60, 120, 240]
    assert pause_s(100) == LONGEST_PAUSE_S


def test_the_unit_has_a_credential_for_each_source_and_the_collector_finds_it(run_cli: RunCli, config: Path) -> None:
    unit = run_cli("--config", str(config), "service", "install", "--system", "--dry-run", "collect").stdout
    assert f"LoadCredential=web.token:{config.with_name('web.token')}" in unit
    assert f"LoadCredential=mail-2.token:{config.with_name('mail-2.token')}" in unit
    assert "LoadCredential=token:" not in unit
    (start,) = (line for line in unit.splitlines() if line.startswith("ExecStart="))
    assert start.endswith("config.toml collect")
    credentials = config.with_name("credentials")
    credentials.mkdir()
    config.with_name("web.token").rename(credentials / "web.token")
    alone = ("--config", str(config), "collect", "--once", "--source", "web")
    assert run_cli(*alone).returncode == Exit.USAGE
    assert run_cli(*alone, env={"CREDENTIALS_DIRECTORY": str(credentials)}).returncode == Exit.DONE


# --- spans, and config init ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "seconds"), [("5m", 300), ("36h", 129_600), ("90", 90), ("1.5h", 5400), ("0", 0)])
def test_a_span_of_time_is_taken_with_a_unit_and_without(run_cli: RunCli, text: str, seconds: int) -> None:
    done = run_cli("config", "show", "--json", "--refresh-time", text)
    assert {each["option"]: each["value"] for each in map(json.loads, done.stdout.splitlines())}[
        "refresh-time"
    ] == seconds


def test_a_span_that_is_too_short_is_refused(run_cli: RunCli) -> None:
    assert "at least 1" in run_cli("status", "--http-timeout", "0").stderr
    assert "at least 1" in run_cli("status", "--max-audit-days", "0").stderr
    assert "at least 0.1" in run_cli("gateway", "serve", "--source", ".", "--scan-every", "0").stderr


def test_the_example_is_a_right_file(run_cli: RunCli, tmp_path: Path) -> None:
    """The files that it names are missing. Nothing else is wrong."""
    text = run_cli("config", "init", "--example").stdout.replace("/etc/kropotcli", f"{tmp_path}/etc")
    file = tmp_path / "k.toml"
    file.write_text(text)
    done = run_cli("--config", str(file), "config", "check")
    assert [line.partition(" (")[0] for line in done.stdout.splitlines()] == [
        f"cannot read the token file {tmp_path}/etc/web.token",
        "1 mistake",
    ]
    # What is commented out is right, too.
    file.write_text(
        "\n".join(
            line.removeprefix("# ") if "=" in line or line.startswith("# [") else line for line in text.splitlines()
        )
    )
    done = run_cli("--config", str(file), "config", "check")
    assert [line.partition(": ")[0].partition(" (")[0] for line in done.stdout.splitlines()] == [
        f"cannot read the token file {tmp_path}/etc/web.token",
        f"cannot read the token file {tmp_path}/etc/mail.token",
        f"there is no file {tmp_path}/etc/mail-ca.pem",
        "3 mistakes",
    ]


def test_without_a_terminal_nothing_is_asked(run_cli: RunCli, tmp_path: Path) -> None:
    done = run_cli("config", "init", str(tmp_path / "k.toml"), stdin="")
    assert done.returncode == Exit.USAGE
    assert "--example" in done.stderr
    assert not (tmp_path / "k.toml").exists()


def test_answers_become_a_configuration_that_collects(
    kropotcli: Path, tmp_path: Path, server: OldServer, run_cli: RunCli
) -> None:
    file = tmp_path / "etc" / "k.toml"
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [kropotcli, "--json", "config", "init", file],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    shown = b""
    for question, answer in (
        (b"Address", "ftp://x"),
        (b"Error", server.url),
        (b"token", TOKEN),
        (b"name", "my.files"),
        (b"Folder", str(tmp_path / "replica")),
    ):
        shown += read_until(ours, question)
        os.write(ours, f"{answer}\n".encode())
    out = process.communicate(timeout=30)[0].decode()
    assert process.returncode == Exit.DONE, shown
    assert wrong_line(out) is None
    assert TOKEN.encode() not in shown
    assert [oct(each.stat().st_mode & 0o777) for each in sorted(file.parent.iterdir())] == ["0o600", "0o600"]
    assert run_cli("--config", str(file), "config", "check").returncode == Exit.DONE
    assert run_cli("--config", str(file), "collect", "--once", "--min-free", "1MiB").returncode == Exit.DONE
    assert "my.files" in run_cli("--config", str(file), "source", "list").stdout
    again = run_cli("config", "init", str(file))
    assert again.returncode == Exit.USAGE
    assert "exists and was not changed" in again.stderr


def read_until(descriptor: int, text: bytes) -> bytes:
    found = b""
    while text not in found:
        assert select.select([descriptor], [], [], 20)[0], found
        found += os.read(descriptor, 4096)
    return found
