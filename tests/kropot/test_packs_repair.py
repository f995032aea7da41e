"""Packs that are damaged or lost, found by the program and mended; coverage that goes on where the last run ended."""

from __future__ import annotations

import itertools
import re
import sqlite3
import subprocess
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from kropot.coverage import due
from kropot.objects.directory import DirectoryObjects
from kropot.verify import Scope, Verification, World
from ledger.log import Ledger
from ledger.sql import open_store
from tests.kropot.test_verify_repair import FILES, Backup
from tests.oldserver import OldServer
from tests.tamper.packs import build

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def backup(tmp_path: Path) -> Iterator[Backup]:
    """A replica of which every object lies in one pack."""
    with OldServer(FILES) as server:
        made = Backup(server, tmp_path)
        made.run("collect", "--once")
        made.run("storage", "pack", "--all", server=False)
        assert not any((tmp_path / "storage" / "objects").rglob("?" * 64))
        yield made


def the_pack(backup: Backup) -> Path:
    (path,) = (path for path in (backup.folder / "storage" / "packs").rglob("*") if path.is_file())
    return path


def kinds(findings: list[dict[str, object]]) -> list[object]:
    return [each["kind"] for each in findings]


def flip(backup: Backup, sha256: str) -> None:
    pack = the_pack(backup)
    with closing(sqlite3.connect(backup.folder / "ledger.db")) as database:
        values = (bytes.fromhex(sha256),)
        (start,) = database.execute("SELECT start FROM placement WHERE sha256 = ?", values).fetchone()
    data = bytearray(pack.read_bytes())
    data[start + 3] ^= 1
    pack.write_bytes(data)


def test_object_damaged_in_a_pack_is_set_aside_and_fetched_again(backup: Backup) -> None:
    element, copy = next(iter(backup.copies().items()))
    flip(backup, copy["sha256"])
    found, summary = backup.verify("--no-record", code=4)
    assert [(each["kind"], each["element"]) for each in found] == [("damaged_object", element)]
    found, summary = backup.verify("--repair", server=True)
    assert [each["kind"] for each in found if each["element"] == element] == ["damaged_object", "repaired_copy"]
    assert (summary["errors"], summary["repaired"]) == (1, 1)
    (aside,) = (backup.folder / "storage" / "quarantine").iterdir()
    assert aside.name == f"{copy['sha256']}.0"
    found, summary = backup.verify()
    assert (kinds(found), summary["sound"]) == (["replaced_object", "quarantined_file"], True)
    # The pack keeps the damaged bytes, and nobody is told of them again: not even after it was indexed anew.
    assert backup.verify("--quick")[1]["sound"]


def test_known_damage_in_a_pack_is_told_by_every_run_and_once_a_run(backup: Backup) -> None:
    copy = next(iter(backup.copies().values()))
    flip(backup, copy["sha256"])
    for _ in range(2):
        found, _ = backup.verify(code=4)
        assert kinds(found) == ["damaged_object"]
    flip(backup, copy["sha256"])  # back to what it was
    found, summary = backup.verify()
    assert (kinds(found), summary["sound"]) == (["recovered_object"], True)
    assert backup.verify()[0] == []


def test_object_that_is_damaged_in_a_pack_and_sound_elsewhere_is_a_note_until_the_place_is_dropped(
    backup: Backup,
) -> None:
    copy = next(iter(backup.copies().values()))
    data, sha256 = the_pack(backup).read_bytes(), copy["sha256"]
    with closing(sqlite3.connect(backup.folder / "ledger.db")) as database:
        values = (bytes.fromhex(sha256),)
        start, length = database.execute("SELECT start, length FROM placement WHERE sha256 = ?", values).fetchone()
    backup.object(sha256).parent.mkdir(parents=True, exist_ok=True)
    backup.object(sha256).write_bytes(data[start : start + length])
    flip(backup, sha256)
    found, summary = backup.verify()
    assert [(each["kind"], each["object"], each["severity"]) for each in found] == [("damaged_place", sha256, "note")]
    assert summary["sound"]
    backup.verify("--repair", server=True)
    assert backup.verify()[0] == []
    backup.object(sha256).write_bytes(b"rotten")
    assert kinds(backup.verify("--no-record", code=4)[0]) == ["damaged_object"]


@pytest.mark.parametrize("cut", [1, 30, 100])
def test_pack_without_its_footer_or_index_is_written_anew(backup: Backup, cut: int) -> None:
    pack = the_pack(backup)
    sound = pack.read_bytes()
    pack.write_bytes(sound[:-cut])
    found, _ = backup.verify(code=4)
    assert [(each["kind"], each["pack"]) for each in found] == [("damaged_pack", pack.name)]
    assert backup.verify("--quick", code=4)[0][0]["kind"] == "damaged_pack"
    found, summary = backup.verify("--repair")
    assert (kinds(found), summary["sound"]) == (["damaged_pack", "repaired_pack"], True)
    assert pack.read_bytes() == sound
    assert backup.verify()[0] == []


