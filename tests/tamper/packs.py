"""The tamper catalogue of packs: what someone can do to their files, and to the tables that say what is in them."""

from __future__ import annotations

import hashlib
import random
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec.structs import replace

from kropot.objects.directory import DirectoryObjects
from kropot.objects.packs.format import ENTRY, FOOTER, PackEntry, footer_of, name_of
from kropot.objects.packs.packing import PackRule
from kropot.objects.store import Published
from kropot.verify import Finding, Scope, Summary, Verification
from ledger.events import Copy, CopyStored, RemoteObserved, SourceBegan, StreamKey
from ledger.log import Ledger, NewFact, source_key
from ledger.sql import open_store
from tests.faults.files import UnsyncedFiles
from tests.kropot.test_packs_storage import CHOICE
from tests.ledger.world import element, source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ledger.places import Placement

SOURCE = b"\x01" * 16
PACKS, IN_ONE = 3, 9


@dataclass(frozen=True, slots=True)
class PackWorld:
    """A ledger and a storage of three packs and two files; `placed` says what lies where."""

    folder: Path
    placed: tuple[tuple[Placement, ...], ...]
    loose: tuple[bytes, ...]

    @property
    def storage(self) -> Path:
        return self.folder / "storage"

    def pack(self, number: int = 0) -> Path:
        name = self.placed[number][0].pack.hex()
        return self.storage / "packs" / name[:2] / name

    def sql(self, *statements: str, values: tuple[object, ...] = ()) -> None:
        with closing(sqlite3.connect(self.folder / "ledger.db", isolation_level=None)) as connection:
            for statement in statements:
                connection.execute(statement, values)

    def verify(self, **scope: object) -> tuple[list[Finding], Summary]:
        store = open_store(f"sqlite:///{self.folder}/ledger.db")
        ledger = Ledger(store, writer="main")
        try:
            objects = DirectoryObjects(self.storage, "verify", places=ledger.places)
            run = Verification(ledger, objects, Scope(**{"record": False, **scope}))  # type: ignore[arg-type]
            return list(run.findings()), run.summary
        finally:
            store.close()


def build(folder: Path) -> PackWorld:
    """Make the world."""
    rng = random.Random(14)
    store = open_store(f"sqlite:///{folder}/ledger.db", create=True)
    ledger = Ledger(store, writer="main")
    placed = []
    try:
        ledger.append([NewFact(key=source_key(SOURCE), fact=SourceBegan(source=source()), observed_us=1)])
        for number in range(PACKS):
            contents = [rng.randbytes(200 + 10 * each) for each in range(IN_ONE)]
            placed.append(tuple(_store(ledger, folder / "storage", contents, PackRule(worth=0), rng)))
            assert len(placed[number]) == IN_ONE
        loose = [rng.randbytes(300) for _ in range(2)]
        assert _store(ledger, folder / "storage", loose, PackRule(below=0), rng) == []
    finally:
        store.close()
    return PackWorld(folder, tuple(placed), tuple(hashlib.sha256(each).digest() for each in loose))


def _store(ledger: Ledger, storage: Path, contents: list[bytes], rule: PackRule, rng: random.Random) -> list[Placement]:
    objects = DirectoryObjects(storage, "main", files=UnsyncedFiles(), choice=CHOICE, pack=rule)
    made = objects.publish([objects.stage_whole(each, hashlib.sha256(each).digest()) for each in contents])
    objects.close()
    places = [one.place for one in made if isinstance(one, Published) and one.place is not None]
    for one in made:
        key = StreamKey(source=SOURCE, kind="file", id=rng.randbytes(8).hex())
        seen = element(1)
        copy = Copy(sha256=one.sha256, size=one.size, iv=rng.randbytes(16), revision=1, instance="main")
        ledger.append([NewFact(key=key, fact=RemoteObserved(element=seen), observed_us=1)])
        mine = [place for place in places if place.sha256 == one.sha256]
        fact = CopyStored(element=replace(seen, copy=copy))
        ledger.append([NewFact(key=key, fact=fact, observed_us=1)], places=mine)
    return places


@dataclass(frozen=True, slots=True)
class PackTamper:
    """One mutation, the kind of the finding that names it, and the pack (a number) or object (in pack 0) it names.

    `severity` is a note's where the mutation harms nothing.
    """

    name: str
    act: Callable[[PackWorld], None]
    kind: str
    pack: int | None = 0
    object: int | None = None
    severity: str = "error"


