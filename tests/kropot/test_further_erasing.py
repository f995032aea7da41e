"""Erasing where a further storage is a bucket that keeps versions: nothing is left in any, and locked ones wait."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from kropot import processes
from kropot.errors import Exit, UsageError
from kropot.further.erasing import FurtherErasing
from kropot.further.keeping import InStep
from kropot.objects.opening import open_store as open_storage
from kropot.objects.stores.address import parse_storage
from kropot.objects.stores.s3 import BucketFiles
from kropot.retention.erasing import ERASER, Erasing
from tests.kropot.test_further import Pair
from tests.kropot.test_retention_packs import PackedWorld
from tests.remote_stores import READER_ID, BucketServer
from tests.versioned_bucket import VersionedBucket

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import RunCli
    from tests.remote_stores import Servers

pytestmark = pytest.mark.xdist_group("stores")
SECRET = "bea's letter"
NAME = "bea.txt"


class Second(Pair):
    """A folder, and a bucket that keeps versions: `bea.txt` was a file of its own there, and lies in a pack now."""

    def __init__(self, packed: PackedWorld, bucket: VersionedBucket) -> None:
        super().__init__(packed, parse_storage(bucket.address))
        self.bucket = bucket
        self.files = bucket.files()
        self.world.listed({NAME: SECRET, "other.txt": "shared"})
        self.step()
        packed.pack_all()
        self.world.listed({"new.txt": "new"})
        self.step()

    def erasing(self) -> Erasing:
        return Erasing(
            ledger=self.ledger,
            storage=open_storage(self.packed.folder / "storage", ERASER),
            key=self.world.key(NAME),
            reason="request 17",
            blocks=True,
            elsewhere=FurtherErasing(self.ledger, self.surroundings),
        )

    def holds(self) -> list[str]:
        """Return the keys in the bucket of which any version has the content or the name."""
        return [key for text in (SECRET, NAME) for key in self.bucket.holds(text.encode(), self.files)]


@pytest.fixture
def server(store_servers: Servers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> BucketServer:
    server = store_servers.get("seaweedfs")
    assert isinstance(server, BucketServer)
    for name, value in {**server.env(), "XDG_STATE_HOME": str(tmp_path / "state")}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(processes, "_is_forbidden", False)
    return server


@pytest.fixture
def packed(tmp_path: Path) -> Iterator[PackedWorld]:
    made = PackedWorld(tmp_path, dead=1)
    yield made
    made.world.objects.close()
    made.store.close()


@pytest.fixture
def second(packed: PackedWorld, server: BucketServer) -> Iterator[Second]:
    made = Second(packed, VersionedBucket(server))
    yield made
    made.files.close()


def test_older_versions_go_in_a_further_storage_too(second: Second) -> None:
    kinds = {key.partition("/")[0] for key in second.holds()}
    assert kinds == {"objects", "packs", "ledger"}
    done = second.erasing().run()
    assert (done.is_done, done.waiting.versions) == (True, 0)
    assert done.versions >= 4  # the file, the pack, two of the history
    assert second.holds() == []
    assert second.bucket.holds(b"shared", second.files)
    second.step()
    assert second.objects() == second.packed.objects()
    assert (second.erasing().run().versions, second.holds()) == (0, [])


def test_what_waited_in_a_further_storage_is_removed_by_a_collector(
    second: Second, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, ended_s = BucketFiles.remove_version, time.time() - 1
    monkeypatch.setattr(BucketFiles, "remove_version", lambda *_: ended_s)
    done = second.erasing().run()
    assert (done.is_done, done.waiting.versions >= 4) == (True, True)
    said: list[str] = []
    in_step = InStep(
        second.ledger, second.surroundings, [second.address], segments=True, warn=said.append, stopped=lambda: False
    )
    in_step.look()
    assert second.holds(), "they are locked still"
    monkeypatch.setattr(BucketFiles, "remove_version", real)
    monkeypatch.setattr(in_step, "_seen", {})
    in_step.look()
    assert second.holds(), "it rests for an hour"
    monkeypatch.setattr(in_step, "_retry_at", {})
    monkeypatch.setattr(in_step, "_seen", {})
    in_step.look()
    assert (second.holds(), said) == ([], [])


def test_nothing_is_erased_where_a_further_storage_does_not_let_it_go(
    second: Second, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = second.ledger.head().position, second.bucket.versions(), second.packed.packs()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", READER_ID)
    with pytest.raises(UsageError, match=r"^nothing was erased: the bucket .* allow them s3:DeleteObjectVersion"):
        second.erasing().run()
    assert (second.ledger.head().position, second.bucket.versions(), second.packed.packs()) == before


def test_the_commands_count_what_is_locked_in_a_further_storage(
    packed: PackedWorld, server: BucketServer, run_cli: RunCli
) -> None:
    second = Second(packed, VersionedBucket(server, "COMPLIANCE"))
    second.files.close()
    config = packed.folder / "config.toml"
    config.write_text(
        f'db-string = "sqlite:///{packed.folder / "ledger.db"}"\nstorage-path = "{packed.folder / "storage"}"\n'
    )
    config.chmod(0o600)

    def run(*args: str) -> Any:
        answer = run_cli("--config", str(config), "erase", *args, "--json")
        assert answer.returncode == Exit.PARTIAL, answer.stdout + answer.stderr
        return json.loads(answer.stdout)

    erased = run(NAME, "--reason", "17", "--even-if-present", "--wait", "0s")
    assert (erased["done"], erased["waiting"]["versions"] >= 4) == (True, True)
    again = run("--retry")
    assert (again["versions"], again["waiting"]) == (0, erased["waiting"])
    status = run_cli("--config", str(config), "status", "--json")
    [further] = json.loads(status.stdout)["further"]
    assert (further["there"], further["erasures_waiting"]) == (True, erased["waiting"])
    assert " of what was erased wait to be removed, until " in run_cli("--config", str(config), "status").stdout
