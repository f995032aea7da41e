"""A restore compares every event with the history, the history with checkpoints, and both with what its kit saw."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sqlite3
import tempfile
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from kropot.replay.copies import HeldCopy
from kropot.restore.evidence import read_history, with_events
from kropot.restore.last_events import LastEvents, Leaves
from kropot.restore.seen import SeenFile
from ledger.checkpoint import Checkpoint, SigningKey, origin_of, sign_checkpoint
from ledger.codec import decode_payload, encode_payload
from ledger.events import RemoteChanged, StreamKey
from ledger.sql.opening import open_store
from tests.kropot.replay_world import KIT
from tests.kropot.sc2_world import VAULT, drawn
from tests.kropot.sealed_world import OTHER_VAULT, SealedWorld, kit_file
from tests.kropot.test_restore_cli import files, kit_fields
from tests.kropot.test_restore_sealed import kit, object_of, world
from tests.ledger.world import let_go

if TYPE_CHECKING:
    import pytest

    from tests.kropot.replay_cli import Run

pytest_plugins = ["tests.kropot.replay_cli"]
__all__ = ["kit", "world"]

KEY = SigningKey.generate("keeper", lambda size: drawn("signer", size))


def sign(world: SealedWorld, folder: Path, name: str = "note.txt") -> str:
    """Sign the ledger as it is now, and return the note's path."""
    head, ledger = world.ledger.head(), world.ledger.identity().ledger_id
    checkpoint = Checkpoint(origin=origin_of(ledger), size=head.position, root=head.frontier.root)
    (folder / name).write_bytes(sign_checkpoint(checkpoint, KEY))
    return str(folder / name)


def edit(folder: Path, *statements: tuple[str, tuple[object, ...]]) -> None:
    """Edit the ledger as whoever owns the database can: without the triggers."""
    with closing(sqlite3.connect(folder / "ledger.db")) as database:
        for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            database.execute(f'DROP TRIGGER "{name}"')
        for statement, values in statements:
            database.execute(statement, values)
        database.commit()


def altered_payload(folder: Path, seq: int, **changes: object) -> None:
    """Change fields of the element in a payload in place, and nothing else."""
    with closing(sqlite3.connect(folder / "ledger.db")) as database:
        row = database.execute("SELECT type, schema_version, flags, payload FROM event WHERE seq = ?", (seq,))
        fact = decode_payload(*row.fetchone())
    element = replace(fact.element, **changes)  # type: ignore[union-attr,arg-type]
    payload = encode_payload(replace(fact, element=element))  # type: ignore[arg-type,type-var]
    edit(folder, ("UPDATE event SET payload = ? WHERE seq = ?", (payload, seq)))


# --- checkpoints -----------------------------------------------------------------------------------------------------


def test_the_last_lines_say_what_is_proved(world: SealedWorld, run: Run, kit: str, tmp_path: Path) -> None:
    source = world.source(None)
    world.seal(source, b"a", b"content")
    note = sign(world, tmp_path)
    line = ("restore", "--key", kit, "--against", note, "--public-key", KEY.verifier.text, "--verify-only")
    size = world.ledger.head().position
    first = run(*line)
    assert first.code == 0
    sealing, history = first.out.splitlines()[-2:]
    assert sealing == "sealing: authentic"
    assert history == (
        f"history: included under checkpoint {size} of {size}; this kit sees it for the first time, so a rollback is "
        "not excluded"
    )
    world.seal(source, b"b", b"later")
    answer = run(*line)
    assert answer.code == 0
    last = answer.out.splitlines()[-1]
    assert last.startswith(
        f"history: 1 of 2 files included under checkpoint {size} of {size + 2}; the others come from"
    )
    assert f"it goes on from the {size} events seen at" in last
    found = run(*line, "--json").lines[-1]
    assert found["sealing"] == {"sc2": 2, "cbc": 0, "plain": 0, "unbound_names": 0}
    assert (found["history"]["checkpoint"], found["history"]["events"], found["history"]["included"]) == (
        size,
        size + 2,
        1,
    )


