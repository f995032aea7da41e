"""`kropotcli gateway` as a user starts it."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import socket
import subprocess
import time
from base64 import b64encode
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from kropot.cli.main import cli
from kropot.errors import KropotError
from kropot.metrics.serving import MetricsServer
from kropot.sc2.kit import OwnerKit
from kropot.sc2.kits import parse_kit
from kropot.securecopy.sealing import Kit
from kropot.serving.listening import listen
from tests.gateway.serve import ADMIN, DOCUMENTED, PLAIN, SEALED, Client
from tests.json_schema import hold_to_schema

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import RunCli


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(SEALED))
    return path


@contextmanager
def serving(kropotcli: Path, folder: Path, *args: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run `gateway serve` on a free port; yield its address and its process, which is ended at the end."""
    process = subprocess.Popen(
        [str(kropotcli), "gateway", "serve", "--json", "--port", "0", *args],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["url"], process
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=20)


def test_folder_is_served_from_the_first_command_to_the_last(
    run_cli: RunCli, kropotcli: Path, tmp_path: Path, spec: Path
) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "name.txt").write_text("content")
    made = run_cli("gateway", "token", "create", str(spec), "--json", "--kit", "kit.json")
    assert made.returncode == 0, made.stderr
    answer = json.loads(made.stdout)
    assert answer["kit"] == str(tmp_path / "kit.json")
    kit = json.loads((tmp_path / "kit.json").read_text())
    assert kit["id"] == answer["id"]
    for path in ("kit.json", "gateway.db", "gateway.db.key"):
        assert (tmp_path / path).stat().st_mode & 0o777 == 0o600
    assert kit["data"]["secureCopyEncryptionKey"] not in made.stdout + made.stderr
    data = kit["data"]
    opener = Kit(
        data["secureCopyEncryptionKey"], digest=data["secureCopyDigestMethod"], rounds=data["secureCopyDigestRounds"]
    )
    with serving(kropotcli, tmp_path, "--source", "files", "--scan-every", "0.2") as (url, process):
        client = Client(url, answer["id"], opener)
        deadline = time.monotonic() + 20
        ids: dict[bytes, str] = {}
        while not ids and time.monotonic() < deadline:
            if client.get("/secure-copy/file/list").status_code == 200:
                ids = client.ids()
            time.sleep(0.1)
        assert client.content(ids[b"name.txt"]).plain == b"content"
        listed = run_cli("gateway", "token", "list", "--json")
        row = json.loads(listed.stdout)
        assert (row["number"], row["status"], row["encrypted"]) == (1, "active", True)
        assert answer["id"] not in listed.stdout
        assert run_cli("gateway", "token", "revoke", "1").returncode == 0
        time.sleep(1.1)
        assert client.get("/secure-copy/file/list").status_code == 403
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=20)
        assert process.returncode == 0
    assert answer["id"] not in told
    assert "name.txt" not in told
    assert "revoked" in run_cli("gateway", "token", "list").stdout
    assert not (tmp_path / "gateway.db-wal").exists(), "the database was closed"


@pytest.mark.parametrize(
    "args",
    [
        ["--source", "nothing"],
        ["--source", "files", "--state", "sqlite:///files/g.db", "--master-key-file", "key"],
        ["--source", "files", "--kits", "files/kits"],
        ["--source", "files", "--exclude", "a["],
        ["--source", "files", "--exclude", "files"],
        ["--source", "files", "--include", "/nowhere"],
        ["--source", "files", "--exclude-file", "nothing"],
        ["--source", "files", "--exclude-if-present", "a/b"],
        ["--source", "files", "--before-scan", "a | b"],
        ["--source", "files", "--after-scan", "/no/such/program"],
        ["--source", "files", "--scan-command-limit", "0"],
    ],
    ids=str,
)
def test_a_refused_start_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "files").mkdir()
    done = CliRunner().invoke(cli, ["gateway", "serve", *args])
    assert done.exit_code == 2, done.stderr
    assert list(tmp_path.rglob("*")) == [tmp_path / "files"]


