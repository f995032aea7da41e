"""`kropotcli storage` as a user starts it: packing, indexing, and what other commands then make of the storage."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from kropot.durable.batch import Choice
from kropot.errors import Exit
from kropot.objects.directory import DirectoryObjects
from kropot.objects.packs.packing import PackRule
from ledger.events import Copy, CopyStored
from ledger.log import Ledger, NewFact
from ledger.sql import open_store
from tests.faults.files import UnsyncedFiles
from tests.ledger.world import began, element, key, observed

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import RunCli

CONTENTS = [b"plain", b"", b"x" * 5000, b"another"]


@pytest.fixture
def replica(tmp_path: Path) -> tuple[str, ...]:
    """Make a replica whose objects are all files of their own; return the options that name it."""
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    choice = Choice(method="fsync", why="the test says so")
    objects = DirectoryObjects(
        tmp_path / "storage", "main", files=UnsyncedFiles(), choice=choice, pack=PackRule(below=0)
    )
    objects.publish([objects.stage_whole(each, hashlib.sha256(each).digest()) for each in CONTENTS])
    objects.close()
    store = open_store(url, create=True)
    ledger = Ledger(store)
    ledger.append([began(), *(observed(n) for n in range(len(CONTENTS)))])
    copies = [
        Copy(sha256=hashlib.sha256(each).digest(), size=len(each), iv=None, revision=1, instance="main")
        for each in CONTENTS
    ]
    facts = [CopyStored(element=replace(element(), copy=copy)) for copy in copies]
    ledger.append([NewFact(key=key(n), fact=fact, observed_us=1) for n, fact in enumerate(facts)])
    store.close()
    return ("--db-string", url, "--storage-path", str(tmp_path / "storage"))


def packs_in(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "storage" / "packs").glob("*/*"))


def test_objects_are_packed_and_verified_and_counted(replica: tuple[str, ...], tmp_path: Path, run_cli: RunCli) -> None:
    few = run_cli("storage", "pack", *replica)
    assert few.returncode == Exit.DONE, few.stderr
    assert "left 4 objects, too few for a pack" in few.stdout
    none = run_cli("storage", "pack", "--all", "--pack-below", "0", "--json", *replica)
    assert none.returncode == Exit.USAGE
    packed = run_cli("storage", "pack", "--all", "--pack-below", "1KiB", "--json", *replica)
    assert packed.returncode == Exit.DONE, packed.stderr
    assert json.loads(packed.stdout) | {"packs": 1, "objects": 3, "removed": 3} == json.loads(packed.stdout)
    assert len(packs_in(tmp_path)) == 1
    assert len(list((tmp_path / "storage" / "objects").glob("*/*"))) == 1
    verified = run_cli("verify", *replica)
    assert verified.returncode == Exit.DONE, verified.stdout
    assert "4 objects" in verified.stdout
    status = json.loads(run_cli("status", "--json", *replica).stdout)["storage"]
    assert (status["packs"], status["packed_objects"], status["copies"]) == (1, 3, 4)
    assert status["free_files"] is None or status["free_files"] > 0


def test_places_are_made_anew_and_damaged_packs_are_told(
    replica: tuple[str, ...], tmp_path: Path, run_cli: RunCli
) -> None:
    run_cli("storage", "pack", "--all", *replica)
    store = open_store(replica[1])
    before = list(store.places.walk())
    for row in list(store.places.packs()):
        store.places.forget(row.name)
    store.close()
    indexed = run_cli("storage", "index", "--json", *replica)
    assert indexed.returncode == Exit.DONE, indexed.stderr
    store = open_store(replica[1])
    assert list(store.places.walk()) == before != []
    store.close()
    (pack,) = packs_in(tmp_path)
    pack.write_bytes(pack.read_bytes()[:-1])
    damaged = run_cli("storage", "index", *replica)
    assert damaged.returncode == Exit.FINDINGS
    assert pack.name in damaged.stderr
    found = run_cli("verify", "--no-record", "--json", *replica)
    assert found.returncode == Exit.FINDINGS
    findings = [line for line in map(json.loads, found.stdout.splitlines()) if line["message_type"] == "finding"]
    assert [finding["kind"] for finding in findings] == ["damaged_pack"]


def test_damage_in_a_pack_is_found_and_set_aside(replica: tuple[str, ...], tmp_path: Path, run_cli: RunCli) -> None:
    run_cli("storage", "pack", "--all", *replica)
    (pack,) = packs_in(tmp_path)
    pack.write_bytes(pack.read_bytes().replace(b"another", b"bnother"))
    found = run_cli("verify", "--json", *replica)
    assert found.returncode == Exit.FINDINGS
    findings = [json.loads(line) for line in found.stdout.splitlines()]
    damaged = [line for line in findings if line.get("severity") not in {None, "note"}]
    assert len(damaged) == 1
    assert hashlib.sha256(b"another").hexdigest() in json.dumps(damaged)
    # Without the pack, all of its objects are lost.
    pack.unlink()
    lost = run_cli("verify", "--no-record", "--json", *replica)
    assert lost.returncode == Exit.FINDINGS
    kinds = [json.loads(line).get("kind") for line in lost.stdout.splitlines()]
    assert kinds.count("lost_object") == len(CONTENTS)
    assert kinds.count("lost_pack") == 1


def test_a_storage_that_is_away_is_refused(replica: tuple[str, ...], tmp_path: Path, run_cli: RunCli) -> None:
    for command in ("pack", "index"):
        away = run_cli("storage", command, "--db-string", replica[1], "--storage-path", str(tmp_path / "away"))
        assert away.returncode not in {Exit.DONE, Exit.PARTIAL}
        assert "is the disk mounted" in away.stderr
    assert not (tmp_path / "away").exists()