def test_pack_whose_placements_are_lost_too_cannot_be_written_anew(backup: Backup) -> None:
    pack = the_pack(backup)
    pack.write_bytes(pack.read_bytes()[:-9])
    with closing(sqlite3.connect(backup.folder / "ledger.db", isolation_level=None)) as database:
        database.execute("DELETE FROM placement WHERE sha256 = (SELECT min(sha256) FROM placement)")
    found, _ = backup.verify("--repair", server=True, code=4)
    reasons = [each["detail"] for each in found if each["kind"] == "not_repaired"]
    assert reasons == ["the ledger does not know the place of every object in it"]
    assert sum(each["kind"] == "repaired_copy" for each in found) == 1


def test_lost_pack_is_forgotten_and_its_objects_are_fetched_again(backup: Backup) -> None:
    the_pack(backup).unlink()
    found, _ = backup.verify("--no-record", code=4)
    assert sorted(map(str, kinds(found))) == ["lost_object"] * len(FILES) + ["lost_pack"]
    found, summary = backup.verify("--repair", server=True)
    assert summary["sound"]
    assert kinds(found).count("repaired_copy") == len(FILES)
    assert backup.verify()[1]["sound"]


@pytest.mark.parametrize("how", [(), ("--quick",)])
def test_pack_that_was_put_away_hides_no_loss(backup: Backup, how: tuple[str, ...]) -> None:
    (backup.folder / "storage" / "freed").mkdir()
    pack = the_pack(backup)
    pack.rename(backup.folder / "storage" / "freed" / f"{pack.name}.pack")
    found, _ = backup.verify("--no-record", *how, code=4)
    assert sorted(map(str, kinds(found))) == ["freed_pack"] + ["lost_object"] * len(FILES)


@pytest.mark.parametrize(
    "statement", ["DELETE FROM placement", "UPDATE placement SET start = start + 1", "DELETE FROM pack"]
)
def test_what_the_ledger_says_of_a_pack_is_mended_by_repair(backup: Backup, statement: str) -> None:
    with closing(sqlite3.connect(backup.folder / "ledger.db", isolation_level=None)) as database:
        database.execute(statement)
    found, _ = backup.verify(code=4)
    assert {"missing_placement", "wrong_placement"} & set(kinds(found))
    assert backup.verify("--repair")[1]["sound"]
    assert backup.verify()[0] == []


def test_recovered_ledger_of_a_storage_with_a_damaged_pack_is_said_to_be_incomplete(backup: Backup) -> None:
    pack = the_pack(backup)
    pack.write_bytes(pack.read_bytes()[:-1])
    place = f"sqlite:///{backup.folder}/again.db"
    (told,) = backup.run("--db-string", place, "db", "recover", "--from-storage", server=False, code=3)[:1]
    assert told["damaged_packs"] == 1


def test_runs_that_are_cut_short_read_every_container_once(tmp_path: Path) -> None:
    world = build(tmp_path)
    read: list[int] = []
    for _ in range(12):
        store = open_store(f"sqlite:///{tmp_path}/ledger.db")
        ledger = Ledger(store, writer="main")
        objects = DirectoryObjects(world.storage, "verify", places=ledger.places)
        asked = itertools.count()
        ends = World(stopped=lambda asked=asked: next(asked) > 6)  # type: ignore[misc]
        verification = Verification(ledger, objects, Scope(), ends)
        assert [each for each in verification.findings() if each.severity == "error"] == []
        read.append(verification.summary.covered["copies"]["objects"])
        never = [part for part in due(ledger.audit()) if part.at_us is None]
        objects.close()
        store.close()
        if not never:
            break
    else:
        raise AssertionError("no run ended it")
    assert len(read) > 1
    # A container that was broken off is read again by the next run.
    assert 29 <= sum(read) <= 29 + 9 * len(read)


def test_recipe_cuts_a_cbc_object_out_of_its_pack(backup: Backup) -> None:
    element, copy = next(iter(backup.copies().items()))
    steps = backup.run("recipe", element, server=False)[0]["steps"]
    lines = [step["command"] for step in steps]
    assert lines[0].startswith("tail -c +")
    for line in lines[:2]:
        subprocess.run(["sh", "-c", line], cwd=backup.folder, check=True, capture_output=True)
    sealed = (backup.folder / f"{copy['sha256']}.sealed").read_bytes()
    assert len(sealed) == copy["size"]
    assert re.search("openssl|cp ", lines[2])
