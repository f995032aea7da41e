"""A real ledger and replica for the tamper catalogue: made once by the program's own code, copied for each mutation."""

from __future__ import annotations

import itertools
import random
import shutil
import sqlite3
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec.structs import replace

from kropot.checkpoints.folder import CheckpointFolder
from kropot.checkpoints.signing import sign_head
from kropot.objects.directory import DirectoryObjects
from kropot.proofs import prove_event
from kropot.replay.snapshots import take_snapshot
from kropot.retention.signature import signed
from kropot.verify import Finding, Note, Scope, Summary, Verification
from ledger.checkpoint import unverified_checkpoint
from ledger.codec import source_id_of
from ledger.events import (
    AuditAdvanced,
    AuditRange,
    Copy,
    CopyStored,
    Element,
    Failure,
    FetchFailed,
    InstanceBegan,
    ListingAdvanced,
    PayloadErased,
    RemoteChanged,
    RemoteObserved,
    RemoteVanished,
    SourceBegan,
    StreamKey,
)
from ledger.log import AUDIT_KEY, Ledger, NewFact, instance_key, source_key
from ledger.note import SigningKey
from ledger.retention import RETENTION_KEY, PolicySet, Retention
from ledger.sql import open_store
from tests.kropot.retention_world import rules
from tests.ledger.fresh import fresh_element, fresh_source
from tests.ledger.world import let_go

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kropot.objects.store import ObjectStore

KEY = SigningKey(name="tamper", seed=bytes(range(32)))
OTHER_KEY = SigningKey(name="tamper", seed=bytes(32))
STAGES = 8
SALTS = (b"\x01" * 32, b"\x02" * 32)
SOURCES = (source_id_of(SALTS[0]), source_id_of(SALTS[1]))


@dataclass(frozen=True, slots=True)
class Places:
    """What the mutations need to find: elements by their part in the world, and the SHA-256 of their objects."""

    current: StreamKey
    shared: tuple[StreamKey, StreamKey]
    changed: StreamKey
    vanished: StreamKey
    failing: StreamKey
    erased: int
    released: StreamKey
    objects: dict[str, bytes]
    head: int


