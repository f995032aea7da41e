"""A small world for ledger tests: sources, elements, and random histories that obey the rules of the facts."""

from __future__ import annotations

import hashlib
import random  # noqa: TC003  # dataclasses look at their annotations
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace

from ledger.events import (
    Copy,
    CopyDamaged,
    CopyLost,
    CopyStored,
    Element,
    Failure,
    FetchFailed,
    ListingAdvanced,
    PayloadErased,
    RemoteChanged,
    RemoteObserved,
    RemoteReappeared,
    RemoteVanished,
    Source,
    SourceBegan,
    StreamKey,
)
from ledger.log import NewFact, source_key
from ledger.replica import damaged
from ledger.retention import CopyReleased, LastCopyReleased, ReleaseWithdrawn
from tests.ledger.fresh import fresh_element as element
from tests.ledger.fresh import fresh_source

SOURCE = b"\x01" * 16
OTHER = b"\x02" * 16


def sha(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def source(name: str = "a", cursor: int | None = None) -> Source:
    return fresh_source(
        salt=sha(f"salt {name}"), token_mac=sha(f"token {name}"), urls=(f"http://127.0.0.1/{name}",), cursor=cursor
    )


def key(name: object, owner: bytes = SOURCE) -> StreamKey:
    return StreamKey(source=owner, kind="file", id=str(name))


def began(owner: bytes = SOURCE) -> NewFact:
    fact = SourceBegan(source=source(owner.hex()))
    return NewFact(key=source_key(owner), fact=fact, observed_us=1, expected=0)


def observed(name: object, owner: bytes = SOURCE, *, size: int | None = None) -> NewFact:
    fact = RemoteObserved(element=element(size=size))
    return NewFact(key=key(name, owner), fact=fact, observed_us=1, expected=0)


def copied(name: object, owner: bytes = SOURCE, *, content: str = "", size: int = 16) -> NewFact:
    copy = Copy(sha256=sha(content or str(name)), size=size, iv=bytes(16), revision=1, instance="main")
    return NewFact(key=key(name, owner), fact=CopyStored(element=replace(element(), copy=copy)), observed_us=1)


def let_go(
    about: Element, sha256: bytes, kind: type[CopyReleased | LastCopyReleased] = CopyReleased, **given: object
) -> CopyReleased | LastCopyReleased:
    """Return that an object was released, by no policy unless one is given."""
    said: dict[str, Any] = {"policy": 0, "decided": 0, "at_us": 0, "reason": "replaced", "by": "test"}
    return kind(element=about, sha256=sha256, **(said | given))


@dataclass(slots=True)
class History:
    """Makes up facts that could have happened, one after another, from a seed."""

    rng: random.Random
    names: int = 12
    elements: dict[StreamKey, Element] = field(default_factory=dict)
    sources: dict[bytes, Source] = field(default_factory=dict)
    stored: dict[StreamKey, list[bytes]] = field(default_factory=dict)

    def batch(self, count: int) -> list[NewFact]:
        """Return the next `count` facts, or fewer: an erasure ends a batch."""
        facts: list[NewFact] = []
        while len(facts) < count:
            facts.append(self._next())
            if isinstance(facts[-1].fact, PayloadErased):
                break
        return facts

    def _next(self) -> NewFact:
        owner = self.rng.choice((SOURCE, OTHER))
        if owner not in self.sources:
            new = began(owner)
            self.sources[owner] = new.fact.source  # type: ignore[union-attr]
            return new
        if self.rng.random() < 0.1:
            advanced = replace(self.sources[owner], cursor=self.rng.randrange(1000))
            self.sources[owner] = advanced
            return NewFact(key=source_key(owner), fact=ListingAdvanced(source=advanced), observed_us=1)
        return self._about(key(self.rng.randrange(self.names), owner))

    def _about(self, at: StreamKey) -> NewFact:
        rng, was = self.rng, self.elements.get(at)
        if was is None:
            now = element(rng.randrange(1000), size=rng.choice((None, rng.randrange(100))))
            fact = RemoteObserved(element=now)
        else:
            named = self.stored.get(at, [])
            fact = rng.choice(
                [
                    self._changed,
                    self._vanished if was.present else self._reappeared,
                    self._copied,
                    self._failed,
                    *([self._released, self._withdrawn] if named else []),
                    *([self._damaged, self._lost] if named and was.copy is not None else []),
                    *([self._last_released] if was.copy is not None and not was.present else []),
                    *([self._erased] if rng.random() < 0.3 else []),
                ]
            )(at, was)
        if isinstance(fact, PayloadErased):
            del self.elements[at]
            self.stored.pop(at, None)
        else:
            self.elements[at] = fact.element
        return NewFact(key=at, fact=fact, observed_us=rng.randrange(1000))

    def _changed(self, _: StreamKey, was: Element) -> RemoteChanged:
        date = was.date + self.rng.randrange(1, 9)
        return RemoteChanged(element=replace(was, date=date, revision=was.revision + 1, failure=None))

    def _vanished(self, _: StreamKey, was: Element) -> RemoteVanished:
        return RemoteVanished(element=replace(was, present=False))

    def _reappeared(self, _: StreamKey, was: Element) -> RemoteReappeared:
        return RemoteReappeared(element=replace(was, present=True))

    def _copied(self, at: StreamKey, was: Element) -> CopyStored:
        content = sha(str(self.rng.randrange(40)))  # few enough that two elements share an object
        self.stored.setdefault(at, []).append(content)
        copy = Copy(sha256=content, size=self.rng.randrange(1, 99), iv=None, revision=was.revision, instance="main")
        return CopyStored(element=replace(was, copy=copy, damage=None, failure=None))

    def _failed(self, _: StreamKey, was: Element) -> FetchFailed:
        failure = Failure(reason="http_500", attempts=1, since_us=1, next_try_us=self.rng.randrange(1 << 50))
        return FetchFailed(element=replace(was, failure=failure))

    def _damaged(self, at: StreamKey, was: Element) -> CopyDamaged:
        content = self.rng.choice(self.stored[at])
        return CopyDamaged(element=damaged(was, content, lost=False), sha256=content)

    def _lost(self, at: StreamKey, was: Element) -> CopyLost:
        content = self.rng.choice(self.stored[at])
        return CopyLost(element=damaged(was, content, lost=True), sha256=content)

    def _released(self, at: StreamKey, was: Element) -> CopyReleased | LastCopyReleased:
        return let_go(was, self.rng.choice(self.stored[at]))

    def _last_released(self, _: StreamKey, was: Element) -> LastCopyReleased:
        assert was.copy is not None
        fact = let_go(replace(was, copy=None, damage=None), was.copy.sha256, LastCopyReleased)
        assert isinstance(fact, LastCopyReleased)
        return fact

    def _withdrawn(self, at: StreamKey, was: Element) -> ReleaseWithdrawn:
        return ReleaseWithdrawn(element=was, sha256=self.rng.choice(self.stored[at]))

    def _erased(self, _: StreamKey, __: Element) -> PayloadErased:
        return PayloadErased(reason="a request")