def test_what_is_required_and_not_proved_is_not_written(world: SealedWorld, run: Run, kit: str, tmp_path: Path) -> None:
    sealed, plain = world.source(None), world.source(KIT)
    world.seal(sealed, b"early", b"early")
    note = sign(world, tmp_path)
    world.seal(sealed, b"late", b"late")
    world.put(plain, "cbc", b"cbc")
    (tmp_path / "cbc.json").write_text(json.dumps({"data": kit_fields(KIT)}))
    keys = ("--key", kit, "--key", str(tmp_path / "cbc.json"))
    against = ("--against", note, "--public-key", KEY.verifier.text)
    for require, more, expected in (
        ("sealing", (), {"early", "late"}),
        ("history", against, {"early"}),
        ("sealing,history", against, {"early"}),
    ):
        to = tmp_path / f"to {require}"
        answer = run("restore", *keys, "--to", str(to), "--require", require, *more)
        assert answer.code == 4
        assert set(files(to)) == expected
    without = run("restore", *keys, "--to", str(tmp_path / "to"))
    assert without.code == 0
    assert "sealing: 2 authentic; 1 not authenticated: AES-CBC" in without.out
    assert run("restore", *keys, "--to", str(tmp_path / "no"), "--require", "history").code == 4
    assert run("restore", *keys, "--to", str(tmp_path / "no"), "--require", "luck").code == 2
    assert not (tmp_path / "no").exists()


def test_a_checkpoint_of_another_history_stops_the_restore(
    world: SealedWorld, run: Run, kit: str, tmp_path: Path
) -> None:
    world.seal(world.source(None), b"a", b"content")
    head = world.ledger.head()
    mine = Checkpoint(origin=origin_of(world.ledger.identity().ledger_id), size=head.position, root=head.frontier.root)
    notes = {
        "rewrote the history": sign_checkpoint(replace(mine, root=bytes(32)), KEY),
        "only": sign_checkpoint(replace(mine, size=mine.size + 3), KEY),
        "another ledger": sign_checkpoint(replace(mine, origin=origin_of(bytes(16))), KEY),
        "proves nothing": sign_checkpoint(mine, SigningKey.generate("keeper", lambda size: drawn("forger", size))),
    }
    for words, note in notes.items():
        (tmp_path / "note.txt").write_bytes(note)
        line = ("--against", str(tmp_path / "note.txt"), "--public-key", KEY.verifier.text)
        answer = run("restore", "--key", kit, "--to", str(tmp_path / "to"), *line)
        assert answer.code == 4
        assert words in answer.err
    assert not (tmp_path / "to").exists()
    assert run("restore", "--key", kit, "--to", str(tmp_path / "to"), "--against", str(tmp_path / "note.txt")).code == 2


# --- events ----------------------------------------------------------------------------------------------------------


def test_a_payload_that_was_altered_in_place_is_refused(world: SealedWorld, run: Run, tmp_path: Path) -> None:
    source = world.source(KIT)
    world.put(source, "one", b"1" * 40)
    two = world.put(source, "two", b"2" * 40)
    position = world.ledger.head().position
    copy = world.elements[two].copy
    assert copy is not None
    (tmp_path / "cbc.json").write_text(json.dumps({"data": kit_fields(KIT)}))
    line = ("restore", "--key", str(tmp_path / "cbc.json"))
    altered_payload(tmp_path, position - 2, copy=copy)
    answer = run(*line, "--to", str(tmp_path / "to"))
    assert answer.code == 4
    assert f"one: the payload of event {position - 2} is not the one that was recorded" in answer.err
    assert files(tmp_path / "to") == {"two": b"2" * 40}
    one = next(key for key in world.elements if key != two)
    shown = run("decrypt", one.id, "--key", str(tmp_path / "cbc.json"), "-o", str(tmp_path / "out"))
    assert shown.code == 4
    assert "is not the one that was recorded" in shown.err


def test_a_newer_event_cannot_be_hidden(world: SealedWorld, run: Run, kit: str, tmp_path: Path) -> None:
    source = world.source(None)
    key = world.seal(source, b"a", b"old")
    world.seal(source, b"other", b"other")
    world.seal(source, b"a", b"new")
    position = world.ledger.head().position
    streams = "(SELECT stream FROM event WHERE seq = ?)"
    edit(
        tmp_path,
        (f"UPDATE event SET stream = {streams} WHERE seq > ?", (position - 2, position - 2)),
    )
    answer = run("restore", "--key", kit, "--to", str(tmp_path / "to"))
    assert answer.code == 4
    assert files(tmp_path / "to").get("a") != b"old"
    assert object_of(world, tmp_path, key).is_file()


def test_an_element_that_the_database_no_longer_shows_is_missed(
    world: SealedWorld, run: Run, kit: str, tmp_path: Path
) -> None:
    source = world.source(None)
    world.seal(source, b"a", b"shown")
    world.seal(source, b"b", b"hidden")
    edit(
        tmp_path, ("UPDATE event SET nonce = NULL, payload = NULL WHERE seq >= ?", (world.ledger.head().position - 1,))
    )
    answer = run("restore", "--key", kit, "--to", str(tmp_path / "to"))
    assert answer.code == 4
    assert "1 element of the history is hidden" in answer.err
    assert files(tmp_path / "to") == {"a": b"shown"}


