"""Whoever can write the database chooses what it says, and never what is signed: the signer computes that itself."""

from __future__ import annotations

import base64
import json
import os
import stat
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace
from sqlalchemy import text

from kropot.checkpoints.folder import CheckpointFolder
from kropot.checkpoints.signing import sign_head
from kropot.checkpoints.state import SignerState
from kropot.errors import Exit, IntegrityError, KropotError, LockedError
from kropot.proofs import check_proof, prove_consistency
from kropot.upkeep import keep_checkpoints
from ledger.checkpoint import Checkpoint, SigningKey, open_checkpoint, origin_of, sign_checkpoint, unverified_checkpoint
from ledger.codec import decode_header, encode_header, encode_payload, leaf_hash, payload_digest, stream_digest
from ledger.events import CopyStored, LedgerBegan
from ledger.log import Ledger
from ledger.merkle import Frontier, inclusion_path
from ledger.sql import open_store, parse_place
from ledger.sql.dialects import writer_engine
from tests.ledger.databases import SQL_KINDS, fresh_url
from tests.ledger.world import SOURCE, began, copied, key, observed, source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kropot.checkpoints.signing import Signed

KEY = SigningKey(name="signer", seed=bytes(range(32)))
OTHER = SigningKey(name="signer", seed=bytes(32))
TABLES = ("event", "stream", "batch", "checkpoint", "head")


@dataclass
class World:
    """A ledger of twelve events in a database that the attacker can write, and the signer's own folder."""

    url: str
    home: Path

    @property
    def key_file(self) -> Path:
        return self.home / "signer.key"

    @property
    def folder(self) -> CheckpointFolder:
        return CheckpointFolder(self.home / "notes")

    @contextmanager
    def opened(self) -> Iterator[Ledger]:
        store = open_store(self.url, create=True)
        try:
            yield Ledger(store)
        finally:
            store.close()

    @property
    def state(self) -> SignerState:
        with self.opened() as ledger:
            return SignerState(self.key_file, ledger.identity().ledger_id)

    def grow(self, first: int, last: int) -> None:
        with self.opened() as ledger:
            facts = [fact for n in range(first, last) for fact in (observed(n), copied(n))]
            ledger.append([began(), *facts] if first == 0 else facts)

    def sign(self, *folders: CheckpointFolder) -> Signed:
        wanted = folders or (self.folder,)
        for each in wanted:
            if each.folder.parent.is_dir():
                each.folder.mkdir(mode=0o700, exist_ok=True)
        with self.opened() as ledger:
            return sign_head(ledger, KEY, self.key_file, wanted)

    def notes(self) -> list[tuple[Checkpoint, bytes]]:
        return [(unverified_checkpoint(kept.note), kept.note) for kept in self.folder.exported()]

    def honest_root(self) -> bytes:
        with self.opened() as ledger:
            return Frontier().extend([leaf_hash(event.header) for event in ledger.stored()]).root

    def forge(self, statement: str, **values: object) -> None:
        """Change the database as its owner can: the triggers, which keep accidents out, are gone."""
        engine = writer_engine(parse_place(self.url))
        with engine.connect() as connection:
            kind = connection.dialect.name
            if kind == "sqlite":
                names = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
                drops = [f"DROP TRIGGER {name}" for (name,) in connection.execute(text(names))]
            elif kind == "postgresql":
                drops = [f"ALTER TABLE {table} DISABLE TRIGGER USER" for table in TABLES]
            else:
                names = "SELECT trigger_name FROM information_schema.triggers WHERE trigger_schema = DATABASE()"
                drops = [f"DROP TRIGGER {name}" for (name,) in connection.execute(text(names))]
            for drop in drops:
                connection.execute(text(drop))
            assert connection.execute(text(statement), values).rowcount == 1
            connection.commit()
        engine.dispose()


@pytest.fixture(params=SQL_KINDS)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    with fresh_url(request.param, tmp_path) as url:
        made = World(url, tmp_path / "signer")
        made.home.mkdir()
        made.grow(0, 5)
        yield made


@pytest.fixture
def local(tmp_path: Path) -> World:
    made = World(f"sqlite:///{tmp_path}/ledger.db", tmp_path / "signer")
    made.home.mkdir()
    made.grow(0, 5)
    return made


