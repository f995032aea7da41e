"""`kropotcli collect` against our own gateway, over real HTTP, which promises more than the old server."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from kropot.cli.status import as_text
from kropot.gateway.commands import CommandFailedError, ScanCommands
from kropot.gateway.sources import FolderSource, ScannedFile, Unreadable
from kropot.query.facts import gather
from kropot.query.health import Limits, health
from kropot.securecopy.sealing import open_stream
from ledger.events import RemoteChanged
from tests.gateway.serve import Served
from tests.kropot.replicas import Folder, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.gateway.serve import Client

FILES = {f"folder {i % 3}/plain name {i}.txt": os.urandom(i * 61) for i in range(30)}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    gateway = Served(tmp_path)
    for name, content in FILES.items():
        path = gateway.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    with gateway:
        yield gateway


@pytest.fixture
def client(served: Served) -> Client:
    made = served.client()
    wait_until("the first scan", lambda: len(made.ids()) == len(FILES))
    return made


@pytest.fixture
def folder(tmp_path: Path, client: Client) -> Folder:
    (tmp_path / "replica").mkdir()
    server: Any = SimpleNamespace(url=client.url, token=client.token, kit=client.kit)
    return Folder(tmp_path / "replica", server)


def test_a_folder_is_collected_sealed_and_followed_as_it_changes(
    folder: Folder, served: Served, client: Client
) -> None:
    first = folder.collect()
    assert (first.code, first.summary["copied"], first.summary["zero_knowledge"]) == (0, len(FILES), True)
    ids = {path.decode(): id_ for path, id_ in client.ids().items()}
    assert {name: folder.contents()[id_] for name, id_ in ids.items()} == FILES
    for element in folder.elements().values():
        assert element.copy is not None
        assert element.size == element.copy.size
        assert element.etag is not None

    name = "folder 1/plain name 4.txt"
    (served.folder / name).write_bytes(b"bread and roses")
    (served.folder / "folder 2/plain name 5.txt").unlink()
    served.rest()
    wait_until("the change", lambda: len(client.ids()) == len(FILES) - 1 and changed(client, folder, ids[name]))
    second = folder.collect("--full")
    assert second.code == 0
    counts = {key: second.summary[key] for key in ("new", "changed", "vanished", "copied")}
    assert counts == {"new": 0, "changed": 1, "vanished": 1, "copied": 1}
    assert folder.contents()[ids[name]] == b"bread and roses"
    assert folder.collect().summary["seen"] <= len(FILES)


def changed(client: Client, folder: Folder, id_: str) -> bool:
    now = {entry.id: entry.date for entry in client.page(limit=8191).entries}
    return now[id_] != folder.elements()[id_].date


def test_a_run_begins_where_the_last_one_ended(folder: Folder, served: Served, client: Client) -> None:
    assert folder.collect().summary["seen"] == len(FILES)
    idle = folder.collect()
    assert (idle.code, idle.summary["seen"]) == (0, 0)
    (served.folder / "later.txt").write_bytes(b"later")
    served.rest()
    wait_until("the later file", lambda: len(client.ids()) == len(FILES) + 1)
    later = folder.collect()
    assert {key: later.summary[key] for key in ("seen", "new", "copied")} == {"seen": 1, "new": 1, "copied": 1}
    assert folder.collect("--full").summary["seen"] == len(FILES) + 1


def test_no_name_reaches_the_replica(folder: Folder) -> None:
    folder.collect()
    places = [path for path in folder.path.rglob("*") if path.is_file()]
    assert len(places) > len(FILES)
    assert not [path for path in places if b"plain name" in path.read_bytes() or "plain name" in str(path)]


def test_closed_seconds_are_listed_once_and_new_files_still_found(
    folder: Folder, served: Served, client: Client
) -> None:
    with folder.collecting("--refresh-time", "1") as process:
        wait_until("the first copies", lambda: len(stored(folder)) >= len(FILES) - 1)
        before = {record.stream for record in folder.facts(RemoteChanged)}
        for number in range(5):
            (served.folder / f"later {number}.txt").write_bytes(os.urandom(1000 + number))
            served.rest()
        files = sum(path.is_file() for path in served.folder.rglob("*"))
        # An object is there before it is recorded, and a collector that is asked to stop does not record it any more.
        wait_until(
            "the later copies",
            lambda: sum(element.copy is not None for element in folder.elements().values()) == files,
        )
        process.terminate()
        assert process.wait(20) == 0
    assert {record.stream for record in folder.facts(RemoteChanged)} == before
    kit = client.kit
    assert kit is not None
    opened = set()
    for element in folder.elements().values():
        copy = element.copy
        assert copy is not None
        assert copy.iv is not None
        opened.add(b"".join(open_stream([folder.object(copy.sha256)], kit.key(copy.iv), copy.iv)))
    assert opened == {path.read_bytes() for path in served.folder.rglob("*") if path.is_file()}


def stored(folder: Folder) -> list[Path]:
    return [path for path in (folder.path / "storage" / "objects").rglob("*") if path.is_file()]


def test_metadata_alone_is_followed_without_fetching_anything_or_raising_an_alarm(
    folder: Folder, served: Served
) -> None:
    assert folder.collect().code == 0
    before = folder.elements()
    for name in FILES:
        (served.folder / name).chmod(0o640)
    served.rest()
    second = folder.collect("--full")
    counts = {key: second.summary[key] for key in ("new", "changed", "vanished", "copied", "surge")}
    assert counts == {"new": 0, "changed": len(FILES), "vanished": 0, "copied": 0, "surge": False}
    assert second.code == 0
    for id_, element in folder.elements().items():
        assert element.is_current
        assert (element.copy, element.revision) == (before[id_].copy, before[id_].revision)
        assert element.date > before[id_].date
        assert element.form != before[id_].form, "a restore gives the new mode"


def test_what_the_server_cannot_read_is_known_to_the_ledger_and_said(
    folder: Folder, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (folder.collect().summary["unserved"]["unreadable"], alarms(folder)) == (0, [])
    real = FolderSource.walk

    def walk(self: FolderSource) -> Iterator[object]:
        for item in real(self):
            if not (isinstance(item, ScannedFile) and item.path.startswith(b"folder 1/")):
                yield item
        yield Unreadable(path=b"folder 1", reason="EACCES")

    monkeypatch.setattr(FolderSource, "walk", walk)
    served.server.rescan()
    half = folder.collect("--full")
    assert (half.code, half.summary["unserved"]["unreadable"], half.summary["vanished"]) == (3, 1, 0)
    assert "cannot read 1 folder or file" in half.err
    assert alarms(folder) == ["unreadable"]
    monkeypatch.undo()
    served.server.rescan()
    assert (folder.collect().code, alarms(folder)) == (0, [])


def test_a_command_that_fails_before_the_scan_is_an_alarm_at_the_collector(
    folder: Folder, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (folder.collect().code, alarms(folder)) == (0, [])
    service = served.server.service
    commands = ScanCommands(before=("false",))
    monkeypatch.setattr(service, "options", replace(service.options, commands=commands))
    with pytest.raises(CommandFailedError):
        served.server.rescan()
    failing = folder.collect()
    assert failing.code == 3
    assert failing.summary["unscanned_since"] is not None
    assert "the server has failed to scan its source" in failing.err
    assert alarms(folder) == ["unscanned"]
    monkeypatch.undo()
    served.server.rescan()
    assert (folder.collect().code, alarms(folder)) == (0, [])


def test_status_shows_what_the_server_does_not_serve(folder: Folder, served: Served) -> None:
    (served.folder / "link").symlink_to("/")
    os.mkfifo(served.folder / "pipe")
    served.server.rescan()
    done = folder.collect()
    assert (done.code, alarms(folder)) == (0, []), "a pipe has nothing to back up"
    assert done.summary["unserved"]["pipes"] == done.summary["unserved"]["links"] == 1
    with folder.ledger() as ledger:
        lines = as_text(ledger.now_us(), gather(ledger), [])
    assert any("unserved" in line and "pipes 1" in line and "links 1" in line for line in lines)


def alarms(folder: Folder) -> list[str]:
    with folder.ledger() as ledger:
        return [alarm.name for alarm in health(ledger.now_us(), gather(ledger), Limits())]
