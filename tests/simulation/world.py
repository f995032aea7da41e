"""A world in one thread: a virtual clock, a server, a storage, a ledger and some collectors, all of them unreliable.

The collectors make the real decisions and have the real effects on the ledger. One seed draws everything around them,
so a run repeats exactly. First comes chaos: files come, change and go, the server fails, disks fill, bits flip, clocks
differ, and collectors are killed, stopped and woken late. Then comes calm, in which everything must come right
(tests/simulation/invariants.py).
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from random import Random
from typing import TYPE_CHECKING

from kropot.collect.decide.plan import Backoff
from kropot.collect.decide.rules import CollectRules
from kropot.collect.decide.sources import begin, source_key
from kropot.objects.memory import MemoryDisk, MemoryObjects
from ledger.events import CopyDamaged, CopyLost
from ledger.log import Ledger, NewFact
from ledger.memory import MemoryStore
from ledger.replica import damaged
from tests.oldserver import OldServer
from tests.simulation.actor import Actor
from tests.simulation.sealed import SealedServer

if TYPE_CHECKING:
    from collections.abc import Callable

SECOND = 1_000_000
HOUR = 3600 * SECOND
START = 1_795_414_108 * SECOND
ZONES = ("UTC", "Asia/Kolkata", "America/Bogota", "Asia/Tokyo")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run is made of; shares are of one, times in virtual seconds."""

    collectors: int = 1
    files: int = 40
    chaos_s: int = 4500
    calm_s: int = 2 * 3600
    mutations: int = 30
    page_faults: float = 0.05
    content_faults: float = 0.1
    publish_faults: float = 0.05
    lost_answers: float = 0.03
    crashes: float = 0.004
    pauses: float = 0.002
    outages: int = 2
    refusals: int = 1
    flips: int = 3
    disk_full: int = 1
    poison: int = 1
    zone_changes: int = 0
    skew_s: int = 300
    is_sc2: bool = False
    packs: bool = False
    is_bulk: bool = False


def plan_for(seed: int) -> Plan:
    """Return what the run of this seed is made of."""
    rng = Random(f"plan {seed}")
    return Plan(
        collectors=rng.choice([1, 1, 2, 3, 5]),
        files=rng.choice([0, 5, 40, 90]),
        mutations=rng.choice([0, 10, 40]),
        page_faults=rng.choice([0, 0.05, 0.2]),
        content_faults=rng.choice([0, 0.1, 0.4]),
        publish_faults=rng.choice([0, 0, 0.1]),
        crashes=rng.choice([0, 0.004, 0.02]),
        pauses=rng.choice([0, 0, 0.004]),
        outages=rng.choice([0, 2]),
        refusals=rng.choice([0, 1]),
        flips=rng.choice([0, 3]),
        disk_full=rng.choice([0, 1]),
        poison=rng.choice([0, 0, 2]),
        zone_changes=rng.choice([0, 0, 0, 1]),
        skew_s=rng.choice([0, 60, 600]),
        is_sc2=rng.choice([False, False, True]),
        packs=rng.choice([False, True]),
        is_bulk=rng.choice([True, True, False]),
    )


