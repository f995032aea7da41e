"""Releasing, freeing and taking back, and what must hold while collectors, kills and a lost lock come between."""

from __future__ import annotations

import dataclasses
import random
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from kropot.errors import IntegrityError, PartialError
from kropot.objects.directory import DirectoryObjects
from kropot.retention import deciding
from kropot.retention.cleaning import Count, is_dispensable, old_unnamed, unnamed
from kropot.retention.conditions import demand_quiet, time_of
from kropot.retention.freeing import FreeingRun, FreeingTakenOverError
from kropot.retention.releasing import PolicyMovedError, ReleaseSum, release, undo, would_release
from kropot.retention.signature import is_signed, signed
from kropot.verify.releases import ReleaseAudit
from ledger.errors import ConflictError, LedgerUnavailableError
from ledger.events import AlarmsAccepted, HeldListing, ListingHeldBack, Surge
from ledger.log import NewFact, source_key
from ledger.note import SigningKey
from ledger.retaining import decide, decided_of, freeing_of, head_locked
from ledger.retention import PointLetGo
from ledger.rows import RELEASED, SOUND
from ledger.sql import open_store
from tests.kropot.retention_world import DAY, SOURCE, RetentionWorld, rules, sha

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ledger.log import Ledger

KEEP_ONE = rules(last=1, min_age_s=0, vanished_s=0)


@pytest.fixture
def world() -> RetentionWorld:
    """Return a world in which `a` has an older version, `b` vanished, and `c` shares its object with that version."""
    made = RetentionWorld(random.Random(1))
    made.set_policy(KEEP_ONE)
    made.listed({"a": "old", "b": "gone", "c": "shared"})
    made.clock_us += DAY
    made.listed({"a": "new", "b": None})
    made.clock_us += DAY
    made.listed({"a": "newest"})
    return made


def states(world: RetentionWorld) -> dict[str, str]:
    by_sha = {sha(text): text for text in ("old", "gone", "shared", "new", "newest")}
    return {by_sha[row.sha256]: row.state for row in world.ledger.copies()}


def test_what_the_policy_does_not_keep_is_released_and_freed(world: RetentionWorld) -> None:
    done = world.release()
    assert done.copies == {(SOURCE, "replaced"): (2, 6), (SOURCE, "vanished"): (1, 4)}
    assert states(world) == {
        "old": RELEASED, "new": RELEASED, "gone": RELEASED, "newest": SOUND, "shared": SOUND
    }  # fmt: skip
    assert len(world.disk.objects) == 5, "nothing goes before it is freed"
    assert world.free().objects == 3
    assert set(world.disk.objects) == {sha("newest"), sha("shared")}
    assert world.release().total == (0, 0)
    assert world.free().objects == 0
    assert freeing_of(world.ledger).freed.objects == 3
    assert list(ReleaseAudit(world.ledger, world.ledger.head().position).findings()) == []


def test_bytes_wait_for_their_grace_and_for_the_checkpoint(world: RetentionWorld) -> None:
    world.release()
    assert world.free(grace_us=7 * DAY).objects == 0
    world.clock_us += 6 * DAY
    world.listed({})
    assert world.free(grace_us=7 * DAY).objects == 0
    world.clock_us += DAY
    world.listed({})
    assert world.free(grace_us=7 * DAY).objects == 3


def test_an_object_that_another_copy_needs_stays_until_that_is_released_too(world: RetentionWorld) -> None:
    world.listed({"d": "old"})
    world.release()
    freed = world.free()
    assert (freed.objects, freed.kept) == (2, 1)
    assert sha("old") in world.disk.objects
    world.clock_us += DAY
    world.listed({"d": "other"})
    world.clock_us += DAY
    world.listed({})
    world.release()
    assert world.free().objects == 1
    assert sha("old") not in world.disk.objects


def test_a_vanished_element_that_comes_back_is_fetched_again(world: RetentionWorld) -> None:
    world.release()
    entry = world.ledger.entries([world.key("b")])[world.key("b")]
    assert entry.element is not None
    assert entry.element.copy is None
    assert entry.element.state == "vanished"
    world.free()
    world.listed({"b": "gone"})
    assert sha("gone") in world.disk.objects
    assert states(world)["gone"] == SOUND


