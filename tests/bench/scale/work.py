"""What the bench runs in processes of their own: python -m tests.bench.scale.work collect|events FOLDER COUNT."""

from __future__ import annotations

import queue
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kropot.collect.deeds import LedgerHand
from kropot.collect.loop import Loop
from kropot.collect.rules import Rules
from kropot.collect.sources import begin, source_key
from kropot.collect.step import Collector
from kropot.collect.workers import Control, Inbox, Publisher, Transfer
from kropot.objects.directory import DirectoryObjects
from ledger.events import Copy, CopyStored, Element, RemoteObserved, StreamKey
from ledger.log import Ledger, New, utc_now_us
from ledger.sql import open_store
from tests.bench.scale.source import FIRST, FORM, Contents, Elements

if TYPE_CHECKING:
    from kropot.collect.actions import Say

SOURCE = bytes(range(16))
PAGE = 1000


@dataclass
class Silence:
    """An audience that keeps what went wrong."""

    def hear(self, say: Say) -> None:
        """Pass on warnings."""
        if say.level != "info":
            print(say.text, file=sys.stderr)

    def look(self, collector: Collector) -> None:
        """See nothing."""


def opened(folder: Path) -> Ledger:
    """Return the ledger in the folder, with its one source begun."""
    ledger = Ledger(open_store(f"sqlite:///{folder / 'database.db'}", create=True), writer="main")
    ledger.begin()
    if not ledger.sources():
        fact = begin(salt=bytes(32), token="made up", url="http://127.0.0.1")
        ledger.append([New(key=source_key(SOURCE), fact=fact, observed_us=ledger.now_us(), expected=0)])
    return ledger


def collect(folder: Path, count: int) -> int:
    """Run one whole collect --once over `count` elements; return the exit code."""
    ledger = opened(folder)
    inbox: Inbox = queue.SimpleQueue()
    rules = Rules(instance="main", once=True, full=True)
    objects = DirectoryObjects(folder / "storage", "main")
    objects.claim()
    ledger.enroll("main", place="bench", lease_us=rules.lease_us, here=True)
    loop = Loop(
        collector=Collector(SOURCE, ledger.sources()[SOURCE].source, rules),
        hand=LedgerHand(
            ledger=ledger,
            source_id=SOURCE,
            instance="main",
            lease_us=rules.lease_us,
            free_bytes=objects.free_bytes,
        ),
        control=Control(Elements(count), inbox),
        transfer=Transfer(lambda: Contents(objects), inbox),
        publisher=Publisher(objects, inbox),
        inbox=inbox,
        audience=Silence(),
        clock=utc_now_us,
        rest=time.sleep,
    )
    code = int(loop.run())
    ledger.retire("main")
    ledger.store.close()
    objects.close()
    return code


def events(folder: Path, count: int) -> int:
    """Append `count` events, two an element, without any object: the ledger alone."""
    ledger = opened(folder)
    for start in range(0, count // 2, PAGE // 2):
        batch: list[New] = []
        for number in range(start, min(start + PAGE // 2, count // 2)):
            key = StreamKey(source=SOURCE, kind="file", id=f"{number:064x}")
            seen = Element(
                date=FIRST + number,
                tz="UTC",
                form=FORM,
                revision=1,
                present=True,
                epoch=0,
                size=None,
                etag=None,
                copy=None,
                damage=None,
                failure=None,
            )
            name = number.to_bytes(32, "big")
            copy = Copy(sha256=name, size=48, iv=name[16:], revision=1, instance="main")
            stored = Element(**{slot: getattr(seen, slot) for slot in seen.__slots__} | {"copy": copy})
            batch.append(New(key=key, fact=RemoteObserved(element=seen), observed_us=1, expected=0))
            batch.append(New(key=key, fact=CopyStored(element=stored), observed_us=1, expected=1))
        ledger.append(batch)
    ledger.store.close()
    return 0


if __name__ == "__main__":
    raise SystemExit({"collect": collect, "events": events}[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3])))
