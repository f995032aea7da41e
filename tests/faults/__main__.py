"""Run the crash laboratory by hand: python -m tests.faults [--per N] [--seed S] [--only NAME], or --report."""

from __future__ import annotations

import argparse
import logging
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from tests.faults.crash import Laboratory, Outcome, tally
from tests.faults.report import report, save

if TYPE_CHECKING:
    from tests.faults.crash import Point

# One point of it takes as long as ten of another scenario.
DEAR = {"many files": 4}


def draw(points: list[Point], per: int, seed: int) -> list[Point]:
    """Return at most `per` points of each scenario and disturbance, drawn by the seed; all for 0."""
    if not per:
        return points
    dice = random.Random(seed)
    drawn: list[Point] = []
    taken: Counter[tuple[str, str]] = Counter()
    for point in dice.sample(points, len(points)):
        kind = (point.scenario, point.how)
        if taken[kind] < max(1, per // DEAR.get(point.scenario, 1)):
            taken[kind] += 1
            drawn.append(point)
    return drawn


def main() -> int:
    """Run the points, print each failure as it is met and the table last; return 1 where any failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--per", type=int, default=25, help="points of each scenario and disturbance; 0 for all")
    parser.add_argument("--seed", type=int, default=1, help="draws the points and makes the files")
    parser.add_argument("--only", default="", help="only points whose name begins so, e.g. 'restore / kill / 17'")
    parser.add_argument("--files", type=int, default=12, help="so many files in the source")
    parser.add_argument("--jobs", type=int, default=2, help="so many at a time")
    parser.add_argument("--mutant", default="", help="break the program: the name of one of tests/faults/mutants.py")
    parser.add_argument("--report", action="store_true", help="run nothing; print what the runs so far came to")
    asked = parser.parse_args()
    if asked.report:
        print(report())
        return 0
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="kropot-faults-") as folder,
        Laboratory(Path(folder), workers=asked.jobs, files=asked.files, seed=asked.seed) as laboratory,
    ):
        there = [point for point in laboratory.points() if str(point).startswith(asked.only)]
        points = draw(there, asked.per, asked.seed)
        print(f"seed {asked.seed}: {len(points)} of {len(there)} points", flush=True)
        outcomes: list[Outcome] = []

        def told(outcome: Outcome) -> None:
            outcomes.append(outcome)
            for fault in outcome.faults:
                print(f"FAILED {outcome.point}: {fault}", flush=True)
            if len(outcomes) % 100 == 0:
                print(f"... {len(outcomes)} done after {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
                _save(outcomes, asked, len(there), time.monotonic() - began)

        laboratory.run(points, told, mutant=asked.mutant)
    for row in tally(outcomes):
        print("{scenario:<18} {disturbance:<22} {points:>7} {failed:>7}".format(**row))
    failed = sum(bool(outcome.faults) for outcome in outcomes)
    print(f"seed {asked.seed}: {len(outcomes)} points, {failed} failed, {time.monotonic() - began:.0f} s")
    _save(outcomes, asked, len(there), time.monotonic() - began)
    return 1 if failed else 0


def _save(outcomes: list[Outcome], asked: argparse.Namespace, there: int, seconds: float) -> None:
    """Keep what came out; a run of a mutant says nothing of the program."""
    if asked.mutant or asked.only:
        return
    save(
        "crash",
        asked.seed,
        {
            "rows": tally(outcomes),
            "points": len(outcomes),
            "there": there,
            "failed": sum(bool(outcome.faults) for outcome in outcomes),
            "seconds": round(seconds),
        },
    )


if __name__ == "__main__":
    sys.exit(main())