def test_interrupt_ends_it_with_130(kropotcli: Path, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    with serving(kropotcli, tmp_path, "--source", "files") as (_, process):
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
        assert process.returncode == 130


def test_given_key_makes_no_kit_and_plain_token_warns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = CliRunner().invoke(cli, ["gateway", "token", "create", "-", "--json"], input=json.dumps(DOCUMENTED))
    assert json.loads(given.stdout) == {"message_type": "token_made", "id": DOCUMENTED["id"], "number": 1}
    plain = CliRunner().invoke(cli, ["gateway", "token", "create", "-", "--plain"], input=json.dumps(PLAIN))
    assert plain.exit_code == 0
    assert "this token is plain" in plain.stderr
    assert not list(tmp_path.glob("kit*"))
    late = CliRunner().invoke(
        cli,
        ["gateway", "token", "create", "-", "--plain"],
        input=json.dumps({**PLAIN, "expires": "2020-05-01 01:06:01"}),
    )
    assert late.exit_code == 0
    assert "expired already" in late.stderr


def test_a_kit_that_is_asked_for_is_written_or_its_absence_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps(DOCUMENTED))
    spec.chmod(0o644)
    given = CliRunner().invoke(cli, ["gateway", "token", "create", str(spec), "--json", "--kit", "given.json"])
    assert given.exit_code == 0
    assert json.loads(given.stdout)["kit"] == str(tmp_path / "given.json")
    kit = json.loads((tmp_path / "given.json").read_text())["data"]
    assert kit["secureCopyEncryptionKey"] == DOCUMENTED["data"]["secureCopyEncryptionKey"]
    assert (tmp_path / "given.json").stat().st_mode & 0o777 == 0o600
    assert f"other users can read the specification with a key {spec}: chmod 600 it" in given.stderr
    spec.write_text(json.dumps(SEALED))
    sealed = CliRunner().invoke(cli, ["gateway", "token", "create", str(spec), "--kit", "made.json"])
    assert (sealed.exit_code, "other users" in sealed.stderr) == (0, False), "it holds no key"
    spec.write_text(json.dumps(PLAIN))
    plain = CliRunner().invoke(cli, ["gateway", "token", "create", str(spec), "--plain", "--kit", "plain.json"])
    assert plain.exit_code == 0
    assert "there is no kit and plain.json was not written" in plain.stderr
    assert not (tmp_path / "plain.json").exists()


