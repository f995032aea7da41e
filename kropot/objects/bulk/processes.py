"""Processes that read ranges of a folder's objects: files alone, never a database."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from contextlib import suppress
from multiprocessing.connection import wait
from typing import TYPE_CHECKING

from kropot.errors import KropotError
from kropot.objects.bulk.folder_ranges import RangeReader
from kropot.objects.layout import Layout

if TYPE_CHECKING:
    from collections.abc import Sequence
    from multiprocessing.connection import Connection
    from multiprocessing.synchronize import Event

    from kropot.objects.bulk.protocol import ExpectedObject, RangeRead

MOST_PROCESSES = 8
PATIENCE_S = 5.0


class RangeWorkers:
    """As many processes as there are processors; results come in the order in which the ranges went in."""

    def __init__(self, storage: str, *, processes: int | None = None) -> None:
        """Start them for the objects in the folder `storage`; they end with this process, however it ends."""
        # A fork costs milliseconds where a fresh start costs a second, and is safe while there is one thread: the
        # children read files and never touch the database connections that they inherit.
        alone = sys.platform == "linux" and threading.active_count() == 1
        context = multiprocessing.get_context("fork") if alone else multiprocessing.get_context("spawn")
        self._stop: Event = context.Event()
        self._links: list[Connection] = []
        self._processes = []
        for _ in range(processes or min(os.cpu_count() or 1, MOST_PROCESSES)):
            ours, theirs = context.Pipe()
            # A forked child inherits our ends, too, and would keep itself and the others alive with them.
            inherited = [*self._links, ours] if alone else []
            process = context.Process(target=_serve, args=(theirs, inherited, storage, self._stop), daemon=True)
            process.start()
            theirs.close()
            self._links.append(ours)
            self._processes.append(process)
        # Each process has its next range at hand when it ends one.
        self._idle = deque(self._links * 2)
        self._busy: dict[Connection, deque[int]] = {link: deque() for link in self._links}
        self._answers: dict[int, RangeRead] = {}
        self._sent = 0
        self._taken = 0

    @property
    def is_free(self) -> bool:
        """Whether a process has less than two ranges to read."""
        return bool(self._idle)

    @property
    def waiting(self) -> int:
        """How many ranges went in whose results were not taken."""
        return self._sent - self._taken

    def submit(self, start: bytes, end: bytes, rows: Sequence[ExpectedObject]) -> None:
        """Have a range read. Raises: IndexError unless `is_free`."""
        link = self._idle.popleft()
        link.send((start, end, rows))
        self._busy[link].append(self._sent)
        self._sent += 1

    def result(self) -> RangeRead | None:
        """Return what came of the oldest range; None if another process became free first.

        Raises:
            KropotError: if the store could not be looked through, or a process has ended.
        """
        if self._taken not in self._answers:
            for link in wait([link for link, ranges in self._busy.items() if ranges]):
                self._receive(link)  # type: ignore[arg-type]  # they are the connections that went in
        answer = self._answers.pop(self._taken, None)
        self._taken += answer is not None
        return answer

    def stop(self) -> None:
        """Have every process end its range where it is."""
        self._stop.set()

    def close(self) -> None:
        """End all processes."""
        self._stop.set()
        for link in self._links:
            link.close()
        for process in self._processes:
            process.join(PATIENCE_S)
            if process.is_alive():
                process.kill()

    def _receive(self, link: Connection) -> None:
        try:
            kind, answer = link.recv()
        except EOFError:
            raise KropotError("a process that read objects has ended: free some memory, then verify again") from None
        if kind == "storage":
            raise KropotError(answer)
        self._answers[self._busy[link].popleft()] = answer
        self._idle.append(link)


def _serve(link: Connection, inherited: list[Connection], storage: str, stop: Event) -> None:
    """Read the ranges that come until the other end closes, which also happens when the parent dies."""
    for each in inherited:
        each.close()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    reader = RangeReader(Layout(storage), stop.is_set)
    with suppress(EOFError, OSError):
        while True:
            start, end, rows = link.recv()
            answer: tuple[str, object]
            try:
                answer = ("read", reader.read(start, end, rows))
            except OSError as error:
                answer = ("storage", f"the storage cannot be looked through: {error}")
            link.send(answer)
