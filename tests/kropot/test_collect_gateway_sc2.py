"""`kropotcli collect` against our own gateway with tokens of `sc2`, over real HTTP."""

from __future__ import annotations

import io
import os
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from kropot.sc2.form import Kind
from kropot.sc2.opening import open_object
from ledger.events import RemoteChanged, SourceBegan, VaultNamed
from tests.gateway.serve import Served
from tests.kropot.replicas import Folder, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.gateway.serve import VaultClient

FILES = {f"folder {i % 3}/plain name {i}.txt".encode(): os.urandom(i * 6101) for i in range(20)}
ENTRIES = len(FILES) + 4
"""With the three folders, and the served one itself."""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    gateway = Served(tmp_path)
    for name, content in FILES.items():
        path = gateway.folder / os.fsdecode(name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    with gateway:
        yield gateway


@pytest.fixture
def client(served: Served) -> VaultClient:
    made = served.vault_client()
    wait_until("the first scan", lambda: made.listed().keys() == FILES.keys())
    return made


@pytest.fixture
def folder(tmp_path: Path, client: VaultClient) -> Folder:
    (tmp_path / "replica").mkdir()
    server: Any = SimpleNamespace(url=client.url, token=client.token, kit=None)
    return Folder(tmp_path / "replica", server)


def contents(folder: Folder, client: VaultClient) -> dict[bytes, bytes]:
    """Return the current copies as the kit alone opens them."""
    found = {}
    for element in folder.elements().values():
        if element.is_current:
            assert element.copy is not None
            opened = open_object(io.BytesIO(folder.object(element.copy.sha256)), client.ring)
            content = b"".join(opened.chunks)
            if opened.form.kind is Kind.FILE:
                found[opened.form.path] = content
    return found


def follow(served: Served, is_there: Any) -> None:
    served.rest()
    wait_until("the change", is_there)


def test_a_folder_is_collected_and_followed_and_a_new_token_of_its_vault_goes_on(
    folder: Folder, served: Served, client: VaultClient
) -> None:
    first = folder.collect()
    assert (first.code, first.summary["copied"], first.summary["zero_knowledge"]) == (0, ENTRIES, True)
    assert contents(folder, client) == FILES

    before = client.listed()
    moved, changed = b"folder 1/plain name 4.txt", b"folder 2/plain name 5.txt"
    (served.folder / os.fsdecode(moved)).chmod(0o600)
    (served.folder / os.fsdecode(changed)).write_bytes(b"bread and roses")
    follow(
        served,
        lambda: all(client.listed()[path][0].form != before[path][0].form for path in (moved, changed)),
    )
    second = folder.collect()
    assert (second.code, second.summary["changed"], second.summary["copied"]) == (0, 2, 1)
    assert contents(folder, client) == {**FILES, changed: b"bread and roses"}
    assert folder.run("verify", "--json").summary["covered"]["copies"]["headers"] == ENTRIES + 1

    other = served.vault_client(vault=client.vault.id.hex())
    folder.use_token(other.token)
    events = len(folder.facts(RemoteChanged))
    third = folder.collect("--full")
    counts = {name: third.summary[name] for name in ("new", "changed", "vanished", "copied")}
    assert (third.code, counts) == (0, {"new": 0, "changed": 0, "vanished": 0, "copied": 0})
    assert (len(folder.facts(SourceBegan)), len(folder.facts(VaultNamed)), len(folder.facts(RemoteChanged))) == (
        1,
        2,
        events,
    )


def test_times_of_folders_are_followed_without_a_fetch_and_count_in_no_surge(
    folder: Folder, served: Served, client: VaultClient
) -> None:
    folder.collect()
    before = client.everything()
    folders = [served.folder, *(path for path in served.folder.iterdir() if path.is_dir())]
    for path in folders:
        os.utime(path, (1, 1))
    kept = {os.fsencode(path.relative_to(served.folder)) if path != served.folder else b"" for path in folders}
    follow(served, lambda: all(client.everything()[path][0].form != before[path][0].form for path in kept))
    ran = folder.collect("--surge-percent", "1", "--surge-count", "1")
    assert (ran.code, ran.summary["changed"], ran.summary["copied"], ran.summary["surge"]) == (
        0,
        len(folders),
        0,
        False,
    )


def test_a_token_of_another_vault_begins_a_source_of_its_own(folder: Folder, served: Served) -> None:
    folder.collect()
    folder.use_token(served.vault_client().token)
    ran = folder.collect()
    assert (ran.code, ran.summary["new"], ran.summary["copied"]) == (0, ENTRIES, ENTRIES)
    assert len(folder.facts(SourceBegan)) == 2


def test_no_name_reaches_the_replica(folder: Folder) -> None:
    folder.collect()
    places = [path for path in folder.path.rglob("*") if path.is_file()]
    assert len(places) > len(FILES)
    assert not [path for path in places if b"plain name" in path.read_bytes() or "plain name" in str(path)]
