"""The crash laboratory: end, tear or fail a command at every operation on its files, cut its power, and look.

The operations are counted by the shim (tests/faults/shim.c), not listed by hand. After every crash: nothing that the
ledger names is missing or half-written, every position that was acknowledged is there, and where the command said that
it had done its work, it has; after the recovery: `verify` finds nothing, and the state is that of an undisturbed run.
"""

from __future__ import annotations

import errno
import random
import re
import shutil
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

from kropot.errors import Exit
from tests.faults.look import Looker
from tests.faults.power import Disk, Record, cuts, promised, read_recording
from tests.faults.scenarios import SCENARIOS, Scenario
from tests.faults.shim import Kind
from tests.faults.world import World
from tests.faults.zygote import Zygote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

WRITES = {"write", "pwrite", "writev", "copy_file_range", "sendfile"}
SYNCS = {"fsync", "fdatasync", "syncfs"}
GROWING = WRITES | {"create", "mkdir", "ftruncate", "link", "rename", "symlink"}
FOREVER = 1 << 40
# An error of the system, and not a word of what it met.
NAMELESS = re.compile(r"^error: (Input/output error|No space left on device)", re.MULTILINE)
DOCUMENTED = {int(code) for code in Exit}


class How(StrEnum):
    """How a command is disturbed."""

    KILL = "kill"
    KILL_ONE = "kill of one process"
    TORN = "torn write, kill"
    EIO = "EIO once"
    ENOSPC = "ENOSPC from there on"
    POWER = "power cut"
    SYNC = "failed sync, power cut"
    AGAIN = "kill, again, power cut"


