"""A keeper who edits storage, ledger and export as he likes: each edit is refused by name, or it changes nothing.

`make test` tries 30 seeded edits, `make attack` 500. Each is made on a copy of one small replica, which is restored in
a way that the seed chooses: from the ledger with a checkpoint, with what the kit remembers, or with neither; from an
export; from the storage alone.
"""

from __future__ import annotations

import io
import json
import random
import shutil
import sqlite3
import stat
from contextlib import closing, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from kropot.cli.main import cli
from kropot.objects.directory import DirectoryObjects
from kropot.sc2.kit import CbcKey, OwnerKit
from ledger.checkpoint import Checkpoint, SigningKey, origin_of, sign_checkpoint
from ledger.codec import decode_payload, encode_payload
from ledger.sql.opening import open_store
from tests.attack.ranges import drawn
from tests.kropot.replay_world import KIT
from tests.kropot.sc2_world import VAULT
from tests.kropot.sc2_world import drawn as bytes_of
from tests.kropot.sealed_world import MTIME_NS, SealedWorld

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SEEDS = drawn(map(str, range(500)), always=(), more=30)
KEY = SigningKey.generate("keeper", lambda size: bytes_of("signer", size))
FORGED = b"what the keeper would like the owner to have"

NEWEST = {
    "docs/contract-A": b"A" * 70_000,
    "docs/contract-B": b"B" * 70_000,
    "ssh/authorized_keys": b"the owner's key",
    "changed": b"the newest version",
    "empty": b"",
    "ledger.csv": b"2026-01-05;0000100.00\n" * 100,
    "note.txt": b"a note of the owner's",
}
CBC = {"ledger.csv", "note.txt"}
LISTED_NS = 1_790_000_000 * 10**9
BEFORE = {"changed": {b"an older version", b"the oldest one"}}


@dataclass(frozen=True)
class Base:
    """A replica, an export of it, and what its owner keeps elsewhere: the kit, and a checkpoint."""

    root: Path
    note: bytes


def build(root: Path, twist: int = 0) -> bytes:
    """Make a replica, and return a checkpoint of it. With a twist, the keeper tells another history of the same ledger.

    All randomness comes from one seed, so both ledgers have the same id, and differ only where the twist says.
    """
    store = open_store(f"sqlite:///{root / 'ledger.db'}", create=True)
    objects = DirectoryObjects(root / "storage", "writer")
    world = SealedWorld(store, seed=5, objects=objects)  # type: ignore[arg-type]  # both are object stores
    sealed, cbc = world.source(None), world.source(KIT)
    for content in (b"the oldest one", b"an older version", b"the newest version")[: 3 - (twist == 1)]:
        world.seal(sealed, b"changed", content, mode=0o600 + len(content) % 8)
    for name, content in NEWEST.items():
        if name in CBC:
            world.put_path(cbc, name.encode(), FORGED if twist == 2 and name == "note.txt" else content)
        elif name != "changed" and not (twist == 3 and name == "empty"):
            world.seal(sealed, name.encode(), content)
    gone = world.seal(sealed, b"gone", b"gone")
    world.vanish(gone)
    head = world.ledger.head()
    checkpoint = Checkpoint(
        origin=origin_of(world.ledger.identity().ledger_id), size=head.position, root=head.frontier.root
    )
    objects.close()
    store.close()
    return sign_checkpoint(checkpoint, KEY)


def run(root: Path, *args: str) -> tuple[int, str, str]:
    """Run the program within this process; return its exit code, stdout and stderr."""
    place = ("--db-string", f"sqlite:///{root / 'ledger.db'}", "--storage-path", str(root / "storage"))
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
        cli.main([args[0], *place, *args[1:]], prog_name="kropotcli")
    return int(ended.value.code or 0), out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    root = tmp_path_factory.mktemp("keeper") / "base"
    root.mkdir()
    note = build(root)
    kit = OwnerKit(vault=VAULT, cbc=(CbcKey(kit=KIT, stored_salt="salt"),))
    (root / "kit.json").write_bytes(kit.encode())
    (root / "kit.json").chmod(0o600)
    (root / "note.txt").write_bytes(note)
    assert run(root, "replay", "--export", str(root / "export"))[0] == 0
    assert run(root, "restore", "--key", str(root / "kit.json"), "--verify-only")[0] == 0
    return Base(root, note)


