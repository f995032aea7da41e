"""What the bench runs in processes of their own: python -m tests.bench.scale.work collect|append|audit FOLDER COUNT."""

from __future__ import annotations

import os
import queue
import resource
import sys
import time
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from kropot.collect.decide.rules import CollectRules
from kropot.collect.decide.sources import begin, source_key
from kropot.collect.decide.step import Collector
from kropot.collect.run.effects import LedgerEffects
from kropot.collect.run.loop import Loop
from kropot.collect.run.workers import Control, Crashed, Inbox, Prefetching, Publisher, Transfer
from kropot.objects.directory import DirectoryObjects
from kropot.segments import SegmentFolder
from kropot.upkeep import Upkeep, keep_segments, keep_snapshots
from ledger.audit import IndexAudit, LogAudit
from ledger.events import Copy, CopyStored, Element, RemoteObserved, StreamKey
from ledger.log import Ledger, NewFact, utc_now_us
from ledger.sql import open_store
from tests.bench.scale.source import FIRST, FORM, SIZE, Contents, Elements

if TYPE_CHECKING:
    from kropot.collect.decide.actions import Say
    from kropot.collect.transfer.prefetch import PrefetchEngine

SOURCE = bytes(range(16))
BATCH = 500
EVERY_S = 10.0
"""How often it is told how far it is."""


def used() -> tuple[float, int]:
    """Return the CPU seconds of this process, and the bytes that it has had written."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime, usage.ru_oublock * 512


@dataclass
class Progress:
    """Tells now and then how far it is, what each one cost since the last time, and how much memory is in use.

    Beside others on the machine the rate says little; the CPU seconds and the bytes written tell whether it stays.
    """

    what: str
    count: int
    _told: float = field(default_factory=time.monotonic)
    _used: tuple[float, int] = field(default_factory=used)
    _done: int = 0

    def at(self, done: int, more: str = "") -> None:
        """Say it, if it is time."""
        now = time.monotonic()
        if now - self._told < EVERY_S:
            return
        fresh = max(1, done - self._done)
        rate = fresh / (now - self._told)
        cpu, written = (after - before for after, before in zip(used(), self._used, strict=True))
        self._told, self._used, self._done = now, used(), done
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        cost = f"each {1e6 * cpu / fresh:,.0f} us of CPU and {written / fresh / 1024:,.1f} KiB written"
        text = f"{self.what} {done:,} of {self.count:,}, {rate:,.0f}/s, {cost}; {pages * 4096 >> 20} MiB{more}"
        print(f"          {text}", file=sys.stderr, flush=True)


@dataclass
class Audience:
    """Passes warnings on, and tells how far the collector is."""

    progress: Progress

    def hear(self, say: Say) -> None:
        """Pass on warnings."""
        if say.level != "info":
            print(say.text, file=sys.stderr)

    def look(self, collector: Collector) -> None:
        """Tell now and then how it goes."""
        progress = collector.progress
        self.progress.at(progress.copied, f", {progress.new:,} listed")


def place(folder: Path) -> str:
    """Return the URL of the ledger: the one that the environment names, as for the program, or a file in the folder."""
    return os.environ.get("KROPOT_DB_STRING") or f"sqlite:///{folder / 'database.db'}"


def opened(folder: Path) -> Ledger:
    """Return the ledger, with its one source begun."""
    ledger = Ledger(open_store(place(folder), create=True), writer="main")
    ledger.begin()
    if not ledger.sources():
        fact = begin(salt=bytes(32), token="made up", url="http://127.0.0.1")
        ledger.append([NewFact(key=source_key(SOURCE), fact=fact, observed_us=ledger.now_us(), expected=0)])
    return ledger


def never_prefetched() -> PrefetchEngine:
    """Fail: this server announces nothing in bulk."""
    raise AssertionError("nothing is prefetched")


def collect(folder: Path, count: int) -> int:
    """Run one whole collect --once over `count` elements; return the exit code."""
    ledger = opened(folder)
    inbox: Inbox = queue.SimpleQueue()
    rules = CollectRules(instance="main", once=True, full=True)
    objects = DirectoryObjects(folder / "storage", "main")
    objects.lock()
    ledger.work.enroll("main", place="bench", lease_us=rules.lease_us, here=True)
    loop = Loop(
        collector=Collector(SOURCE, ledger.sources()[SOURCE].source, rules),
        effects=LedgerEffects(
            ledger=ledger,
            source_id=SOURCE,
            instance="main",
            lease_us=rules.lease_us,
            free_bytes=objects.free_bytes,
        ),
        control=Control(Elements(count), inbox),
        transfer=Transfer(lambda: Contents(objects), inbox),
        publisher=Publisher(objects, inbox),
        prefetching=Prefetching(never_prefetched, inbox),
        inbox=inbox,
        listener=Audience(Progress("copied", count)),
        clock=utc_now_us,
        rest=time.sleep,
    )
    segments = SegmentFolder(folder / "storage", scratch=folder / "storage" / "tmp" / "main")
    with Upkeep(
        [keep_snapshots(ledger), keep_segments(ledger, segments)],
        told=lambda chore, error: print(f"{chore}: {error}", file=sys.stderr),
        crashed=lambda error: inbox.put(Crashed(error)),
    ):
        code = int(loop.run())
    ledger.work.retire("main")
    ledger.store.close()
    objects.close()
    return code


def append(folder: Path, count: int) -> int:
    """Append `count` events, two an element, as a collector does; the ledger alone, without any object."""
    ledger, progress = opened(folder), Progress("appended", count)
    for start in range(0, count // 2, BATCH):
        numbers = range(start, min(start + BATCH, count // 2))
        ledger.append([_observed(number) for number in numbers])
        ledger.append([_copied(number) for number in numbers])
        progress.at(2 * numbers.stop)
    ledger.store.close()
    return 0


def audit(folder: Path, count: int) -> int:
    """Audit the log and the index, as `verify` does before it looks at any object; 1 if anything is wrong."""
    store = open_store(place(folder), read_only=True)
    log = LogAudit(store.log)
    flaws = [*log.findings(), *IndexAudit(store, log).findings()]
    for flaw in flaws:
        print(flaw, file=sys.stderr)
    store.close()
    return int(bool(flaws) or log.position < count)


def _observed(number: int) -> NewFact:
    return NewFact(key=_key(number), fact=RemoteObserved(element=_element(number)), observed_us=1, expected=0)


def _copied(number: int) -> NewFact:
    name = sha256(b"content %d" % number).digest()
    copy = Copy(sha256=name, size=SIZE, iv=name[16:], revision=1, instance="main")
    fact = CopyStored(element=replace(_element(number), copy=copy))
    return NewFact(key=_key(number), fact=fact, observed_us=1, expected=1)


def _key(number: int) -> StreamKey:
    # Names in no order, as they are: an index over ascending ones would cost next to nothing.
    return StreamKey(source=SOURCE, kind="file", id=sha256(b"%d" % number).hexdigest())


def _element(number: int) -> Element:
    return Element(
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


if __name__ == "__main__":
    works = {"collect": collect, "append": append, "audit": audit}
    raise SystemExit(works[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3])))