def test_an_erased_element_is_named_and_not_missed(world: SealedWorld, run: Run, kit: str, tmp_path: Path) -> None:
    source = world.source(None)
    world.seal(source, b"a", b"kept")
    erased = world.seal(source, b"b", b"erased")
    before = world.ledger.head().position
    world.erase(erased)
    for until in ((), ("--until", f"@{before}")):
        answer = run("restore", "--key", kit, "--to", str(tmp_path / "to"), *until)
        assert (answer.code, files(tmp_path / "to")) == (0, {"a": b"kept"})
        assert "erased, so it cannot be restored: 1 element" in answer.err
    world.seal(source, b"b", b"again")
    assert run("restore", "--key", kit, "--to", str(tmp_path / "to")).code == 0
    assert files(tmp_path / "to") == {"a": b"kept", "b": b"again"}


def test_a_released_copy_is_named(world: SealedWorld, run: Run, kit: str, tmp_path: Path) -> None:
    source = world.source(None)
    key = world.seal(source, b"a", b"old")
    then, old = world.ledger.head().position, object_of(world, tmp_path, key)
    world.seal(source, b"a", b"new")
    world._append(key, let_go(world.elements[key], bytes.fromhex(old.name)))
    old.unlink()
    answer = run("restore", "--key", kit, "--to", str(tmp_path / "to"), "--until", f"@{then}")
    assert (answer.code, files(tmp_path / "to")) == (3, {})
    assert "a: retention released this copy on 20" in answer.err
    assert "because a newer version had replaced it, so it cannot be restored" in answer.err


def test_a_copy_of_an_older_revision_is_proved_by_both_of_its_events(
    world: SealedWorld, run: Run, kit: str, tmp_path: Path
) -> None:
    source = world.source(None)
    key = world.seal(source, b"a", b"stored")
    world._append(key, RemoteChanged(element=replace(world.elements[key], revision=2, size=9)))
    assert run("restore", "--key", kit, "--to", str(tmp_path / "to")).code == 0
    assert files(tmp_path / "to") == {"a": b"stored"}
    altered_payload(tmp_path, world.ledger.head().position - 1, date=5)
    answer = run("restore", "--key", kit, "--to", str(tmp_path / "again"))
    assert (answer.code, files(tmp_path / "again")) == (4, {})


# --- what the kit remembers ------------------------------------------------------------------------------------------


def test_an_older_ledger_is_refused_until_it_is_accepted(
    world: SealedWorld, run: Run, kit: str, tmp_path: Path
) -> None:
    source = world.source(None)
    world.seal(source, b"a", b"old")
    world.store.close()
    shutil.copy(tmp_path / "ledger.db", tmp_path / "old.db")
    store = open_store(f"sqlite:///{tmp_path / 'ledger.db'}")
    later = SealedWorld(store, objects=world.objects, seed=7)
    later.elements = world.elements
    later.seal(source, b"a", b"new")
    store.close()
    line = ("restore", "--key", kit, "--to")
    assert run(*line, str(tmp_path / "new")).code == 0
    assert files(tmp_path / "new") == {"a": b"new"}
    shutil.copy(tmp_path / "old.db", tmp_path / "ledger.db")
    for suffix in ("-wal", "-shm"):
        (tmp_path / f"ledger.db{suffix}").unlink(missing_ok=True)
    refused = run(*line, str(tmp_path / "no"))
    assert refused.code == 4
    assert "this kit saw 6 events, and now there are 4: the last 2 events are gone" in refused.err
    assert not (tmp_path / "no").exists()
    accepted = run(*line, str(tmp_path / "old"), "--accept-older")
    assert accepted.code == 0
    assert "the last 2 events are gone" in accepted.err
    assert files(tmp_path / "old") == {"a": b"old"}
    assert run(*line, str(tmp_path / "old")).code == 0


def test_another_history_of_the_same_ledger_is_refused(world: SealedWorld, run: Run, kit: str, tmp_path: Path) -> None:
    source = world.source(None)
    world.seal(source, b"a", b"old")
    assert run("restore", "--key", kit, "--to", str(tmp_path / "to")).code == 0
    place = tmp_path / "vault.json.seen"
    seen = json.loads(place.read_text())
    (ledger,) = seen["ledgers"].values()
    ledger["frontier"] = ledger["frontier"][:-2] + ("00" if ledger["frontier"][-2:] != "00" else "11")
    place.write_text(json.dumps(seen))
    refused = run("restore", "--key", kit, "--to", str(tmp_path / "to"))
    assert refused.code == 4
    assert "now the first 4 are different: only the first 0 are certain to be the same" in refused.err