def test_a_token_is_sealed_by_sc2_unless_something_else_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def gateway(*args: str, stdin: Any = None, code: int = 0) -> Any:
        done = CliRunner().invoke(cli, ["gateway", *args, "--json"], input=json.dumps(stdin))
        assert done.exit_code == code, done.output
        assert not [word for word in re.findall("[0-9a-f]{64}", done.output) if word in secrets]
        hold_to_schema([*args, "--json"], done.stdout)
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        return done.stderr if code else rows if args[-1] == "list" else rows[0]

    secrets: set[str] = set()
    empty = {**PLAIN, "data": {"tags": [], "secureCopyEncryptionKey": "", "secureCopyDigestRounds": 0}}
    first = gateway("token", "create", "-", stdin=empty)
    vault = first["vault"]
    kit_file = tmp_path / f"kit-{vault[:8]}.json"
    assert first["kit"] == str(kit_file)
    assert kit_file.stat().st_mode & 0o777 == 0o600
    kit = parse_kit(kit_file.read_bytes(), name="kit")
    assert isinstance(kit, OwnerKit)
    assert kit.vault is not None
    assert kit.vault.id.hex() == vault
    secrets |= {kit.vault.id_key.hex(), *(master.hex() for master in kit.vault.masters)}
    again = gateway("token", "create", "-", "--vault", vault[:4], stdin={**PLAIN, "data": {"padding": "padme"}})
    assert again["vault"] == vault
    assert "kit" not in again, "the vault's kits open its copies"
    kitted = gateway("token", "create", "-", "--vault", vault, "--kit", "same.json", stdin=PLAIN)
    assert (tmp_path / "same.json").read_bytes() == kit_file.read_bytes()
    assert kitted["kit"] == str(tmp_path / "same.json")
    assert "vault" not in gateway("token", "create", "-", "--plain", stdin=PLAIN)
    assert "vault" not in gateway("token", "create", "-", stdin=SEALED)
    assert "vault" not in gateway("token", "create", "-", stdin=ADMIN), "it pulls nothing, so it seals nothing"
    methods = [row["method"] for row in gateway("token", "list")]
    assert methods == ["sc2", "sc2", "sc2", None, "aes-256-cbc", None]
    [row] = gateway("vault", "list")
    assert (row["id"], row["masters"], row["tokens"]) == (vault, 1, [1, 2, 3])
    turned = gateway("vault", "rotate", vault[:8])
    assert (turned["vault"], turned["masters"]) == (vault, 2)
    newer = parse_kit(Path(turned["kit"]).read_bytes(), name="kit")
    assert isinstance(newer, OwnerKit)
    assert newer.vault is not None
    assert newer.vault.masters[:1] == kit.vault.masters
    assert gateway("vault", "kit", vault[:8], "--kit", "lost.json")["masters"] == 2
    assert (tmp_path / "lost.json").read_bytes() == Path(turned["kit"]).read_bytes()
    text = CliRunner().invoke(cli, ["gateway", "vault", "list"]).stdout
    assert text.startswith(vault)
    assert "masters: 2  tokens: 1, 2, 3" in text
    other = "0" if vault[0] != "0" else "1"
    for args, stdin, sentence in (
        (("token", "create", "-", "--plain"), SEALED, "--plain encrypts nothing"),
        (("token", "create", "-", "--plain", "--vault", vault), PLAIN, "--plain encrypts nothing"),
        (("token", "create", "-", "--vault", vault), SEALED, "only tokens of sc2 have a vault"),
        (("token", "create", "-", "--vault", other), PLAIN, "no vault has an id that begins with"),
        (("token", "create", "-", "--vault", ""), PLAIN, "no vault has an id that begins with"),
        (("vault", "rotate", vault, "--kit", "same.json"), None, "already exists"),
        (("vault", "kit", "zz"), None, "no vault has an id that begins with"),
    ):
        told = gateway(*args, stdin=stdin, code=2)
        assert sentence in told
        assert told.count("\n") == 1
    assert gateway("vault", "list")[0]["masters"] == 2


def test_a_kit_that_cannot_be_written_leaves_the_vault_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = CliRunner().invoke(cli, ["gateway", "token", "create", "-", "--json"], input=json.dumps(PLAIN))
    vault = json.loads(made.stdout)["vault"]
    (tmp_path / "file").touch()
    done = CliRunner().invoke(cli, ["gateway", "vault", "rotate", vault, "--kit", "file/kit.json"])
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1), done.output
    listed = json.loads(CliRunner().invoke(cli, ["gateway", "vault", "list", "--json"]).stdout)
    assert listed["masters"] == 1


def test_a_rotation_that_only_the_database_knows_is_told_with_its_kit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = CliRunner().invoke(cli, ["gateway", "token", "create", "-", "--json"], input=json.dumps(PLAIN))
    vault = json.loads(made.stdout)["vault"]

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("kropot.gateway.revocations.write_new", full)
    done = CliRunner().invoke(cli, ["gateway", "vault", "rotate", vault, "--json"])
    assert done.exit_code == 0, done.output
    assert "cannot write to the folder of revoked tokens" in done.stderr
    assert Path(json.loads(done.stdout)["kit"]).exists()
    assert json.loads(done.stdout)["masters"] == 2


def test_two_colons_listen_on_both_kinds_of_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    # Tests may resolve loopback only.
    with monkeypatch.context() as patched:
        patched.setattr(socket, "getaddrinfo", lambda *_, **__: [(socket.AF_INET6,)])
        listening = listen("::", 0)
    with listening:
        port = listening.getsockname()[1]
        for host in ("127.0.0.1", "::1"):
            with socket.create_connection((host, port), timeout=10) as client:
                assert client.getpeername()[1] == port


