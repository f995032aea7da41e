"""Marks: the state at any moment is that of the whole fold, wherever it begins, and a mark that lies is found."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from kropot.replay import check as check_module
from kropot.replay import marks as marks_module
from kropot.replay import state as state_module
from kropot.replay.check import SnapshotAudit
from kropot.replay.counts import Counts
from kropot.replay.fold import StalePointersError
from kropot.replay.kept import MARKS, Checksums
from kropot.replay.marks import decode, encode, load_mark, save_mark, state_at
from kropot.replay.snapshots import OLD_COUNTS, POINTERS, maybe_snapshot, take_snapshot
from kropot.replay.state import ReplicaState, change, move, whole
from kropot.upkeep import MARKS_AT_ONCE, keep_snapshots
from ledger.digest import SetDigest, row
from ledger.errors import UnknownCriticalEventError
from ledger.events import Source, ZoneChanged
from ledger.log import Ledger, NewFact, source_key
from ledger.memory import MemoryStore
from ledger.replica import fold
from ledger.sql import open_store
from tests.kropot.replay_world import World, random_life

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

SEEDS = st.integers(0, 2**32)


def naive(ledger: Ledger, position: int) -> ReplicaState:
    """Fold in memory, with nothing but the ledger's own fold."""
    state = ReplicaState()
    for key, entry in fold(ledger.events(until=position)).entries.items():
        if entry.element is not None:
            state.counts.add(entry.element)
            state.digest.add(row(key, entry.element))
    return state


def told(state: ReplicaState) -> tuple[Counts, dict[bytes, bytes]]:
    return state.counts, state.digest.lanes


def zone_changed(world: World) -> None:
    """Move all dates of a source by an hour, as a collector records it: the source first, then some elements."""
    source, entry = world.random.choice(sorted(world.ledger.sources().items()))
    moved: Source = replace(entry.source, zone="Etc/GMT+1", zone_shifts=(*entry.source.zone_shifts, (3600,)))
    world.ledger.append(
        [NewFact(key=source_key(source), fact=ZoneChanged(source=moved, offsets=(3600,)), observed_us=world.now_us)]
    )
    for key in [key for key in world.elements if key.source == source][:3]:
        element = world.elements[key]
        if element.present and world.kits[source] is None:
            world.see(key.source, key.id, date=element.date + 3600)


def lived(seed: int, *, store: Any = None, erasures: int = 2, marked: bool = False) -> World:
    """Return a life with four sources, zone changes and erasures. If it is `marked`, it has snapshots of before."""
    world = World(store, seed=seed)
    for _ in range(2):
        random_life(world, 15)
        zone_changed(world)
        if marked:
            take_snapshot(world.ledger, world.random.randrange(1, world.ledger.head().position))
    for _ in range(erasures):
        world.erase(world.random.choice(sorted(world.elements)))
        random_life(world, 3)
    return world


@given(SEEDS, st.lists(st.floats(0.01, 1), max_size=4))
@settings(max_examples=12)
def test_marks_and_a_delta_give_the_whole_fold_at_every_position(seed: int, marked: list[float]) -> None:
    ledger = lived(seed, marked=True).ledger
    head = ledger.head().position
    for part in marked:
        take_snapshot(ledger, int(head * part))
    for position in range(head + 1):
        expected = told(naive(ledger, position))
        assert told(state_at(ledger, position)) == expected
        assert told(state_at(ledger, position, snapshots=False)) == expected
    assert list(SnapshotAudit(ledger).findings()) == []


@given(SEEDS, st.floats(0, 1), st.floats(0, 1), st.integers(1, 40))
@settings(max_examples=25)
def test_a_state_moves_to_any_other_position_and_back(seed: int, one: float, other: float, step: int) -> None:
    ledger = lived(seed).ledger
    start, end = (int(ledger.head().position * part) for part in (one, other))
    state = naive(ledger, start)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(state_module, "STEP", step)
        move(ledger, state, start, end)
        assert told(state) == told(naive(ledger, end))
        move(ledger, state, end, start)
    assert told(state) == told(naive(ledger, start))


@given(SEEDS)
@settings(max_examples=10)
def test_the_changes_between_add_up(seed: int) -> None:
    ledger = lived(seed).ledger
    head = ledger.head().position
    state = ReplicaState()
    for start, end in pairwise([*range(0, head, 7), head]):
        state.merge(change(ledger, start, end))
    assert told(state) == told(whole(ledger, head))


@given(SEEDS)
@settings(max_examples=10)
def test_an_erasure_drops_the_marks_behind_it_and_new_ones_know_nothing_of_it(seed: int) -> None:
    world = lived(seed, erasures=0)
    ledger = world.ledger
    middle = ledger.head().position // 2
    take_snapshot(ledger, middle)
    before = told(state_at(ledger, middle))
    gone = next(key for key in fold(ledger.events(until=middle)).entries if key in world.elements)
    world.erase(gone)
    assert ledger.blobs.list_snapshots() == []
    take_snapshot(ledger, middle)
    assert told(state_at(ledger, middle)) == told(naive(ledger, middle)) != before
    assert list(SnapshotAudit(ledger).findings()) == []