def test_a_kit_that_cannot_remember_says_so_and_goes_on(world: SealedWorld, run: Run, kit: str, tmp_path: Path) -> None:
    world.seal(world.source(None), b"a", b"content")
    (tmp_path / "vault.json.seen").mkdir()
    answer = run("restore", "--key", kit, "--to", str(tmp_path / "to"))
    assert answer.code == 0
    assert "cannot remember this ledger beside the kit" in answer.err
    assert "it is not remembered" in answer.out
    (tmp_path / "vault.json.seen").rmdir()
    (tmp_path / "vault.json.seen").write_text("{}")
    damaged = run("restore", "--key", kit, "--to", str(tmp_path / "to"))
    assert damaged.code == 0
    assert "vault.json.seen is damaged" in damaged.err
    assert (tmp_path / "vault.json.seen").read_text() == "{}"


def test_without_a_kit_a_rollback_is_not_excluded(world: SealedWorld, run: Run, tmp_path: Path) -> None:
    world.put(world.source(None), "plain", b"content")
    answer = run("restore", "--to", str(tmp_path / "to"))
    assert answer.code == 0
    assert answer.out.splitlines()[-2:] == [
        "sealing: not sealed",
        "history: not compared: no checkpoint given; no kit remembers it, so a rollback is not excluded",
    ]


# --- exports ---------------------------------------------------------------------------------------------------------


def test_an_export_is_checked_elsewhere(world: SealedWorld, run: Run, kit: str, tmp_path: Path) -> None:
    source = world.source(None)
    world.seal(source, b"a", b"a" * 10)
    then = world.ledger.head().position
    world.seal(source, b"a", b"b" * 10)
    note, export = sign(world, tmp_path), tmp_path / "export"
    assert run("replay", "--export", str(export)).code == 0
    assert run("replay", "--export", str(tmp_path / "then"), "--until", f"@{then}").code == 0
    shutil.rmtree(tmp_path / "storage")
    against = ("--against", note, "--public-key", KEY.verifier.text, "--require", "history,sealing")
    for folder, content in ((export, b"b" * 10), (tmp_path / "then", b"a" * 10)):
        to = tmp_path / f"to {folder.name}"
        answer = run("restore", "--from", str(folder), "--key", kit, "--to", str(to), *against)
        assert (answer.code, files(to)) == (0, {"a": content})
        assert "history: included under checkpoint 6 of 6" in answer.out
    manifest = export / "manifest.jsonl"
    line = json.loads(manifest.read_text())
    old = json.loads((tmp_path / "then/manifest.jsonl").read_text())
    for forged in (line | {"events": old["events"]}, line | {"events": []}, {**line, "events": None}):
        manifest.write_text(json.dumps(forged) + "\n")
        refused = run("restore", "--from", str(export), "--key", kit, "--to", str(tmp_path / "no"))
        assert refused.code == 4
        assert files(tmp_path / "no") == {}
    (export / "history.bin").write_bytes(b"kropot-history-1\n\x90")
    assert run("restore", "--from", str(export), "--key", kit, "--to", str(tmp_path / "no")).code == 4
    (export / "history.bin").unlink()
    assert run("restore", "--from", str(export), "--key", kit, "--to", str(tmp_path / "no"), *against).code == 4
    stripped = run("restore", "--from", str(export), "--key", kit, "--to", str(tmp_path / "yes"))
    assert stripped.code == 0
    assert "history: not compared: the export has no history" in stripped.out


# --- the storage alone -----------------------------------------------------------------------------------------------


def test_the_storage_alone_gives_back_what_was_sealed_last(
    world: SealedWorld, run: Run, kit: str, tmp_path: Path
) -> None:
    source = world.source(None)
    world.seal(source, b"docs/a", b"newest", sealed_us=30)
    world.seal(source, b"docs/a", b"oldest", sealed_us=10)
    world.seal(source, b"docs/a", b"middle", sealed_us=20)
    world.seal(source, b"b", b"other" * 50_000, sealed_us=5)
    (tmp_path / "ledger.db").unlink()
    answer = run("restore", "--from-storage", "--key", kit, "--to", str(tmp_path / "to"))
    assert (answer.code, files(tmp_path / "to")) == (0, {"docs/a": b"newest", "b": b"other" * 50_000})
    assert "only a ledger knows what was deleted" in answer.out.splitlines()[-1]
    assert not (tmp_path / "ledger.db").exists()
    for more in (("--until", "@1"), ("--source", "x"), ("--from", str(tmp_path))):
        assert run("restore", "--from-storage", "--key", kit, "--to", str(tmp_path / "to"), *more).code == 2


