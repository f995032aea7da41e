"""A seeded sample of the crash laboratory, and broken programs that it must not pass; `make faults` runs thousands."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from tests.faults.crash import How, Laboratory, Outcome, catches
from tests.faults.mutants import SHOWN
from tests.faults.scenarios import SCENARIOS
from tests.faults.shim import compiler

if TYPE_CHECKING:
    from collections.abc import Iterator

SEED = int(os.environ.get("KROPOT_TEST_SEED", "7"))
REQUIRED = os.environ.get("KROPOT_TEST_REQUIRE_SHIM") == "1"
# These run thousands of operations, start a process, or go the ways of `prune`: `make faults` has the time for them.
DEAR = {"many files", "prune undo", "storage clean"}
SORTS = ({How.KILL, How.KILL_ONE, How.TORN}, {How.EIO, How.ENOSPC}, {How.POWER}, {How.SYNC}, {How.AGAIN})
CHOSEN = tuple(scenario for scenario in SCENARIOS if scenario.name not in DEAR)

pytestmark = [
    pytest.mark.skipif(
        compiler() is None and not REQUIRED, reason="the shim needs Linux and a C compiler (cc, gcc or clang)"
    ),
    pytest.mark.xdist_group("crash laboratory"),
]


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laboratory]:
    root = tmp_path_factory.mktemp("faults") / "lab"
    with Laboratory(root, workers=1, files=8, seed=SEED, scenarios=CHOSEN) as laboratory:
        yield laboratory


def test_there_are_thousands_of_points_of_every_kind(laboratory: Laboratory) -> None:
    points = laboratory.points()
    assert {point.scenario for point in points} == {scenario.name for scenario in CHOSEN}
    assert {point.how for point in points} == set(How)
    assert len(set(points)) == len(points) > 2000


@pytest.mark.parametrize("scenario", [scenario.name for scenario in CHOSEN])
def test_disturbed_anywhere_it_loses_nothing_and_converges(laboratory: Laboratory, scenario: str) -> None:
    """One point of each sort, whatever the scenario does there."""
    dice = random.Random(f"{SEED} {scenario}")
    points = [point for point in laboratory.points() if point.scenario == scenario]
    there = [[point for point in points if point.how in hows] for hows in SORTS]
    chosen = [dice.choice(some) for some in there if some]
    failed = [told(outcome) for outcome in laboratory.run(chosen) if outcome.faults]
    assert not failed, "\n".join(failed)


@pytest.mark.parametrize("operation", ["create", "write", "pwrite", "fsync", "fdatasync", "syncfs", "rename", "link"])
def test_killed_at_an_operation_of_each_kind_it_loses_nothing(laboratory: Laboratory, operation: str) -> None:
    """In each kind of command that does it: writing objects, segments, the database, restored files, checkpoints."""
    dice = random.Random(f"{SEED} {operation}")
    points = [p for p in laboratory.points() if p.how == How.KILL and laboratory.operation(p) == operation]
    assert points, f"nothing does a {operation}"
    failed = [told(outcome) for outcome in laboratory.run(dice.sample(points, 2)) if outcome.faults]
    assert not failed, "\n".join(failed)


@pytest.mark.parametrize("scenario", ["restore", "export", "checkpoint", "token create"])
def test_what_a_killed_run_has_named_is_durable_once_the_command_was_given_again(
    laboratory: Laboratory, scenario: str
) -> None:
    """The second run finds it and has nothing to do: it MUST still sync the name that the first one could not."""
    points = [p for p in laboratory.points() if p.scenario == scenario and p.how == How.AGAIN]
    named = [after for before, after in pairwise(points) if laboratory.operation(before) in {"link", "rename"}]
    unsynced = [replace(point, at=point.at + 1, seed=seed) for point in named[-1:] for seed in range(6)]
    failed = [told(outcome) for outcome in laboratory.run([*named[-1:], *unsynced]) if outcome.faults]
    assert named
    assert not failed, "\n".join(failed)


def test_a_failed_sync_of_the_ledger_takes_nothing_with_it_that_was_acknowledged(laboratory: Laboratory) -> None:
    """A lease before it, which waits for no disk, once left a hole in SQLite's log, and what followed was lost."""
    points = [p for p in laboratory.points() if p.scenario == "collect changes" and p.how == How.SYNC]
    ledgers = [point for point in points if laboratory.operation(point) == "fdatasync"]
    assert ledgers
    chosen = random.Random(SEED).sample(ledgers, min(6, len(ledgers)))
    failed = [told(outcome) for outcome in laboratory.run(chosen) if outcome.faults]
    assert not failed, "\n".join(failed)


@pytest.mark.parametrize(
    "scenario",
    ["first collect", "collect by two", "storage pack", "restore", "export", "db copy", "token create", "prune"],
)
def test_what_a_command_did_is_durable_when_it_ends(laboratory: Laboratory, scenario: str) -> None:
    cuts = [point for point in laboratory.points() if point.scenario == scenario and point.how == How.POWER]
    failed = [told(outcome) for outcome in laboratory.run(cuts[-1:]) if outcome.faults]
    assert not failed, "\n".join(failed)


@pytest.mark.parametrize(("mutant", "scenario", "how"), SHOWN)
def test_a_broken_program_is_caught(laboratory: Laboratory, mutant: str, scenario: str, how: str) -> None:
    """The laboratory is no rubber stamp."""
    assert catches(laboratory, mutant, scenario, how)


def told(outcome: Outcome) -> str:
    return f"{outcome.point} (seed {SEED}): {outcome.faults}\n{outcome.output}"
