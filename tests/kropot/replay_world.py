"""A small world for tests of replay and restore: a ledger and objects, filled as a collector would fill them."""

from __future__ import annotations

import base64
import hashlib
import random
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from kropot.objects.memory import MemoryObjects
from kropot.objects.store import Published
from kropot.securecopy.sealing import Kit, element_id, seal_form, seal_stream
from kropot.securecopy.wire import canonical_json
from ledger.events import (
    Copy,
    CopyDamaged,
    CopyLost,
    CopyStored,
    Element,
    ElementFact,
    Failure,
    FetchFailed,
    ListingCompleted,
    PayloadErased,
    RemoteChanged,
    RemoteObserved,
    RemoteReappeared,
    RemoteVanished,
    SourceBegan,
    StreamKey,
)
from ledger.log import Ledger, NewFact, source_key
from ledger.memory import MemoryStore
from ledger.replica import damaged
from tests.ledger.fresh import fresh_element, fresh_listing, fresh_source

if TYPE_CHECKING:
    from ledger.stores import LedgerStore

START_US = 1_790_000_000_000_000
SECOND = 1_000_000
KIT = Kit("correct horse battery staple", rounds=1)
OTHER_KIT = Kit("another passphrase", digest="sha256", rounds=2)
EMPTY = fresh_element(date=0, form=b"{}")


class World:
    """A ledger whose clock is set by hand, and the objects of its copies; every event is an append of its own."""

    def __init__(
        self, store: LedgerStore | None = None, *, seed: int = 0, objects: MemoryObjects | None = None
    ) -> None:
        self.random = random.Random(seed)
        self.now_us = START_US
        self.store = MemoryStore() if store is None else store
        self.ledger = Ledger(self.store, writer="test", clock=lambda: self.now_us, entropy=self.random.randbytes)
        self.objects = MemoryObjects() if objects is None else objects
        self.elements: dict[StreamKey, Element] = {}
        self.kits: dict[bytes, Kit | None] = {}

    def source(self, kit: Kit | None = KIT, *, url: str = "https://files.example.org") -> bytes:
        """Begin a source whose elements are sealed with `kit`, or not at all."""
        source = self.random.randbytes(16)
        fact = SourceBegan(
            source=fresh_source(
                salt=self.random.randbytes(32), token_mac=self.random.randbytes(32), urls=(url,), opaque=kit is not None
            )
        )
        self.kits[source] = kit
        self.ledger.append([NewFact(key=source_key(source), fact=fact, observed_us=self.now_us)])
        return source

    def listed(self, source: bytes) -> None:
        """Complete a listing of the source now."""
        entry = self.ledger.sources()[source]
        after = replace(entry.source, listed_us=self.now_us, full_listed_us=self.now_us)
        listing = fresh_listing()
        fact = ListingCompleted(source=after, listing=listing)
        self.ledger.append([NewFact(key=source_key(source), fact=fact, observed_us=self.now_us)])

    def tick(self, seconds: float = 1) -> int:
        """Let time pass; return the moment in microseconds."""
        self.now_us += int(seconds * SECOND)
        return self.now_us

    def see(
        self, source: bytes, name: str, *, date: int = 1_790_000_000, kind: str = "file", **claims: Any
    ) -> StreamKey:
        """Observe an element called `name`, or see it changed or again; `claims` go into its form."""
        kit = self.kits[source]
        form = canonical_json({"fileName": name, "tags": [], "public": False, **claims})
        if kit is not None:
            form = canonical_json({"encrypted": seal_form(form, kit, self.random.randbytes(16))})
        made = name if kit is None else element_id("salt", name.encode(), kit.digest)
        key = StreamKey(source=source, kind=kind, id=made[:500] or "-")
        known = self.elements.get(key)
        if known is None:
            self._append(key, RemoteObserved(element=replace(EMPTY, date=date, form=form)))
        elif not known.present:
            self._append(key, RemoteReappeared(element=replace(known, present=True)))
        else:
            changed = replace(known, date=date, form=form, revision=known.revision + 1, failure=None)
            self._append(key, RemoteChanged(element=changed))
        return key

    def see_many(self, source: bytes, count: int) -> None:
        """Observe many plain elements, a thousand in one append; they are not kept in `elements`."""
        for start in range(0, count, 1000):
            self.ledger.append(
                [
                    NewFact(
                        key=StreamKey(source=source, kind="file", id=f"{number:08}"),
                        fact=RemoteObserved(element=EMPTY),
                        observed_us=self.now_us,
                    )
                    for number in range(start, min(start + 1000, count))
                ]
            )

    def store_copy(self, key: StreamKey, content: bytes, *, iv: bytes | None = None) -> bytes:
        """Store a copy of the newest revision; return its object's SHA-256."""
        kit = self.kits[key.source]
        if kit is not None:
            iv = self.random.randbytes(16) if iv is None else iv
            content = b"".join(seal_stream([content], kit.key(iv), iv))
        return self._store(key, content, iv)

    def _store(self, key: StreamKey, content: bytes, iv: bytes | None) -> bytes:
        upload = self.objects.stage()
        upload.write(content)
        (outcome,) = self.objects.publish([upload.finish()])
        assert isinstance(outcome, Published)
        element = self.elements[key]
        copy = Copy(sha256=outcome.sha256, size=outcome.size, iv=iv, revision=element.revision, instance="test")
        self._append(key, CopyStored(element=replace(element, copy=copy, damage=None, failure=None)))
        return outcome.sha256

    def put_sealed(self, source: bytes, made: str, form: bytes, sealed: bytes, iv: bytes) -> StreamKey:
        """See and store an element whose form and content somebody else sealed."""
        key = StreamKey(source=source, kind="file", id=made)
        self._append(key, RemoteObserved(element=replace(EMPTY, date=1_790_000_000, form=form)))
        self._store(key, sealed, iv)
        return key

    def put(self, source: bytes, name: str, content: bytes, **claims: Any) -> StreamKey:
        """See an element and store its copy."""
        key = self.see(source, name, **claims)
        self.store_copy(key, content)
        return key

    def put_path(self, source: bytes, path: bytes, content: bytes, **claims: Any) -> StreamKey:
        """See and store an element as the gateway announces it: with path, digest, time and mode."""
        name = path.decode("utf-8", "backslashreplace")
        told = {"path": base64.b64encode(path).decode(), "sha256": hashlib.sha256(content).hexdigest()}
        return self.put(source, name, content, **(told | claims))

    def vanish(self, key: StreamKey) -> None:
        """See that the element is gone."""
        self._append(key, RemoteVanished(element=replace(self.elements[key], present=False)))

    def fail(self, key: StreamKey) -> None:
        """Fail a fetch."""
        failure = Failure(reason="truncated", attempts=1, since_us=self.now_us, next_try_us=self.now_us + SECOND)
        self._append(key, FetchFailed(element=replace(self.elements[key], failure=failure)))

    def damage(self, key: StreamKey, *, lost: bool = False) -> None:
        """Find the copy damaged, or lost."""
        element = self.elements[key]
        assert element.copy is not None
        fact = CopyLost if lost else CopyDamaged
        self._append(key, fact(element=damaged(element, element.copy.sha256, lost=lost), sha256=element.copy.sha256))

    def erase(self, key: StreamKey) -> None:
        """Have the element's payloads erased."""
        self._append(key, PayloadErased(reason="law"))
        del self.elements[key]

    def spoil(self, sha256: bytes) -> None:
        """Change the stored bytes of an object behind everybody's back."""
        held = self.objects.disk.objects[sha256]
        self.objects.disk.objects[sha256] = bytes([held[0] ^ 1]) + held[1:]

    def lose(self, sha256: bytes) -> None:
        """Take an object away behind everybody's back."""
        del self.objects.disk.objects[sha256]

    def _append(self, key: StreamKey, fact: ElementFact) -> None:
        self.ledger.append([NewFact(key=key, fact=fact, observed_us=self.now_us)])
        if not isinstance(fact, PayloadErased):
            self.elements[key] = fact.element


