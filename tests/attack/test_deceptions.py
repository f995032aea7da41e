"""The deceptions of a keeper that once worked: altered, cut and exchanged files, and a content that became a form.

They are told here for AES-CBC, which authenticates nothing. What stands against them is the history, and the kit.
"""

from __future__ import annotations

import base64
import json
import os
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from kropot.sc2.kit import CbcKey, OwnerKit
from kropot.securecopy.sealing import SEPARATOR
from tests.kropot.replay_world import KIT, World
from tests.kropot.test_restore_cli import files
from tests.kropot.test_restore_history import altered_payload

if TYPE_CHECKING:
    from pathlib import Path

    from ledger.events import StreamKey
    from tests.kropot.replay_cli import Run

pytest_plugins = ["tests.kropot.replay_cli"]

LINE = b"2026-01-05;ACME Ltd;DE89370400440532013000;0000100.00;ok\n"
VICTIM = b"home/user/.ssh/authorized_keys"
EVIL = b"ssh-ed25519 AAAAC3-attacker attacker@evil\n"


def kit_of(folder: Path, salt: str | None) -> str:
    path = folder / f"kit-{salt}.json"
    path.write_bytes(OwnerKit(cbc=(CbcKey(kit=KIT, stored_salt=salt),)).encode())
    path.chmod(0o600)
    return str(path)


def stored(world: World, folder: Path, key: StreamKey) -> bytes:
    copy = world.elements[key].copy
    assert copy is not None
    return (folder / "storage/objects" / copy.sha256.hex()[:2] / copy.sha256.hex()).read_bytes()


def point_to(world: World, folder: Path, key: StreamKey, position: int, content: bytes) -> None:
    """Store other bytes, and have the event about an element name them. Only its payload is changed."""
    upload = world.objects.stage()
    upload.write(content)
    (published,) = world.objects.publish([upload.finish()])
    copy = world.elements[key].copy
    assert copy is not None
    altered_payload(folder, position, copy=replace(copy, sha256=published.sha256, size=len(content)))


def test_flipped_bits_and_cut_files_do_not_come_back(world: World, run: Run, tmp_path: Path) -> None:
    source = world.source()
    content = LINE * 2000
    csv = world.put(source, "ledger.csv", content, size=len(content))
    at_csv = world.ledger.head().position
    movie = world.put(source, "movie.bin", os.urandom(60_000), size=60_000)
    at_movie = world.ledger.head().position
    world.put(source, "note.txt", b"note")
    flipped, whole = bytearray(stored(world, tmp_path, csv)), stored(world, tmp_path, movie)
    flipped[40_000] ^= 9
    point_to(world, tmp_path, csv, at_csv, bytes(flipped))
    point_to(world, tmp_path, movie, at_movie, whole[:500] + whole[-32:])
    answer = run("restore", "--json", "--key", kit_of(tmp_path, None), "--to", str(tmp_path / "to"))
    assert answer.code == 4
    assert {row["name"]: row["problem"] for row in answer.lines[:-1]} == {
        "ledger.csv": "refused",
        "movie.bin": "refused",
    }
    assert files(tmp_path / "to") == {"note.txt": b"note"}


def test_a_cut_file_does_not_come_back_even_if_the_history_says_so(world: World, run: Run, tmp_path: Path) -> None:
    source = world.source()
    key = world.put(source, "movie.bin", os.urandom(60_000), size=60_000)
    whole = stored(world, tmp_path, key)
    copy = world.elements[key].copy
    assert copy is not None
    world._store(key, whole[:512] + whole[-32:], copy.iv)
    answer = run("restore", "--key", kit_of(tmp_path, None), "--to", str(tmp_path / "to"))
    assert answer.code == 4
    assert "the opened content differs from its form" in answer.err
    assert files(tmp_path / "to") == {}


def test_exchanged_contents_do_not_come_back(world: World, run: Run, tmp_path: Path) -> None:
    source = world.source()
    one = world.put(source, "contract-A.pdf", os.urandom(50_000))
    at_one = world.ledger.head().position
    two = world.put(source, "contract-B.pdf", os.urandom(60_000))
    at_two = world.ledger.head().position
    copies = [world.elements[key].copy for key in (one, two)]
    altered_payload(tmp_path, at_one, copy=copies[1])
    altered_payload(tmp_path, at_two, copy=copies[0])
    answer = run("restore", "--key", kit_of(tmp_path, None), "--to", str(tmp_path / "to"))
    assert (answer.code, files(tmp_path / "to")) == (4, {})
    assert answer.err.count("is not the one that was recorded") == 2


@pytest.mark.parametrize("is_stripped", [False, True])
def test_a_content_does_not_become_a_form(world: World, run: Run, tmp_path: Path, *, is_stripped: bool) -> None:
    source = world.source()
    planted = {"path": base64.b64encode(VICTIM).decode(), "mode": 0o777, "mtime_ns": 1}
    world.put_path(source, VICTIM, b"ssh-ed25519 AAAAC3-honest user@home\n")
    world.put_path(source, b"mail/1.dat", json.dumps(planted).encode())
    world.put_path(source, b"mail/2.dat", EVIL)
    export = tmp_path / "export"
    assert run("replay", "--export", str(export)).code == 0
    rows = [json.loads(line) for line in (export / "manifest.jsonl").read_text().splitlines()]
    by_path = {path: row for row, path in zip(rows, _paths(rows, run, export, tmp_path), strict=True)}
    victim, form, evil = by_path[VICTIM.decode()], by_path["mail/1.dat"], by_path["mail/2.dat"]
    sealed = (export / form["file"]).read_bytes()
    # Under the victim's own id, the history alone stands against it. Under another id, the salt in the kit does, too.
    victim = evil if is_stripped else victim
    victim["form"] = {"encrypted": base64.b64encode(form["iv"].encode() + SEPARATOR + sealed).decode()}
    for name in ("iv", "sha256", "size", "file"):
        victim[name] = evil[name]
    if is_stripped:
        (export / "history.bin").unlink()
        for row in rows:
            del row["events"]
    (export / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    line = ("restore", "--from", str(export), "--to", str(tmp_path / "to"))
    answer = run(*line, "--key", kit_of(tmp_path, "salt"))
    assert answer.code == 4
    assert files(tmp_path / "to").get(VICTIM.decode()) != EVIL
    if is_stripped:
        # A kit of before can be deceived, and the last lines say what is unproved.
        before = run(*line[:-1], str(tmp_path / "before"), "--key", kit_of(tmp_path, None))
        assert "names not bound to ids" in before.out
        assert "history: not compared: the export has no history" in before.out
        refused = run(*line[:-1], str(tmp_path / "no"), "--key", kit_of(tmp_path, None), "--require", "sealing")
        assert (refused.code, files(tmp_path / "no")) == (4, {})


def _paths(rows: list[dict[str, str]], run: Run, export: Path, folder: Path) -> list[str]:
    """Return the path of each row, which the keeper guesses from the sizes."""
    found = run("restore", "--from", str(export), "--list-names", "--json", "--key", kit_of(folder, None)).lines[:-1]
    names = {row["id"]: row["name"] for row in found}
    return [names[row["id"]] for row in rows]
