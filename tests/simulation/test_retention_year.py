"""A year of daily rounds with prunes, kills and power cuts, under a virtual clock, against a model that counts days.

Invariants: nothing that the policy wants is let go, nothing that is named is missing, and what it does not want goes.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from kropot.verify.releases import ReleaseAudit
from ledger.rows import RELEASED
from tests.kropot.retention_world import DAY, HOUR, KilledError, RetentionWorld, rules, sha

if TYPE_CHECKING:
    from kropot.objects.freeing import Freeable

POLICIES = {
    "days and weeks": rules(daily=7, weekly=4, min_age_s=0, vanished_s=20 * 86_400),
    "months": rules(last=2, monthly=6, yearly=2, min_age_s=3 * 86_400),
    "within": rules(within_s=10 * 86_400, min_age_s=0, vanished_s=0),
    "the usual": rules(daily=14, weekly=8, monthly=12, vanished_s=90 * 86_400),
}
SEEDS = range(int(os.environ.get("KROPOT_TEST_RETENTION_SEEDS", "0")))
"""More years, of every policy; `make test` simulates two."""
YEARS = [("days and weeks", 0), ("the usual", 1), *((name, seed) for seed in SEEDS for name in POLICIES)]


class Fragile:
    """A storage's way to free objects, in a process that can be killed at every call."""

    def __init__(self, inner: Freeable, rng: random.Random, seen: Counter[str]) -> None:
        self._inner = inner
        self._rng = rng
        self._seen = seen

    def __getattr__(self, name: str) -> Any:
        act = getattr(self._inner, name)

        def call(*args: Any) -> Any:
            fate = self._rng.random()
            if fate < 0.03:
                self._seen[f"killed before {name}"] += 1
                raise KilledError
            done = act(*args)
            if fate > 0.97:
                self._seen[f"killed after {name}"] += 1
                raise KilledError
            return done

        # What a killed process does in its `except` is nothing.
        return (lambda *_: None) if name == "bring_back" and self._is_dead() else call

    def _is_dead(self) -> bool:
        import sys

        return isinstance(sys.exc_info()[1], KilledError)


@pytest.mark.parametrize(("name", "seed"), dict.fromkeys(YEARS))
def test_a_year_loses_nothing_that_is_wanted(name: str, seed: int) -> None:
    rule, rng = POLICIES[name], random.Random(f"{name} {seed}")
    world, seen = RetentionWorld(rng), Counter[str]()
    world.set_policy(rule)
    contents = [f"content {number}" for number in range(60)]
    elements = [f"{number:02d}" for number in range(25)]

    def prune(*, within_round: bool = False) -> None:
        try:
            seen["released"] += world.release().total[0]
            freed = world.free(rng.choice((0, DAY, 7 * DAY)), Fragile(world.objects.freeing(), rng, seen))
            seen["freed"] += freed.objects
        except KilledError:
            seen["killed"] += 1
            if rng.random() < 0.5:  # a power cut: what was not synced may be undone
                seen["power"] += 1
                for sha256 in [each for each in world.disk.freed if rng.random() < 0.5]:
                    world.disk.objects.setdefault(sha256, world.disk.freed.pop(sha256))
        world.check(None if within_round else rule)

    for _day in range(365):
        for _ in range(rng.choice((1, 1, 1, 3))):
            world.clock_us += rng.randrange(1, 7) * HOUR
            changed = rng.sample(elements, rng.randrange(0, 6))
            # Old contents come back, and elements share contents: then a freed object is named anew.
            changes: dict[str, str | None] = {
                each: None if rng.random() < 0.1 else rng.choice(contents) for each in changed
            }
            world.listed(changes, between=partial(prune, within_round=True) if rng.random() < 0.08 else lambda: None)
            seen["rounds"] += 1
        if rng.random() < 0.01:
            world.pin()
        if rng.random() < 0.25:
            prune()
        world.clock_us += DAY - world.clock_us % DAY
    world.clock_us += HOUR
    world.listed({})
    for _ in range(20):
        with suppress(KilledError):
            world.release()
            world.free()
    world.check(rule)
    _expect_all_freed(world)
    kept, wanted = world.unreleased(), _hashed(world.wanted(rule))
    assert kept >= wanted
    assert kept - wanted <= _hashed(world.back)
    assert len(kept - wanted) < 10
    assert seen["released"] > 100
    assert seen["freed"] > 5
    assert seen["killed"] > 3
    audit = ReleaseAudit(world.ledger, world.ledger.head().position)
    assert [finding.detail for finding in audit.findings()] == []
    assert audit.checked >= seen["released"]


def _hashed(pairs: set[tuple[str, str]]) -> set[tuple[str, bytes]]:
    return {(name, sha(text)) for name, text in pairs}


def _expect_all_freed(world: RetentionWorld) -> None:
    """Demand that no object is left that only released copies name, but for those that a power cut brought back."""
    needed = {row.sha256 for row in world.ledger.copies() if row.state != RELEASED}
    assert not world.disk.freed
    left = set(world.disk.objects) - needed
    assert len(left) <= 60, "the contents are few, and each can have come back once"
