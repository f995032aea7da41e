"""No token, key or plain name reaches an output, a log line, the ledger or the storage."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from kropot.gateway.server import GatewayServer
from tests.secrets_watch import keys_in
from tests.token_specs import token_spec

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import RunCli

NAME = "an-unmistakable-plain-name"
CONTENT = b"an unmistakable plain content " * 40
PASSPHRASE = "an unmistakable passphrase"


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


# What a round of all commands leaves behind that may hold a secret, each with the reason.
MAY_HOLD = {
    "spec.json": "the user's own request",
    "kit-*.json": "the key kit: it is made to hold the key, and to be moved off-line",
    "unlocked.json": "the same, without its passphrase",
    "passphrase": "the user's own",
    "gateway.db*": "the gateway's catalogue knows its own files by name; tokens and keys are in it sealed",
    "restored/*": "restored output: it is what the user asked for",
    "restored/*/*": "the same",
    "decrypted": "the same, of one file",
}
# Which command may say one, with the reason.
MAY_SAY = {
    "kit check": (NAME,),  # the same as restore
    "restore": (NAME,),  # whoever restores holds the key, and must know which file could not be given back
    "keeper token create": ("the token",),  # as below
    "gateway token create": ("the token",),  # prints it, once: that is what it is for
}
# What others may read, with the reason.
MAY_BE_READ = {
    "spec.json": "the test made it",
    "gateway.log": "the same",
    "signer.key.pub": "a public key is made to be given away",
}
COMMANDS = """
ls --json; ls; history; source list; source accept; status --check; verify --json; verify --repair
checkpoint init --key signer.key; checkpoint sign --key signer.key --to notes; checkpoint list notes
replay --list --json; replay --export exported; snapshot; rebuild; recipe; db info; config show --json
restore --key {kit} --to restored --json; db copy sqlite:///database.db sqlite:///copy.db
prove {element}; history {element}; history {element} --json; decrypt {element} --key {kit} -o decrypted
consistency notes/checkpoint-00000001.txt notes/checkpoint-00000001.txt; db upgrade
--db-string sqlite:///recovered.db db recover --from-storage; --db-string sqlite:///empty.db db init
kit show {kit}; kit show {kit} --json; kit show {kit} --qr; kit check {kit} --json
kit passphrase {kit} -o locked.json --new-passphrase-file passphrase; kit show locked.json --passphrase-file passphrase
kit check locked.json --passphrase-file passphrase; kit check locked.json --passphrase-file spec.json
kit passphrase locked.json -o unlocked.json --passphrase-file passphrase --remove; status
restore --key locked.json --passphrase-file passphrase --list-names
gateway token list; gateway token revoke {start}; collect --once; --db-string nonsense://u:{token}@h/d status
"""


class Round:
    """Runs the program as loudly as possible, and keeps what it says."""

    def __init__(self, kropotcli: Path, folder: Path, url: str) -> None:
        self.told: list[tuple[str, str]] = []
        self.env = {**os.environ, "KROPOT_LOG_LEVEL": "debug", "KROPOT_SERVER_URL": url}
        self._program, self._folder = str(kropotcli), folder

    def run(self, *args: str) -> str:
        command = [self._program, *args]
        done = subprocess.run(command, cwd=self._folder, env=self.env, capture_output=True, text=True, check=False)
        assert "Traceback" not in done.stderr, done.stderr
        self.told.append((" ".join(args), done.stdout + done.stderr))
        return done.stdout

    @contextmanager
    def gateway(self, source: Path, port: int) -> Iterator[None]:
        """Serve a folder meanwhile."""
        command = [self._program, "gateway", "serve", "--source", str(source), "--port", str(port)]
        with (
            (self._folder / "gateway.log").open("wb") as log,
            subprocess.Popen(command, cwd=self._folder, env=self.env, stdout=log, stderr=log) as serving,
        ):
            try:
                for _ in range(300):
                    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                        break
                    time.sleep(0.1)
                yield
            finally:
                serving.terminate()


@pytest.fixture
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("source") / "source"
    (source / f"{NAME}-folder").mkdir(parents=True)
    for number in range(3):
        (source / f"{NAME}-folder" / f"{NAME}-{number}.txt").write_bytes(CONTENT)
    return source


def test_a_round_of_every_command_tells_no_secret(
    kropotcli: Path, tmp_path: Path, source: Path, free_port: int
) -> None:
    through = Round(kropotcli, tmp_path, f"http://127.0.0.1:{free_port}")
    (tmp_path / "spec.json").write_text(json.dumps(token_spec()))
    (tmp_path / "passphrase").write_text(PASSPHRASE)
    (tmp_path / "passphrase").chmod(0o600)
    token = through.env["KROPOT_TOKEN"] = through.run("gateway", "token", "create", "spec.json").splitlines()[0]
    kit = next(tmp_path.glob("kit-*.json"))
    with through.gateway(source, free_port):
        through.run("collect", "--once", "--log-format", "json")
        (source / f"{NAME}-folder" / f"{NAME}-0.txt").unlink()
        through.run("collect", "--once", "--full", "--json")
    damaged = next(path for path in (tmp_path / "storage" / "objects").rglob("*") if path.is_file())
    damaged.write_bytes(damaged.read_bytes()[:-1])
    listed = [json.loads(line) for line in through.run("replay", "--list", "--json").splitlines()]
    current = (entry for entry in listed if entry.get("state") == "current")
    element = next(entry["id"] for entry in current if entry["sha256"] != damaged.name)
    (tmp_path / "notes").mkdir(mode=0o700)
    filled = COMMANDS.format(kit=kit.name, start=token[:8], token=token, element=element)
    for command in filled.replace("\n", ";").split(";"):
        if command.strip():
            through.run(*command.split())
    assert b"unmistakable" in (tmp_path / "decrypted").read_bytes(), through.told
    assert (tmp_path / "recovered.db").exists()
    assert b"unmistakable" in b"".join(path.read_bytes() for path in (tmp_path / "restored").rglob("*.txt"))
    assert (tmp_path / "unlocked.json").exists(), through.told
    secrets = {"the token": token, NAME: NAME, "a content": CONTENT[:30].decode(), "the passphrase": PASSPHRASE}
    secrets |= {f"key {number}": key for number, key in enumerate(keys_in(kit))}
    assert "key 0" in secrets
    for command, said in through.told:
        allowed = [each for start, each in MAY_SAY.items() if command.startswith(start)]
        for what, secret in secrets.items():
            assert secret not in said or [what] in [list(each) for each in allowed], f"{command}: {said}"
    expect_no_secret_kept(tmp_path, secrets)


def expect_no_secret_kept(folder: Path, secrets: dict[str, str]) -> None:
    may_hold = {path for pattern in MAY_HOLD for path in folder.glob(pattern)}
    looked_at = 0
    for path, content in everything_written(folder):
        if path not in may_hold:
            looked_at += 1
            for what, secret in secrets.items():
                assert secret.encode() not in content, f"{path} holds {what}"
    assert looked_at > 30
    for path in folder.rglob("*"):
        if path.name not in MAY_BE_READ and "restored" not in path.parts:
            assert path.stat().st_mode & 0o077 == 0, f"{path} is open to others: {path.stat().st_mode:o}"


def test_what_is_written_belongs_to_its_owner_alone(gateway: GatewayServer, run_cli: RunCli, tmp_path: Path) -> None:
    token, _ = gateway.create_token(token_spec())
    done = run_cli("--server-url", gateway.url, "collect", "--once", env={"KROPOT_TOKEN": token})
    assert done.returncode == 0, done.stderr
    written = [path for path in tmp_path.rglob("*") if not path.is_symlink()]
    assert any(path.is_file() for path in written)
    for path in written:
        assert path.stat().st_mode & 0o077 == 0, path
