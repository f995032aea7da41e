"""`python -m tests.simulation`: live through many seeds and say which of them broke an invariant."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
import traceback

from tests.faults.report import save
from tests.simulation.invariants import INVARIANTS
from tests.simulation.run import check


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="how many worlds to live through")
    parser.add_argument("--first", type=int, default=0, help="the first seed; a failing one repeats with --seeds 1")
    parser.add_argument("--processes", type=int, default=multiprocessing.cpu_count())
    args = parser.parse_args()
    seeds = range(args.first, args.first + args.seeds)
    began, done, events, failed = time.monotonic(), 0, 0, list[int]()
    with multiprocessing.Pool(args.processes) as pool:
        for seed, lived, failure in pool.imap_unordered(_live, seeds, chunksize=4):
            events += lived
            if failure:
                failed.append(seed)
                print(f"seed {seed}:\n{failure}", flush=True)
            done += 1
            if done % 500 == 0 or done == len(seeds):
                _save(args.first, done, events, failed)
    took = time.monotonic() - began
    print(f"{len(seeds)} seeds, {events} events recorded, {len(failed)} failed {sorted(failed)}, {took:.0f} s")
    return 1 if failed else 0


def _save(first: int, seeds: int, events: int, failed: list[int]) -> None:
    """Keep what came out, for `python -m tests.faults --report`."""
    row = {
        "tried": f"simulated histories (seeds from {first}), {events} events recorded in them",
        "count": seeds,
        "out": f"{len(failed)} broke one of {len(INVARIANTS)} invariants",
    }
    save("simulation", first, {"rows": [row], "failed": sorted(failed)})


def _live(seed: int) -> tuple[int, int, str]:
    try:
        world = check(seed)
    except Exception:  # noqa: BLE001 - whatever broke is what is looked for
        return seed, 0, traceback.format_exc()
    return seed, world.ledger.head().position, ""


if __name__ == "__main__":
    sys.exit(main())
