"""`restore` and `decrypt` with what `sc2` sealed: everything comes back, and what was exchanged is refused by name."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from kropot.sc2.kit import OwnerKit
from kropot.sc2.passphrase import Stretch, lock
from ledger.events import CopyStored, RemoteChanged
from tests.kropot.replay_cli import kept_in
from tests.kropot.replay_world import KIT
from tests.kropot.sc2_world import VAULT
from tests.kropot.sealed_world import MTIME_NS, OTHER_VAULT, SealedWorld, kit_file
from tests.kropot.test_restore_cli import files, kit_fields

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ledger.events import StreamKey
    from tests.kropot.replay_cli import Run

pytest_plugins = ["tests.kropot.replay_cli"]

LARGE = b"0123456789abcdef" * 10_000


@pytest.fixture
def world(tmp_path: Path) -> Iterator[SealedWorld]:
    with kept_in(tmp_path, SealedWorld) as made:
        yield made


@pytest.fixture
def kit(tmp_path: Path) -> str:
    return kit_file(tmp_path)


def object_of(world: SealedWorld, folder: Path, key: StreamKey) -> Path:
    copy = world.elements[key].copy
    assert copy is not None
    return folder / "storage/objects" / copy.sha256.hex()[:2] / copy.sha256.hex()


def exchange(world: SealedWorld, key: StreamKey, **copy: object) -> None:
    """Record another copy for an element, as a keeper with the collector's rights can."""
    element = world.elements[key]
    assert element.copy is not None
    world._append(key, CopyStored(element=replace(element, copy=replace(element.copy, **copy))))  # type: ignore[arg-type]


# --- what comes back -------------------------------------------------------------------------------------------------


def test_sealed_files_come_back_with_names_times_and_modes(
    world: SealedWorld, run: Run, kit: str, tmp_path: Path
) -> None:
    source = world.source(None)
    world.seal(source, b"docs/large.bin", LARGE)
    world.seal(source, b"empty", b"")
    world.seal(source, b"padded \xff", b"short", padding=True)
    world.seal(source, b"sparse", b"x" * 10, size=200_010, content=10, holes=((5, 200_000),), sha256=None)
    answer = run("restore", "--key", kit, "--to", str(tmp_path / "to"))
    assert (answer.code, answer.err) == (0, "")
    found = {os.fsencode(name): content for name, content in files(tmp_path / "to").items()}
    assert found == {
        b"docs/large.bin": LARGE,
        b"empty": b"",
        b"padded \xff": b"short",
        b"sparse": b"x" * 5 + bytes(200_000) + b"x" * 5,
    }
    status = (tmp_path / "to/docs/large.bin").stat()
    assert (status.st_mtime_ns, status.st_mode & 0o777) == (MTIME_NS, 0o640)
    again = run("restore", "--key", kit, "--to", str(tmp_path / "to"))
    assert "restored 0 files" in again.out


def test_a_change_of_metadata_alone_comes_back_with_the_same_copy(
    world: SealedWorld, run: Run, kit: str, tmp_path: Path
) -> None:
    from kropot.restore.claims import sealed_text
    from kropot.sc2.layout import list_form_bytes, parse_header

    source = world.source(None)
    key = world.seal(source, b"a.txt", b"content")
    text = sealed_text(world.elements[key].form)
    assert text is not None
    version = parse_header(list_form_bytes(text)).version
    world.list_again(key, b"a.txt", b"content", version, mode=0o600, mtime_ns=10**18)
    assert run("restore", "--key", kit, "--to", str(tmp_path / "to")).code == 0
    status = (tmp_path / "to/a.txt").stat()
    assert (status.st_mtime_ns, status.st_mode & 0o777) == (10**18, 0o600)
    assert (tmp_path / "to/a.txt").read_bytes() == b"content"