@dataclass(frozen=True, slots=True)
class World:
    """A folder with `ledger.db`, `storage/`, `checkpoints/`; `stages/` holds the database as it was before."""

    folder: Path

    @property
    def database(self) -> Path:
        return self.folder / "ledger.db"

    @property
    def storage(self) -> Path:
        return self.folder / "storage"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def object(self, sha256: bytes) -> Path:
        return self.storage / "objects" / sha256.hex()[:2] / sha256.hex()

    @contextmanager
    def opened(self) -> Iterator[Ledger]:
        store = open_store(f"sqlite:///{self.database}")
        try:
            yield Ledger(store, writer="main")
        finally:
            store.close()

    def verify(self, **scope: object) -> tuple[list[Finding], Summary]:
        """Verify everything, recording nothing, with the checkpoints that are kept elsewhere."""
        notes = tuple(Note(path.name, path.read_bytes()) for path in sorted(self.checkpoints.iterdir()))
        wanted = Scope(**{"against": notes, "key": KEY.verifier, "record": False, **scope})  # type: ignore[arg-type]
        with self.opened() as ledger:
            run = Verification(ledger, DirectoryObjects(self.storage, "verify"), wanted)
            return list(run.findings()), run.summary

    @contextmanager
    def sql(self) -> Iterator[sqlite3.Connection]:
        """Give raw access to the database, as whoever owns the file has: without the triggers."""
        with closing(sqlite3.connect(self.database, isolation_level=None)) as connection:
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
                connection.execute(f"DROP TRIGGER {name}")
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute("BEGIN")
            yield connection
            connection.execute("COMMIT")

    def copy_to(self, folder: Path) -> World:
        """Copy the world; objects are copied as bytes, so that no mutation reaches the original."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return World(folder)


def build(folder: Path) -> tuple[World, Places]:
    """Make the world: 270 events, 90 elements, three checkpoints, two snapshots, a stage every now and then."""
    world = World(folder)
    rng = random.Random(4)
    clock = itertools.count(1_795_414_108_000_000, 1_000)
    store = open_store(f"sqlite:///{world.database}", create=True)
    ledger = Ledger(store, writer="main", clock=lambda: next(clock), entropy=rng.randbytes)
    objects = DirectoryObjects(world.storage, "main")
    try:
        places = _history(world, ledger, objects, rng)
    finally:
        objects.close()
        store.close()
    return world, places


def _history(  # noqa: C901 -- one story, told from its beginning to its end
    world: World, ledger: Ledger, objects: ObjectStore, rng: random.Random
) -> Places:
    ledger.begin()
    _append(ledger, instance_key("main"), InstanceBegan(program="test", host="vault"))
    for number, owner in enumerate(SOURCES):
        source = fresh_source(
            salt=SALTS[number], token_mac=rng.randbytes(32), urls=(f"http://127.0.0.1/{number}",), opaque=number == 0
        )
        _append(ledger, source_key(owner), SourceBegan(source=source))
    keys = [
        StreamKey(source=SOURCES[n % 5 == 4], kind="file", id=f"{n:02d}-{rng.randbytes(8).hex()}") for n in range(90)
    ]
    made: dict[StreamKey, Element] = {}
    shas: dict[str, bytes] = {}
    folder = CheckpointFolder(world.checkpoints)
    world.checkpoints.mkdir(exist_ok=True)
    for start in range(0, 90, 15):
        block = keys[start : start + 15]
        _stage(world, ledger, start // 15)
        for key in block:
            made[key] = fresh_element(date=1_795_000_000 + start)
        _append_all(ledger, [(key, RemoteObserved(element=made[key])) for key in block])
        contents = [rng.randbytes(700) for _ in block]
        if start == 15:
            contents[1] = contents[0]  # two elements share an object
        for key, content in zip(block[:-1], contents[:-1], strict=True):  # the last of a block waits for its copy
            made[key] = replace(made[key], copy=_store(objects, content, made[key].revision, rng))
        _append_all(ledger, [(key, CopyStored(element=made[key])) for key in block[:-1]])
        for owner in SOURCES:
            source = replace(ledger.sources()[owner].source, cursor=1_795_000_000 + start)
            _append(ledger, source_key(owner), ListingAdvanced(source=source))
        if start in (45, 75):
            sign_head(ledger, KEY, world.folder / "signer.key", [folder])
    _stage(world, ledger, 6)
    for key in keys[:40]:
        if key in (keys[14], keys[29], keys[15], keys[16]):
            continue
        made[key] = replace(made[key], date=made[key].date + 999, revision=2)
        _append(ledger, key, RemoteChanged(element=made[key]))
        shas.setdefault("old", made[key].copy.sha256)  # type: ignore[union-attr]
        made[key] = replace(made[key], copy=_store(objects, rng.randbytes(700), 2, rng))
        _append(ledger, key, CopyStored(element=made[key]))
    vanished, failing, gone, released = keys[50], keys[59], keys[70], keys[3]
    _append(ledger, vanished, RemoteVanished(element=replace(made[vanished], present=False)))
    failure = Failure(reason="http_500", attempts=2, since_us=1, next_try_us=1 << 60)
    _append(ledger, failing, FetchFailed(element=replace(made[failing], failure=failure)))
    erased = ledger.entries([gone])[gone].stream
    _append(ledger, gone, PayloadErased(reason="a request"))
    world.object(made[gone].copy.sha256).unlink()  # type: ignore[union-attr]
    before = next(
        record.fact.element.copy.sha256
        for record in ledger.history(released)
        if isinstance(record.fact, CopyStored) and record.fact.element.copy is not None
    )
    _release(ledger, released, made[released], before)
    world.object(before).unlink()
    whole = AuditRange(start=bytes(32), end=b"\xff" * 32, position=ledger.head().position, at_us=ledger.now_us())
    _append(ledger, AUDIT_KEY, AuditAdvanced(ranges=(whole,)))
    sign_head(ledger, KEY, world.folder / "signer.key", [folder], accepted=ledger.head().position)
    take_snapshot(ledger, 200)
    take_snapshot(ledger, ledger.head().position)
    _stage(world, ledger, 7)
    for owner in SOURCES:
        source = replace(ledger.sources()[owner].source, cursor=1_796_000_000)
        _append(ledger, source_key(owner), ListingAdvanced(source=source))
    for name, key in (("current", keys[5]), ("shared", keys[15]), ("vanished", vanished), ("only", keys[60])):
        shas[name] = made[key].copy.sha256  # type: ignore[union-attr]
    return Places(
        current=keys[5],
        shared=(keys[15], keys[16]),
        changed=keys[0],
        vanished=vanished,
        failing=failing,
        erased=erased,
        released=released,
        objects=shas,
        head=ledger.head().position,
    )


def proof_of(world: World, key: StreamKey) -> dict[str, object]:
    """Return a proof of the element against the newest checkpoint."""
    with world.opened() as ledger:
        notes = [(unverified_checkpoint(note.encode()), note.encode()) for _, note in ledger.blobs.checkpoints()]
        return prove_event(ledger, key, until=ledger.head().position, checkpoints=notes[-1:])


def _append(ledger: Ledger, key: StreamKey, fact: object) -> None:
    _append_all(ledger, [(key, fact)])


def _append_all(ledger: Ledger, facts: list[tuple[StreamKey, object]]) -> None:
    ledger.append([NewFact(key=key, fact=fact, observed_us=1) for key, fact in facts])  # type: ignore[arg-type]


def _release(ledger: Ledger, key: StreamKey, element: Element, sha256: bytes) -> None:
    """Let an older copy go, by a policy that the key for checkpoints signed."""
    nothing_old = Retention(rules=(rules(last=1, min_age_s=0),), pins=(), signature=None)
    _append(ledger, RETENTION_KEY, PolicySet(retention=signed(nothing_old, ledger.identity().ledger_id, KEY)))
    head = ledger.head()
    of = {"policy": head.position, "decided": head.position, "at_us": head.recorded_us}
    _append(ledger, key, let_go(element, sha256, **of))


def _store(objects: ObjectStore, content: bytes, revision: int, rng: random.Random) -> Copy:
    upload = objects.stage()
    upload.write(content)
    staged = upload.finish()
    objects.publish([staged])
    return Copy(sha256=staged.sha256, size=staged.size, iv=rng.randbytes(16), revision=revision, instance="main")


def _stage(world: World, ledger: Ledger, number: int) -> None:
    """Keep the database as it is now, as an old backup of it would."""
    folder = world.folder / "stages"
    folder.mkdir(exist_ok=True)
    with (
        closing(sqlite3.connect(world.database)) as source,
        closing(sqlite3.connect(folder / f"{number}.db")) as target,
    ):
        source.backup(target)
    if ledger.head().position == 0:
        raise AssertionError("a stage of nothing is no old copy")
