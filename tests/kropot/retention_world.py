"""A replica under a virtual clock: rounds of a source, prunes by a policy, and a model of what must be kept.

The model knows nothing of events. It remembers what each element was at the end of each round, and says by counting
days, weeks and months what a policy needs.
"""

from __future__ import annotations

import hashlib
import random  # noqa: TC003 -- dataclasses look at their annotations
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from kropot.collect.decide.actions import RecordFacts, TakeWork
from kropot.collect.decide.inputs import Recorded, WorkTaken
from kropot.collect.decide.plan import stored, vanished
from kropot.collect.run.effects import LedgerEffects
from kropot.objects.memory import MemoryDisk, MemoryObjects
from kropot.objects.store import Published
from kropot.retention.conditions import demand_quiet, time_of
from kropot.retention.deciding import Decider
from kropot.retention.freeing import FreedSum, FreeingRun, last_to_free
from kropot.retention.releasing import ReleaseSum, release
from ledger.codec import source_id_of
from ledger.events import (
    ListingCompleted,
    RemoteChanged,
    RemoteObserved,
    RemoteReappeared,
    SourceBegan,
    StreamKey,
)
from ledger.log import Ledger, NewFact, source_key
from ledger.memory import MemoryStore
from ledger.retaining import decide, decided_of
from ledger.retention import KeepRules, Pin, PointKept, PolicySet, Retention
from ledger.rows import RELEASED
from tests.ledger.fresh import fresh_listing, fresh_source
from tests.ledger.world import element

if TYPE_CHECKING:
    from collections.abc import Callable

    from ledger.stores import LedgerStore

DAY = 86_400_000_000
HOUR = DAY // 24
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
START = 1_767_225_600_000_000
"""2026-01-01."""
SALT = bytes(range(32))
SOURCE = source_id_of(SALT)


def rules(**given: Any) -> KeepRules:
    """Return rules for every source that keep nothing but what is given."""
    none: dict[str, Any] = {"last": 0, "within_s": 0, "daily": 0, "weekly": 0, "monthly": 0, "yearly": 0}
    return KeepRules(**({"source": None, **none, "vanished_s": None, "min_age_s": 30 * 86_400} | given))


class KilledError(Exception):
    """The process ended here."""


@dataclass
class Life:
    """What the model knows of an element: versions as (stored, ended) times by object, and whether it is there."""

    now: str | None = None
    ended: dict[str, int] = field(default_factory=dict)
    vanished_us: int | None = None
    order: list[str] = field(default_factory=list)


@dataclass
class RoundState:
    at_us: int
    state: dict[str, str]


