"""No token, key or plain name reaches an output, a log line, the ledger or the storage."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from kropot.demo import token_spec
from kropot.gateway.server import GatewayServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import RunCli

NAME = "an-unmistakable-plain-name"
CONTENT = b"an unmistakable plain content " * 40


@pytest.fixture
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayServer]:
    place = tmp_path_factory.mktemp("gateway")
    source = place / "source"
    (source / f"{NAME}-folder").mkdir(parents=True)
    for number in range(3):
        (source / f"{NAME}-folder" / f"{NAME}-{number}.txt").write_bytes(CONTENT)
    with GatewayServer(source, f"sqlite:///{place / 'gateway.db'}", os.urandom(32), settle_s=0) as server:
        yield server


def everything_written(folder: Path) -> Iterator[tuple[Path, bytes]]:
    for path in folder.rglob("*"):
        yield path, os.fsencode(str(path.relative_to(folder)))
        if path.is_file():
            yield path, path.read_bytes()


def test_neither_token_nor_key_nor_name_is_ever_written(
    gateway: GatewayServer, run_cli: RunCli, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    token, kit = gateway.create_token(token_spec())
    assert kit is not None
    key = kit["data"]["secureCopyEncryptionKey"]
    token_file = tmp_path_factory.mktemp("token") / "token"
    token_file.write_text(token)
    token_file.chmod(0o600)
    loud = ("--log-level", "debug", "--server-url", gateway.url)
    by_file = (*loud, "--token-file", str(token_file))
    told = [
        run_cli(*by_file, "--log-format", "json", "collect", "--once"),
        run_cli("--token", token, *loud, "collect", "--once", "--json"),
        run_cli(*loud, "--log-format", "json", "collect", "--once", env={"KROPOT_TOKEN": token}),
        *(run_cli(*by_file, *args) for args in (["status"], ["ls", "--json"], ["source", "list"], ["config", "show"])),
        run_cli(*by_file, "--log-format", "json", "verify"),
        run_cli("--token", token, "--server-url", "http://127.0.0.1:1", "collect", "--once", "--log-level", "debug"),
        run_cli("--token", token, "--token-file", str(token_file), "collect"),
    ]
    assert told[0].returncode == 0, told[0].stderr
    assert told[-1].returncode == 2
    secrets = [token.encode(), key.encode(), NAME.encode(), CONTENT[:30]]
    for done in told:
        for secret in secrets:
            assert secret not in (done.stdout + done.stderr).encode(), done.args[1:]
    assert (tmp_path / "database.db").exists()
    for path, content in everything_written(tmp_path):
        for secret in secrets:
            assert secret not in content, path


def test_what_is_written_belongs_to_its_owner_alone(gateway: GatewayServer, run_cli: RunCli, tmp_path: Path) -> None:
    token, _ = gateway.create_token(token_spec())
    done = run_cli("--server-url", gateway.url, "collect", "--once", env={"KROPOT_TOKEN": token})
    assert done.returncode == 0, done.stderr
    written = [path for path in tmp_path.rglob("*") if not path.is_symlink()]
    assert any(path.is_file() for path in written)
    for path in written:
        assert path.stat().st_mode & 0o077 == 0, path