def test_other_ways_to_look_at_sealed_files(world: SealedWorld, run: Run, kit: str, tmp_path: Path) -> None:
    source = world.source(None)
    key = world.seal(source, b"docs/a.txt", b"content")
    assert "           7  docs/a.txt" in run("restore", "--key", kit, "--list-names").out
    assert "would restore  docs/a.txt" in run("restore", "--key", kit, "--dry-run", "--to", str(tmp_path / "to")).out
    assert "verified 1 file (7 B): the copies are sound" in run("restore", "--key", kit, "--verify-only").out
    assert run("decrypt", key.id, "--key", kit, "-o", str(tmp_path / "one")).code == 0
    assert run("decrypt", str(object_of(world, tmp_path, key)), "--key", kit, "-o", str(tmp_path / "two")).code == 0
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes() == b"content"


def test_an_export_of_sealed_files_is_restored_elsewhere(
    world: SealedWorld, run: Run, kit: str, tmp_path: Path
) -> None:
    world.seal(world.source(None), b"docs/a.txt", LARGE)
    assert run("replay", "--export", str(tmp_path / "export")).code == 0
    answer = run("restore", "--from", str(tmp_path / "export"), "--key", kit, "--to", str(tmp_path / "to"))
    assert answer.code == 0
    assert files(tmp_path / "to") == {"docs/a.txt": LARGE}
    (exported,) = (path for path in (tmp_path / "export").rglob("*") if len(path.name) == 64)
    assert run("decrypt", str(exported), "--key", kit, "-o", str(tmp_path / "one")).code == 0
    assert (tmp_path / "one").read_bytes() == LARGE


def test_a_locked_kit_needs_a_terminal_for_its_passphrase(world: SealedWorld, run: Run, tmp_path: Path) -> None:
    world.seal(world.source(None), b"a", b"content")
    locked = lock(
        OwnerKit(vault=VAULT), "twelve letters", stretch=lambda salt: Stretch(salt=salt, memory_kib=32, passes=1)
    )
    (tmp_path / "locked.json").write_bytes(locked.encode())
    answer = run("restore", "--key", str(tmp_path / "locked.json"), "--to", str(tmp_path / "to"))
    assert answer.code == 2
    assert "is locked, and there is no terminal" in answer.err


# --- what is refused -------------------------------------------------------------------------------------------------


def test_the_kit_of_another_vault_is_refused_and_the_right_one_is_named(
    world: SealedWorld, run: Run, tmp_path: Path
) -> None:
    key = world.seal(world.source(None), b"a", b"content")
    other = kit_file(tmp_path, OTHER_VAULT, "other.json")
    for line in (
        ("restore", "--key", other, "--to", str(tmp_path / "to")),
        ("decrypt", key.id, "--key", other, "-o", str(tmp_path / "out")),
        ("decrypt", str(object_of(world, tmp_path, key)), "--key", other, "-o", str(tmp_path / "out")),
    ):
        answer = run(*line)
        assert answer.code == 13
        assert f"the kit of the vault {VAULT.id.hex()}" in answer.err
    assert not (tmp_path / "to").exists()
    assert not (tmp_path / "out").exists()


def test_what_a_keeper_exchanges_is_refused_and_the_rest_comes_back(
    world: SealedWorld, run: Run, kit: str, tmp_path: Path
) -> None:
    source = world.source(None)
    world.seal(source, b"good", b"good")
    one, two = world.seal(source, b"one", b"1" * 50), world.seal(source, b"two", b"2" * 50)
    old = world.seal(source, b"old", b"before")
    before = world.elements[old].copy
    world.seal(source, b"old", b"after!")
    foreign = world.seal(source, b"form", b"3" * 50)
    copies = [world.elements[key].copy for key in (one, two)]
    assert before is not None
    assert copies[0] is not None
    assert copies[1] is not None
    exchange(world, one, sha256=copies[1].sha256, size=copies[1].size)
    exchange(world, two, sha256=copies[0].sha256, size=copies[0].size)
    exchange(world, old, sha256=before.sha256, size=before.size)
    element = world.elements[foreign]
    world._append(
        foreign, RemoteChanged(element=replace(element, form=world.elements[one].form, revision=1 + element.revision))
    )
    exchange(world, foreign, revision=world.elements[foreign].revision)
    answer = run("restore", "--json", "--key", kit, "--to", str(tmp_path / "to"))
    assert answer.code == 4
    assert files(tmp_path / "to") == {"good": b"good"}
    why = {row["name"]: row["why"] for row in answer.lines[:-1] if row["problem"] == "refused"}
    assert len(answer.lines) == 5
    assert why["one"] == why["two"] == "its content belongs to another element: somebody swapped them"
    assert why["old"] == "its content belongs to another version: somebody swapped them"
    assert why[None] == "its form belongs to another element, one: somebody swapped them"