def test_a_release_is_taken_back_until_its_bytes_are_freed(world: RetentionWorld) -> None:
    world.release()
    done = undo(world.ledger, world.objects)
    assert (done.copies, done.bytes, done.gone) == (3, 10, 0)
    assert set(states(world).values()) == {SOUND}
    entry = world.ledger.entries([world.key("b")])[world.key("b")]
    assert entry.element is not None
    assert entry.element.copy is not None
    assert entry.element.copy.sha256 == sha("gone")
    assert world.free().objects == 0
    assert undo(world.ledger, world.objects).copies == 0
    assert list(ReleaseAudit(world.ledger, world.ledger.head().position).findings()) == []
    assert world.release().total[0] == 3
    assert world.free().objects == 3
    assert undo(world.ledger, world.objects).copies == 0


def test_an_object_that_is_not_sound_is_not_taken_back(world: RetentionWorld) -> None:
    world.release()
    world.disk.objects[sha("old")] = b"rubbish"
    del world.disk.objects[sha("new")]
    done = undo(world.ledger, world.objects)
    assert (done.copies, done.gone) == (1, 2)


# --- while others work -----------------------------------------------------------------------------------------------


def test_a_copy_whose_object_was_freed_before_it_was_recorded_is_fetched_again(world: RetentionWorld) -> None:
    world.release()
    freed = []
    # `d` finds the object there, and prune frees it before the collector can name it.
    world.listed({"d": "old"}, between=lambda: freed.append(world.free().objects))
    assert freed == [3, 0]
    assert sha("old") in world.disk.objects
    assert states(world)["old"] == SOUND
    world.check(None)


def test_a_copy_that_was_recorded_in_time_is_not_freed(world: RetentionWorld) -> None:
    world.release()
    world.listed({"d": "old"})
    assert world.free().objects == 2
    world.check(None)