def lie(ledger: Ledger, position: int) -> tuple[Frontier, dict[str, object]]:
    """Return the tree in which the event at `position` says that another object was stored, and its false proof."""
    event = copied(4)
    assert isinstance(event.fact, CopyStored)
    assert event.fact.element.copy is not None
    element = replace(event.fact.element, copy=replace(event.fact.element.copy, sha256=b"\x66" * 32, size=666))
    nonce, payload = bytes(16), encode_payload(CopyStored(element=element))
    true = decode_header(ledger.log.events_at([position])[0].header)
    header = encode_header(
        true._replace(
            type="CopyStored",
            stream_digest=stream_digest(source(SOURCE.hex()).salt, key(4)),
            payload_digest=payload_digest(nonce, payload),
        )
    )
    leaves = ledger.log.leaves(0, ledger.head().position)
    leaves[position - 1] = leaf_hash(header)
    path = inclusion_path(position - 1, len(leaves), lambda start, stop: leaves[start:stop])
    proof: dict[str, object] = {
        "format": "kropotcli-inclusion-proof-v1",
        "source": None,
        "type": "file",
        "id": "4",
        "salt": source(SOURCE.hex()).salt.hex(),
        "header": base64.b64encode(header).decode(),
        "nonce": nonce.hex(),
        "payload": base64.b64encode(payload).decode(),
        "path": [node.hex() for node in path],
    }
    return Frontier().extend(leaves), proof


@pytest.mark.parametrize("signed_before", [True, False])
def test_a_false_head_is_not_signed_and_the_signer_is_not_convicted(world: World, *, signed_before: bool) -> None:
    if signed_before:
        world.sign()
        world.grow(5, 7)
    with world.opened() as ledger:
        true = ledger.head().frontier
        false, proof = lie(ledger, 3)
        origin = origin_of(ledger.identity().ledger_id)
    # Were that tree signed, the lie would be believed: this is what the attack is for.
    believed = sign_checkpoint(Checkpoint(origin=origin, size=false.size, root=false.root), KEY).decode()
    assert check_proof(json.dumps({**proof, "checkpoint": believed}).encode(), KEY.verifier).facts["bytes"] == 666
    world.forge("UPDATE head SET frontier = :frontier", frontier=false.stored)
    with pytest.raises(IntegrityError, match=r"head is not the tree .* nothing was signed"):
        world.sign()
    assert len(world.notes()) == int(signed_before)
    with world.opened() as ledger:
        assert len(list(ledger.blobs.checkpoints())) == int(signed_before)
    world.forge("UPDATE head SET frontier = :frontier", frontier=true.stored)
    world.grow(7, 9)
    assert world.sign().checkpoint.root == world.honest_root()
    if signed_before:
        with world.opened() as ledger:
            older, newer = world.notes()
            grown = prove_consistency(ledger, older, newer)
        assert check_proof(json.dumps(grown).encode(), KEY.verifier).facts["appended"] == 8


def test_a_signed_event_that_was_rewritten_with_all_that_follows_from_it_is_not_signed_again(world: World) -> None:
    world.sign()
    world.grow(5, 7)
    with world.opened() as ledger:
        false, proof = lie(ledger, 3)
    header = base64.b64decode(str(proof["header"]))
    world.forge("UPDATE event SET header = :header, leaf = :leaf WHERE seq = 3", header=header, leaf=leaf_hash(header))
    world.forge("UPDATE head SET frontier = :frontier", frontier=false.stored)
    world.forge("UPDATE batch SET frontier = :frontier WHERE last = :last", frontier=false.stored, last=false.size)
    with pytest.raises(IntegrityError, match="head is not the tree"):
        world.sign()
    # A signer that has lost its state finds it too, by the checkpoint in the database or by the one in the folder.
    world.state.path.unlink()
    with pytest.raises(IntegrityError, match="first 12 events are not those that a checkpoint in the database covers"):
        world.sign(CheckpointFolder(world.home / "new"))
    world.forge("DELETE FROM checkpoint")
    with pytest.raises(IntegrityError, match=r"first 12 events are not those that .*checkpoint-00000001.txt covers"):
        world.sign()
    assert not world.state.path.exists()