@dataclass
class World:
    """Everything there is, and what happens next."""

    seed: int
    plan: Plan
    now_us: int = START
    is_calm: bool = False
    is_down: bool = False
    rng: Random = field(init=False)
    absent: dict[str, list[list[int | None]]] = field(default_factory=lambda: defaultdict(list))
    contents: dict[str, set[bytes]] = field(default_factory=lambda: defaultdict(set))
    broken: set[str] = field(default_factory=set)
    has_flipped: bool = False

    def __post_init__(self) -> None:
        self.rng = Random(self.seed)
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._order = count()
        self._names = count()
        self._last_second = 0
        kind = partial(SealedServer, is_bulk=self.plan.is_bulk) if self.plan.is_sc2 else OldServer
        self.server: OldServer = kind(
            clock=lambda: self.now_us // SECOND, seed=self.seed, keeps_log=False, zone=self.rng.choice(ZONES)
        )
        self.disk = MemoryDisk()
        self.store = MemoryStore(now_us=lambda: self.now_us)
        ledger = self.ledger = Ledger(self.store, writer="", entropy=self.rng.randbytes)
        self.objects = MemoryObjects("audit", self.disk, places=ledger.places)
        self.source_id = self.rng.randbytes(16)
        began = begin(salt=self.rng.randbytes(32), token=self.server.token, url="http://server.example")
        ledger.append([NewFact(key=source_key(self.source_id), fact=began, observed_us=self.now_us, expected=0)])
        for _ in range(self.plan.files):
            self._add(self.now_us // SECOND - self.rng.randrange(5 * 3600))
        self.actors = [self._make_actor(number) for number in range(self.plan.collectors)]

    def _make_actor(self, number: int) -> Actor:
        rules = CollectRules(
            instance=f"collector{number}",
            refresh_us=600 * SECOND,
            full_every_us=HOUR,
            page=16,
            fetch_backoff=Backoff(base_s=10, cap_s=300),
            trouble_backoff=Backoff(base_s=5, cap_s=120),
            min_free=1000,
            lease_us=120 * SECOND,
            block=8,
            outstanding=24,
        )
        skew_us = self.rng.randint(-self.plan.skew_s, self.plan.skew_s) * SECOND
        return Actor(world=self, rules=rules, skew_us=skew_us)

    # --- time ---

    def at(self, delay_us: int, act: Callable[[], None]) -> None:
        """Let something happen `delay_us` from now; what is to happen at one moment keeps its order."""
        heapq.heappush(self._queue, (self.now_us + delay_us, next(self._order), act))

    def run(self) -> None:
        """Live through chaos and calm, then send the collectors home."""
        for actor in self.actors:
            self.at(self.rng.randrange(5 * SECOND), actor.start)
        self._plan_chaos()
        self._until(START + self.plan.chaos_s * SECOND)
        self._calm_down()
        self._until(self.now_us + self.plan.calm_s * SECOND)
        for actor in self.actors:
            actor.stop()
        self._until(self.now_us + 60 * SECOND)

    def _until(self, end_us: int) -> None:
        while self._queue and self._queue[0][0] <= end_us:
            at_us, _, act = heapq.heappop(self._queue)
            self.now_us = max(self.now_us, at_us)
            act()
        self.now_us = end_us

    # --- chaos ---

    def _plan_chaos(self) -> None:
        plan, rng = self.plan, self.rng

        def some_time() -> int:
            return rng.randrange(plan.chaos_s * SECOND)

        mutations = [self._upload, self._upload, self._replace, self._delete, self._late, self._break, self._mend]
        if plan.is_sc2:
            mutations += [self._touch, self._touch]
        for _ in range(plan.mutations):
            self.at(some_time(), rng.choice(mutations))
        for _ in range(plan.outages):
            self._for_a_while(some_time(), lambda: self._set_down(is_down=True), lambda: self._set_down(is_down=False))
        for _ in range(plan.refusals):
            self._for_a_while(some_time(), self._expire, self._renew)
        for _ in range(plan.disk_full):
            self._for_a_while(some_time(), self._fill, self._clear)
        for _ in range(plan.flips):
            self.at(some_time(), self._flip)
        for _ in range(plan.poison):
            self._for_a_while(some_time(), self._poison, self._cure)
        for _ in range(plan.zone_changes):
            self.at(some_time(), lambda: self.server.set_zone(rng.choice(ZONES)))

    def _for_a_while(self, when_us: int, begin_: Callable[[], None], end: Callable[[], None]) -> None:
        self.at(when_us, begin_)
        self.at(when_us + self.rng.randrange(900 * SECOND), end)

    def _calm_down(self) -> None:
        self.is_calm = True
        self._set_down(is_down=False)
        self._renew()
        self._clear()
        self._cure()
        for name in tuple(self.broken):
            self._mend_one(name)
        for actor in self.actors:
            actor.wake()

    def _set_down(self, *, is_down: bool) -> None:
        self.is_down = is_down

    def _expire(self) -> None:
        self.server.change_token(expires=0)

    def _renew(self) -> None:
        self.server.change_token(expires=None)

    def _fill(self) -> None:
        self.disk.capacity = self.disk.used + self.rng.randrange(3000)

    def _clear(self) -> None:
        self.disk.capacity = None

    # --- what people do to the files ---

    def _second(self) -> int:
        """Return a second of its own: what changes twice within one second cannot be told apart by date."""
        self._last_second = max(self._last_second + 1, self.now_us // SECOND)
        return self._last_second

    def _add(self, at: int) -> None:
        name = f"secret name {next(self._names)}.txt"
        content = self.rng.randbytes(self.rng.choice([0, 1, 15, 16, 100]))
        self.server.add(name, content, at=at)
        self._has(name, content)

    def _upload(self) -> None:
        self._add(self._second())

    def _late(self) -> None:
        """Put a file into the past, as a slow transaction or a clock set back does."""
        self._add(self.now_us // SECOND - self.rng.randrange(2 * 3600))

    def _some_name(self) -> str | None:
        names = self.server.names()
        return self.rng.choice(names) if names else None

    def _replace(self) -> None:
        name = self._some_name()
        if name is not None:
            content = self.rng.randbytes(self.rng.choice([1, 16, 100]))
            self._lose(name)
            self.broken.discard(name)
            self.server.replace(name, content, at=self._second())
            self._has(name, content)

    def _touch(self) -> None:
        """Change the metadata of a file alone."""
        name = self._some_name()
        if name is not None and isinstance(self.server, SealedServer):
            self.server.touch(name, at=self._second())

    def _delete(self) -> None:
        name = self._some_name()
        if name is not None:
            self._lose(name)
            self.broken.discard(name)
            self.server.delete(name)

    def _has(self, name: str, content: bytes) -> None:
        id_ = self.server.id_of(name)
        self.contents[id_].add(content)
        if self.absent[id_]:
            self.absent[id_][-1][1] = self.now_us

    def _lose(self, name: str) -> None:
        self.absent[self.server.id_of(name)].append([self.now_us, None])

    def _break(self) -> None:
        name = self._some_name()
        if name is not None:
            self.broken.add(name)
            self.server.fail_reading(name, self.rng.choice([0, 16, 20]))

    def _mend(self) -> None:
        if self.broken:
            self._mend_one(self.rng.choice(sorted(self.broken)))

    def _mend_one(self, name: str) -> None:
        self.broken.discard(name)
        self.server.fail_reading(name, None)

    def _poison(self) -> None:
        name = self._some_name()
        if name is not None:
            self.server.poison(name)

    def _cure(self) -> None:
        for name in self.server.names():
            self.server.cure(name)

    # --- what befalls the storage ---

    def _flip(self) -> None:
        """Flip a bit of an object or lose it, and let an audit find that, as `verify` records it."""
        entries = [entry for entry in self.ledger.scan(states=("current",)) if entry.element is not None]
        if not entries:
            return
        entry = self.rng.choice(entries)
        element = entry.element
        assert element is not None
        assert element.copy is not None
        sha256 = element.copy.sha256
        is_lost = self.rng.random() < 0.5
        if sha256 in self.disk.objects:
            data = bytearray(self.disk.objects.pop(sha256))
            if not is_lost:
                data[self.rng.randrange(len(data))] ^= 1
                self.disk.quarantine[f"quarantine/{sha256.hex()}"] = bytes(data)
        else:
            is_lost = False
            for place in self.ledger.places.find([sha256])[sha256]:
                data = bytearray(self.disk.packs[place.pack])
                data[place.offset + self.rng.randrange(place.length)] ^= 1
                self.disk.packs[place.pack] = bytes(data)
            self.objects.set_aside(sha256)
        kind = CopyLost if is_lost else CopyDamaged
        fact = kind(element=damaged(element, sha256, lost=is_lost), sha256=sha256)
        self.ledger.append([NewFact(key=entry.key, fact=fact, observed_us=self.now_us, expected=entry.version)])
        self.has_flipped = True