KINDS = {
    How.KILL: Kind.KILL_BEFORE,
    How.KILL_ONE: Kind.KILL_ONE,
    How.TORN: Kind.TORN,
    How.EIO: Kind.FAIL,
    How.ENOSPC: Kind.FAIL,
    How.SYNC: Kind.FAIL,
    How.AGAIN: Kind.KILL_BEFORE,
}
ENDED_BY_THE_KERNEL = {How.KILL, How.KILL_ONE, How.TORN, How.AGAIN}
# A seed decides what these leave.
CUT = {How.POWER, How.SYNC, How.AGAIN}


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Point:
    """One disturbance: what happens at which operation of which scenario; `seed` says what a power cut leaves."""

    scenario: str
    how: How
    at: int
    seed: int = 0

    def __str__(self) -> str:
        """Name the point so that it can be run again alone."""
        return f"{self.scenario} / {self.how} / {self.at}" + (f" / {self.seed}" if self.how in CUT else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a point: `faults` is empty where everything held."""

    point: Point
    code: int
    faults: tuple[str, ...]
    output: str = ""


@dataclass(slots=True)
class Laboratory:
    """The world, a zygote a worker, and for each scenario what it does undisturbed and what that leads to."""

    root: Path
    workers: int = 2
    files: int = 12
    seed: int = 1
    scenarios: Sequence[Scenario] = SCENARIOS
    _open: ExitStack = field(default_factory=ExitStack)
    _zygotes: list[Zygote] = field(default_factory=list)
    _world: World | None = None
    _reference: dict[str, Any] = field(default_factory=dict)
    _operations: dict[str, list[str]] = field(default_factory=dict)
    _recorded: dict[str, list[str]] = field(default_factory=dict)
    _recordings: dict[tuple[str, str, int], tuple[Path, list[Record]]] = field(default_factory=dict)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.root.mkdir(parents=True, exist_ok=True)
            self._zygotes = [stack.enter_context(Zygote()) for _ in range(self.workers)]
            has_many = any(scenario.server == "many" for scenario in self.scenarios)
            self._world = World(root=self.root, files=self.files, seed=self.seed, run=self._plain, has_many=has_many)
            self._world.build(stack)
            for scenario in self.scenarios:
                self._observe(scenario)
            self._open = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @property
    def world(self) -> World:
        """Return what is outside the disturbed folder."""
        if self._world is None:
            raise RuntimeError("the laboratory is not open")
        return self._world

    def _observe(self, scenario: Scenario) -> None:
        """Run the scenario undisturbed: how many operations it has, and what it leads to."""
        folder = self._fresh(scenario, 0)
        log = folder.with_suffix(".log")
        code, output = self._run(scenario, scenario.command, folder, log=log)
        if code not in ({Exit.DONE} if scenario.before else {Exit.DONE, Exit.FINDINGS}):
            raise AssertionError(f"{scenario.name} undisturbed: exit {code}: {output}")
        self._operations[scenario.name] = _operations(log)
        for command in scenario.recovery:
            self._run(scenario, command, folder)
        self._reference[scenario.name] = self._looker(scenario, folder, 0).seen()
        shutil.rmtree(folder)

    # --- points ---

    def points(self) -> list[Point]:
        """Return every point there is: the end before and a power cut after each operation, writes torn, and errors."""
        found = []
        for scenario in self.scenarios:
            name, operations = scenario.name, self._operations[scenario.name]
            for at, operation in enumerate(operations, start=1):
                ways = [How.KILL, How.EIO]
                ways += [How.KILL_ONE] if scenario.processors > 1 else []
                ways += [How.TORN] if operation in WRITES else []
                ways += [How.ENOSPC] if operation in GROWING else []
                found += [Point(scenario=name, how=how, at=at) for how in ways]
            _, records = self._recording(scenario, 0, "")
            places = range(1, len(cuts(records)) + 1)
            found += [Point(scenario=name, how=How.POWER, at=at, seed=self.seed) for at in places]
            for at, operation in enumerate(self._recorded[name], start=1):
                found.append(Point(scenario=name, how=How.AGAIN, at=at, seed=self.seed))
                if operation in SYNCS:
                    found.append(Point(scenario=name, how=How.SYNC, at=at, seed=self.seed))
        return found

    def operation(self, point: Point) -> str:
        """Return the name of the operation at which the point is, "power cut" for one that is behind it."""
        if point.how == How.POWER:
            return "power cut"
        operations = self._recorded if point.how in CUT else self._operations
        return operations[point.scenario][point.at - 1]

    def run(
        self, points: list[Point], told: Callable[[Outcome], None] = lambda _: None, mutant: str = ""
    ) -> list[Outcome]:
        """Run points, as many at a time as there are workers; `mutant` breaks the program (tests/faults/mutants.py)."""
        free = list(range(self.workers))

        def one(point: Point) -> Outcome:
            worker = free.pop()
            try:
                outcome = self._disturb(point, worker, mutant)
            finally:
                free.append(worker)
            told(outcome)
            return outcome

        with ThreadPoolExecutor(self.workers) as pool:
            return list(pool.map(one, points))

    def _disturb(self, point: Point, worker: int, mutant: str) -> Outcome:
        scenario = next(one for one in self.scenarios if one.name == point.scenario)
        match point.how:
            case How.POWER:
                code, output = 0, ""
                folder, position, ended = self._cut_power(point, scenario, worker, mutant)
            case How.SYNC | How.AGAIN:
                folder, code, output, position = self._end_and_cut_power(point, scenario, worker, mutant)
                ended = code == Exit.DONE or (scenario.is_once and point.how == How.AGAIN)
            case _:
                folder, code, output, position = self._end(point, scenario, worker, mutant)
                ended = code == Exit.DONE
        faults = list(self._judge(point, code, output))
        looker = self._looker(scenario, folder, worker)
        faults += looker.promises(position)
        if scenario.before:
            faults += looker.findings("right after it")
        if ended and scenario.before:
            faults += self._differences(scenario, looker, "it had ended well, and what it did is not all there")
        for command in scenario.recovery:
            again, said = self._run(scenario, command, folder, worker)
            fine = {Exit.DONE, Exit.USAGE if scenario.is_once else Exit.DONE}
            if again not in (fine if scenario.before else {*fine, Exit.FINDINGS}):
                faults.append(f"recovery by {command[0]}: exit {again}: {said.strip()[-300:]}")
        faults += looker.findings("after the recovery")
        faults += self._differences(scenario, looker, "the state is not that of an undisturbed run")
        shutil.rmtree(folder)
        return Outcome(point=point, code=code, faults=tuple(faults), output=output if faults else "")

    def _differences(self, scenario: Scenario, looker: Looker, claim: str) -> list[str]:
        """Return the claim and where it shows, if what is seen is not what an undisturbed run leads to."""
        seen, wanted = looker.seen(), self._reference[scenario.name]
        if seen == wanted:
            return []
        rows, others = ({str(row) for row in side[0]} | {str(side[1])} for side in (seen, wanted))
        return [f"{claim}: {sorted(rows - others)[:1]} instead of {sorted(others - rows)[:1]}"[:2000]]

    def _end(self, point: Point, scenario: Scenario, worker: int, mutant: str) -> tuple[Path, int, str, int]:
        """Run the command up to its end; return the folder, exit code, output, and the last position acknowledged."""
        folder = self._fresh(scenario, worker)
        log = folder.with_suffix(".log")
        code, output = self._run(
            scenario,
            scenario.command,
            folder,
            worker,
            log=log,
            mutant=mutant,
            kind=KINDS[point.how],
            at=point.at,
            last=FOREVER if point.how == How.ENOSPC else point.at,
            error=errno.ENOSPC if point.how == How.ENOSPC else errno.EIO,
        )
        marks = [line.split()[3] for line in log.read_text(errors="replace").splitlines() if " mark " in line]
        return folder, code, output, int(marks[-1]) if marks else 0

    def _end_and_cut_power(
        self, point: Point, scenario: Scenario, worker: int, mutant: str
    ) -> tuple[Path, int, str, int]:
        """Run the command up to its end, again if it was killed, and cut the power once it is over.

        Returns the folder that is left, the last exit code and output, and the last position acknowledged.
        """
        folder = self._fresh(scenario, worker)
        path = folder.with_suffix(".cut")
        disk, position = Disk(self.root / scenario.base, folder), 0
        runs: list[tuple[tuple[str, ...], dict[str, Any]]] = [
            (scenario.command, {"kind": KINDS[point.how], "at": point.at, "error": errno.EIO})
        ]
        if point.how == How.AGAIN:
            runs += [(command, {}) for command in scenario.recovery]
        for command, how in runs:
            path.unlink(missing_ok=True)
            code, output = self._run(scenario, command, folder, worker, recording=path, mutant=mutant, **how)
            records = read_recording(path)
            disk.replay(records)
            position = max(position, promised(records, len(records)))
        path.unlink()
        shutil.rmtree(folder)
        disk.lose_power(folder, random.Random(f"{point.seed} {point.at}"))
        return folder, code, output, position

    def _cut_power(self, point: Point, scenario: Scenario, worker: int, mutant: str) -> tuple[Path, int, bool]:
        """Build the disk as a cut in the recorded run would have left it.

        Return the folder, the last position acknowledged by then, and whether the command had ended.
        """
        recorded_in, records = self._recording(scenario, worker, mutant)
        places = cuts(records)
        cut = places[min(point.at, len(places)) - 1] if places else 0
        disk = Disk(self.root / scenario.base, recorded_in)
        disk.replay(records[:cut])
        folder = self.root / f"work-{worker}"
        shutil.rmtree(folder, ignore_errors=True)
        disk.lose_power(folder, random.Random(f"{point.seed} {point.at}"))
        return folder, promised(records, cut), cut == len(records)

    def _recording(self, scenario: Scenario, worker: int, mutant: str) -> tuple[Path, list[Record]]:
        """Return the folder in which the undisturbed command was recorded, and its operations.

        Each worker records once for itself: a replica that is moved while its lease runs is refused, as it should be.
        """
        if (scenario.name, mutant, worker) not in self._recordings:
            folder = self._fresh(scenario, worker)
            path = folder.with_suffix(".recording")
            path.unlink(missing_ok=True)
            log = folder.with_suffix(".log")
            code, output = self._run(scenario, scenario.command, folder, worker, log=log, recording=path, mutant=mutant)
            if code not in {Exit.DONE, Exit.FINDINGS}:
                raise AssertionError(f"{scenario.name} recorded: exit {code}: {output}")
            if not mutant:
                self._recorded.setdefault(scenario.name, _operations(log))
            self._recordings[scenario.name, mutant, worker] = (folder, read_recording(path))
            path.unlink()
        return self._recordings[scenario.name, mutant, worker]

    @staticmethod
    def _judge(point: Point, code: int, output: str) -> Iterator[str]:
        if point.how in ENDED_BY_THE_KERNEL:
            return  # the kernel ended it; where it ran on another path past its last operation, it ended by itself
        if code not in DOCUMENTED:
            yield f"exit {code} is not documented"
        if "Traceback" in output:
            yield "a traceback"
        if code != 0 and not output.strip():
            yield "it failed without a word"
        if NAMELESS.search(output):
            yield f"its sentence names nothing: {output.strip()[-200:]}"

    # --- running ---

    def _looker(self, scenario: Scenario, folder: Path, worker: int) -> Looker:
        return Looker(scenario, folder, lambda *argv: self._run(scenario, argv, folder, worker))

    def _fresh(self, scenario: Scenario, worker: int) -> Path:
        """Return a new copy of the scenario's base folder."""
        folder = self.root / f"work-{worker}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.with_suffix(".log").unlink(missing_ok=True)
        shutil.copytree(self.root / scenario.base, folder, symlinks=True)
        return folder

    def _run(
        self, scenario: Scenario, command: tuple[str, ...], folder: Path, worker: int = 0, **how: Any
    ) -> tuple[int, str]:
        # What is remembered of replicas is cut and killed with the replica.
        env, zygote = {**self.world.env(scenario), "XDG_STATE_HOME": f"{folder}/state"}, self._zygotes[worker]
        # A zygote serves one worker alone: two at a time would take each other's answers.
        argv = self.world.filled(command, scenario, lambda asked: zygote.run(list(asked), cwd=folder, env=env)[2])
        code, _, output = zygote.run(argv, cwd=folder, env=env, processors=scenario.processors, **how)
        return code, output

    def _plain(self, command: tuple[str, ...], folder: Path, env: dict[str, str]) -> tuple[int, str]:
        code, _, output = self._zygotes[0].run(list(command), cwd=folder, env=env)
        return code, output


def _operations(log: Path) -> list[str]:
    """Return the operations that were logged, in their order."""
    lines = [line.split()[1] for line in log.read_text(errors="replace").splitlines()]
    return [line for line in lines if line != "mark"]


def catches(laboratory: Laboratory, mutant: str, scenario: str, how: str) -> bool:
    """Whether the laboratory sees what is wrong with a broken program: it shows at some points, most of them late.

    Where there are few points, what a power cut leaves is tried with several seeds. A run that is given again is of
    interest where the first one was killed before a sync.
    """
    points = [point for point in laboratory.points() if point.scenario == scenario and point.how == how]
    if how == How.AGAIN:
        points = [point for point in points if laboratory.operation(point) in SYNCS]
    spread = deque(points[:: -max(1, len(points) // 24)])
    more = range(100, 100 + 48 // len(spread)) if how in CUT else range(0)
    order: list[Point] = []
    while spread:
        # From behind, and every fourth from the front: what shows early only would else be found last.
        point = spread.pop() if len(order) % 4 == 3 else spread.popleft()
        order.append(point)
    tried = (replace(point, seed=seed) for point in order for seed in (point.seed, *more))
    return any(laboratory.run([point], mutant=mutant)[0].faults for point in tried)


def tally(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Return what was tried and what came out, a row a scenario and disturbance."""
    tried: Counter[tuple[str, str]] = Counter()
    failed: Counter[tuple[str, str]] = Counter()
    for outcome in outcomes:
        kind = (outcome.point.scenario, str(outcome.point.how))
        tried[kind] += 1
        failed[kind] += bool(outcome.faults)
    return [
        {"scenario": kind[0], "disturbance": kind[1], "points": count, "failed": failed[kind]}
        for kind, count in sorted(tried.items())
    ]
