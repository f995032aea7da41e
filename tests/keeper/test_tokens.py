"""`kropotcli keeper`: tokens are made, listed and revoked, kept only as keyed hashes; the server starts and ends."""

from __future__ import annotations

import json
import signal
import socket
import sqlite3
import ssl
import stat
import subprocess
from contextlib import closing, suppress
from typing import TYPE_CHECKING

import pytest

from kropot.errors import KropotError, NoLedgerError, UsageError, WrongKeyError
from kropot.keeper.state import KeeperState, KeeperStateError
from kropot.keeper.tokens import open_tokens
from kropot.keeper.visitor import Role
from kropot.serving.listening import TlsFiles
from tests.certificates import Authority
from tests.keeper.serve import Kept, Visiting

if TYPE_CHECKING:
    from pathlib import Path

    from tests.kropot.replay_cli import Run

pytest_plugins = ["tests.kropot.replay_cli"]


def test_tokens_are_made_listed_and_revoked(run: Run, tmp_path: Path) -> None:
    open_tokens(tmp_path / "keeper.db", create=True)
    made = run("keeper", "token", "create", "--role", "owner", "--label", "alice", "--expires", "30d", "--json")
    assert made.code == 0, made.err
    assert made.json.keys() == {"message_type", "token", "number", "role"}
    plain = run("keeper", "token", "create", "--role", "monitor")
    assert len(plain.out.strip()) == 43
    listed = run("keeper", "token", "list", "--json").lines
    assert [(row["number"], row["role"], row["label"], row["status"]) for row in listed] == [
        (1, "owner", "alice", "active"),
        (2, "monitor", None, "active"),
    ]
    assert run("keeper", "token", "revoke", "1").code == 0
    assert [row["status"] for row in run("keeper", "token", "list", "--json").lines] == ["revoked", "active"]
    text = run("keeper", "token", "list").out
    assert "revoked" in text
    for file in (tmp_path / "keeper.db", tmp_path / "keeper.db.key"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        for token in (made.json["token"], plain.out.strip()):
            assert token.encode() not in file.read_bytes()
    assert made.json["token"] not in text
    tokens = open_tokens(tmp_path / "keeper.db")
    assert tokens.visitor(made.json["token"]) is None
    visitor = tokens.visitor(plain.out.strip())
    assert visitor is not None
    assert visitor.role is Role.MONITOR


def test_mistakes_are_told(run: Run, tmp_path: Path) -> None:
    assert run("keeper", "token", "list").code == 10
    for wrong in (
        ("--role", "king"),
        ("--role", "owner", "--expires", "soon"),
        ("--role", "owner", "--expires", "@3"),
        ("--role", "owner", "--expires", "999999d"),
        ("--role", "auditor", "--source", "x"),
        ("--role", "owner", "--label", "a\nb"),
        ("--role", "owner", "--label", ""),
    ):
        assert run("keeper", "token", "create", *wrong).code == 2, wrong
    for over in ("2001-01-01", "0d"):
        expired = run("keeper", "token", "create", "--role", "owner", "--expires", over)
        assert (expired.code, expired.out, expired.err.count("\n")) == (2, "", 1)
        assert f"--expires '{over}' is over already, so no token was made" in expired.err
    assert not (tmp_path / "keeper.db").exists()
    open_tokens(tmp_path / "keeper.db", create=True)
    assert run("keeper", "token", "revoke", "7").code == 2
    server = run("keeper", "serve", "--tls-cert", "x")
    assert (server.code, "belong together" in server.err) == (2, True)
    with closing(sqlite3.connect(tmp_path / "other.db")) as other:
        other.execute("CREATE TABLE something (x)")
    elsewhere = run("keeper", "token", "list", "--state", str(tmp_path / "other.db"))
    assert (elsewhere.code, "tables of another program" in elsewhere.err) == (1, True)


def test_a_token_can_be_bound_to_named_sources(run: Run, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    with Kept(tmp_path / "kept") as kept:
        source = kept.world.source(None)
        place = ("--db-string", f"sqlite:///{kept.folder / 'ledger.db'}")
        made = run("keeper", "token", "create", "--role", "owner", "--source", source.hex()[:6], "--json", *place)
        assert made.code == 0, made.err
        assert Visiting(kept.url, made.json["token"]).json("/api/1/me")["sources"] == [source.hex()]
        assert run("keeper", "token", "create", "--role", "owner", "--source", "nobody", *place).code == 2


def test_a_key_that_is_missing_or_another_one_is_refused(tmp_path: Path) -> None:
    path, key = tmp_path / "keeper.db", tmp_path / "keeper.db.key"
    with pytest.raises(NoLedgerError):
        open_tokens(path)
    text = open_tokens(path, create=True).make(Role.OWNER).text
    kept = key.read_bytes()
    key.unlink()
    for create in (False, True):
        with pytest.raises(WrongKeyError):
            open_tokens(path, create=create)
    key.write_bytes(kept[:4] + b"AAAA" + kept[8:])
    key.chmod(0o600)
    with pytest.raises(WrongKeyError):
        open_tokens(path)
    key.write_bytes(kept)
    key.chmod(0o644)
    with pytest.raises(UsageError):
        open_tokens(path)
    key.chmod(0o600)
    assert open_tokens(path).visitor(text) is not None


def test_a_database_that_is_gone_or_rubbish_lets_nobody_in(tmp_path: Path) -> None:
    tokens = open_tokens(tmp_path / "keeper.db", create=True)
    text = tokens.make(Role.OWNER).text
    (tmp_path / "keeper.db").write_bytes(b"rubbish" * 1000)
    with pytest.raises(KeeperStateError):
        tokens.visitor(text)
    (tmp_path / "keeper.db").unlink()
    with pytest.raises(KeeperStateError):
        tokens.visitor(text)
    assert not (tmp_path / "keeper.db").exists(), "it is not made again by looking"
    (tmp_path / "other.db").write_bytes(b"rubbish" * 1000)
    with pytest.raises(KeeperStateError):
        KeeperState(tmp_path / "other.db")


def test_serve_starts_and_ends_and_says_where(kropotcli: Path, tmp_path: Path) -> None:
    with Kept(tmp_path) as kept:
        kept.world.source(None)
        token = kept.visitor("monitor").token
        command = [str(kropotcli), "--json", "keeper", "serve", "--port", "0", "--db-string"]
        command += [f"sqlite:///{tmp_path / 'ledger.db'}", "--storage-path", str(tmp_path / "storage")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                url = json.loads(process.stdout.readline())["url"]
                assert "kropot_healthy" in Visiting(url, token).get("/metrics").text
            finally:
                process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=20)
        assert process.returncode == 0
        assert str(token) not in err


def test_tls_is_spoken_and_its_bounds_hold(tmp_path: Path) -> None:
    (tmp_path / "authority").mkdir()
    authority = Authority(tmp_path / "authority")
    authority.context("127.0.0.1")
    [both] = (path for path in (tmp_path / "authority").iterdir() if path != authority.file)
    files = TlsFiles(certificate=both, key=both)
    with Kept(tmp_path, tls=files) as kept:
        assert kept.url.startswith("https://127.0.0.1")
        context = ssl.create_default_context(cafile=authority.file)
        assert kept.visitor().get("/api/1/me", verify=str(authority.file)).status_code == 200
        host, port = kept.url.removeprefix("https://").split(":")
        with (
            socket.create_connection((host, int(port)), timeout=20) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as conversation,
        ):
            conversation.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 70_000 + b"\r\n\r\n")
            answer = b""
            with suppress(OSError):
                while data := conversation.recv(1 << 16):
                    answer += data
        assert answer[:12] == b"HTTP/1.1 431"
    wrong = TlsFiles(certificate=tmp_path / "keeper.db", key=both)
    with pytest.raises(KropotError, match="cannot be used"), Kept(tmp_path, tls=wrong):
        pass
