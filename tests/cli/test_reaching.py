"""How a user reaches the server and names things: user agents, proxies, pipes, paths of any bytes."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from kropot.cli.output import as_json
from kropot.cli.settings import resolve
from kropot.errors import Exit
from tests.oldserver import OldServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import RunCli

TOKEN = "a-token-that-nobody-else-may-see"
ENV = {"KROPOT_TOKEN": TOKEN}


@pytest.fixture
def server() -> Iterator[OldServer]:
    with OldServer({"one.txt": b"bread", "two.txt": b"roses"}, token=TOKEN) as server:
        yield server


@pytest.fixture(params=["libcurl", "http.client"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Choose the engine that moves contents."""
    if request.param == "libcurl":
        pytest.importorskip("pycurl")
        return ENV
    without = tmp_path_factory.mktemp("without")
    (without / "pycurl.py").write_text("raise ImportError('left out')")
    return ENV | {"PYTHONPATH": os.pathsep.join([str(without), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])}


def test_the_given_user_agent_goes_with_every_request(
    server: OldServer, run_cli: RunCli, engine: dict[str, str]
) -> None:
    server.change_token(allowed_user_agents=frozenset({"backup/1.0"}))
    line = ("collect", "--once", "--server-url", server.url)
    assert run_cli(*line, env=engine).returncode == Exit.REFUSED
    done = run_cli(*line, "--user-agent", "backup/1.0", env=engine)
    assert done.returncode == Exit.DONE, done.stderr
    assert "copied 2 files" in done.stdout
    assert run_cli(*line, "--user-agent", "zażółć", env=engine).returncode == Exit.USAGE


def test_a_refused_token_ends_with_an_error_that_says_so(server: OldServer, run_cli: RunCli) -> None:
    line = ("collect", "--once", "--server-url", server.url)
    assert run_cli(*line, env=ENV).returncode == Exit.DONE
    server.expire_token()
    done = run_cli(*line, env=ENV)
    assert done.returncode == Exit.REFUSED
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    assert "it refuses the token" in last


def test_a_proxy_of_the_environment_is_not_used_and_that_is_said_where_it_may_matter(
    server: OldServer, run_cli: RunCli, engine: dict[str, str], free_port: int
) -> None:
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), f"http://127.0.0.1:{free_port}")
    done = run_cli("collect", "--once", "--server-url", server.url, env=engine | proxies)
    assert done.returncode == Exit.DONE, done.stderr
    assert "copied 2 files" in done.stdout
    server.stop()
    done = run_cli("collect", "--once", "--server-url", server.url, env=engine | proxies)
    assert done.returncode == Exit.ERROR
    assert "note that https_proxy is ignored" in done.stderr.splitlines()[-1]


def test_a_wrong_path_has_its_own_sentence(server: OldServer, run_cli: RunCli) -> None:
    done = run_cli("collect", "--once", "--server-url", server.url + "/elsewhere", env=ENV)
    assert done.returncode == Exit.ERROR
    assert "error: cannot collect any more" in done.stderr
    assert "there is no File Repository at this address (HTTP 404)" in done.stderr


def test_a_host_that_dns_does_not_know_has_its_own_sentence(run_cli: RunCli) -> None:
    done = run_cli("--http-timeout", "1", "collect", "--once", "--server-url", "https://files.invalid", env=ENV)
    assert done.returncode == Exit.ERROR
    assert "error: cannot collect any more from https://files.invalid: no host of this name" in done.stderr


def test_a_token_from_a_pipe_is_read_once() -> None:
    reading, writing = os.pipe()
    os.write(writing, f"{TOKEN}\n".encode())
    os.close(writing)
    try:
        settings = resolve({}, {"KROPOT_TOKEN_FILE": f"/dev/fd/{reading}"}, None)
        assert settings.need_token().reveal() == TOKEN
        assert settings.need_token().reveal() == TOKEN
        assert TOKEN not in repr(settings)
    finally:
        os.close(reading)


def test_a_storage_whose_name_is_not_utf8_works(server: OldServer, run_cli: RunCli) -> None:
    place = os.fsdecode(b"st\xe9")
    where = ("--storage-path", place)
    done = run_cli(*where, "collect", "--once", "--server-url", server.url, "--log-format", "json", env=ENV)
    assert done.returncode == Exit.DONE, done.stderr
    assert run_cli(*where, "verify").returncode == Exit.DONE
    rows = [json.loads(line) for line in run_cli(*where, "config", "show", "--json").stdout.splitlines()]
    assert {
        "message_type": "option",
        "option": "storage-path",
        "value": "st\\udce9",
        "source": "--storage-path",
    } in rows


def test_json_takes_any_bytes_of_a_path() -> None:
    path = os.fsdecode(b"\xff\xe9/z\xc5\xbc")
    value = {"path": path, path: [1, (path, None)], "blob": b"\xff"}
    escaped = "\\udcff\\udce9/zż"
    assert json.loads(as_json(value)) == {"path": escaped, escaped: [1, [escaped, None]], "blob": "ff"}


def test_what_the_first_client_took_is_taken(server: OldServer, run_cli: RunCli) -> None:
    first = ("--log-level=warn", "--refresh-time=0")
    done = run_cli(*first, "collect", "--once", f"--server-url={server.url}", env=ENV)
    assert (done.returncode, done.stderr) == (Exit.DONE, "")
    status = run_cli(*first, "status")
    assert "listing_stale" not in status.stdout
