"""The program with its storage on another machine: collected, verified, exported, recovered, and away."""

from __future__ import annotations

import json
import secrets
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from kropot import processes
from kropot.objects.stores.objects import object_key
from kropot.objects.stores.packs import pack_key
from ledger.sql import open_store
from tests.oldserver import OldServer
from tests.remote_stores import KINDS, SECRET

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import RunCli
    from tests.remote_stores import Servers, StoreServer

pytestmark = pytest.mark.xdist_group("stores")
FILES = {f"file number {i}.txt": Random(i).randbytes(i * 37 + 1) for i in range(40)} | {
    "large.bin": Random(99).randbytes(9 << 20)
}


@pytest.fixture(autouse=True)
def _forks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_is_forbidden", False)


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, store_servers: Servers) -> StoreServer:
    return store_servers.get(request.param)


class Away:
    """A replica whose storage is below a prefix on a server."""

    def __init__(self, run: RunCli, path: Path, place: StoreServer, server: OldServer) -> None:
        self.run_cli, self.path, self.place, self.server = run, path, place, server
        self.prefix = f"cli-{secrets.token_hex(6)}"
        (path / "token").write_text(server.token)
        (path / "token").chmod(0o600)
        self.database = "sqlite:///ledger.db"

    def __call__(self, *args: str, prefix: str | None = None) -> subprocess.CompletedProcess[str]:
        shared = ("--server-url", self.server.url, "--token-file", "token", "--db-string", self.database)
        where = ("--storage-path", self.place.address(prefix or self.prefix))
        done = self.run_cli(
            *shared, *where, *args, env={**self.place.env(), "XDG_STATE_HOME": str(self.path / "state")}
        )
        assert SECRET not in done.stdout + done.stderr
        return done

    def json(self, *args: str) -> dict[str, Any]:
        done = self(*args, "--json")
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture
def away(run_cli: RunCli, tmp_path: Path, place: StoreServer) -> Iterator[Away]:
    with OldServer(FILES) as server:
        yield Away(run_cli, tmp_path, place, server)


def test_replica_on_another_machine_is_collected_verified_exported_and_recovered(away: Away) -> None:
    collected = away("collect", "--once", "--json")
    assert collected.returncode == 0, collected.stderr
    assert json.loads(collected.stdout.splitlines()[-1])["copied"] == len(FILES)
    files = away.place.files(away.prefix)
    assert [stat.key.split("/")[0] for stat in files.walk("objects")] == ["objects"]  # the large one
    assert 1 <= len(list(files.walk("packs"))) <= 4
    assert list(files.walk("tmp")) == []

    status = away("status", "--check")
    assert status.returncode == 0, status.stdout + status.stderr
    assert away.place.address(away.prefix) in status.stdout
    verified = away("verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert "41 objects" in verified.stdout
    exported = away("replay", "--export", "out")
    assert exported.returncode == 0, exported.stderr

    here, there = away.place.address(away.prefix), away.place.address(f"{away.prefix}-copy")
    for source, target in ((here, "folder"), ("folder", there)):
        copied = away("storage", "copy", source, target, "--verify")
        assert copied.returncode == 0, copied.stderr
    assert away.json("storage", "copy", "folder", there)["files"] == 0
    assert away("verify", prefix=f"{away.prefix}-copy").returncode == 0

    away.database = "sqlite:///again.db"
    recovered = away("db", "recover", "--from-storage")
    assert recovered.returncode == 0, recovered.stderr
    again = away("verify")
    assert again.returncode == 0, again.stdout + again.stderr


@pytest.mark.parametrize("place", ["seaweedfs"], indirect=True)
def test_empty_or_wrong_place_is_one_that_is_away(away: Away) -> None:
    assert away("collect", "--once").returncode == 0
    for command in (("collect", "--once"), ("verify",)):
        done = away(*command, prefix="nothing-is-here")
        assert done.returncode == 1
        assert f"there is no storage at {away.place.address('nothing-is-here')}" in done.stderr
    assert list(away.place.files("nothing-is-here").walk("")) == []
    assert away("status", "--check", prefix="nothing-is-here").returncode == 3
    # Whoever means it says so, and everything is fetched again.
    away.place.files("really-new").put("storage.txt", b"")
    assert away("verify", "--repair", prefix="really-new").returncode == 0
    assert away("verify", prefix="really-new").returncode == 0


@pytest.mark.parametrize("place", ["seaweedfs"], indirect=True)
def test_damage_there_is_found_and_repaired(away: Away) -> None:
    assert away("collect", "--once").returncode == 0
    store = open_store(f"sqlite:///{away.path / 'ledger.db'}", read_only=True)
    packed = next(iter(store.places.walk()))
    loose = next(row.sha256 for row in store.projection.copies() if row.size > 1 << 20)
    store.close()
    files = away.place.files(away.prefix)
    key = pack_key(packed.pack)
    data = files.get(key)
    files.put(key, data[: packed.offset] + b"rotten" + data[packed.offset + 6 :])
    files.remove(object_key(loose))
    found = away("verify")
    assert found.returncode == 4
    assert packed.sha256.hex() in found.stdout + found.stderr
    assert loose.hex() in found.stdout + found.stderr
    repaired = away("verify", "--repair")
    assert repaired.returncode == 0, repaired.stdout + repaired.stderr
    assert away("verify").returncode == 0
    assert [stat.key.split("/")[0] for stat in files.walk("quarantine")] == ["quarantine"]