def test_a_mark_that_was_made_of_what_is_erased_meanwhile_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    world = lived(3, erasures=0)
    head = world.ledger.head().position
    honest = marks_module.encode

    def slow(state: ReplicaState) -> bytes:
        body = honest(state)
        world.erase(min(world.elements))
        return body

    monkeypatch.setattr(marks_module, "encode", slow)
    assert not save_mark(world.ledger, head)
    monkeypatch.undo()
    assert world.ledger.blobs.list_snapshots() == []
    assert save_mark(world.ledger, head)
    assert list(SnapshotAudit(world.ledger).findings()) == []


def forged(ledger: Ledger, position: int, state: ReplicaState) -> None:
    """Keep a mark with a right checksum that says something else."""
    chunk = Checksums(ledger, MARKS, position).sign(0, encode(state))
    ledger.blobs.save_snapshot(MARKS, position, [chunk])


@pytest.mark.parametrize("what", ["counts", "one lane", "a source more", "a source less", "another position"])
def test_a_mark_that_lies_is_found_whatever_its_checksum_says(what: str) -> None:
    ledger = lived(5).ledger
    take_snapshot(ledger, 20)
    take_snapshot(ledger, 30)
    state = naive(ledger, 30)
    lanes = state.digest.lanes
    first = min(lanes)
    match what:
        case "counts":
            state.counts.bytes += 1
        case "one lane":
            lanes[first] = bytes([lanes[first][0] ^ 1]) + lanes[first][1:]
        case "a source more":
            lanes[bytes(16)] = lanes[first]
        case "a source less":
            del lanes[first]
        case _:
            state = naive(ledger, 20)
            lanes = state.digest.lanes
    forged(ledger, 30, ReplicaState(counts=state.counts, digest=SetDigest(lanes)))
    found = list(SnapshotAudit(ledger).findings())
    assert [(each.kind, each.position) for each in found] == [(MARKS, 30)]
    assert "from the events" in found[0].why
    assert told(state_at(ledger, 30, snapshots=False)) == told(naive(ledger, 30))


COUNTS = Counts().plain()
SOURCE = bytes(16)


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        [COUNTS],
        [COUNTS, []],
        [COUNTS | {"bytes": True}, {}],
        [COUNTS | {"bytes": -1}, {}],
        [COUNTS | {"bytes": "1"}, {}],
        [COUNTS | {"bytes": 1 << 63}, {}],
        [COUNTS | {"more": 1}, {}],
        [{}, {}],
        [COUNTS, {SOURCE: bytes(2047)}],
        [COUNTS, {SOURCE: bytes(2048)}],
        [COUNTS, {SOURCE: [1] * 2048}],
        [COUNTS, {SOURCE: "x" * 2048}],
        [COUNTS, {SOURCE.decode(): b"x" * 2048}],
        [COUNTS, {SOURCE + b"x": b"x" * 2048}],
        [COUNTS, {7: b"x" * 2048}],
    ],
)
def test_a_forged_mark_of_another_shape_is_none(value: object) -> None:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        value[0] = dict(sorted(value[0].items()))
    assert decode(msgpack.packb(value), 5) is None


@given(st.data())
@settings(max_examples=60)
def test_bytes_that_are_no_mark_are_none(data: st.DataObject) -> None:
    body = encode(naive(lived(1).ledger, 25))
    at = data.draw(st.integers(0, 80))
    how = data.draw(st.sampled_from(["cut", "flip", "more", "other"]))
    other = {
        "cut": body[:at],
        "flip": body[:at] + bytes([body[at] ^ data.draw(st.integers(1, 255))]) + body[at + 1 :],
        "more": body + b"\xc0",
        "other": data.draw(st.binary(max_size=30)),
    }[how]
    found = decode(other, 25)
    assert found is None or encode(found) == other


def test_a_chain_that_was_made_from_a_lie_is_found_from_there_on() -> None:
    ledger = lived(5).ledger
    forged(ledger, 20, naive(ledger, 15))
    take_snapshot(ledger, 22)
    take_snapshot(ledger, 10)
    found = [(each.kind, each.position) for each in SnapshotAudit(ledger).findings()]
    assert found == [(MARKS, 20), (MARKS, 22)]


