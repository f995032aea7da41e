"""The server's zone changes while files are new: that is one event, and no content is fetched again."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from functools import partial

import pytest

from ledger.events import CopyStored, RemoteChanged, RemoteObserved, ZoneChanged
from tests.simulation.invariants import INVARIANTS
from tests.simulation.world import SECOND, Plan, World

PLAN = Plan(
    files=40,
    chaos_s=3000,
    mutations=0,
    page_faults=0,
    content_faults=0,
    publish_faults=0,
    lost_answers=0,
    crashes=0,
    pauses=0,
    outages=0,
    refusals=0,
    flips=0,
    disk_full=0,
    poison=0,
    skew_s=0,
)
AT = 1230 * SECOND
"""When the zone changes: between two listings, after everything was fetched."""


def lives_through(world: World) -> Counter[type]:
    """Run the world, check every invariant, and return how many facts of each type there are."""
    world.run()
    for invariant in INVARIANTS:
        invariant(world)
    return Counter(type(record.fact) for record in world.ledger.events())


@pytest.mark.parametrize("page_faults", [0, 0.3])
@pytest.mark.parametrize("new", [1, 4, 60])
@pytest.mark.parametrize(
    ("before", "after"), [("UTC", "Asia/Kolkata"), ("Asia/Tokyo", "UTC"), ("UTC", "America/Bogota")]
)
def test_new_files_do_not_hide_a_change_of_the_zone(before: str, after: str, new: int, page_faults: float) -> None:
    seed = next(seed for seed in range(100) if World(seed, PLAN).server.repository.zone == before)
    world = World(seed, replace(PLAN, page_faults=page_faults))

    def change() -> None:
        world.server.set_zone(after)
        for _ in range(new):
            world._upload()

    world.at(AT, change)
    facts = lives_through(world)
    assert facts[ZoneChanged] == 1
    assert facts[RemoteChanged] == 0
    assert facts[CopyStored] == PLAN.files + new


@pytest.mark.parametrize("replaced", [1, 6])
def test_files_that_change_at_the_same_time_do_not_hide_it_either(replaced: int) -> None:
    world = World(1, PLAN)
    after = "Asia/Kolkata" if world.server.repository.zone != "Asia/Kolkata" else "UTC"
    names = world.server.names()[:replaced]

    def change() -> None:
        world.server.set_zone(after)
        for name in names:
            world._lose(name)
            world.server.replace(name, b"roses", at=world._second())
            world._has(name, b"roses")

    world.at(AT, change)
    facts = lives_through(world)
    assert facts[ZoneChanged] == 1
    assert facts[RemoteChanged] == replaced
    assert facts[CopyStored] == PLAN.files + replaced


FLIPS = ("UTC", "Asia/Kolkata", "America/Bogota", "Asia/Tokyo", "Europe/Warsaw", "Asia/Kathmandu")


@pytest.mark.parametrize("seed", range(12))
def test_zones_that_change_again_and_again_fetch_nothing_again(seed: int) -> None:
    """Most files may be new since the last change, or be seen for the first time just after one."""
    rng = random.Random(seed)
    world = World(seed, replace(PLAN, files=rng.choice([3, 10, 40]), chaos_s=9000))

    def upload(number: int) -> None:
        for _ in range(number):
            world._upload()

    def change(zone: str, number: int) -> None:
        world.server.set_zone(zone)
        upload(number)

    at_s = AT // SECOND
    for _ in range(rng.choice([2, 3, 4])):
        world.at(at_s * SECOND, partial(change, rng.choice(FLIPS), rng.choice([0, 1, 3, 12, 60])))
        at_s += rng.choice([400, 1000, 1900])
        world.at((at_s - rng.choice([10, 300])) * SECOND, partial(upload, rng.choice([0, 2, 15])))
    facts = lives_through(world)
    assert facts[RemoteChanged] == 0
    assert facts[CopyStored] == facts[RemoteObserved]
