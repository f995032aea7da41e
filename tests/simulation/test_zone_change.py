"""The server's zone changes while files are new: that is one event, and no content is fetched again."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from ledger.events import CopyStored, RemoteChanged, ZoneChanged
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