def test_what_cannot_be_read_behind_a_moment_does_not_hide_it(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = lived(6).ledger
    take_snapshot(ledger, 40)

    def refuse(*_: object, **__: object) -> None:
        raise UnknownCriticalEventError(39, "SomethingNew", 1)

    monkeypatch.setattr(marks_module, "move", refuse)
    assert told(state_at(ledger, 35)) == told(naive(ledger, 35))


def test_the_whole_fold_proves_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = lived(7).ledger
    honest = ledger.log.last_positions
    monkeypatch.setattr(ledger.log, "last_positions", lambda until: list(honest(until))[:-1])
    with pytest.raises(StalePointersError, match="kropotcli verify"):
        whole(ledger, 40)


def test_a_fold_in_other_processes_gives_the_same(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    store = open_store(url, create=True)
    world = lived(8, store=store)
    head = world.ledger.head().position
    reader = open_store(url, read_only=True)
    assert told(whole(Ledger(reader), head, processes=2)) == told(naive(world.ledger, head))
    reader.close()
    store.close()


# --- keeping ---------------------------------------------------------------------------------------------------------


class PowerCutError(Exception):
    """The process ends here."""


def cut_after(chunks: Iterable[bytes]) -> Iterable[bytes]:
    yield from chunks
    raise PowerCutError


@pytest.mark.parametrize("when", ["before", "within"])
def test_a_crash_while_a_mark_is_made_loses_nothing(when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    store = open_store(url, create=True)
    world = lived(9, store=store)
    take_snapshot(world.ledger, 20)
    honest = store.blobs.save_snapshot

    def save(kind: str, position: int, chunks: Iterable[bytes], *, as_of: int | None = None) -> bool:
        if when == "before":
            raise PowerCutError
        return honest(kind, position, cut_after(chunks), as_of=as_of)

    monkeypatch.setattr(store.blobs, "save_snapshot", save)
    with pytest.raises(PowerCutError):
        take_snapshot(world.ledger, 30)
    store.close()
    again = open_store(url)
    ledger = Ledger(again)
    assert ledger.blobs.list_snapshots() == [(MARKS, 20), (POINTERS, 20)]
    assert told(state_at(ledger, 30)) == told(naive(ledger, 30))
    assert take_snapshot(ledger, 30) == (MARKS, POINTERS)
    assert list(SnapshotAudit(ledger).findings()) == []
    again.close()


def test_the_counts_of_before_are_replaced_and_are_no_finding() -> None:
    ledger = lived(2).ledger
    ledger.blobs.save_snapshot(OLD_COUNTS, 20, [b"of before"])
    assert list(SnapshotAudit(ledger).findings()) == []
    assert maybe_snapshot(ledger, marks_every=30)
    assert OLD_COUNTS not in {kind for kind, _ in ledger.blobs.list_snapshots()}


def test_a_mark_beyond_the_ledger_is_found_and_not_used() -> None:
    ledger = lived(2).ledger
    head = ledger.head().position
    ledger.blobs.save_snapshot(MARKS, head + 5, [b"x"])
    assert load_mark(ledger, head + 5) is None
    assert told(state_at(ledger, head)) == told(naive(ledger, head))
    assert [each.position for each in SnapshotAudit(ledger).findings()] == [head + 5]


def test_an_erasure_while_marks_are_compared_is_no_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    world = lived(2)
    take_snapshot(world.ledger, 30)
    honest = check_module.load_mark

    def slow(ledger: Ledger, position: int) -> ReplicaState | None:
        world.erase(min(world.elements))
        return honest(ledger, position)

    monkeypatch.setattr(check_module, "load_mark", slow)
    audit = SnapshotAudit(world.ledger)
    assert list(audit.findings()) == []
    assert audit.has_moved


def test_a_mark_that_comes_while_they_are_compared_is_left_to_the_next_check() -> None:
    ledger = lived(2).ledger
    audit = SnapshotAudit(ledger, 30)
    take_snapshot(ledger, 40)
    assert list(audit.findings()) == []
    assert (audit.compared, told(audit.state)) == (0, told(naive(ledger, 30)))


def test_short_collections_make_no_marks_and_long_ones_all_that_are_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kropot.upkeep.MARKS_EVERY", 10_000)
    ledger = Ledger(MemoryStore())
    asked: list[int] = []
    monkeypatch.setattr("kropot.replay.snapshots.maybe_snapshot", lambda _: asked.append(1) or ())
    chore = keep_snapshots(ledger)
    for position, expected in ((10_000 * MARKS_AT_ONCE - 1, 0), (10_000 * MARKS_AT_ONCE, 1)):
        head = ledger.log.head()._replace(position=position)
        monkeypatch.setattr(ledger.log, "head", lambda head=head: head)
        chore.do()
        assert len(asked) == expected


def test_a_mark_takes_2_kib_for_each_source_however_many_elements_it_has() -> None:
    world = World()
    sizes = []
    for count in (10, 300):
        world.see_many(world.source(None), count)
        sizes.append(len(encode(state_at(world.ledger, world.ledger.head().position))))
    assert 2_048 < sizes[1] - sizes[0] < 2_048 + 40
