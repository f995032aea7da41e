"""A seeded sample of the crash laboratory, and broken programs that it must not pass; `make faults` runs thousands."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest

from tests.faults.crash import How, Laboratory, Outcome
from tests.faults.scenarios import SCENARIOS
from tests.faults.shim import compiler

if TYPE_CHECKING:
    from collections.abc import Iterator

SEED = int(os.environ.get("KROPOT_TEST_SEED", "7"))
REQUIRED = os.environ.get("KROPOT_TEST_REQUIRE_SHIM") == "1"
# These run thousands of operations, or start a process: `make faults` has the time for them.
DEAR = {"many files"}
CHOSEN = tuple(scenario for scenario in SCENARIOS if scenario.name not in DEAR)
# What was left out of the program, where it shows, and how.
BROKEN = (
    ("event before object", "first collect", How.KILL),
    ("no file sync", "first collect", How.POWER),
    ("no folder sync", "first collect", How.POWER),
    ("lazy ledger", "first collect", How.POWER),
    ("no restore sync", "restore", How.POWER),
    ("undocumented exit", "verify", How.EIO),
)

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
    dice = random.Random(f"{SEED} {scenario}")
    points = [point for point in laboratory.points() if point.scenario == scenario]
    cuts = [point for point in points if point.how == How.POWER]
    chosen = [dice.choice([point for point in points if point.how != How.POWER]), dice.choice(cuts)]
    failed = [told(outcome) for outcome in laboratory.run(chosen) if outcome.faults]
    assert not failed, "\n".join(failed)


@pytest.mark.parametrize(
    "scenario", ["first collect", "collect by two", "restore", "export", "db copy", "token create"]
)
def test_what_a_command_did_is_durable_when_it_ends(laboratory: Laboratory, scenario: str) -> None:
    cuts = [point for point in laboratory.points() if point.scenario == scenario and point.how == How.POWER]
    failed = [told(outcome) for outcome in laboratory.run(cuts[-1:]) if outcome.faults]
    assert not failed, "\n".join(failed)


@pytest.mark.parametrize(("mutant", "scenario", "how"), BROKEN)
def test_a_broken_program_is_caught(laboratory: Laboratory, mutant: str, scenario: str, how: How) -> None:
    """What is left out shows at some of the points, most of them late: the laboratory is no rubber stamp."""
    points = [point for point in laboratory.points() if point.scenario == scenario and point.how == how]
    spread = points[:: -max(1, len(points) // 24)]
    assert any(laboratory.run([point], mutant=mutant)[0].faults for point in spread)


def told(outcome: Outcome) -> str:
    return f"{outcome.point} (seed {SEED}): {outcome.faults}\n{outcome.output}"