@dataclass
class RetentionWorld:
    """The replica, and the model beside it."""

    rng: random.Random
    store: LedgerStore | None = None
    clock_us: int = START
    disk: MemoryDisk = field(default_factory=MemoryDisk)
    lives: dict[str, Life] = field(default_factory=dict)
    rounds: list[RoundState] = field(default_factory=list)
    pins: dict[int, dict[str, str]] = field(default_factory=dict)
    back: set[tuple[str, str]] = field(default_factory=set)
    """What was the last version of an element that came back: until it was fetched anew, it was the current one."""

    def __post_init__(self) -> None:
        made = MemoryStore(lambda: self.clock_us) if self.store is None else self.store
        self.ledger = Ledger(made, writer="main", entropy=self.rng.randbytes, clock=lambda: self.clock_us)
        self.ledger.begin()
        self.objects = MemoryObjects("main", self.disk)
        self.source = fresh_source(salt=SALT, urls=("http://127.0.0.1/a",))
        self.append([NewFact(key=source_key(SOURCE), fact=SourceBegan(source=self.source), observed_us=self.clock_us)])
        self.effects = self._effects()

    def _effects(self) -> LedgerEffects:
        return LedgerEffects(
            ledger=self.ledger,
            source_id=SOURCE,
            instance="main",
            lease_us=HOUR,
            free_bytes=lambda: None,
            holds=self.objects.holds,
        )

    def append(self, facts: list[NewFact]) -> int:
        return self.ledger.append(facts).last

    def key(self, name: str) -> StreamKey:
        return StreamKey(source=SOURCE, kind="file", id=name)

    # --- rounds ---

    def listed(self, changes: dict[str, str | None], between: Callable[[], object] = lambda: None) -> None:
        """Make a round: content by name, None for what vanished. `between` runs after publishing, before recording."""
        known = {key.id: entry for key, entry in self.ledger.entries([self.key(name) for name in changes]).items()}
        facts = []
        for name, content in changes.items():
            entry = known.get(name)
            life = self.lives.setdefault(name, Life())
            was = None if entry is None else entry.element
            if content is None:
                if was is None or not was.present:
                    continue
                facts.append((name, vanished(was)))
                if life.now is not None:
                    life.ended[life.now] = self.clock_us
                life.now, life.vanished_us = None, self.clock_us
            elif was is None:
                facts.append((name, RemoteObserved(element=element())))
            else:
                fact = RemoteChanged if was.present else RemoteReappeared
                if not was.present and life.order:
                    self.back.add((name, life.order[-1]))
                facts.append((name, fact(element=replace(was, present=True, revision=was.revision + 1, failure=None))))
        new = [NewFact(key=self.key(name), fact=fact, observed_us=self.clock_us) for name, fact in facts]
        self.source = replace(self.source, listed_us=self.clock_us)
        listing = fresh_listing(seen=1)
        done = ListingCompleted(source=self.source, listing=listing)
        self.append([*new, NewFact(key=source_key(SOURCE), fact=done, observed_us=self.clock_us)])
        self.fetch({name: content for name, content in changes.items() if content is not None}, between)
        self.rounds.append(RoundState(self.clock_us, {n: life.now for n, life in self.lives.items() if life.now}))

    def fetch(self, contents: dict[str, str], between: Callable[[], object]) -> None:
        """Fetch what is due, as a collector does; what is refused is fetched again."""
        for _ in range(10):
            taken = self.effects.perform(TakeWork(limit=10_000, max_bytes=1 << 40, min_free=0, early=True))
            assert isinstance(taken, WorkTaken)
            if not taken.entries:
                return
            facts = []
            for entry in taken.entries:
                copy = self._publish(contents[entry.key.id])
                assert entry.element is not None
                fact = stored(entry.element, sha256=copy.sha256, size=copy.size, iv=None, instance="main")
                facts.append(NewFact(key=entry.key, fact=fact, observed_us=self.clock_us, expected=entry.version))
            between()
            recorded = self.effects.perform(RecordFacts(about="copies", facts=tuple(facts), drop=True))
            assert isinstance(recorded, Recorded)
            for new in facts:
                if new.key not in recorded.dropped:
                    self._now(new.key.id, contents[new.key.id])
        raise AssertionError("what is fetched is refused again and again")

    def _publish(self, content: str) -> Published:
        upload = self.objects.stage()
        upload.write(content.encode())
        (published,) = self.objects.publish([upload.finish()])
        assert isinstance(published, Published)
        return published

    def _now(self, name: str, content: str) -> None:
        life = self.lives[name]
        if life.now is not None and life.now != content:
            life.ended[life.now] = self.clock_us
        life.now, life.vanished_us = content, None
        life.ended.pop(content, None)
        if content in life.order:
            life.order.remove(content)
        life.order.append(content)

    # --- retention ---

    def set_policy(self, *given: KeepRules) -> int:
        before = decided_of(self.ledger)
        retention = Retention(rules=given, pins=before.retention.pins, signature=None)
        return decide(self.ledger, PolicySet(retention=retention), before)

    def pin(self) -> None:
        """Keep the present state."""
        before = decided_of(self.ledger)
        position = self.ledger.head().position
        pins = (*before.retention.pins, Pin(position=position, label="kept"))
        decide(self.ledger, PointKept(retention=replace(before.retention, pins=pins)), before)
        self.pins[position] = {name: life.now for name, life in self.lives.items() if life.now is not None}

    def decider(self) -> Decider:
        decided = decided_of(self.ledger)
        head = self.ledger.head().position
        return Decider(ledger=self.ledger, retention=decided.retention, position=head, at_us=time_of(self.ledger))

    def release(self) -> ReleaseSum:
        demand_quiet(self.ledger)
        policy = decided_of(self.ledger).position
        return release(self.decider(), policy=policy, by="test", allowed=lambda: demand_quiet(self.ledger))

    def free(self, grace_us: int = 0, freeing: Any = None) -> FreedSum:
        until = last_to_free(self.ledger, before_us=time_of(self.ledger) - grace_us, covered=None)
        freeable = self.objects.freeing() if freeing is None else freeing
        return FreeingRun(ledger=self.ledger, objects=freeable, allowed=lambda: None).released(until)

    # --- what must be ---

    def wanted(self, rule: KeepRules) -> set[tuple[str, str]]:
        """Return (name, content) of everything that the policy keeps now, by the model alone."""
        kept = self._kept_rounds(rule)
        wanted = {pair for each in kept for pair in each.state.items()}
        wanted |= {pair for state in self.pins.values() for pair in state.items()}
        for name, life in self.lives.items():
            wanted |= {(name, old) for old, us in life.ended.items() if self.clock_us - us < rule.min_age_s * 1_000_000}
            if life.now is not None:
                wanted.add((name, life.now))
            elif life.vanished_us is not None and life.order:
                age_us = self.clock_us - life.vanished_us
                if rule.vanished_s is None or age_us < max(rule.vanished_s, rule.min_age_s) * 1_000_000:
                    wanted.add((name, life.order[-1]))
        return wanted

    def _kept_rounds(self, rule: KeepRules) -> list[RoundState]:
        newest = list(reversed(self.rounds))
        kept = newest[: rule.last]
        if rule.within_s:
            kept += [each for each in newest if self.clock_us - each.at_us <= rule.within_s * 1_000_000]
        for count, form in (
            (rule.daily, "%Y-%m-%d"),
            (rule.weekly, "%G-%V"),
            (rule.monthly, "%Y-%m"),
            (rule.yearly, "%Y"),
        ):
            last_of: dict[str, RoundState] = {}
            for each in self.rounds:
                last_of[(EPOCH + timedelta(microseconds=each.at_us)).strftime(form)] = each
            names = sorted(last_of)[-count:] if count else []
            kept += [last_of[name] for name in names]
        return kept

    def check(self, rule: KeepRules | None) -> None:
        """Demand that nothing wanted was let go, and that nothing that is named is missing.

        Within a round, the model does not know the round yet: then there is no rule.
        """
        rows = list(self.ledger.copies())
        released = {(StreamKey.parse(row.key).id, row.sha256) for row in rows if row.state == RELEASED}
        gone = {(name, text) for name, text in (self.wanted(rule) if rule else ()) if (name, sha(text)) in released}
        assert not gone, f"wanted and let go: {sorted(gone)[:5]}"
        missing = [row for row in rows if row.state != RELEASED and row.sha256 not in self.disk.objects]
        assert not missing, f"named and missing: {missing[:5]}"

    def unreleased(self) -> set[tuple[str, bytes]]:
        return {(StreamKey.parse(row.key).id, row.sha256) for row in self.ledger.copies() if row.state != RELEASED}


def sha(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