def random_life(world: World, steps: int) -> None:
    """Let `steps` things happen, drawn from the seed: all kinds of events, with time passing between them."""
    sources = [world.source(), world.source(None)]
    for step in range(steps):
        if world.random.random() < 0.5:
            world.tick(world.random.choice([0.5, 1, 3600]))
        known = [key for key in world.elements if key.source in sources]
        if not known or world.random.random() < 0.3:
            world.see(world.random.choice(sources), f"new {step}.txt")
            continue
        key = world.random.choice(known)
        element = world.elements[key]
        what = world.random.random()
        if element.is_wanted and what < 0.6:
            world.store_copy(key, world.random.randbytes(world.random.randrange(50)))
        elif element.is_wanted and what < 0.7:
            world.fail(key)
        elif not element.present:
            world.see(key.source, _name(world, key))
        elif what < 0.8:
            world.vanish(key)
        elif what < 0.9 and element.copy is not None:
            world.damage(key, lost=what < 0.85)
        else:
            world._append(
                key, RemoteChanged(element=replace(element, date=element.date + 1, revision=element.revision + 1))
            )


def _name(world: World, key: StreamKey) -> str:
    """Return the name that `see` makes this key of."""
    kit = world.kits[key.source]
    if kit is None:
        return key.id
    names = (f"new {step}.txt" for step in range(10_000))
    return next(name for name in names if element_id("salt", name.encode(), kit.digest) == key.id)
