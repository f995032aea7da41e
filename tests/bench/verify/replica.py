"""A replica made for measuring: as many elements as wanted, with objects of one size, or with none at all."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from msgspec.structs import replace

from kropot.objects.directory import DirectoryObjects
from kropot.objects.packs.packing import PackRule
from kropot.objects.store import Published
from ledger.events import Copy, CopyStored, RemoteObserved, SourceBegan, StreamKey
from ledger.log import Ledger, NewFact, source_key
from ledger.sql import open_store
from tests.ledger.world import element, source

if TYPE_CHECKING:
    from pathlib import Path

    from ledger.places import Placement

BATCH = 500
PACK = 4000
SOURCE = b"\x01" * 16


def make(folder: Path, *, count: int, size: int | None, packed: bool = False) -> None:
    """Make `ledger.db` and `storage/` in the folder: two events an element; `size` None stores no objects.

    With `packed`, they go into packs, of 4,000 objects each.
    """
    rng = random.Random(count)
    store = open_store(f"sqlite:///{folder}/ledger.db", create=True)
    ledger = Ledger(store, writer="main")
    rule = PackRule(worth=0) if packed else PackRule(below=0)
    objects = DirectoryObjects(folder / "storage", "main", pack=rule)
    batch = PACK if packed else BATCH
    try:
        began = SourceBegan(source=source())
        ledger.append([NewFact(key=source_key(SOURCE), fact=began, observed_us=1)])
        for start in range(0, count, batch):
            many = min(batch, count - start)
            copies, places = (_made_up(rng, many), []) if size is None else _store(objects, rng, many, size)
            form = b'{"encrypted":"' + b"A" * 200 + b'"}'
            keys = [StreamKey(source=SOURCE, kind="file", id=rng.randbytes(64).hex()) for _ in range(many)]
            seen = replace(element(start), form=form)
            ledger.append([NewFact(key=key, fact=RemoteObserved(element=seen), observed_us=1) for key in keys])
            ledger.append(
                [
                    NewFact(key=key, fact=CopyStored(element=replace(seen, copy=copy)), observed_us=1)
                    for key, copy in zip(keys, copies, strict=True)
                ],
                places=places,
            )
    finally:
        objects.close()
        store.close()


def _made_up(rng: random.Random, many: int) -> list[Copy]:
    return [_named(rng.randbytes(32), 4112, rng) for _ in range(many)]


def _store(objects: DirectoryObjects, rng: random.Random, many: int, size: int) -> tuple[list[Copy], list[Placement]]:
    copies: list[Copy] = []
    staged = []
    for _ in range(many):
        upload = objects.stage()
        left = size
        while left:
            part = rng.randbytes(min(left, 1 << 20))
            upload.write(part)
            left -= len(part)
        staged.append(upload.finish())
        if size > 1 << 20:
            objects.publish(staged)
            copies += [_named(each.sha256, each.size, rng) for each in staged]
            staged = []
    made = objects.publish(staged)
    places = [each.place for each in made if isinstance(each, Published) and each.place is not None]
    return copies + [_named(each.sha256, each.size, rng) for each in staged], places


def _named(sha256: bytes, size: int, rng: random.Random) -> Copy:
    return Copy(sha256=sha256, size=size, iv=rng.randbytes(16), revision=1, instance="main")
