"""Any past state is a prefix: fold, projection, and snapshot with delta agree at every position."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kropot.errors import IntegrityError
from kropot.replay.check import SnapshotAudit, SnapshotFinding
from kropot.replay.counts import Counts
from kropot.replay.fold import StalePointersError, image, walk
from kropot.replay.kept import MARKS
from kropot.replay.marks import state_at
from kropot.replay.moment import resolve
from kropot.replay.snapshots import (
    POINTERS,
    _save_pointers,
    drop_snapshots,
    maybe_snapshot,
    pointers_at,
    take_snapshot,
)
from kropot.replay.until import At, Position
from ledger.checkpoint import Checkpoint, origin_of
from ledger.digest import StateDigest, pack_tail, tail_of
from ledger.quick import plain_types, quick_due_us, quick_element
from ledger.replica import fold
from tests.kropot.replay_world import START_US, World, random_life

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from random import Random

    from ledger.events import StreamKey
    from ledger.log import Ledger

SEEDS = st.integers(0, 2**32)


def lived(seed: int, steps: int = 60) -> World:
    world = World(seed=seed)
    random_life(world, steps)
    return world


def naive(ledger: Ledger, position: int) -> tuple[Counts, str]:
    """Fold in memory, with nothing but the ledger's own fold."""
    replica = fold(ledger.events(until=position))
    counts, digest = Counts(), StateDigest()
    for key in sorted(replica.entries, key=lambda key: key.stored):
        element = replica.entries[key].element
        if element is not None:
            counts.add(element)
            digest.add(key, element)
    return counts, digest.text


def count_at(ledger: Ledger, position: int, *, snapshots: bool = True) -> Counts:
    return state_at(ledger, position, snapshots=snapshots, digest=False).counts


def check_snapshots(ledger: Ledger) -> list[SnapshotFinding]:
    return list(SnapshotAudit(ledger).findings())


def walked(ledger: Ledger, position: int, *, snapshots: bool = True) -> tuple[Counts, str]:
    counts, digest = Counts(), StateDigest()
    with pointers_at(ledger, position, snapshots=snapshots) as pointers:
        for standing in walk(ledger, pointers, position):
            counts.add(standing.element)
            digest.add(standing.key, standing.element)
    return counts, digest.text


@given(SEEDS, st.lists(st.floats(0, 1), max_size=4), st.floats(0, 1))
@settings(max_examples=40)
def test_fold_and_snapshot_with_delta_agree_at_any_position(seed: int, taken: list[float], asked: float) -> None:
    ledger = lived(seed).ledger
    head = ledger.head().position
    for part in taken:
        take_snapshot(ledger, int(head * part))
    position = int(head * asked)
    expected = naive(ledger, position)
    assert walked(ledger, position) == expected
    assert walked(ledger, position, snapshots=False) == expected
    assert count_at(ledger, position) == expected[0]
    assert count_at(ledger, position, snapshots=False) == expected[0]
    assert check_snapshots(ledger) == []


@given(SEEDS)
@settings(max_examples=20)
def test_the_fold_at_the_head_is_the_projection(seed: int) -> None:
    ledger = lived(seed).ledger
    head = ledger.head().position
    counts, digest = Counts(), StateDigest()
    for entry in ledger.scan():
        assert entry.element is not None
        counts.add(entry.element)
        digest.add(entry.key, entry.element)
    assert walked(ledger, head) == (counts, digest.text)
    assert sum(tally.elements for tally in ledger.tallies()) == counts.elements


@given(SEEDS, st.integers(0, 60))
@settings(max_examples=30)
def test_any_until_is_a_prefix(seed: int, hours: int) -> None:
    ledger = lived(seed).ledger
    us = START_US + hours * 1_800_000_000
    moment = resolve(ledger, At(us=us), now_us=START_US * 2)
    expected = [record.position for record in ledger.events() if record.recorded_us < us]
    assert list(range(1, moment.position + 1)) == expected
    assert moment.root == ledger.frontier_at(moment.position).root
    if expected:
        assert moment.recorded_us is not None
        assert moment.recorded_us < us


@given(SEEDS, st.floats(0, 1))
@settings(max_examples=20)
def test_later_events_change_no_earlier_state(seed: int, asked: float) -> None:
    world = lived(seed)
    position = int(world.ledger.head().position * asked)
    before = walked(world.ledger, position)
    random_life(world, 30)
    take_snapshot(world.ledger, world.ledger.head().position)
    assert walked(world.ledger, position) == before


@given(SEEDS, st.randoms(use_true_random=False))
@settings(max_examples=20)
def test_a_walk_in_the_order_of_sources_sees_the_same(seed: int, random: Random) -> None:
    world = lived(seed)
    world.erase(next(iter(world.elements)))
    position = world.ledger.head().position
    sources = [source for source in world.ledger.sources() if random.random() < 0.8]
    random.shuffle(sources)
    with pointers_at(world.ledger, position) as pointers:
        plain = list(walk(world.ledger, pointers, position))
        ordered = list(walk(world.ledger, pointers, position, sources=sources))
    ranks = {source: rank for rank, source in enumerate(sources)}
    assert ordered == sorted(plain, key=lambda each: (ranks.get(each.key.source, len(ranks)), each.key))