def test_nothing_is_looked_at_again_while_nothing_is_freed(
    world: RetentionWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[bytes] = []
    monkeypatch.setattr("kropot.objects.memory.MemoryObjects.holds", lambda _, sha256, *__: looked.append(sha256))
    world.effects = world._effects()
    world.listed({"e": "something"})
    assert looked == []


class Stop(Exception):  # noqa: N818 -- a process that ends is no error
    pass


class Frail:
    """A way to free objects whose process ends at one call."""

    def __init__(self, inner: Any, name: str, *, after: bool) -> None:
        self._inner, self._name, self._after = inner, name, after

    def __getattr__(self, name: str) -> Any:
        act = getattr(self._inner, name)
        if name == "bring_back":
            return lambda *_: None  # a dead process does nothing
        if name != self._name:
            return act

        def call(*args: Any) -> Any:
            if self._after:
                act(*args)
            raise Stop

        return call


@pytest.mark.parametrize("name", ["put_away", "destroy"])
@pytest.mark.parametrize("after", [False, True])
def test_a_kill_leaves_what_the_next_run_ends(world: RetentionWorld, name: str, *, after: bool) -> None:
    world.release()
    with pytest.raises(Stop):
        world.free(freeing=Frail(world.objects.freeing(), name, after=after))
    assert freeing_of(world.ledger).is_open
    world.check(None)
    world.listed({"d": "old"})  # in the meantime, somebody names what is out of sight
    world.check(None)
    world.free()
    world.check(None)
    assert not freeing_of(world.ledger).is_open
    assert set(world.disk.objects) == {sha("newest"), sha("shared"), sha("old")}
    assert not world.disk.freed


def test_what_was_named_while_the_lock_was_lost_is_put_back(
    world: RetentionWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.release()
    lost = []

    @contextmanager
    def losing(ledger: Ledger) -> Iterator[None]:
        with head_locked(ledger):
            yield
        if not lost:
            lost.append(True)
            raise LedgerUnavailableError("the connection was lost before the commit")

    monkeypatch.setattr("kropot.retention.freeing.head_locked", losing)
    with pytest.raises(LedgerUnavailableError):
        world.free()
    assert sha("old") in world.disk.objects
    assert not world.disk.freed


def test_what_a_crash_left_out_of_sight_and_a_copy_names_is_put_back(world: RetentionWorld) -> None:
    world.objects.freeing().put_away([sha("newest")])
    world.free()
    assert sha("newest") in world.disk.objects


def test_of_two_runs_the_newest_one_frees(world: RetentionWorld) -> None:
    """It ends the freeing for both, and then no collector looks whether what it names is there."""
    world.release()
    head = world.ledger.head().position
    freeing = world.objects.freeing()
    put_away, batches = freeing.put_away, []

    class Slow:
        """A storage in which another run begins and ends, and a collector fetches, before the first batch."""

        def __getattr__(self, name: str) -> Any:
            return getattr(freeing, name)

        def put_away_before(self) -> Any:
            yield from freeing.put_away_before()
            if freeing_of(world.ledger).is_open and not batches:
                batches.append("other")
                orphan = world._publish("orphan")
                assert FreeingRun(ledger=world.ledger, objects=freeing, allowed=lambda: None).orphans([orphan.sha256])

        def put_away(self, sha256s: Any) -> Any:
            batches.append("first")
            return put_away(sha256s)

    run = FreeingRun(ledger=world.ledger, objects=Slow(), allowed=lambda: None)
    with pytest.raises(FreeingTakenOverError):
        run.released(head)
    assert batches == ["other"]
    assert set(world.disk.objects) == {sha(text) for text in ("old", "gone", "shared", "new", "newest")}
    world.listed({"d": "old"})
    assert world.free().objects == 2
    world.check(KEEP_ONE)


def test_two_runs_do_not_begin_at_the_same_time(world: RetentionWorld) -> None:
    world.release()
    world.free()
    other = FreeingRun(ledger=world.ledger, objects=world.objects.freeing(), allowed=lambda: None)
    with pytest.raises(ConflictError):
        other._begin(freeing_of(world.ledger)._replace(version=0))


def test_a_policy_that_changes_meanwhile_stops_the_release(world: RetentionWorld) -> None:
    decider, policy = world.decider(), decided_of(world.ledger).position
    world.set_policy(rules(daily=30))
    with pytest.raises(PolicyMovedError):
        release(decider, policy=policy, by="test", allowed=lambda: None)
    assert RELEASED not in states(world).values()


def test_an_element_that_moved_on_is_left_alone(world: RetentionWorld) -> None:
    decider, policy = world.decider(), decided_of(world.ledger).position
    world.listed({"b": "gone"})
    done = release(decider, policy=policy, by="test", allowed=lambda: None)
    assert done.moved == 1
    assert states(world)["gone"] == SOUND


def test_a_kept_restore_point_holds_against_every_policy(world: RetentionWorld) -> None:
    world = RetentionWorld(random.Random(2))
    world.set_policy(KEEP_ONE)
    world.listed({"a": "old", "b": "gone"})
    world.pin()
    world.clock_us += DAY
    world.listed({"a": "new", "b": None})
    world.clock_us += DAY
    world.listed({"a": "newest"})
    world.release()
    world.check(KEEP_ONE)
    assert states(world) == {"old": SOUND, "gone": SOUND, "new": RELEASED, "newest": SOUND}
    before = decided_of(world.ledger)
    decide(world.ledger, PointLetGo(retention=replace(before.retention, pins=())), before)
    assert world.release().total[0] == 2


# --- when nothing may go ---------------------------------------------------------------------------------------------


def test_nothing_goes_while_an_alarm_is_open(world: RetentionWorld) -> None:
    surge = replace(world.source, surge=Surge(changed=9, known=10, since_us=1))
    held = replace(world.source, held=HeldListing(reason="missing", missing=9, known=10, since_us=1))
    listing = next(e.fact.listing for e in world.ledger.history(source_key(SOURCE)) if hasattr(e.fact, "listing"))
    for alarmed in (surge, held):
        fact = ListingHeldBack(source=alarmed, listing=listing)
        world.append([NewFact(key=source_key(SOURCE), fact=fact, observed_us=world.clock_us)])
        with pytest.raises(PartialError, match="open alarm"):
            world.release()
        with pytest.raises(PartialError, match="open alarm"):
            demand_quiet(world.ledger)
    accepted = replace(held, held=HeldListing(reason="accepted", missing=9, known=10, since_us=1))
    world.append([NewFact(key=source_key(SOURCE), fact=AlarmsAccepted(source=accepted), observed_us=world.clock_us)])
    assert world.release().total[0] == 3


@pytest.mark.parametrize("days", [-2, 2])
def test_a_clock_that_is_a_day_apart_is_refused(world: RetentionWorld, days: int) -> None:
    assert time_of(world.ledger) == world.clock_us
    world.clock_us += days * DAY
    if days < 0:
        with pytest.raises(IntegrityError, match="the age of copies is unknown"):
            time_of(world.ledger)
    else:
        world.append([NewFact(key=source_key(SOURCE), fact=AlarmsAccepted(source=world.source), observed_us=1)])
        with pytest.raises(IntegrityError, match="was listed 2 d"):
            time_of(world.ledger)


def test_ages_count_from_the_earlier_of_clock_and_ledger(world: RetentionWorld) -> None:
    recorded = world.ledger.head().recorded_us
    world.clock_us += DAY // 2
    assert time_of(world.ledger) == recorded
    world.clock_us -= DAY
    assert time_of(world.ledger) == world.clock_us


# --- the key ---------------------------------------------------------------------------------------------------------


def test_a_signature_holds_for_these_rules_and_pins_of_this_ledger_alone(world: RetentionWorld) -> None:
    key, ledger_id = SigningKey(name="k", seed=bytes(32)), bytes(16)
    retention = signed(decided_of(world.ledger).retention, ledger_id, key)
    assert is_signed(retention, ledger_id, key.verifier)
    assert not is_signed(retention, b"\x01" * 16, key.verifier)
    assert not is_signed(replace(retention, rules=(rules(last=9),)), ledger_id, key.verifier)
    assert not is_signed(retention, ledger_id, SigningKey(name="k", seed=b"\x01" * 32).verifier)
    assert not is_signed(replace(retention, signature="\ud800"), ledger_id, key.verifier)


def test_a_policy_that_the_key_did_not_sign_is_found_unless_it_keeps_as_much(world: RetentionWorld) -> None:
    key = SigningKey(name="k", seed=bytes(32))
    first = decided_of(world.ledger).position

    def found(signed_from: int | None) -> list[tuple[str, int | None]]:
        audit = ReleaseAudit(world.ledger, world.ledger.head().position, key=key.verifier, signed_from=signed_from)
        return [(each.kind, each.position) for each in audit.findings()]

    assert found(None) == []
    assert found(first) == [], "the policy was there before the key signed anything"
    assert found(first - 1) == [("unsigned_policy", first)]
    world.pin()
    assert found(first) == [], "a restore point that is kept needs no signature"
    second = world.set_policy(rules(last=1, min_age_s=0))
    assert found(first) == [("unsigned_policy", second)]
    released = world.release().total[0]
    assert [kind for kind, _ in found(first)] == ["unsigned_policy"] + ["unentailed_release"] * released


# --- in a folder -----------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RetentionWorld]:
    """Return such a world with a SQLite ledger and a folder."""
    store = open_store(f"sqlite:///{tmp_path / 'ledger.db'}", create=True)
    world = RetentionWorld(random.Random(1), store=store)
    world.objects = DirectoryObjects(tmp_path / "storage", "main")  # type: ignore[assignment]
    world.effects = world._effects()
    world.set_policy(KEEP_ONE)
    world.listed({"a": "old", "b": "gone"})
    world.clock_us += DAY
    world.listed({"a": "new", "b": None})
    world.clock_us += DAY
    world.listed({})
    yield world
    world.objects.close()
    store.close()


def test_a_folder_frees_the_files(folder: RetentionWorld, tmp_path: Path) -> None:
    files = [path for path in (tmp_path / "storage" / "objects").rglob("*") if path.is_file()]
    assert len(files) == 3
    assert folder.release().total[0] == 2
    assert folder.free().objects == 2
    assert [path.name for path in (tmp_path / "storage" / "objects").rglob("*") if path.is_file()] == [sha("new").hex()]
    assert list((tmp_path / "storage" / "freed").iterdir()) == []


def test_several_processes_decide_as_one_does(folder: RetentionWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.listed({f"{number}": "old" for number in range(20)})
    folder.clock_us += DAY
    folder.listed({f"{number}": None if number % 3 else "new" for number in range(20)})
    folder.listed({})
    monkeypatch.setattr(deciding, "RANGE", 3)
    alone, several = (dataclasses.replace(folder.decider(), processes=count) for count in (0, 2))
    found = list(several.all())
    assert {each.release.reason for each in found} == {"replaced", "vanished"}
    assert len(found) == 22
    assert found == list(alone.all())
    assert would_release(several) == would_release(alone) == ReleaseSum.of(found)


def test_objects_out_of_sight_in_a_folder_come_back(folder: RetentionWorld) -> None:
    freeing = folder.objects.freeing()
    assert [each.sha256 for each in freeing.put_away([sha("new"), sha("nothing")])] == [sha("new")]
    assert folder.objects.size(sha("new")) is None
    assert [each.size for each in freeing.put_away_before()] == [3]
    freeing.bring_back([sha("new")])
    freeing.bring_back([sha("new")])
    assert folder.objects.size(sha("new")) == 3
    freeing.put_away([sha("new")])
    folder._publish("new")
    freeing.bring_back([sha("new")])
    assert list(freeing.put_away_before()) == []
    freeing.destroy([sha("new")])
    assert folder.objects.size(sha("new")) == 3


def test_orphans_are_cleaned_after_their_grace(folder: RetentionWorld) -> None:
    folder._publish("an orphan")
    now = 1 << 60
    found = list(unnamed(folder.ledger, folder.objects, freed_to=0))
    assert found == [(sha("an orphan"), 9)]
    young = Count()
    freeing = folder.objects.freeing()
    how: dict[str, Any] = {"freed_to": 0, "young": young, "packed": Count()}
    assert list(old_unnamed(folder.ledger, folder.objects, freeing, now_us=0, grace_us=1, **how)) == []
    assert (young.objects, young.bytes) == (1, 9)
    old = list(old_unnamed(folder.ledger, folder.objects, freeing, now_us=now, grace_us=DAY, **how))
    run = FreeingRun(ledger=folder.ledger, objects=freeing, allowed=lambda: None)
    assert run.orphans(each for each, _ in old).objects == 1
    assert list(unnamed(folder.ledger, folder.objects, freed_to=0)) == []


def test_an_orphan_that_a_collector_is_about_to_name_is_fetched_again(folder: RetentionWorld) -> None:
    folder._publish("an orphan")
    run = FreeingRun(ledger=folder.ledger, objects=folder.objects.freeing(), allowed=lambda: None)
    cleaned: list[int] = []

    def clean_once() -> None:
        if not cleaned:
            cleaned.append(run.orphans([sha("an orphan")]).objects)

    folder.listed({"d": "an orphan"}, between=clean_once)
    assert cleaned == [1]
    assert folder.objects.size(sha("an orphan")) == 9


def test_a_released_object_that_a_power_cut_brought_back_is_an_orphan(folder: RetentionWorld) -> None:
    folder.release()
    assert list(unnamed(folder.ledger, folder.objects, freed_to=0)) == [], "it waits"
    folder.free()
    folder._publish("old")
    to = freeing_of(folder.ledger).freed.to
    assert list(unnamed(folder.ledger, folder.objects, freed_to=to)) == [(sha("old"), 3)]


def test_what_was_set_aside_goes_once_its_elements_are_sound_again(folder: RetentionWorld) -> None:
    folder.objects.set_aside(sha("new"))
    (leftover,) = [each for each in folder.objects.leftovers() if each.kind == "quarantined"]
    assert not is_dispensable(folder.ledger, folder.objects, leftover), "the ledger does not know that it is bad"
    folder._publish("new")
    assert is_dispensable(folder.ledger, folder.objects, leftover)
    freeing = folder.objects.freeing()
    assert freeing.quarantine_age_us(leftover.path, 1 << 60) is not None
    freeing.remove_quarantined(leftover.path)
    assert freeing.quarantine_age_us(leftover.path, 1 << 60) is None