def test_the_storage_alone_names_what_it_cannot_open(world: SealedWorld, run: Run, kit: str, tmp_path: Path) -> None:
    source = world.source(None)
    world.seal(source, b"mine", b"mine")
    world.seal(source, b"theirs", b"theirs", vault=OTHER_VAULT)
    world.put(source, "plain", b"plain")
    answer = run("restore", "--from-storage", "--key", kit, "--to", str(tmp_path / "to"))
    assert (answer.code, files(tmp_path / "to")) == (3, {"mine": b"mine"})
    assert f"the kit of the vault {OTHER_VAULT.id.hex()}" in answer.err
    assert "sc2 did not seal 1 object in the storage" in answer.err
    head, content = world.seal(source, b"head", b"x" * 9), world.seal(source, b"content", b"x" * 9)
    for key, at in ((head, 150), (content, -5)):
        path = object_of(world, tmp_path, key)
        data = bytearray(path.read_bytes())
        data[at] ^= 1
        path.chmod(0o600)
        path.write_bytes(data)
    answer = run("restore", "--from-storage", "--key", kit, "--to", str(tmp_path / "to"))
    assert answer.code == 4
    assert "content: the object" in answer.err
    assert "1 object in the storage cannot be opened" in answer.err
    other = kit_file(tmp_path, dataclasses.replace(VAULT, id=bytes(16)), "third.json")
    assert run("restore", "--from-storage", "--key", other, "--to", str(tmp_path / "no")).code == 13


@given(data=st.binary(max_size=200), is_whole=st.booleans())
def test_any_bytes_are_a_history_of_an_export_or_refused(data: bytes, is_whole: bool) -> None:  # noqa: FBT001
    with tempfile.TemporaryFile() as file:
        file.write(data if is_whole else b"kropot-history-1\n" + data)
        file.seek(0)
        with suppress(ValueError):
            origin, headers = read_history(os.dup(file.fileno()))
            assert type(origin.position) is int
            assert all(type(header) is bytes for header in headers)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.just("kropotcli-seen-v1"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["format", "ledgers", "size", "frontier", "at_us", "checkpoint", "header", "nonce", "payload", "00"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(value=JSON_VALUES)
def test_any_json_is_what_a_kit_saw_or_is_told(value: object) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "kit.json.seen"
        place.write_text(json.dumps(value))
        file = SeenFile(Path(folder) / "kit.json")
        if file.trouble is None:
            assert isinstance(value, dict)
            assert (value["format"], file.others) == ("kropotcli-seen-v1", len(value["ledgers"]))
        else:
            assert file.trouble.startswith(f"{place} is damaged")
        assert place.read_text() == json.dumps(value)


@given(value=JSON_VALUES)
def test_any_events_in_a_manifest_are_refused_or_read(value: object) -> None:
    key = StreamKey(source=bytes(16), kind="file", id="x")
    held = HeldCopy(key=key, form=b"{}", date=0, tz="", state="", sha256=None, size=0, iv=None, is_older=False)
    assert with_events(held, value).refused is not None


# --- the tables ------------------------------------------------------------------------------------------------------


def test_the_tables_hold_more_than_their_first_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kropot.restore.last_events._FIRST_SLOTS", 1024)
    monkeypatch.setattr("kropot.restore.last_events._FIRST_LEAVES", 4096)
    leaves, last = Leaves(), LastEvents()
    marks = [drawn(str(number)) for number in range(9000)]
    for position, mark in enumerate(marks, 1):
        leaves.add(mark)
        last.put(mark, position)
        last.put(marks[0], 10_000)
    assert all(leaves.has(position, mark) for position, mark in enumerate(marks, 1))
    assert not leaves.has(0, marks[0])
    assert not leaves.has(9001, marks[0])
    assert not leaves.has(2, marks[0])
    assert [last.get(mark) for mark in marks[1:]] == list(range(2, 9001))
    assert last.get(marks[0]) == 10_000
    assert last.get(drawn("unknown")) is None
    for mark in (*marks[:8990], drawn("unknown")):
        last.see(mark)
    assert sorted(position for _, position, _ in last.unseen()) == list(range(8991, 9001))
    assert last.get(marks[1]) == 2
    leaves.close()
    last.close()
