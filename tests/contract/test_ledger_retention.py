"""Every store gives retention what it reads: histories, events by type, copies by object, what was revisited."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kropot.retention.deciding import Decider
from kropot.retention.releasing import release
from kropot.verify.releases import ReleaseAudit
from ledger.audit import IndexAudit, LogAudit
from ledger.retaining import NOTHING, Decided, Freeing, decide, decided_of, freeing_of, head_locked, say_freed
from ledger.retention import Freed, FreeingBegan, FreeingEnded, PolicySet, Retention
from ledger.rows import StoredFact
from tests.kropot.replay_world import World, random_life
from tests.kropot.retention_world import rules

if TYPE_CHECKING:
    from ledger.stores import LedgerStore


@pytest.fixture
def world(store: LedgerStore) -> World:
    world = World(store, seed=5)
    random_life(world, 80)
    return world


def test_histories_come_stream_by_stream_and_end_where_they_should(world: World) -> None:
    log, head = world.store.log, world.ledger.head().position
    streams = [stream for stream, key in log.streams() if key is not None][::2]
    for until in (head, head // 2, 0):
        found = [StoredFact._make(row) for row in log.histories(streams, until)]
        assert [(each.stream, each.stream_version) for each in found] == sorted(
            (event.stream, event.stream_version)
            for event in world.ledger.stored(until=until)
            if event.stream in streams
        )
        assert all(type(each.payload) is bytes for each in found)
    assert list(log.histories([], head)) == []


def test_events_come_by_type(world: World) -> None:
    types = {"CopyStored", "RemoteVanished"}
    wanted = [event.seq for event in world.ledger.stored() if event.type in types]
    head = world.ledger.head().position
    assert [row[0] for row in world.store.log.of_types(types, 0, head, 1000)] == wanted
    assert [row[0] for row in world.store.log.of_types(types, wanted[2], wanted[7], 3)] == wanted[3:6]


def test_copies_come_by_object(world: World) -> None:
    rows = list(world.store.projection.copies())
    some = {row.sha256 for row in rows[::3]}
    assert sorted(world.store.projection.named(some)) == sorted(row for row in rows if row.sha256 in some)
    assert world.store.projection.named([]) == []


def test_what_was_revisited_comes_in_the_order_of_streams(world: World) -> None:
    entries = list(world.ledger.scan())
    wanted = sorted(e.stream for e in entries if e.version > 2 or (e.element is not None and not e.element.present))
    last = world.store.log.head().streams
    assert [stream for stream, _ in world.store.projection.revisited(0, last)] == wanted
    assert [stream for stream, _ in world.store.projection.revisited(wanted[3], last)] == wanted[4:]
    assert [stream for stream, _ in world.store.projection.revisited(wanted[3], wanted[5])] == wanted[4:6]


def test_a_release_and_its_withdrawal_are_projected_as_they_are_folded(world: World, store: LedgerStore) -> None:
    ledger = world.ledger
    policy = Retention(rules=(rules(last=1, min_age_s=0, vanished_s=0),), pins=(), signature=None)
    at = decide(ledger, PolicySet(retention=policy), decided_of(ledger))
    assert decided_of(ledger) == Decided(policy, at, 1)
    assert decided_of(ledger, until=at - 1) == Decided(NOTHING, 0, 1)
    head = ledger.head()
    decider = Decider(ledger=ledger, retention=policy, position=head.position, at_us=head.recorded_us)
    assert release(decider, policy=at, by="test", allowed=lambda: None).total[0] > 2
    assert list(ReleaseAudit(ledger, ledger.head().position).findings()) == []
    _expect_sound(store)
    before = list(ledger.copies())
    ledger.rebuild()
    assert list(ledger.copies()) == before
    assert isinstance(world.ledger.store, type(store))
    _expect_sound(store)


def test_freeing_is_said_in_order(world: World) -> None:
    ledger, freed = world.ledger, Freed(to=3, objects=2, bytes=1)
    assert freeing_of(ledger) == Freeing()
    began = say_freed(ledger, FreeingBegan(freed=freed), Freeing())
    assert freeing_of(ledger) == began
    assert began.is_open
    ended = say_freed(ledger, FreeingEnded(freed=freed), began)
    assert not freeing_of(ledger).is_open
    assert ended.version == 2
    with head_locked(ledger):
        assert freeing_of(ledger) == ended


def _expect_sound(store: LedgerStore) -> None:
    audit = LogAudit(store.log)
    assert list(audit.findings()) == []
    assert list(IndexAudit(store, audit).findings()) == []