def _change(change: Callable[[bytearray], object], number: int = 0) -> Callable[[PackWorld], None]:
    def act(world: PackWorld) -> None:
        path = world.pack(number)
        data = bytearray(path.read_bytes())
        changed = change(data)
        path.unlink()
        path.write_bytes(changed if isinstance(changed, bytes) else data)

    return act


def _flip(at: int) -> Callable[[PackWorld], None]:
    def change(data: bytearray) -> None:
        data[at] ^= 0x10

    return _change(change)


def _data_end(data: bytes) -> int:
    return len(data) - FOOTER.size - IN_ONE * ENTRY.size


def _entries(data: bytes) -> list[PackEntry]:
    return [PackEntry(*each) for each in ENTRY.iter_unpack(data[_data_end(data) : -FOOTER.size])]


def _index(change: Callable[[list[PackEntry]], list[PackEntry]]) -> Callable[[PackWorld], None]:
    """Change the index, and leave the footer, which has its digest."""

    def rewritten(data: bytearray) -> bytes:
        entries = change(_entries(data))
        raw = b"".join(ENTRY.pack(*each) for each in entries)
        return bytes(data[: _data_end(data)]) + raw + bytes(data[-FOOTER.size :])

    return _change(rewritten)


def _renamed(
    change: Callable[[list[PackEntry]], list[PackEntry]], *, knows: bool = True
) -> Callable[[PackWorld], None]:
    """Change the index, footer and name consistently, as a hostile maker of packs does; the ledger `knows` its name."""

    def act(world: PackWorld) -> None:
        path = world.pack()
        data = path.read_bytes()
        raw = b"".join(ENTRY.pack(*each) for each in change(_entries(data)))
        name = name_of(raw)
        target = world.storage / "packs" / name.hex()[:2] / name.hex()
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(data[: _data_end(data)] + raw + footer_of(raw))
        path.unlink()
        if knows:
            world.sql("UPDATE pack SET name = ? WHERE number = 1", values=(name,))

    return act


def _overlap(entries: list[PackEntry]) -> list[PackEntry]:
    last = max(entries, key=lambda each: each.offset)
    return [each._replace(offset=each.offset - 1) if each == last else each for each in entries]


def _swap_ranges(entries: list[PackEntry]) -> list[PackEntry]:
    one, other = entries[:2]
    return [PackEntry(one[0], *other[1:]), PackEntry(other[0], *one[1:]), *entries[2:]]


def _swap_objects(data: bytearray) -> None:
    """Exchange the first bytes of the first two objects, which have more than 200 each."""
    data[0:200], data[200:400] = data[200:400], data[0:200]


def _foreign(world: PackWorld, *, known: bool) -> None:
    contents = [b"foreign", b"pack"]
    objects = DirectoryObjects(world.storage, "else", files=UnsyncedFiles(), choice=CHOICE, pack=PackRule(worth=0))
    made = objects.publish([objects.stage_whole(each, hashlib.sha256(each).digest()) for each in contents])
    objects.close()
    if known:
        store = open_store(f"sqlite:///{world.folder}/ledger.db")
        store.places.add([one.place for one in made if isinstance(one, Published) and one.place is not None])
        store.close()


def _replace_with(number: int) -> Callable[[PackWorld], None]:
    def act(world: PackWorld) -> None:
        data = world.pack(number).read_bytes()
        world.pack().unlink()
        world.pack().write_bytes(data)

    return act


def _link(world: PackWorld) -> None:
    world.pack().rename(world.folder / "elsewhere")
    world.pack().symlink_to(world.folder / "elsewhere")


def _sql(statement: str, *, first: bool = False) -> Callable[[PackWorld], None]:
    def act(world: PackWorld) -> None:
        world.sql(statement, values=(world.placed[0][0].sha256,) if first else ())

    return act