def test_a_false_commit_inside_the_history_changes_nothing_of_what_is_signed(world: World) -> None:
    world.sign()
    world.grow(5, 7)
    world.forge(
        "INSERT INTO batch (last, first, recorded_us, batch_key, frontier) VALUES (6, 6, 0, NULL, :frontier)",
        frontier=bytes(32 * (6).bit_count()),
    )
    for commit in (12, 16):
        world.forge("UPDATE batch SET frontier = :f WHERE last = :last", f=bytes(32 * commit.bit_count()), last=commit)
    assert world.sign().checkpoint.root == world.honest_root()
    world.state.path.unlink()
    assert world.sign().checkpoint.root == world.honest_root()


def test_false_leaves_change_nothing_of_what_is_signed(world: World) -> None:
    world.forge("UPDATE event SET leaf = :leaf WHERE seq = 3", leaf=bytes(32))
    assert world.sign().checkpoint.root == world.honest_root()


@pytest.mark.parametrize("position", [13, 1 << 40])
def test_a_head_beyond_the_events_is_not_signed(world: World, position: int) -> None:
    world.sign()
    frontier = bytes(32 * position.bit_count())
    world.forge("UPDATE head SET position = :at, frontier = :frontier", at=position, frontier=frontier)
    with pytest.raises(IntegrityError, match="events from position 13 on are missing"):
        world.sign()


def test_a_head_set_back_is_not_signed_even_without_a_folder(world: World) -> None:
    with world.opened() as ledger:
        earlier = ledger.frontier_at(9)
    other = CheckpointFolder(world.home / "new")
    world.sign()
    world.forge("UPDATE head SET position = 9, frontier = :frontier", frontier=earlier.stored)
    with pytest.raises(IntegrityError, match="covers 12 events, but the ledger has only 9"):
        world.sign(other)


def test_a_head_of_another_type_is_not_signed(local: World) -> None:
    local.forge("UPDATE head SET frontier = 'text'")
    with pytest.raises(IntegrityError, match=r"head cannot be read .*frontier.* so nothing was signed"):
        local.sign()


def test_a_ledger_that_went_on_from_an_old_copy_is_not_signed_even_without_a_folder(local: World) -> None:
    file = local.home.parent / "ledger.db"
    copy = file.read_bytes()
    local.grow(5, 7)
    local.sign()
    file.write_bytes(copy)
    for left in file.parent.glob("ledger.db-*"):
        left.unlink()
    local.grow(7, 12)
    with pytest.raises(IntegrityError, match="head is not the tree"):
        local.sign(CheckpointFolder(local.home / "new"))


def test_notes_that_others_put_into_the_database_do_not_stop_the_signer(world: World) -> None:
    with world.opened() as ledger:
        origin = origin_of(ledger.identity().ledger_id)
        for size in (3, 1 << 40):
            forged = sign_checkpoint(Checkpoint(origin=origin, size=size, root=bytes(32)), OTHER)
            ledger.blobs.save_checkpoint(size, forged.decode())
            ledger.blobs.save_checkpoint(size, f"rubbish {size}")
    signed = world.sign()
    assert signed.checkpoint.root == world.honest_root()
    assert open_checkpoint(signed.note, KEY.verifier) == signed.checkpoint


def test_what_this_key_signed_wrongly_once_is_named_and_nothing_more_is_signed(local: World) -> None:
    with local.opened() as ledger:
        checkpoint = Checkpoint(origin=origin_of(ledger.identity().ledger_id), size=5, root=bytes(32))
        ledger.blobs.save_checkpoint(5, sign_checkpoint(checkpoint, KEY).decode())
    with pytest.raises(IntegrityError, match="first 5 events are not those that a checkpoint in the database covers"):
        local.sign()


def test_a_folder_that_was_away_is_compared_from_the_first_event_and_brought_up_to_date(local: World) -> None:
    away = CheckpointFolder(local.home / "away")
    local.sign(local.folder, away)
    for first in (5, 7):
        local.grow(first, first + 2)
        local.sign()
    assert local.sign(away).checkpoint.size == 20
    assert [unverified_checkpoint(kept.note).size for kept in away.exported()] == [12, 20]


