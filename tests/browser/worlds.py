"""Replicas to look at, with some weeks of life: empty, small, and large. And `kropotcli browse` as its own process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, Self

from msgspec.structs import replace

from kropot.sc2.form import Form, Kind
from kropot.sc2.seal import seal_list_form
from kropot.securecopy.wire import canonical_json
from ledger.events import (
    AuditAdvanced,
    AuditRange,
    Copy,
    CopyStored,
    HeldListing,
    Keeping,
    Listing,
    ListingCompleted,
    ListingHeldBack,
    RemoteCopied,
    RemoteObserved,
    SourceLabelled,
    StreamKey,
)
from ledger.keeping import keep
from ledger.log import AUDIT_KEY, NewFact, source_key
from tests.kropot.replay_world import EMPTY, SECOND
from tests.kropot.sc2_world import SOURCE, VAULT

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from tests.keeper.serve import Kept
    from tests.kropot.sealed_world import SealedWorld

DAY_S = 86_400
LIFE_S = 60 * DAY_S
HURRIED = "from kropot.afar import objects; objects._FIRST_WAIT_S = 0; from kropot.__main__ import main; main()"
HOSTILE = "<script>window.pwned=1</script>"


def list_now(world: SealedWorld, source: bytes, *, held: bool = False, **found: int) -> None:
    """Complete a listing of the source now, which found this."""
    entry = world.ledger.sources()[source]
    counts = dict.fromkeys(("seen", "new", "changed", "reappeared", "vanished", "rejected"), 0) | found
    listing = Listing(mode="full", since=None, until=None, **counts)
    after = replace(entry.source, listed_us=world.now_us, full_listed_us=world.now_us)
    if held:
        after = replace(
            after, held=HeldListing(since_us=world.now_us, missing=counts["vanished"], known=42, reason="missing")
        )
    kind = ListingHeldBack if held else ListingCompleted
    world.ledger.append(
        [NewFact(key=source_key(source), fact=kind(source=after, listing=listing), observed_us=world.now_us)]
    )


def audit_all(world: SealedWorld) -> None:
    """Have every content read and compared: three quarters now, the others ten days ago."""
    at = world.ledger.head().position
    cut, day = b"\xbf" + b"\xff" * 31, DAY_S * SECOND
    ranges = (
        AuditRange(start=b"\xc0" + bytes(31), end=b"\xff" * 32, position=at, at_us=world.now_us - 10 * day),
        AuditRange(start=bytes(32), end=cut, position=at, at_us=world.now_us),
    )
    fact = AuditAdvanced(ranges=ranges)
    world.ledger.append([NewFact(key=AUDIT_KEY, fact=fact, observed_us=world.now_us)])


def small(kept: Kept) -> bytes:
    """Give a replica two months of life with 42 files in it, and return its source."""
    world = kept.world
    world.now_us = int((time.time() - LIFE_S) * SECOND)
    source = world.source(None)
    names = [
        f"{folder}/letter-{number:02}.txt" for number in range(10) for folder in ("1842", "1876/May", "1902", "maps")
    ]
    names += ["zażółć gęślą.txt", "notes.html"]
    keep(world.ledger, source, SourceLabelled(keeping=Keeping(label="letters")), version=0)
    list_now(world, source, seen=42, new=42)
    for number, name in enumerate(names):
        text = HOSTILE if name.endswith("html") else f"letter {number} to {name}\n" * (number * 40 + 1)
        world.seal(source, name.encode(), text.encode(), mtime_ns=(world.now_us - number * DAY_S * SECOND) * 1000)
    for day in range(1, 20):
        world.tick(3 * DAY_S)
        list_now(world, source, seen=42, changed=int(day % 4 == 0))
        if day % 4 == 0:
            world.seal(source, names[day].encode(), b"changed\n" * day * 100)
    world.tick(DAY_S / 2)
    for name in names[32:40]:
        world.vanish(StreamKey(source=source, kind="file", id=VAULT.element(name.encode()).hex()))
    list_now(world, source, seen=34, vanished=8)
    world.now_us = int(time.time() * SECOND)
    list_now(world, source, seen=34)
    audit_all(world)
    return source


def empty(kept: Kept) -> bytes:
    """Give a replica a source without files, and return it."""
    kept.world.now_us = int(time.time() * SECOND)
    source = kept.world.source(None)
    list_now(kept.world, source)
    return source


def large(kept: Kept, count: int, *, each: int = 200) -> bytes:
    """Give a replica so many sealed names, `each` in a folder. Their objects are not there. Return the source."""
    world = kept.world
    world.now_us = int((time.time() - LIFE_S) * SECOND)
    source = world.source(None)
    for start in range(0, count, 1000):
        facts = []
        for number in range(start, min(start + 1000, count)):
            path = b"folder-%05d/photograph-%07d.jpg" % (number // each, number)
            form = Form(path=path, kind=Kind.FILE, size=number, sealed_us=world.now_us, mtime_ns=world.now_us * 1000)
            text = seal_list_form(VAULT, form, source=SOURCE, version=VAULT.version(b"%d" % number))
            key = StreamKey(source=source, kind="file", id=VAULT.element(path).hex())
            seen = replace(EMPTY, date=1_790_000_000, form=canonical_json({"encrypted": text}))
            copy = Copy(sha256=world.random.randbytes(32), size=number + 500, iv=None, revision=1, instance="test")
            stored = CopyStored(element=replace(seen, copy=copy))
            facts.append(NewFact(key=key, fact=RemoteObserved(element=seen), observed_us=world.now_us))
            facts.append(NewFact(key=key, fact=stored, observed_us=world.now_us))
        world.ledger.append(facts)
        if start % 10_000 == 0:
            list_now(world, source, seen=start, new=10_000)
            world.tick(LIFE_S / max(1, count // 10_000) / 1.1)
    world.now_us = int(time.time() * SECOND)
    list_now(world, source, seen=count)
    return source


def many(kept: Kept, source: bytes, numbers: range) -> None:
    """Store so many plain elements, in rounds of 10,000. Their objects are not there."""
    world = kept.world
    for start in range(numbers.start, numbers.stop, 1000):
        facts = []
        for number in range(start, min(start + 1000, numbers.stop)):
            copy = Copy(sha256=world.random.randbytes(32), size=number + 500, iv=None, revision=1, instance="test")
            key = StreamKey(source=source, kind="file", id=f"{number:08}")
            stored = RemoteCopied(element=replace(EMPTY, copy=copy))
            facts.append(NewFact(key=key, fact=stored, observed_us=world.now_us))
        world.ledger.append(facts)
        if start % 10_000 == 0:
            world.tick(60)
            list_now(world, source, seen=start, new=10_000)


class Browsing:
    """`kropotcli browse` as a process of its own, which this test started and ends.

    A `hurried` one does not wait before it asks a keeper again that was gone.
    """

    def __init__(self, folder: Path, *options: str, hurried: bool = False) -> None:
        self._folder, self._options = folder, options
        self._program = ("-c", HURRIED) if hurried else ("-m", "kropot")
        self._process: subprocess.Popen[bytes] | None = None
        self.address = ""

    def __enter__(self) -> Self:
        home = self._folder / "home"
        environment = {name: text for name, text in os.environ.items() if not name.startswith("KROPOT_")}
        environment |= {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "TMPDIR": str(self._folder)}
        command = (sys.executable, *self._program, "browse", "--json", *self._options)
        self._errors = (self._folder / "browse.err").open("wb")
        self._process = subprocess.Popen(
            command, cwd=self._folder, env=environment, stdout=subprocess.PIPE, stderr=self._errors
        )
        assert self._process.stdout is not None
        told = self._process.stdout.readline()
        assert told, (self._folder / "browse.err").read_text()
        answer: dict[str, Any] = json.loads(told)
        self.address = answer["url"]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)
            if self._process.stdout is not None:
                self._process.stdout.close()
        self._errors.close()

    @property
    def process(self) -> int:
        """The number of the process."""
        assert self._process is not None
        return self._process.pid

    @property
    def base(self) -> str:
        """The origin of the page."""
        return self.address.partition("/page/")[0]
