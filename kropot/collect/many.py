"""Runs a collector for each of several sources, each in a process of its own (docs/decisions/0037).

The parent collects nothing. It starts the collectors, restarts those that failed, and asks all of them to stop when it
is asked to stop. A collector whose parent is gone stops by itself.
"""

from __future__ import annotations

import signal
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any, Final, Literal

from kropot.collect.decide.inputs import StopRequested
from kropot.errors import Exit
from kropot.processes import ChildProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from multiprocessing.connection import Connection

    from kropot.collect.run.loop import Loop

SHORTEST_PAUSE_S: Final = 60
LONGEST_PAUSE_S: Final = 3600
GOOD_RUN_S: Final = 600
"""A collector that ran for this long was healthy: if it then fails, that counts as a first failure."""

LOOK_EVERY_S: Final = 0.5
STOP_WITHIN_S: Final = 60.0
"""How long collectors may take to stop. They record what they have; what a kill loses is fetched again."""


# --- decisions -------------------------------------------------------------------------------------------------------


def pause_s(failures: int) -> int:
    """Return how many seconds to wait before restarting a collector that failed this many times in a row."""
    return min(SHORTEST_PAUSE_S << min(failures - 1, 10), LONGEST_PAUSE_S)


def code_of_all(codes: Sequence[int]) -> Exit:
    """Return the exit code of a run over several sources.

    4 beats everything else, then an interrupt. If all sources ended alike, that is the answer. If only some could be
    collected, it is 3, and if none could, it is 1.
    """
    kinds = set(codes)
    if Exit.FINDINGS in kinds:
        return Exit.FINDINGS
    if Exit.INTERRUPTED in kinds:
        return Exit.INTERRUPTED
    if len(kinds) == 1:
        return Exit(codes[0])
    return Exit.PARTIAL if kinds & {Exit.DONE, Exit.PARTIAL} else Exit.ERROR


# --- the parent ------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class RunningSource:
    """A source and the process that collects from it, None between two runs. Times are those of a monotonic clock."""

    name: str
    process: ChildProcess | None = None
    began: float = 0.0
    due: float = 0.0
    failures: int = 0
    code: int | None = None


class Collectors:
    """The collectors of several sources. `work` runs in each process. It gets a name and what stops its loop."""

    def __init__(
        self,
        names: Sequence[str],
        work: Callable[[str, Callable[[Loop], Any]], int],
        *,
        once: bool,
        warn: Callable[[str], None],
        look: Callable[[int, int], None] = lambda _working, _waiting: None,
    ) -> None:
        """Prepare. `look` is called at least once a second with the numbers of working and waiting sources."""
        self._sources = [RunningSource(name) for name in names]
        self._work = work
        self._once = once
        self._warn = warn
        self._look = look
        self._stop: Literal["term", "int"] | None = None
        self._asked_at: float | None = None

    def run(self) -> Mapping[str, int]:
        """Collect until all are done, or until SIGTERM or SIGINT; return the last exit code of each source."""
        with self._heard_signals():
            try:
                while self._is_at_work():
                    self._start_what_is_due()
                    working = sum(each.process is not None for each in self._sources)
                    self._look(working, len(self._sources) - working)
                    self._wait()
            finally:
                for each in self._sources:
                    if each.process is not None:
                        each.process.end()
        return {each.name: Exit.DONE if each.code is None else each.code for each in self._sources}

    @property
    def stopped_by(self) -> Literal["term", "int"] | None:
        """Who asked the collectors to stop: a service manager or the keyboard; None if nobody did."""
        return self._stop

    def _is_at_work(self) -> bool:
        if any(each.process is not None for each in self._sources):
            return True
        return self._stop is None and not (self._once and all(each.code is not None for each in self._sources))

    def _start_what_is_due(self) -> None:
        now = time.monotonic()
        for each in self._sources:
            is_done = self._once and each.code is not None
            if each.process is None and self._stop is None and not is_done and each.due <= now:
                siblings = [other.process for other in self._sources if other.process is not None]
                work = partial(_serve, self._work, each.name)
                each.process = ChildProcess(work, siblings=siblings, has_children=True)
                each.began = now

    def _wait(self) -> None:
        """Wait for the end of a process, or for a signal, at most `LOOK_EVERY_S`."""
        links: dict[Any, RunningSource] = {
            each.process.links[0]: each for each in self._sources if each.process is not None
        }
        for link in wait(list(links), LOOK_EVERY_S) if links else _rest():
            self._ended(links[link])
        if self._stop is not None:
            self._pass_on()

    def _ended(self, each: RunningSource) -> None:
        process = each.process
        if process is None:
            return
        try:
            each.code = process.links[0].recv()
        except (EOFError, OSError):
            self._warn(f"the collector of {each.name} ended without saying why: {process.fate()}")
            each.code = Exit.ERROR
        process.end()
        each.process = None
        now = time.monotonic()
        each.failures = 1 if now - each.began >= GOOD_RUN_S else each.failures + 1
        if not self._once and self._stop is None:
            pause = pause_s(each.failures)
            each.due = now + pause
            self._warn(f"the collector of {each.name} ended (exit code {each.code}); it starts again in {pause} s")

    def _pass_on(self) -> None:
        """Ask the collectors to stop, once; kill those that take too long."""
        now = time.monotonic()
        processes = [each.process for each in self._sources if each.process is not None]
        if self._asked_at is None:
            self._asked_at = now
            for process in processes:
                with suppress(OSError):
                    process.links[0].send(self._stop)
        elif now - self._asked_at > STOP_WITHIN_S:
            for process in processes:
                process.kill()

    @contextmanager
    def _heard_signals(self) -> Iterator[None]:
        """Note the first SIGTERM or SIGINT. The second kills the collectors, and ends this process."""

        def note(number: int, _frame: object) -> None:
            if self._stop is None:
                self._stop = "term" if number == signal.SIGTERM else "int"
                return
            for each in self._sources:
                if each.process is not None:
                    each.process.kill()
            raise SystemExit(128 + number)

        before = {each: signal.signal(each, note) for each in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)


def _rest() -> tuple[()]:
    time.sleep(LOOK_EVERY_S)
    return ()


# --- a child ---------------------------------------------------------------------------------------------------------


def _serve(work: Callable[[str, Callable[[Loop], Any]], int], name: str, links: list[Connection]) -> None:
    """Do the work until it ends, or the parent says stop or is gone; then send the parent the exit code."""
    link = links[0]
    code = work(name, partial(_stopped_by_parent, link))
    link.send(int(code))


@contextmanager
def _stopped_by_parent(link: Connection, loop: Loop) -> Iterator[None]:
    """Ask the loop to stop when the parent says so, or is gone."""

    def listen() -> None:
        try:
            how = link.recv()
        except (EOFError, OSError):
            how = "term"
        loop.request_stop(StopRequested(how=how))

    threading.Thread(target=listen, name="parent", daemon=True).start()
    yield