def test_counts_say_what_is_held() -> None:
    world = World()
    source = world.source(None)
    kept, older, gone, hurt, lost, new = (world.see(source, f"{number}.txt") for number in range(6))
    for number, key in enumerate((kept, older, gone, hurt, lost)):
        world.store_copy(key, bytes(10 + number))
    world.see(source, "1.txt", date=1_790_000_009)
    world.vanish(gone)
    world.damage(hurt)
    world.damage(lost, lost=True)
    assert world.elements[new].copy is None
    assert count_at(world.ledger, world.ledger.head().position) == Counts(
        elements=6, current=1, pending=2, vanished=1, damaged=1, lost=1, copies=3, bytes=10 + 11 + 12
    )


def test_an_empty_ledger_has_an_empty_state() -> None:
    ledger = World().ledger
    assert walked(ledger, 0) == (Counts(), StateDigest().text)
    moment = resolve(ledger, None, now_us=START_US)
    assert (moment.position, moment.recorded_us) == (0, None)


@given(SEEDS)
@settings(max_examples=20)
def test_an_erased_element_is_nowhere_at_any_time_with_snapshots_or_without(seed: int) -> None:
    world = lived(seed, 40)
    head = world.ledger.head().position
    take_snapshot(world.ledger, head // 2)
    gone = world.random.choice(sorted(world.elements))
    world.erase(gone)
    take_snapshot(world.ledger, head // 3)
    random_life(world, 5)
    for position in range(0, world.ledger.head().position + 1, 7):
        with pointers_at(world.ledger, position) as pointers:
            keys: list[StreamKey] = [standing.key for standing in walk(world.ledger, pointers, position)]
        assert gone not in keys
        assert count_at(world.ledger, position).elements == len(keys)
        assert count_at(world.ledger, position, snapshots=False).elements == len(keys)


# --- moments ---------------------------------------------------------------------------------------------------------


def test_a_future_moment_is_now_and_says_so() -> None:
    world = lived(1)
    head = world.ledger.head().position
    for when in (At(us=world.now_us + 1), Position(position=head + 1)):
        moment = resolve(world.ledger, when, now_us=world.now_us)
        assert moment.position == head
        assert any("the state now" in note for note in moment.notes)


def test_a_naive_time_says_that_it_was_taken_as_utc() -> None:
    moment = resolve(lived(1).ledger, At(us=START_US, naive=True), now_us=START_US * 2)
    assert any("read as UTC" in note for note in moment.notes)


def test_a_checkpoint_leads_to_its_position() -> None:
    ledger = lived(1).ledger
    root = ledger.frontier_at(20).root
    checkpoint = Checkpoint(origin=origin_of(ledger.identity().ledger_id), size=20, root=root)
    assert resolve(ledger, checkpoint, now_us=START_US).position == 20


@pytest.mark.parametrize("wrong", ["root", "size", "origin"])
def test_a_checkpoint_that_this_history_does_not_keep_is_refused(wrong: str) -> None:
    ledger = lived(1).ledger
    origin = origin_of(ledger.identity().ledger_id) if wrong != "origin" else "elsewhere"
    root = ledger.frontier_at(20).root if wrong != "root" else bytes(32)
    size = 20 if wrong != "size" else 10_000
    with pytest.raises(IntegrityError, match=r"checkpoint"):
        resolve(ledger, Checkpoint(origin=origin, size=size, root=root), now_us=START_US)


# --- snapshots are disposable ----------------------------------------------------------------------------------------


def test_collecting_takes_snapshots_at_whole_multiples_and_catches_up() -> None:
    ledger = lived(2, 200).ledger
    head = ledger.head().position
    taken = []
    while step := maybe_snapshot(ledger, marks_every=30, pointers_every=70):
        taken += step
    assert sorted(taken) == sorted(
        [(MARKS, at) for at in range(30, head + 1, 30)] + [(POINTERS, at) for at in range(70, head + 1, 70)]
    )
    assert check_snapshots(ledger) == []
    assert maybe_snapshot(ledger, marks_every=30, pointers_every=70) == ()


def test_dropping_snapshots_changes_no_answer() -> None:
    ledger = lived(3, 100).ledger
    take_snapshot(ledger, 50)
    before = [walked(ledger, position) for position in range(40, 100, 9)]
    assert drop_snapshots(ledger) == 2
    assert ledger.blobs.list_snapshots() == []
    assert [walked(ledger, position) for position in range(40, 100, 9)] == before


@given(st.data())
@settings(max_examples=60)
def test_a_damaged_snapshot_changes_no_answer_and_is_found(data: st.DataObject) -> None:
    ledger = lived(4, 80).ledger
    take_snapshot(ledger, 50)
    expected = walked(ledger, 70, snapshots=False)
    kind = data.draw(st.sampled_from([MARKS, POINTERS]))
    chunks = list(ledger.blobs.load_snapshot(kind, 50))
    number = data.draw(st.integers(0, len(chunks) - 1))
    how = data.draw(st.sampled_from(["flip", "cut", "drop", "swap", "double"]))
    if how == "flip":
        at = data.draw(st.integers(0, len(chunks[number]) - 1))
        chunks[number] = chunks[number][:at] + bytes([chunks[number][at] ^ 4]) + chunks[number][at + 1 :]
    elif how == "cut":
        chunks[number] = chunks[number][: data.draw(st.integers(0, len(chunks[number]) - 1))]
    elif how == "drop":
        del chunks[number]
    elif how == "swap" and len(chunks) > 1:
        chunks.reverse()
    else:
        chunks.append(chunks[number])
    ledger.blobs.save_snapshot(kind, 50, chunks)
    assert walked(ledger, 70) == expected
    assert count_at(ledger, 70) == expected[0]
    assert [(finding.kind, finding.position) for finding in check_snapshots(ledger)] == [(kind, 50)]


def test_a_snapshot_of_another_history_is_left_aside() -> None:
    ledger, other = lived(5, 80).ledger, lived(6, 80).ledger
    take_snapshot(other, 50)
    for kind in (MARKS, POINTERS):
        ledger.blobs.save_snapshot(kind, 50, other.store.blobs.load_snapshot(kind, 50))
    assert walked(ledger, 60) == naive(ledger, 60)
    assert count_at(ledger, 60) == naive(ledger, 60)[0]
    assert len(check_snapshots(ledger)) == 2


def test_forged_pointers_with_a_right_checksum_cannot_pass_a_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = lived(7, 80).ledger
    with pointers_at(ledger, 50) as pointers:
        known = list(pointers.known())
    moved = next(stream for stream, at in known if ledger.log.events_at([at])[0].stream_version > 1)
    forge(ledger, monkeypatch, moved, next(ledger.log.last_positions(dict(known)[moved] - 1, [moved]))[0])
    with pytest.raises(StalePointersError, match="--no-snapshots"):
        walked(ledger, 50)
    assert walked(ledger, 50, snapshots=False) == naive(ledger, 50)
    assert [finding.kind for finding in check_snapshots(ledger)] == [POINTERS]


def test_a_forged_pointer_to_another_stream_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = lived(7, 80).ledger
    forge(ledger, monkeypatch, 3, 1)
    with pytest.raises(StalePointersError):
        walked(ledger, 50)


def forge(ledger: Ledger, monkeypatch: pytest.MonkeyPatch, stream: int, position: int) -> None:
    """Keep a snapshot at 50 whose pointer for a stream is another one, and whose seal is right."""
    with monkeypatch.context() as patched:
        for name in ("pointers", "last_positions"):
            patched.setattr(ledger.log, name, lying(getattr(ledger.log, name), stream, position))
        assert _save_pointers(ledger, 50)


def lying(honest: Callable[..., Iterator[tuple[int, int]]], stream: int, position: int) -> Callable[..., Any]:
    """Return a reader of pointers that gives another position for a stream."""
    return lambda *args, **range_: [
        (position if each == stream and at > position else at, each) for at, each in honest(*args, **range_)
    ]


@given(SEEDS)
@settings(max_examples=20)
def test_a_quick_look_sees_what_reading_with_all_checks_sees(seed: int) -> None:
    ledger = lived(seed).ledger
    seen = 0
    for event in ledger.stored():
        element = image(ledger, event)
        found = quick_element(event.payload) if (event.type, event.schema_version) in plain_types() else None
        if found is None:
            continue
        assert element is not None
        sound = None if element.copy is None or element.damage is not None else element.copy.size
        state, size_seen, date, tz, form, sha256, size, iv, _, next_try = found
        assert (state, size_seen) == (element.state, sound)
        assert tail_of(date, tz, form, state, sha256, size, iv) == pack_tail(element)
        if element.damage is None:
            assert quick_due_us(state, next_try, event.recorded_us) == element.due_us(event.recorded_us)
        seen += 1
    assert seen > 0


@pytest.mark.parametrize(
    "payload", [b"", b"\xc1", b"\x80", b"\x81\xa7element\xc0", b"\x93\x01\x02\x03", None, "text", 7]
)
def test_a_quick_look_at_odd_bytes_says_nothing(payload: object) -> None:
    assert quick_element(payload) is None


def test_a_delta_reads_only_what_came_after(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = lived(8, 120).ledger
    expected = naive(ledger, 110)[0]
    take_snapshot(ledger, 100)
    read: list[int] = []
    honest = ledger.log.facts_at
    monkeypatch.setattr(ledger.log, "facts_at", lambda seqs: read.extend(seqs) or honest(seqs))
    assert count_at(ledger, 110) == expected
    assert 0 < len(read) <= 2 * 10