def test_a_first_event_that_names_another_ledger_is_not_signed(world: World) -> None:
    with world.opened() as ledger:
        began_ = ledger.identity()
    payload = encode_payload(LedgerBegan(ledger_id=bytes(16), salt=began_.salt, program=began_.program))
    world.forge("UPDATE event SET payload = :payload WHERE seq = 1", payload=payload)
    with pytest.raises(IntegrityError, match="does not commit to its id"):
        world.sign()


def test_a_database_of_another_ledger_has_a_state_of_its_own(local: World, tmp_path: Path) -> None:
    other = World(f"sqlite:///{tmp_path}/other.db", local.home)
    other.grow(0, 2)
    local.sign()
    assert other.sign(CheckpointFolder(local.home / "others")).checkpoint.size == 6
    assert local.state.path != other.state.path
    with pytest.raises(IntegrityError, match="belongs to another ledger"):
        other.sign()


def test_the_state_is_its_owners_alone_and_holds_what_was_signed(local: World) -> None:
    signed = local.sign().checkpoint
    path = local.state.path
    assert path.name == f"signer.key.{signed.origin.rpartition('/')[2]}.state"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    held = local.state.read()
    assert held is not None
    assert (held.size, held.root) == (signed.size, signed.root)


@pytest.mark.parametrize("damage", [b"", b"{}", b"[1]", b"\xff", b'{"format": "kropotcli-signer-v1", "size": 3}'])
def test_a_damaged_state_is_not_taken_for_none(local: World, damage: bytes) -> None:
    local.sign()
    local.grow(5, 6)
    local.state.path.write_bytes(damage)
    with pytest.raises(IntegrityError, match=r"state .* is damaged, so nothing was signed"):
        local.sign()
    assert len(local.notes()) == 1


def test_another_ledgers_state_is_not_taken_for_this_ones(local: World) -> None:
    local.sign()
    held = json.loads(local.state.path.read_bytes())
    local.state.path.write_text(json.dumps({**held, "ledger": "00" * 16}))
    with pytest.raises(IntegrityError, match="is damaged"):
        local.sign()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_without_a_state_that_can_be_kept_nothing_is_signed(local: World, make: Callable[[Path], None]) -> None:
    make(local.state.path)
    with pytest.raises(KropotError, match=r"cannot be read \(it is not a regular file\), so nothing was signed"):
        local.sign()
    local.state.path.rename(local.home / "moved")
    local.home.rename(local.home.with_name("elsewhere"))
    with pytest.raises(KropotError, match="must lie in a folder that this user can write"):
        local.sign()
    with local.opened() as ledger:
        assert list(ledger.blobs.checkpoints()) == []


def test_the_state_is_durable_before_anybody_can_see_the_signature(
    local: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    local.sign()
    local.grow(5, 7)

    def fail(_self: CheckpointFolder, _note: bytes) -> Path:
        held = local.state.read()
        assert held is not None
        assert held.size == 16
        raise KropotError("killed here")

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointFolder, "write", fail)
        with pytest.raises(KropotError, match="killed here"):
            local.sign()
    assert local.sign().checkpoint.size == 16
    assert len(local.notes()) == 2


def test_two_processes_never_sign_at_the_same_time(local: World) -> None:
    with local.state.locked(), pytest.raises(LockedError, match="another process is signing"):
        local.sign()
    assert LockedError.exit_code == Exit.LOCKED
    assert local.sign().checkpoint.size == 12


def test_the_collectors_own_checkpoints_are_as_careful(local: World) -> None:
    local.folder.folder.mkdir()
    with local.opened() as ledger:
        chore = keep_checkpoints(ledger, KEY, local.key_file, [local.folder], every_s=1e9, every_events=1)
        chore.do()
        assert len(local.notes()) == 1
        ledger.append([observed("late")])
        false, _ = lie(ledger, 3)
        local.forge("UPDATE head SET frontier = :frontier", frontier=false.stored)
        with pytest.raises(IntegrityError, match="head is not the tree"):
            chore.do()
    assert len(local.notes()) == 1