# --- the keeper's edits ----------------------------------------------------------------------------------------------


class Keeper:
    """Edits a replica in place. Every choice is the seed's."""

    def __init__(self, root: Path, chance: random.Random) -> None:
        self.root = root
        self.chance = chance
        self.database = sqlite3.connect(root / "ledger.db")
        for (name,) in self.database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            self.database.execute(f'DROP TRIGGER "{name}"')
        self.size = self.database.execute("SELECT max(seq) FROM event").fetchone()[0]

    def events(self, count: int) -> list[int]:
        """Return positions of different events about elements."""
        found = self.database.execute("SELECT seq FROM event WHERE type IN ('RemoteObserved', 'CopyStored')").fetchall()
        return self.chance.sample([seq for (seq,) in found], count)

    def objects(self, count: int) -> list[Path]:
        found = sorted(path for path in (self.root / "storage/objects").rglob("*") if path.is_file())
        return self.chance.sample(found, count)

    def put(self, content: bytes) -> bytes:
        """Store an object under its own SHA-256."""
        objects = DirectoryObjects(self.root / "storage", "keeper")
        upload = objects.stage()
        upload.write(content)
        (published,) = objects.publish([upload.finish()])
        objects.close()
        return published.sha256

    def payload(self, seq: int) -> tuple[Any, Callable[[Any], None]]:
        """Return the fact at a position, and a function that puts another one in its place."""
        row = self.database.execute("SELECT type, schema_version, flags, payload FROM event WHERE seq = ?", (seq,))

        def put(fact: Any) -> None:
            self.database.execute("UPDATE event SET payload = ? WHERE seq = ?", (encode_payload(fact), seq))

        return decode_payload(*row.fetchone()), put

    def swap(self, columns: tuple[str, ...], one: int, other: int) -> None:
        chosen = ", ".join(columns)
        rows = [
            self.database.execute(f"SELECT {chosen} FROM event WHERE seq = ?", (seq,)).fetchone()
            for seq in (one, other)
        ]
        # The pair (stream, stream_version) is unique, so both rows leave their places first.
        self.database.execute("UPDATE event SET stream_version = -seq WHERE seq IN (?, ?)", (one, other))
        fields = ", ".join(f"{column} = ?" for column in columns)
        for seq, row in ((one, rows[1]), (other, rows[0])):
            self.database.execute(f"UPDATE event SET {fields} WHERE seq = ?", (*row, seq))

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.root / "export/manifest.jsonl").read_text().splitlines()]

    def write_lines(self, lines: list[dict[str, Any]]) -> None:
        (self.root / "export/manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def close(self) -> None:
        self.database.commit()
        self.database.close()


def change_source(keeper: Keeper) -> None:
    """Change what the last event about a source says, in place: it was listed long ago, or at another address."""
    found = keeper.database.execute("SELECT seq FROM event WHERE type = 'SourceBegan'").fetchall()
    fact, put = keeper.payload(keeper.chance.choice(found)[0])
    change = keeper.chance.choice([{"listed_us": 9**15}, {"salt": bytes(32)}, {"urls": ("https://other.example",)}])
    put(replace(fact, source=replace(fact.source, **change)))


def change_element(keeper: Keeper) -> None:
    """Change what an event says about its element, in place."""
    fact, put = keeper.payload(keeper.events(1)[0])
    element, other = fact.element, keeper.payload(keeper.events(1)[0])[0].element
    what = keeper.chance.choice(["form", "copy", "present", "date", "forged", "plain", "revision"])
    if what == "forged":
        copy = element.copy or other.copy
        if copy is not None:
            iv = keeper.chance.choice([None, copy.iv])
            element = replace(element, copy=replace(copy, sha256=keeper.put(FORGED), size=len(FORGED), iv=iv))
    elif what == "plain":
        element = replace(element, form=b'{"fileName":"ssh/authorized_keys"}')
    elif what == "revision":
        element = replace(element, revision=element.revision + 1)
    elif what == "present":
        element = replace(element, present=not element.present)
    elif what == "date":
        element = replace(element, date=element.date + 1)
    else:
        element = replace(element, **{what: getattr(other, what)})
    if element.copy is not None and element.copy.revision > element.revision:
        element = replace(element, revision=element.copy.revision)
    put(replace(fact, element=element))


def swap_rows(keeper: Keeper) -> None:
    """Exchange parts of two events, or all of them."""
    everything = ("stream", "stream_version", "type", "header", "nonce", "payload", "leaf")
    columns = keeper.chance.choice(
        [everything, ("nonce", "payload"), ("header", "leaf"), ("header", "leaf", "nonce", "payload"), everything[:2]]
    )
    keeper.swap(columns, *keeper.events(2))


def change_column(keeper: Keeper) -> None:
    """Change a column of an event that only repeats its header."""
    seq = keeper.events(1)[0]
    column, value = keeper.chance.choice(
        [
            ("stream_version", keeper.chance.randrange(50, 90)),
            ("stream", keeper.chance.randrange(1, 12)),
            ("type", "RemoteVanished"),
            ("type", "Unknown"),
            ("schema_version", 2),
            ("flags", 1),
            ("recorded_us", 5),
            ("header", b"\x9b\x01"),
            ("leaf", bytes(32)),
        ]
    )
    keeper.database.execute(f"UPDATE OR IGNORE event SET {column} = ? WHERE seq = ?", (value, seq))


def remove_payload(keeper: Keeper) -> None:
    """Remove what an event says, as an erasure does, without one."""
    keeper.database.execute("UPDATE event SET nonce = NULL, payload = NULL WHERE seq = ?", keeper.events(1))


def remove_events(keeper: Keeper) -> None:
    """Cut the end off, or leave a gap."""
    first = keeper.chance.randrange(4, keeper.size + 1)
    last = keeper.chance.choice([keeper.size, first])
    keeper.database.execute("DELETE FROM event WHERE seq BETWEEN ? AND ?", (first, last))


def roll_back(keeper: Keeper) -> None:
    """Put an older copy of the whole ledger back: consistent in itself."""
    first = keeper.chance.randrange(5, keeper.size + 1)
    head = keeper.database.execute("SELECT frontier, recorded_us FROM batch WHERE last = ?", (first - 1,)).fetchone()
    keeper.database.execute("DELETE FROM event WHERE seq >= ?", (first,))
    keeper.database.execute("DELETE FROM batch WHERE last >= ?", (first,))
    keeper.database.execute("DELETE FROM entry WHERE seq >= ?", (first,))
    keeper.database.execute(
        "UPDATE head SET position = ?, frontier = ?, recorded_us = ?, streams = (SELECT max(stream) FROM event)",
        (first - 1, *head),
    )


def hide_stream(keeper: Keeper) -> None:
    """Take the key of a stream away, or exchange the keys of two."""
    streams = keeper.chance.sample(range(4, 12), 2)
    keys = [keeper.database.execute("SELECT key FROM stream WHERE id = ?", (id_,)).fetchone()[0] for id_ in streams]
    keeper.database.execute(f"UPDATE stream SET key = NULL WHERE id IN ({streams[0]}, {streams[1]})")
    if keeper.chance.random() < 0.5:
        for id_, key in zip(streams, reversed(keys), strict=True):
            keeper.database.execute("UPDATE stream SET key = ? WHERE id = ?", (key, id_))


def edit_projection(keeper: Keeper) -> None:
    """Edit the tables that are made of the events."""
    statement = keeper.chance.choice(
        [
            "UPDATE entry SET seq = seq - 1",
            "UPDATE entry SET state = 'vanished'",
            "DELETE FROM entry",
            "UPDATE head SET streams = streams - 1",
            "UPDATE batch SET frontier = zeroblob(length(frontier))",
            "UPDATE copy SET state = 'released'",
            "DELETE FROM source WHERE no = 1",
        ]
    )
    keeper.database.execute(statement)


def alter_object(keeper: Keeper) -> None:
    """Alter, cut, lengthen, empty or remove an object, or put another one in its place."""
    one, other = keeper.objects(2)
    data = bytearray(one.read_bytes())
    what = keeper.chance.choice(["flip", "cut", "more", "empty", "gone", "other", "swap"])
    one.chmod(0o600)
    other.chmod(0o600)
    if what == "gone":
        one.unlink()
        return
    if what in {"other", "swap"}:
        mine = other.read_bytes()
        if what == "swap":
            other.write_bytes(data)
        one.write_bytes(mine)
        return
    if what == "flip":
        data[keeper.chance.randrange(len(data))] ^= 1 << keeper.chance.randrange(8)
    one.write_bytes({"flip": data, "cut": data[: len(data) // 2], "more": data + b"\0" * 16, "empty": b""}[what])


def edit_manifest(keeper: Keeper) -> None:
    """Edit the export's manifest: lines exchanged, altered, removed, invented."""
    lines = keeper.lines()
    one, other = keeper.chance.sample(range(len(lines)), 2)
    what = keeper.chance.choice(["field", "events", "remove", "no events", "plain", "iv", "copy", "id"])
    if what == "field":
        field = keeper.chance.choice(["file", "form", "sha256", "size", "iv", "source", "id", "state", "events"])
        lines[one][field], lines[other][field] = lines[other][field], lines[one][field]
    elif what == "events":
        lines[one]["events"] = [*lines[one]["events"], *lines[other]["events"]][-2:]
    elif what == "remove":
        del lines[one]
    elif what == "no events":
        lines[one].pop("events")
    elif what == "plain":
        lines[one]["form"] = {"fileName": "ssh/authorized_keys"}
    elif what == "iv":
        lines[one]["iv"] = None
    elif what == "id":
        lines[one]["id"] = "invented"
    else:
        lines.append({**lines[one], "id": lines[other]["id"]})
    keeper.write_lines(lines)


def edit_export_file(keeper: Keeper) -> None:
    """Alter a file of the export, or its history."""
    lines = keeper.lines()
    one, other = (keeper.root / "export" / line["file"] for line in keeper.chance.sample(lines, 2))
    history = keeper.root / "export/history.bin"
    path = keeper.chance.choice([one, history])
    data = bytearray(path.read_bytes())
    what = keeper.chance.choice(["flip", "cut", "other", "gone"] if data else ["cut", "gone"])
    path.chmod(0o600)
    if what == "gone":
        path.unlink()
    elif what == "other":
        one.write_bytes(other.read_bytes())
    elif what == "cut":
        path.write_bytes(data[: keeper.chance.randrange(len(data) + 1)])
    else:
        data[keeper.chance.randrange(len(data))] ^= 1 << keeper.chance.randrange(8)
        path.write_bytes(data)


LEDGER_EDITS = (
    change_element,
    change_element,
    change_source,
    swap_rows,
    change_column,
    remove_payload,
    remove_events,
    roll_back,
    hide_stream,
    edit_projection,
)


def retell(root: Path, chance: random.Random) -> None:
    """Put another ledger and storage in the place of the true ones: the same ledger, with another history."""
    for name in ("ledger.db", "ledger.db-wal", "ledger.db-shm"):
        (root / name).unlink(missing_ok=True)
    shutil.rmtree(root / "storage")
    build(root, chance.randrange(1, 4))


# --- what the owner gets back ----------------------------------------------------------------------------------------


def came_back(to: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(to)): path.read_bytes()
        for path in to.rglob("*")
        if path.is_file() and path.name != "kropot-manifest.jsonl"
    }


@pytest.mark.parametrize("seed", SEEDS)
def test_what_a_keeper_edits_is_refused_or_harmless(base: Base, tmp_path: Path, seed: str) -> None:
    chance = random.Random(int(seed))
    root, to = tmp_path / "replica", tmp_path / "to"
    shutil.copytree(base.root, root)
    origin = chance.choice(["ledger", "ledger", "ledger", "export", "storage"])
    proof = chance.choice(["checkpoint", "memory", "none"]) if origin != "storage" else "none"
    edits = {"ledger": (*LEDGER_EDITS, alter_object), "export": (edit_manifest, edit_export_file)}
    edit = chance.choice(edits.get(origin, (alter_object,)))
    is_retold = origin == "ledger" and proof != "none" and chance.random() < 0.1
    if is_retold:
        retell(root, chance)
    else:
        keeper = Keeper(root, chance)
        with closing(keeper):
            edit(keeper)
    if proof != "memory":
        (root / "kit.json.seen").unlink()
    line = ["restore", "--key", str(root / "kit.json"), "--to", str(to)]
    line += {"ledger": [], "export": ["--from", str(root / "export")], "storage": ["--from-storage"]}[origin]
    if proof == "checkpoint":
        line += ["--against", str(root / "note.txt"), "--public-key", KEY.verifier.text]
    code, out, err = run(root, *line)
    story = f"{'retold' if is_retold else edit.__name__} from {origin} with {proof}: exit {code}\n{out}{err}"

    assert code in {0, 1, 3, 4, 13}, story
    assert "unexpected" not in err, story
    assert "Traceback" not in err, story
    is_proved = proof != "none" and "not compared: the export has no history" not in out
    found = came_back(to)
    for name, content in found.items():
        may_be_old = not is_proved
        allowed = {NEWEST[name]} | (BEFORE.get(name, set()) if may_be_old else set()) if name in NEWEST else set()
        if origin == "storage" and name == "gone":
            allowed = {b"gone"}
        assert content in allowed, f"{name} came back with other content\n{story}"
        status = (to / name).stat()
        mode, mtime_ns = stat.S_IMODE(status.st_mode), status.st_mtime_ns
        if name in CBC:
            assert (mode, mtime_ns) == (0o600, LISTED_NS), f"{name} came back with other facts\n{story}"
        else:
            modes = {0o640} if name not in BEFORE else {0o600 + len(one) % 8 for one in allowed}
            assert mode in modes, f"{name} came back with another mode\n{story}"
            assert mtime_ns == MTIME_NS, f"{name} came back with another time\n{story}"
    if code == 0 and is_proved:
        assert found == NEWEST, f"something is missing, and nobody was told\n{story}"
    if code == 0 and not is_proved and found.keys() != NEWEST.keys() and origin != "storage":
        assert "a rollback is not excluded" in out or "the export has no history" in out, story
    if origin == "storage" and code in {0, 3}:
        assert "only a ledger knows what was deleted" in out, story


def test_nothing_is_refused_that_nobody_edited(base: Base, tmp_path: Path) -> None:
    for number, more in enumerate(((), ("--from", str(base.root / "export")))):
        to = tmp_path / str(number)
        code, out, err = run(
            base.root,
            *("restore", "--key", str(base.root / "kit.json"), "--to", str(to), *more),
            *("--against", str(base.root / "note.txt"), "--public-key", KEY.verifier.text),
        )
        assert code == 0, err
        assert came_back(to) == NEWEST
        assert "sealing: 5 authentic; 2 not authenticated: AES-CBC" in out
        assert "included under checkpoint" in out
