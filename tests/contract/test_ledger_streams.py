"""Every store shows the past alike: streams in key order, where they stood, and the same state digest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kropot.replay import sd1
from kropot.replay.check import SnapshotAudit
from kropot.replay.kept import MARKS
from kropot.replay.marks import state_at
from kropot.replay.sd1 import digest_at
from kropot.replay.snapshots import POINTERS, take_snapshot
from ledger.log import Ledger
from ledger.memory import MemoryStore
from ledger.sql.store import SqlStore
from tests.kropot.replay_world import World, random_life

if TYPE_CHECKING:
    from ledger.stores import LedgerStore


@pytest.fixture
def world(store: LedgerStore) -> World:
    world = World(store, seed=11)
    random_life(world, 60)
    return world


@pytest.fixture
def twin() -> World:
    """The same life in memory."""
    world = World(MemoryStore(), seed=11)
    random_life(world, 60)
    return world


def test_streams_come_in_bytewise_key_order(world: World) -> None:
    named = {stream: key for stream, key in world.store.log.streams() if key is not None}
    assert list(world.store.log.streams_by_key()) == sorted((key, stream) for stream, key in named.items())
    some = sorted(named.values())[5]
    assert [key for key, _ in world.store.log.streams_by_key(after=some)] == sorted(named.values())[6:]


def test_erased_streams_have_no_place_in_the_order_of_keys(world: World) -> None:
    gone = min(world.elements)
    world.erase(gone)
    assert gone.stored not in dict(world.store.log.streams_by_key())


def test_erasures_are_found_without_reading_the_other_events(world: World) -> None:
    gone = sorted(world.elements)[:2]
    began = {key: world.ledger.entries([key])[key] for key in gone}
    before = {event.seq for event in world.ledger.erasures()}
    for key in gone:
        world.erase(key)
    head = world.ledger.head().position
    found = [event for event in world.ledger.erasures() if event.seq not in before]
    assert [event.stream for event in found] == sorted(entry.stream for entry in began.values())
    assert {event.seq for event in found} == {head - 1, head}
    versions = {entry.stream: entry.version for entry in began.values()}
    assert all(event.stream_version == versions[event.stream] + 1 for event in found)
    assert all(event.type == "PayloadErased" and event.payload is not None for event in found)


def test_where_streams_stood_is_what_folding_says(world: World) -> None:
    log, head = world.store.log, world.ledger.head().position
    for position in (0, 1, 2, 30, 61, 10_000):
        stood = {stream: at for at, stream in log.pointers(until=min(position, head))}
        assert list(log.last_positions(position)) == [(at, stream) for stream, at in sorted(stood.items())]
        asked = list(range(1, 40))
        found = list(log.last_positions(position, asked))
        assert sorted(found) == sorted((at, stream) for stream, at in stood.items() if stream in asked)
        assert list(log.last_positions(position, [])) == []


def test_an_erasure_removes_the_snapshots_that_were_made_from_what_is_erased(world: World) -> None:
    gone = max(world.elements, key=lambda key: next(world.store.log.stream_events(key.stored)).seq)
    first = next(world.store.log.stream_events(gone.stored)).seq
    for position in (first - 1, first, world.ledger.head().position):
        take_snapshot(world.ledger, position)
    world.erase(gone)
    assert world.store.blobs.list_snapshots() == [(MARKS, first - 1), (POINTERS, first - 1)]
    assert list(world.store.blobs.load_snapshot(POINTERS, first)) == []
    assert list(SnapshotAudit(world.ledger).findings()) == []
    world.erase(min(world.elements, key=lambda key: next(world.store.log.stream_events(key.stored)).seq))
    assert world.store.blobs.list_snapshots() == []


def test_a_snapshot_of_before_an_erasure_is_not_kept_after_it(world: World) -> None:
    before = world.ledger.head().position
    world.erase(min(world.elements))
    assert not world.store.blobs.save_snapshot(MARKS, 40, [b"x"], as_of=before)
    assert world.store.blobs.list_snapshots() == []
    assert world.store.blobs.save_snapshot(MARKS, 40, [b"x"], as_of=before + 1)
    assert list(world.store.blobs.load_snapshot(MARKS, 40)) == [b"x"]
    assert not world.store.blobs.save_snapshot(MARKS, 40, [b"y"], as_of=before)
    assert world.store.blobs.list_snapshots() == []


def test_the_state_digest_is_the_same_on_every_store(world: World, twin: World) -> None:
    head = world.ledger.head().position
    for position in (0, 7, head // 2, head):
        assert digest_at(world.ledger, position) == digest_at(twin.ledger, position)
        take_snapshot(world.ledger, position)
        assert digest_at(world.ledger, position) == digest_at(twin.ledger, position)
        found, expected = state_at(world.ledger, position), state_at(twin.ledger, position, snapshots=False)
        assert (found.counts, found.digest.text) == (expected.counts, expected.digest.text)
        assert found.mark == (position or None)
    assert list(SnapshotAudit(world.ledger).findings()) == []


def test_other_processes_make_the_same_digest_on_every_database(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sd1, "LARGE_PAGE", 3)
    head = world.ledger.head().position
    expected = digest_at(world.ledger, head, processes=0)
    assert world.store.reopener() is None  # it writes, or nobody else sees it
    if isinstance(world.store, SqlStore):
        reader = SqlStore(world.store.place, read_only=True)
        assert reader.reopener() is not None
        assert digest_at(Ledger(reader), head, processes=2) == expected
        assert reader.log.head().position == head
        reader.close()
