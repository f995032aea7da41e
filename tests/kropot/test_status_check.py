"""`kropotcli status --check` after what goes wrong in use: each trouble is named by its alarm, and ends with 3."""

from __future__ import annotations

import json
import os
import shutil
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from kropot.errors import Exit
from ledger.events import RunFailed
from tests.kropot.replicas import Folder
from tests.oldserver import OldServer, Status, always

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILES = {f"file {i}.txt": bytes([i]) * 100 for i in range(12)}


@pytest.fixture
def server() -> Iterator[OldServer]:
    with OldServer(FILES) as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path, server: OldServer) -> Folder:
    """Return a replica whose token file is gone: `status` needs none."""
    made = Folder(tmp_path, server, options=("--min-free", "1MiB"))
    assert made.collect().code == Exit.DONE
    return made


def alarms(folder: Folder, *options: str) -> set[str]:
    """Return the names of the alarms; `--check` ends with 3 exactly if there are any."""
    (folder.path / "token").rename(folder.path / "hidden")
    ran = folder.run("status", "--check", "--min-free", "1MiB", "--json", *options)
    (folder.path / "hidden").rename(folder.path / "token")
    found = {alarm["name"] for alarm in ran.summary["alarms"]}
    assert ran.code == (Exit.PARTIAL if found else Exit.DONE), ran.err
    return found


def test_a_replica_that_was_just_collected_is_healthy(folder: Folder) -> None:
    assert alarms(folder) == set()
    text = folder.run("status", "--min-free", "1MiB").out
    assert f"storage  {folder.path}/storage/objects, " in text
    assert "history up to event" in text


def test_a_storage_that_is_away_or_another_one_is_an_alarm(folder: Folder) -> None:
    storage = folder.path / "storage"
    storage.rename(folder.path / "moved")
    assert alarms(folder) == {"storage_away"}
    storage.mkdir()  # the mount point of a disk that is not mounted
    assert alarms(folder) == {"storage_away"}
    (storage / "objects").mkdir()
    assert alarms(folder) == {"objects_missing"}
    assert sorted(path.name for path in storage.iterdir()) == ["objects"]


@pytest.mark.parametrize(
    ("changes", "alarm"),
    [({"f_bavail": 0}, "storage_full"), ({"f_favail": 0}, "storage_full"), ({"f_files": 0, "f_favail": 0}, None)],
)
def test_a_storage_without_room_or_inodes_is_an_alarm(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, changes: dict[str, int], alarm: str | None
) -> None:
    blocks = {"f_blocks": 1 << 31, "f_bfree": 1 << 30, "f_bavail": 1 << 30, "f_frsize": 4096}
    room = {**blocks, "f_files": 1 << 20, "f_favail": 1 << 20, **changes}
    monkeypatch.setattr(os, "statvfs", lambda _path: SimpleNamespace(**room))
    assert alarms(folder) == ({alarm} if alarm else set())


def test_a_storage_that_this_user_cannot_read_is_an_alarm(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "statvfs", refuse)
    assert alarms(folder) == {"storage_unknown"}


def test_a_ledger_that_collect_refuses_is_an_alarm(folder: Folder, server: OldServer) -> None:
    shutil.copy(folder.path / "ledger.db", folder.path / "older.db")
    server.add("later.txt", b"bread")
    folder.collect()
    shutil.copy(folder.path / "older.db", folder.path / "ledger.db")
    assert folder.collect().code == Exit.FINDINGS
    assert alarms(folder) == {"history_differs"}


def test_a_refused_token_is_an_alarm_at_once_and_until_the_server_answers_again(
    folder: Folder, server: OldServer
) -> None:
    server.expire_token()
    assert folder.collect().code == Exit.REFUSED
    assert folder.collect().code == Exit.REFUSED
    assert len(folder.facts(RunFailed)) == 1
    assert alarms(folder) == {"run_failed"}
    assert "the server refused the token" in folder.run("status").out
    server.change_token(expires=None)
    assert folder.collect().code == Exit.DONE
    assert alarms(folder) == set()


def test_a_server_that_does_not_answer_is_an_alarm_after_the_run(folder: Folder, server: OldServer) -> None:
    server.plan = always(Status(500))
    assert folder.collect().code == Exit.ERROR
    assert alarms(folder) == {"run_failed"}


def test_a_replica_whose_elements_all_fail_is_not_healthy(tmp_path: Path, server: OldServer) -> None:
    server.plan = always(Status(500), "content")
    folder = Folder(tmp_path, server, options=("--min-free", "1MiB"))
    assert folder.collect().code == Exit.PARTIAL
    assert alarms(folder) == {"many_failing"}


def test_an_hourly_run_is_healthy_if_it_is_expected(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kropot.cli.status.time", SimpleNamespace(time_ns=lambda: time.time_ns() + 50 * 60 * 10**9))
    assert alarms(folder) == {"listing_stale"}
    assert alarms(folder, "--expect-every", "1h") == set()
    config = folder.path / "config.toml"
    config.write_text('[status]\nexpect-every = "1h"\n[collect]\nmin-free = "1MiB"\n')
    ran = folder.run("--config", str(config), "status", "--check", "--json")
    assert (ran.code, json.loads(ran.out)["alarms"]) == (Exit.DONE, [])
    monkeypatch.setattr("kropot.cli.status.time", SimpleNamespace(time_ns=lambda: time.time_ns() + 130 * 60 * 10**9))
    assert alarms(folder, "--expect-every", "1h") == {"listing_stale"}
