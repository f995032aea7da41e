"""One seed: a world lived through, and every invariant looked at."""

from __future__ import annotations

from tests.simulation.invariants import INVARIANTS
from tests.simulation.world import World, plan_for


def check(seed: int) -> World:
    """Live through the world of this seed, and return it. Raises: AssertionError if an invariant does not hold."""
    world = World(seed, plan_for(seed))
    world.run()
    for invariant in INVARIANTS:
        try:
            invariant(world)
        except AssertionError as error:
            error.add_note(f"seed {seed}, {invariant.__name__}, {world.plan}")
            raise
    return world
