"""The storage path as a whole backup: what `collect` writes beside the objects, and what it refuses because of it."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest

from kropot.errors import Exit
from tests.oldserver import OldServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from subprocess import CompletedProcess

    from tests.conftest import RunCli

    Collect = Callable[..., CompletedProcess[str]]

TOKEN = "a-token-that-nobody-else-may-see"


@pytest.fixture
def server() -> Iterator[OldServer]:
    with OldServer({f"a-{n}.txt": b"bread" * n for n in range(5)}, token=TOKEN) as server:
        yield server


@pytest.fixture
def collect(run_cli: RunCli, server: OldServer) -> Collect:
    def run(*options: str) -> CompletedProcess[str]:
        return run_cli("--server-url", server.url, "collect", "--once", *options, env={"KROPOT_TOKEN": TOKEN})

    return run


def names(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "storage" / "ledger").iterdir())


def position(run_cli: RunCli) -> int:
    return int(json.loads(run_cli("replay", "--json").stdout)["position"])


def test_collect_writes_the_history_beside_the_objects(collect: Collect, run_cli: RunCli, tmp_path: Path) -> None:
    assert collect().returncode == Exit.DONE
    assert names(tmp_path) == [f"00000000.partial-{position(run_cli)}"]


def test_the_history_beside_the_objects_can_be_declined(collect: Collect, tmp_path: Path) -> None:
    assert collect("--no-segments").returncode == Exit.DONE
    assert not (tmp_path / "storage" / "ledger").exists()


def test_a_database_put_back_to_an_older_copy_is_refused(
    collect: Collect, run_cli: RunCli, server: OldServer, tmp_path: Path
) -> None:
    collect()
    shutil.copy(tmp_path / "database.db", tmp_path / "older.db")
    server.add("b.txt", b"roses")
    collect()
    newest = position(run_cli)
    shutil.copy(tmp_path / "older.db", tmp_path / "database.db")
    before = position(run_cli)
    refused = collect()
    assert refused.returncode == Exit.FINDINGS
    assert f"rolled back: it ends at event {before}" in refused.stderr
    assert "db recover --from-storage" in refused.stderr
    assert position(run_cli) == before
    assert names(tmp_path) == [f"00000000.partial-{newest}"]


def test_a_new_database_on_a_storage_with_history_is_refused_and_not_made(
    collect: Collect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collect()
    for path in tmp_path.glob("database.db*"):
        path.unlink()
    refused = collect()
    assert refused.returncode == Exit.ERROR
    assert "has collected into one there, so nothing was made" in refused.stderr
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another user's"))
    refused = collect()
    assert refused.returncode == Exit.FINDINGS
    assert "the database is new" in refused.stderr
    assert not (tmp_path / "database.db").exists()


def test_collect_signs_with_the_key_that_it_is_given(collect: Collect, run_cli: RunCli, tmp_path: Path) -> None:
    collect()
    public = run_cli("checkpoint", "init", "--key", "signer.key").stdout.strip()
    (tmp_path / "notes").mkdir()
    assert collect("--checkpoint-key", "signer.key", "--checkpoint-to", "notes").returncode == Exit.DONE
    assert len(list((tmp_path / "notes").iterdir())) == 1
    checked = run_cli("verify", "--against", "notes", "--public-key", public)
    assert checked.returncode == Exit.DONE, checked.stdout + checked.stderr


def test_checkpoints_without_a_key_are_refused_before_anything_is_fetched(collect: Collect, tmp_path: Path) -> None:
    refused = collect("--checkpoint-to", "notes")
    assert refused.returncode == Exit.USAGE
    assert "checkpoint init" in refused.stderr
    assert not (tmp_path / "notes").exists()


def test_a_lost_database_comes_back_from_the_storage_alone(
    collect: Collect, run_cli: RunCli, server: OldServer, tmp_path: Path
) -> None:
    collect()
    before = json.loads(run_cli("replay", "--json").stdout)
    for path in tmp_path.glob("database.db*"):
        path.unlink()
    recovered = run_cli("db", "recover", "--from-storage", "--json")
    assert recovered.returncode == Exit.DONE, recovered.stderr
    after = json.loads(run_cli("replay", "--json").stdout)
    assert after == before
    assert json.loads(recovered.stdout)["position"] == before["position"]
    assert run_cli("verify").returncode == Exit.DONE
    server.add("b.txt", b"roses")
    assert collect().returncode == Exit.DONE


def test_there_is_nothing_to_recover_where_nobody_collected(run_cli: RunCli, tmp_path: Path) -> None:
    refused = run_cli("db", "recover", "--from-storage")
    assert refused.returncode == Exit.USAGE
    assert str(tmp_path / "storage" / "ledger") in refused.stderr
    assert not (tmp_path / "database.db").exists()


def test_a_ledger_is_not_recovered_over_one_that_is_in_use(collect: Collect, run_cli: RunCli, tmp_path: Path) -> None:
    collect("--no-segments")
    other = tmp_path / "other"
    other.mkdir()
    place = ("--db-string", "sqlite:///other/database.db", "--storage-path", "other/storage")
    collect(*place)
    refused = run_cli("db", "recover", "--from-storage", "--storage-path", "other/storage")
    assert refused.returncode == Exit.ERROR
    assert "a different ledger" in refused.stderr


def test_a_damaged_segment_is_named_when_the_ledger_is_recovered(
    collect: Collect, run_cli: RunCli, tmp_path: Path
) -> None:
    collect()
    (path,) = (tmp_path / "storage" / "ledger").iterdir()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    refused = run_cli("db", "recover", "--from-storage", "--db-string", "sqlite:///new.db")
    assert refused.returncode == Exit.FINDINGS
    assert path.name in refused.stderr
    assert "Traceback" not in refused.stderr


def test_verify_reads_the_history_beside_the_objects(collect: Collect, run_cli: RunCli, tmp_path: Path) -> None:
    collect()
    sound = run_cli("verify", "--no-record")
    assert sound.returncode == Exit.DONE
    assert "segments     1 segment in the storage" in sound.stdout
    (path,) = (tmp_path / "storage" / "ledger").iterdir()
    path.write_bytes(path.read_bytes()[:-7])
    damaged = run_cli("verify", "--no-record")
    assert damaged.returncode == Exit.FINDINGS
    assert path.name in damaged.stdout
