"""What is unused in packs is freed by rewriting them, whoever is killed, and whoever names an object meanwhile."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

from kropot.errors import LockedError
from kropot.objects.opening import open_store as open_storage
from kropot.objects.packs.packing import PackRule
from kropot.retention.freeing import FreedSum, FreeingRun, last_to_free
from kropot.retention.repacking import Repacking
from kropot.verify.run import Verification
from kropot.verify.scope import Scope
from ledger.retaining import freeing_of
from ledger.rows import RELEASED
from ledger.sql import open_store
from tests.kropot.retention_world import DAY, RetentionWorld, rules, sha

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

KEEP_ONE = rules(last=1, min_age_s=0, vanished_s=0)


class PackedWorld:
    """A world whose objects lie in one pack: ten that are needed, and as many as `dead` that are not."""

    def __init__(self, folder: Path, dead: int = 10, *, seed: int = 1) -> None:
        self.store = open_store(f"sqlite:///{folder / 'ledger.db'}", create=True)
        self.world = RetentionWorld(random.Random(seed), store=self.store)
        self.storage = open_storage(folder / "storage", "main")
        self.folder = folder
        self.world.objects = self.storage.objects()  # type: ignore[assignment]
        self.world.effects = self.world._effects()
        self.world.set_policy(KEEP_ONE)
        old = {f"{number:02d}": f"old {number:03d}" for number in range(dead)}
        live = {f"live {number}": f"live {number:02d}" for number in range(10)}
        self.live, self.dead = set(live.values()), set(old.values())
        self.world.listed(old | live)
        self.pack_all()
        self.world.clock_us += DAY
        self.world.listed(dict.fromkeys(old))
        self.world.clock_us += DAY
        self.world.listed({})
        assert self.world.release().total[0] == dead
        assert self.objects() == {sha(text) for text in self.live | self.dead}

    def pack_all(self) -> None:
        with self.storage.gatherer(self.world.ledger.places, PackRule(worth=0)) as gatherer:
            gatherer.run()

    def packs(self) -> set[str]:
        return {path.name for path in (self.folder / "storage" / "packs").rglob("*") if path.is_file()}

    def objects(self) -> set[bytes]:
        fresh = self.storage.objects(places=self.world.ledger.places)
        try:
            return {sha256 for sha256, _ in fresh.walk()}
        finally:
            fresh.close()

    def free(
        self, *, max_unused: int = 50, grace_us: int = 0, wrap: Callable[[Any], Any] = lambda packs: packs, **how: Any
    ) -> FreedSum:
        world, ledger = self.world, self.world.ledger
        until = last_to_free(ledger, before_us=world.clock_us - grace_us, covered=None)
        with self.storage.rewriter() as rewriter:
            packs = Repacking(
                ledger=ledger,
                packs=wrap(rewriter),
                allowed=lambda: None,
                until=until,
                max_unused=max_unused,
                now_us=1 << 60,
            )
            run = FreeingRun(
                ledger=ledger, objects=world.objects.freeing(), allowed=lambda: None, repacking=packs, **how
            )
            return run.released(until)

    def verify(self) -> set[tuple[str, str]]:
        """Return the kinds and severities of what `verify` finds."""
        objects = self.storage.objects(places=self.world.ledger.places)
        scope = Scope(storage=self.storage, record=False)
        return {(each.kind, each.severity) for each in Verification(self.world.ledger, objects, scope).findings()}

    def check(self) -> None:
        """Demand that every object that a copy needs can be read."""
        fresh = self.storage.objects(places=self.world.ledger.places)
        blind = self.storage.objects()
        for row in self.world.ledger.copies():
            if row.state != RELEASED:
                for objects in (fresh, blind):
                    with objects.open(row.sha256) as file:
                        assert sha((file.read() or b"").decode()) == row.sha256
        fresh.close()
        blind.close()


@pytest.fixture
def packed(tmp_path: Path) -> Iterator[PackedWorld]:
    made = PackedWorld(tmp_path)
    yield made
    made.world.objects.close()
    made.store.close()


def test_packs_that_another_process_has_are_rewritten_the_next_time(packed: PackedWorld) -> None:
    ledger = packed.world.ledger
    until = ledger.head().position
    run = FreeingRun(ledger=ledger, objects=packed.world.objects.freeing(), allowed=lambda: None, repacking=None)
    assert run.released(until).objects == 0
    assert freeing_of(ledger).freed.to < until
    assert packed.free(max_unused=40).objects == 10
    assert freeing_of(ledger).freed.to >= until
    packed.check()


def test_a_pack_with_little_left_is_rewritten(packed: PackedWorld) -> None:
    before = packed.packs()
    done = packed.free(max_unused=40)
    assert (done.objects, done.bytes) == (10, 70)
    assert len(packed.packs()) == 1
    assert packed.packs().isdisjoint(before)
    assert packed.objects() == {sha(text) for text in packed.live}
    packed.check()
    assert packed.free(max_unused=40, every_pack=True).objects == 0


def test_a_pack_with_enough_left_stays_until_more_of_it_is_unused(packed: PackedWorld) -> None:
    before = packed.packs()
    assert packed.free(max_unused=60).objects == 0
    assert packed.packs() == before
    packed.world.clock_us += DAY
    packed.world.listed({f"live {number}": None for number in range(5)})
    packed.world.clock_us += DAY
    packed.world.listed({})
    assert packed.world.release().total[0] == 5
    assert packed.free(max_unused=60).objects == 15
    packed.check()


def test_a_pack_with_nothing_left_goes(packed: PackedWorld) -> None:
    packed.world.clock_us += DAY
    packed.world.listed({f"live {number}": None for number in range(10)})
    packed.world.clock_us += DAY
    packed.world.listed({})
    packed.world.release()
    assert packed.free(max_unused=100).objects == 20
    assert packed.packs() == set()
    assert list(packed.world.ledger.places.packs()) == []


def test_what_still_waits_is_not_lost_with_its_pack(packed: PackedWorld) -> None:
    head = packed.world.clock_us
    packed.world.clock_us += DAY
    packed.world.listed({"live 0": None})
    packed.world.clock_us += DAY
    packed.world.listed({})
    packed.world.release()
    packed.free(max_unused=0, grace_us=packed.world.clock_us - head)
    assert sha("live 00") in packed.objects(), "its release can still be taken back"
    assert sha("old 000") not in packed.objects()


def test_a_damaged_pack_is_left_alone(packed: PackedWorld) -> None:
    (path,) = [each for each in (packed.folder / "storage" / "packs").rglob("*") if each.is_file()]
    data = bytearray(path.read_bytes())
    at = bytes(data).index(b"live 03")
    data[at] ^= 1
    path.write_bytes(data)
    assert packed.free(max_unused=0).objects == 0
    assert packed.packs() == {path.name}


class Stop(Exception):  # noqa: N818 -- a process that ends is no error
    pass


class Frail:
    """A rewriter whose process ends at one call."""

    def __init__(self, inner: Any, name: str, *, after: bool) -> None:
        self._inner, self._name, self._after, self._dead = inner, name, after, False

    def __getattr__(self, name: str) -> Any:
        act = getattr(self._inner, name)

        def call(*args: Any) -> Any:
            if self._dead:
                return None
            if name == self._name:
                if self._after:
                    act(*args)
                self._dead = True
                raise Stop
            return act(*args)

        return call


@pytest.mark.parametrize("name", ["copy", "put_away", "destroy"])
@pytest.mark.parametrize("after", [False, True])
def test_a_kill_loses_nothing_and_the_next_run_ends_it(packed: PackedWorld, name: str, *, after: bool) -> None:
    with pytest.raises(Stop):
        packed.free(max_unused=0, wrap=lambda packs: Frail(packs, name, after=after))
    assert freeing_of(packed.world.ledger).is_open
    packed.check()
    # Between these two the pack is out of sight, and the ledger still places objects in it.
    away = {"freed_pack"} if (name, after) == ("put_away", True) else set()
    found = packed.verify()
    assert {kind for kind, severity in found if severity != "note" or kind == "freed_pack"} == away
    packed.free(max_unused=0)
    packed.check()
    assert packed.verify() == set()
    assert not freeing_of(packed.world.ledger).is_open
    packed.pack_all()
    packed.check()
    assert not ({sha(text) for text in packed.dead} & packed.objects())


class Meddler:
    """A rewriter beside which somebody else works: `meddle` runs before a pack goes, or after it was copied."""

    def __init__(self, inner: Any, name: str, meddle: Callable[[], object]) -> None:
        self._inner, self._name, self._meddle = inner, name, meddle

    def __getattr__(self, name: str) -> Any:
        act = getattr(self._inner, name)

        def call(*args: Any) -> Any:
            done = act(*args)
            if name == self._name:
                self._meddle()
            return done

        return call


def test_an_object_that_is_named_again_meanwhile_stays(packed: PackedWorld) -> None:
    def name_again() -> None:
        packed.world.listed({"again": "old 000"})
        # The gatherer would find it in the old pack, and remove its file.
        with pytest.raises(LockedError):
            packed.pack_all()

    packed.free(max_unused=0, wrap=lambda packs: Meddler(packs, "copy", name_again))
    packed.check()
    assert sha("old 000") in packed.objects()


def test_an_object_that_is_about_to_be_named_is_fetched_again(packed: PackedWorld) -> None:
    freed: list[int] = []

    def pack_and_free() -> None:
        if not freed:
            packed.pack_all()
            freed.append(packed.free(max_unused=0).objects)

    packed.world.listed({"again": "old 000"}, between=pack_and_free)
    assert freed == [10]
    packed.check()
    assert sha("old 000") in packed.objects()