@pytest.mark.parametrize("host", ["a..b", "a" * 64, "\udcff"])
def test_a_host_that_no_name_server_can_know_is_one_sentence(host: str) -> None:
    with pytest.raises(KropotError, match=r"cannot listen on .*: choose another address with --host"):
        listen(host, 0)
    with pytest.raises(KropotError, match=r"cannot serve metrics on .*: choose another --metrics"):
        MetricsServer((host, 0), str)


def test_mistakes_are_one_sentence_and_an_exit_code(
    tmp_path: Path, spec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "files").mkdir()
    (tmp_path / "bad.json").write_text('{"roles": [], "expires": "never"}')
    (tmp_path / "no.json").write_text("{")
    (tmp_path / "kit.json").write_text("mine")
    taken = socket.create_server(("127.0.0.1", 0))
    cases = {
        ("token", "list"): (10, "no gateway database at"),
        ("token", "create", "nothing.json"): (2, "cannot read the specification"),
        ("token", "create", "no.json"): (2, "is not JSON"),
        ("token", "create", "bad.json"): (2, "roles"),
        ("token", "create", str(spec), "--kit", "kit.json"): (2, "already"),
        ("serve", "--source", "nothing"): (2, "cannot serve"),
        ("serve", "--source", "files", "--state", "sqlite:///files/g.db"): (2, "is inside the served folder"),
        ("serve", "--source", "files", "--master-key-file", "files/key"): (2, "is inside the served folder"),
        ("serve", "--source", "files", "--port", str(taken.getsockname()[1])): (1, "cannot listen"),
        ("serve", "--source", ""): (2, "it is empty"),
        ("serve", "--source", "files", "--base-url", "nonsense"): (2, "is not a URL for clients"),
        ("serve", "--source", "files", "--trusted-proxy", "proxy"): (2, "is not an IP address"),
        ("serve", "--source", "files", "--state", "nonsense"): (2, "--state is not a valid database URL"),
        ("token", "list", "--state", "nonsense://x"): (2, "--state is not a valid database URL"),
        ("token", "revoke", "99"): (2, "no token has this id or number"),
    }
    for args, (code, sentence) in cases.items():
        done = CliRunner().invoke(cli, ["gateway", *args])
        assert (done.exit_code, sentence in done.stderr) == (code, True), (args, done.output)
        assert done.stderr.count("\n") == 1, done.stderr
    taken.close()
    assert (tmp_path / "kit.json").read_text() == "mine"
    assert not list((tmp_path / "files").iterdir())


def test_lost_or_wrong_master_key_is_told(tmp_path: Path, spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ask = ["gateway", "token", "list"]
    assert CliRunner().invoke(cli, ["gateway", "token", "create", str(spec)]).exit_code == 0
    key = tmp_path / "gateway.db.key"
    key.rename(tmp_path / "aside")
    lost = CliRunner().invoke(cli, ask)
    assert (lost.exit_code, "is missing" in lost.stderr, key.exists()) == (13, True, False)
    other = {"KROPOT_GATEWAY_MASTER_KEY": b64encode(os.urandom(32)).decode()}
    wrong = CliRunner().invoke(cli, ask, env=other)
    assert (wrong.exit_code, "does not belong" in wrong.stderr) == (13, True)
    right = {"KROPOT_GATEWAY_MASTER_KEY": (tmp_path / "aside").read_text()}
    assert CliRunner().invoke(cli, ask, env=right).exit_code == 0


def test_another_folder_is_not_taken_for_the_same(kropotcli: Path, run_cli: RunCli, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with serving(kropotcli, tmp_path, "--source", "one"):
        pass
    done = run_cli("gateway", "serve", "--source", "two", "--port", "0")
    assert (done.returncode, "--moved" in done.stderr) == (2, True)
    with serving(kropotcli, tmp_path, "--source", "two", "--moved") as (url, _):
        assert url