def test_altered_bytes_that_the_ledger_names_are_refused_and_others_are_damaged(
    world: SealedWorld, run: Run, kit: str, tmp_path: Path
) -> None:
    source = world.source(None)
    recorded, behind = world.seal(source, b"recorded", LARGE), world.seal(source, b"behind", LARGE)
    for key in (recorded, behind):
        path = object_of(world, tmp_path, key)
        data = bytearray(path.read_bytes())
        data[100_000] ^= 1
        if key == behind:
            path.chmod(0o600)
            path.write_bytes(data)
        else:
            upload = world.objects.stage()
            upload.write(data)
            world.objects.publish([upload.finish()])
            exchange(world, key, sha256=hashlib.sha256(data).digest())
    answer = run("restore", "--json", "--key", kit, "--to", str(tmp_path / "to"))
    assert answer.code == 4
    assert {row["name"]: row["problem"] for row in answer.lines[:-1]} == {"recorded": "refused", "behind": "damaged"}
    assert files(tmp_path / "to") == {}


def test_an_element_that_is_not_sealed_is_refused_beside_a_vault(
    world: SealedWorld, run: Run, kit: str, tmp_path: Path
) -> None:
    world.seal(world.source(None), b"good", b"good")
    plain = world.source(None)
    world.put(plain, "planted", b"anybody can make this")
    answer = run("restore", "--key", kit, "--to", str(tmp_path / "to"))
    assert answer.code == 4
    assert "it is not sealed, so anybody can have made it" in answer.err
    assert files(tmp_path / "to") == {"good": b"good"}
    alone = run("restore", "--to", str(tmp_path / "plain"), "--source", plain.hex())
    assert alone.code == 0
    assert files(tmp_path / "plain") == {"planted": b"anybody can make this"}


def test_a_cbc_form_of_another_element_is_refused_by_a_kit_with_the_stored_salt(
    world: SealedWorld, run: Run, tmp_path: Path
) -> None:
    import json

    source = world.source(KIT)
    key, other = world.put(source, "mine.txt", b"mine"), world.put(source, "other.txt", b"other")
    element = world.elements[key]
    forged = replace(element, form=world.elements[other].form, revision=element.revision + 1)
    world._append(key, RemoteChanged(element=forged))
    exchange(world, key, revision=forged.revision)
    salted = tmp_path / "salted.json"
    salted.write_text(json.dumps({"data": kit_fields(KIT), "secureCopyStoredSalt": "salt"}))
    answer = run("restore", "--key", str(salted), "--to", str(tmp_path / "to"))
    assert answer.code == 4
    assert "its form belongs to another element, other.txt" in answer.err
    assert files(tmp_path / "to") == {"other.txt": b"other"}


def test_a_sealed_form_with_a_content_that_is_not_is_refused(world: SealedWorld, run: Run, tmp_path: Path) -> None:
    import json

    source = world.source(KIT)
    key = world.put(source, "mine.txt", b"mine")
    upload = world.objects.stage()
    upload.write(b"evil")
    (published,) = world.objects.publish([upload.finish()])
    exchange(world, key, iv=None, sha256=published.sha256, size=4)
    kit = tmp_path / "cbc.json"
    kit.write_text(json.dumps({"data": kit_fields(KIT)}))
    answer = run("restore", "--key", str(kit), "--to", str(tmp_path / "to"))
    assert answer.code == 4
    assert "its form is sealed but its content is not" in answer.err
    assert files(tmp_path / "to") == {}
