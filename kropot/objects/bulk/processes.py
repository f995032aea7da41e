"""Processes that read ranges of a folder's objects: they use only files, never a database."""

from __future__ import annotations

import multiprocessing
from collections import deque
from multiprocessing.connection import wait
from typing import TYPE_CHECKING

from kropot.errors import KropotError
from kropot.objects.bulk.folder_ranges import RangeReader
from kropot.objects.layout import Layout
from kropot.processes import ChildProcess, processors

if TYPE_CHECKING:
    from collections.abc import Sequence
    from multiprocessing.connection import Connection
    from multiprocessing.synchronize import Event

    from kropot.objects.bulk.protocol import ExpectedObject, RangeRead

    _Task = tuple[bytes, bytes | None, Sequence[ExpectedObject]]
    """A range with its objects, or a pack's name without an end."""


class RangeWorkers:
    """As many processes as there are processors; results come in the order in which the ranges went in."""

    def __init__(self, storage: str, *, processes: int | None = None) -> None:
        """Start them for the objects in the folder `storage`; they end with this process, however it ends."""
        # An event of either kind works in forks and in processes that start afresh.
        self._stop: Event = multiprocessing.get_context("spawn").Event()
        self._processes: list[ChildProcess] = []
        for _ in range(processes or processors()):
            self._processes.append(ChildProcess(_serve, storage, self._stop, siblings=self._processes))
        self._links = [process.links[0] for process in self._processes]
        # Each process has its next range at hand when it ends one.
        self._idle = deque(self._links * 2)
        self._busy: dict[Connection, deque[int]] = {link: deque() for link in self._links}
        self._answers: dict[int, RangeRead] = {}
        self._sent = 0
        self._taken = 0

    @property
    def is_free(self) -> bool:
        """Whether a process has fewer than two ranges to read."""
        return bool(self._idle)

    @property
    def waiting(self) -> int:
        """How many ranges went in whose results were not taken yet."""
        return self._sent - self._taken

    def submit(self, start: bytes, end: bytes, rows: Sequence[ExpectedObject]) -> None:
        """Have a range read. Raises: IndexError unless `is_free`."""
        self._send((start, end, rows))

    def submit_pack(self, name: bytes) -> None:
        """Have a pack read. Raises: IndexError unless `is_free`."""
        self._send((name, None, ()))

    def _send(self, task: _Task) -> None:
        link = self._idle.popleft()
        link.send(task)
        self._busy[link].append(self._sent)
        self._sent += 1

    def result(self) -> RangeRead | None:
        """Return the result of the oldest range; None if another process became free first.

        Raises:
            KropotError: if the store could not be searched, or a process has ended.
        """
        if self._taken not in self._answers:
            for link in wait([link for link, ranges in self._busy.items() if ranges]):
                self._receive(link)  # type: ignore[arg-type]  # they are the connections that went in
        answer = self._answers.pop(self._taken, None)
        self._taken += answer is not None
        return answer

    def stop(self) -> None:
        """Make every process stop in the middle of its range."""
        self._stop.set()

    def close(self) -> None:
        """End all processes."""
        self._stop.set()
        for process in self._processes:
            process.end()

    def _receive(self, link: Connection) -> None:
        try:
            kind, answer = link.recv()
        except EOFError:
            raise KropotError(
                "a process that read objects was killed or crashed: free some memory, then verify again"
            ) from None
        if kind == "storage":
            raise KropotError(answer)
        self._answers[self._busy[link].popleft()] = answer
        self._idle.append(link)


def _serve(links: list[Connection], storage: str, stop: Event) -> None:
    """Read the ranges that come until the parent closes its end."""
    reader = RangeReader(Layout(storage), stop.is_set)
    (link,) = links
    while True:
        start, end, rows = link.recv()
        answer: tuple[str, object]
        try:
            answer = ("read", reader.read_pack(start) if end is None else reader.read(start, end, rows))
        except OSError as error:
            answer = ("storage", f"cannot search the storage: {error}")
        link.send(answer)
