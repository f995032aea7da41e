"""Run the fault laboratory: python -m tests.faults [--per N] [--seed S] [--only NAME], --everything, or --report.

By itself it runs crash points and power cuts, and looks whether broken programs are caught. With --everything the
fuzzers and the tests of everything else that fails follow (tests/faults/suites.py). What came out is kept as it comes.
"""

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

from tests.faults import fuzz
from tests.faults.crash import Laboratory, Outcome, catches, tally
from tests.faults.mutants import DEAR as DEAR_MUTANTS
from tests.faults.mutants import SHOWN
from tests.faults.report import report, save
from tests.faults.suites import run_suites

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
    parser.add_argument("--everything", action="store_true", help="then also fuzz, and run the tests that belong here")
    parser.add_argument("--fuzz-seconds", type=float, default=3, help="with --everything: so long for each parser")
    asked = parser.parse_args()
    if asked.report:
        print(report())
        return 0
    bad = _crash(asked)
    if asked.everything:
        bad += fuzz.main(["--seconds", str(asked.fuzz_seconds), "--seed", str(asked.seed)])
        bad += run_suites()
        print(report())
    return 1 if bad else 0


def _crash(asked: argparse.Namespace) -> int:
    """Return how many points failed, and broken programs passed."""
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
        passed = [] if asked.mutant or asked.only else _mutants(laboratory, asked.seed)
    for row in tally(outcomes):
        print("{scenario:<18} {disturbance:<22} {points:>7} {failed:>7}".format(**row))
    failed = sum(bool(outcome.faults) for outcome in outcomes)
    print(f"seed {asked.seed}: {len(outcomes)} points, {failed} failed, {time.monotonic() - began:.0f} s")
    _save(outcomes, asked, len(there), time.monotonic() - began)
    return failed + len(passed)


def _mutants(laboratory: Laboratory, seed: int) -> list[str]:
    """Return the broken programs that the laboratory has passed."""
    shown = (*SHOWN, *DEAR_MUTANTS)
    passed = [mutant for mutant, scenario, how in shown if not catches(laboratory, mutant, scenario, how)]
    for mutant in passed:
        print(f"FAILED: a broken program was passed: {mutant}")
    row = {
        "tried": "broken programs, each with one sync, one order or one error left out",
        "count": len(shown),
        "out": f"{len(shown) - len(passed)} caught",
    }
    save("mutants", seed, {"rows": [row]})
    return passed


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