def catalogue() -> Iterator[PackTamper]:
    """Yield every mutation."""
    cuts = {"by a byte": 1, "within the footer": 20, "the footer": FOOTER.size, "within the index": 100, "much": 700}
    for name, count in cuts.items():
        cut = _change(lambda data, count=count: bytes(data[:-count]))  # type: ignore[misc]
        yield PackTamper(f"pack cut: {name}", cut, "damaged_pack")
    for name, at in {"magic": -FOOTER.size, "length": -33, "digest": -1, "index": -FOOTER.size - 5}.items():
        yield PackTamper(f"pack flipped in its {name}", _flip(at), "damaged_pack")
    yield PackTamper("pack extended", _change(lambda data: bytes(data) + b"\0"), "damaged_pack")
    yield PackTamper("pack emptied", _change(lambda _: b""), "damaged_pack")
    yield PackTamper("pack with bytes hidden in front of its index", _change(_hidden), "damaged_pack")
    yield PackTamper("pack replaced with another", _replace_with(1), "damaged_pack")
    yield PackTamper("pack removed", lambda world: world.pack().unlink(), "lost_pack")
    yield PackTamper("pack removed: its objects", lambda world: world.pack().unlink(), "lost_object", None, 3)
    yield PackTamper("pack renamed", lambda world: world.pack().rename(world.pack().with_name("f" * 64)), "lost_pack")
    yield PackTamper("pack made a symbolic link", _link, "damaged_pack")
    yield PackTamper("index lies: ranges exchanged", _index(_swap_ranges), "damaged_pack")
    yield PackTamper("index lies: ranges overlap", _index(_overlap), "damaged_pack")
    yield PackTamper("index lies: unsorted", _index(lambda each: each[::-1]), "damaged_pack")
    yield PackTamper("index lies consistently: overlap", _renamed(_overlap), "damaged_pack", None)
    yield PackTamper("index lies consistently: unsorted", _renamed(lambda each: each[::-1]), "damaged_pack", None)
    yield PackTamper("index lies consistently: exchanged", _renamed(_swap_ranges), "wrong_placement", None)
    yield PackTamper("index lies consistently: unknown", _renamed(_swap_ranges, knows=False), "lost_pack")
    yield PackTamper("objects exchanged", _change(_swap_objects), "damaged_object", None, 0)
    yield PackTamper("first byte of an object flipped", _flip(0), "damaged_object", None, 0)
    yield PackTamper("last byte of all objects flipped", _flip(sum(200 + 10 * n for n in range(IN_ONE)) - 1),
                     "damaged_object", None, IN_ONE - 1)  # fmt: skip
    yield PackTamper("objects zeroed", _change(lambda data: bytes(_data_end(data)) + bytes(data[_data_end(data):])),
                     "damaged_object", None, 4)  # fmt: skip
    for name, kind, known in (("event", "orphan_pack", True), ("table", "unknown_pack", False)):
        foreign = lambda world, known=known: _foreign(world, known=known)  # noqa: E731
        yield PackTamper(f"pack that no {name} names", foreign, kind, None, severity="note")
    lies = {
        "begins later": "UPDATE placement SET start = start + 1 WHERE sha256 = ?",
        "longer": "UPDATE placement SET length = length + 1 WHERE sha256 = ?",
        "far outside": "UPDATE placement SET start = 1 << 40 WHERE sha256 = ?",
        "in another pack": "UPDATE placement SET pack = 2 WHERE sha256 = ?",
    }
    for name, statement in lies.items():
        pack = 1 if name == "in another pack" else 0
        yield PackTamper(f"placement lies: {name}", _sql(statement, first=True), "wrong_placement", pack, 0)
    yield PackTamper(
        "placement lost", _sql("DELETE FROM placement WHERE sha256 = ?", first=True), "missing_placement", 0, 0
    )
    nowhere = _sql("UPDATE placement SET pack = 77 WHERE sha256 = ?", first=True)
    yield PackTamper("placement in a pack that was never there", nowhere, "missing_placement", 0, 0)
    yield PackTamper("placements of a pack lost", _sql("DELETE FROM placement WHERE pack = 1"), "missing_placement")
    yield PackTamper("all placements lost", _sql("DELETE FROM placement"), "missing_placement", None)
    yield PackTamper(
        "placement invented", _sql("INSERT INTO placement SELECT zeroblob(32), 1, 0, 5"), "wrong_placement"
    )
    yield PackTamper("pack's row dropped", _sql("DELETE FROM pack WHERE number = 1"), "missing_placement")
    yield PackTamper("pack's row nameless", _sql("UPDATE pack SET name = NULL WHERE number = 1"), "missing_placement")
    yield PackTamper(
        "pack's row renamed", _sql("UPDATE pack SET name = zeroblob(32) WHERE number = 1"), "missing_placement"
    )
    yield PackTamper("pack's row of another storage", _sql("UPDATE pack SET place = 'x' WHERE number = 1"),
                     "missing_placement")  # fmt: skip


def _hidden(data: bytearray) -> bytes:
    end = _data_end(data)
    return bytes(data[:end]) + b"hidden" + bytes(data[end:])
