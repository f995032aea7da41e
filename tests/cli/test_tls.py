"""Certificates are verified, by what lists and by what moves contents; the refusal is a sentence with the way out."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from kropot.errors import Exit
from tests.certificates import Authority
from tests.oldserver import OldServer

if TYPE_CHECKING:
    import ssl
    from pathlib import Path

    from tests.conftest import RunCli

TOKEN = "a-token-that-nobody-else-may-see"
FILES = {"one.txt": b"bread", "two.txt": b"roses"}


@pytest.fixture
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(params=["libcurl", "http.client"])
def env(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Choose the engine that moves contents."""
    if request.param == "libcurl":
        pytest.importorskip("pycurl")
        return {"KROPOT_TOKEN": TOKEN}
    without = tmp_path_factory.mktemp("without")
    (without / "pycurl.py").write_text("raise ImportError('left out')")
    path = os.pathsep.join([str(without), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    return {"KROPOT_TOKEN": TOKEN, "PYTHONPATH": path}


def test_a_server_that_a_named_authority_vouches_for_is_copied(
    authority: Authority, run_cli: RunCli, env: dict[str, str]
) -> None:
    with OldServer(FILES, token=TOKEN, tls=authority.context("127.0.0.1")) as server:
        done = run_cli("--server-url", server.url, "--ca-file", str(authority.file), "collect", "--once", env=env)
    assert server.url.startswith("https://")
    assert done.returncode == Exit.DONE, done.stderr
    assert "copied 2 files" in done.stdout
    assert ("slower engine" in done.stderr) == ("PYTHONPATH" in env)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("nobody vouches", "its certificate cannot be trusted"),
        ("another authority", "its certificate cannot be trusted"),
        ("another host", "its certificate is for another host"),
        ("run out", "its certificate has expired"),
    ],
)
def test_a_server_that_cannot_be_trusted_is_told_nothing(
    authority: Authority, run_cli: RunCli, tmp_path: Path, wrong: str, said: str
) -> None:
    address = "192.0.2.1" if wrong == "another host" else "127.0.0.1"
    context = authority.context(address, days=-1 if wrong == "run out" else 1)
    other = tmp_path / "other"
    other.mkdir()
    named = Authority(other) if wrong == "another authority" else authority
    trust = () if wrong == "nobody vouches" else ("--ca-file", str(named.file))
    with OldServer(FILES, token=TOKEN, tls=context) as server:
        done = run_cli("--server-url", server.url, *trust, "collect", "--once", env={"KROPOT_TOKEN": TOKEN})
        assert server.asked() == []
    assert done.returncode == Exit.ERROR, done.stderr
    assert f"error: cannot collect any more from {server.url}: {said}" in done.stderr
    assert ("--ca-file" in done.stderr) == ("trusted" in said)
    assert "Traceback" not in done.stderr


def test_contents_are_not_fetched_from_a_server_that_cannot_be_trusted(
    authority: Authority, run_cli: RunCli, env: dict[str, str]
) -> None:
    """Each has connections of its own: what moves contents must not rely on what lists."""
    context = authority.context("127.0.0.1")
    with OldServer(FILES, token=TOKEN, tls=context) as server:
        wrong = authority.context("192.0.2.1")

        def another(socket: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
            if len(server.asked("list")) > 1:  # the first one only tries the token
                socket.context = wrong

        context.sni_callback = another
        done = run_cli("--server-url", server.url, "--ca-file", str(authority.file), "collect", "--once", env=env)
        assert server.asked("list") != []
        assert server.asked("content") == []
    assert done.returncode == Exit.PARTIAL, done.stderr
    assert "Traceback" not in done.stderr


def test_a_token_that_crosses_a_network_in_clear_is_warned_of(run_cli: RunCli) -> None:
    command = ("--http-timeout", "1", "collect", "--once")
    done = run_cli("--server-url", "http://files.invalid:8000", *command, env={"KROPOT_TOKEN": TOKEN})
    assert "is not encrypted" in done.stderr
    assert TOKEN not in done.stderr
    done = run_cli("--server-url", "http://127.0.0.1:9", *command, env={"KROPOT_TOKEN": TOKEN})
    assert "is not encrypted" not in done.stderr
