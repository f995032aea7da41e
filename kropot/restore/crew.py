"""The worker processes of a restore: they open forms and write small files, a page at a time. On one processor, none.

A worker answers each question before it gets the next one, so no pipe ever fills up at both ends. Work that no worker
could do comes back undone, and the caller does it itself.
"""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any, Final, Self

from kropot.durable.refusals import NoRoomError, TreeError
from kropot.processes import ChildProcess, can_fork, processors
from kropot.replay.fold import pages
from kropot.restore.small import SmallFiles, opened_from

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from multiprocessing.connection import Connection

    from kropot.replay.copies import Copies, HeldCopy
    from kropot.restore.opener import Key, Opened
    from kropot.restore.owners import Owners
    from kropot.restore.small import Task, Wrote

_PAGE: Final = 250
"""How many forms a worker opens at a time."""


@dataclass(slots=True, eq=False)
class Job:
    """A question for a worker, and its answer."""

    question: tuple[Any, ...]
    answer: Any = None
    is_done: bool = False


class Crew:
    """Worker processes, started before any thread. `close` MUST come before what they write to is closed."""

    def __init__(self, copies: Copies, keys: Sequence[Key], owners: Owners, *, workers: int | None = None) -> None:
        """Start them, one a processor. Without a safe fork, or with one processor, the caller's own process works."""
        self._keys = tuple(keys)
        self._own = SmallFiles(copies, keys, owners)
        self._processes: list[ChildProcess] = []
        count = processors() if workers is None else workers
        if count > 1 and can_fork():
            for _ in range(count):
                self._processes.append(ChildProcess(_serve, self._own, os.getpid(), siblings=self._processes))
        self._at_work: dict[Connection, Job | None] = {each.links[0]: None for each in self._processes}
        self._waiting: deque[Job] = deque()

    def __enter__(self) -> Self:
        """Return itself; the end of the block ends the workers."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the workers."""
        self.close()

    @property
    def window(self) -> int:
        """How many jobs to have under way: enough that no worker waits."""
        return 2 * len(self._processes) or 1

    def looks(self, helds: Iterable[HeldCopy]) -> Iterator[tuple[HeldCopy, Opened | None]]:
        """Yield each copy, in order, with what a glance at its form shows; None for what is no small file to us."""
        under_way: deque[tuple[list[HeldCopy], Job]] = deque()
        for page in pages(helds, _PAGE):
            under_way.append((page, self.submit("look", page)))
            if len(under_way) > self.window:
                yield from self._seen(*under_way.popleft())
        while under_way:
            yield from self._seen(*under_way.popleft())

    def remember(self, held: HeldCopy, opened: Opened) -> None:
        """Be told of a form that is open already. Workers open it themselves."""
        if not self._processes:
            self._own.remember(held, opened)

    def writes(self, root: str, tasks: Sequence[Task]) -> Job:
        """Have small files written. `result` returns what came of it, as `SmallFiles.write` does."""
        return self.submit("write", root, tasks)

    def submit(self, *question: Any) -> Job:
        """Take a question; a free worker gets it at once."""
        job = Job(question)
        if self._processes:
            self._waiting.append(job)
            self._hand_out()
        return job

    def result(self, job: Job) -> list[Wrote | None]:
        """Return the answer to a job when it is there. Raises: TreeError."""
        while not job.is_done:
            if self._processes:
                self._collect()
            else:
                job.answer, job.is_done = _answer(self._own, job.question), True
        if isinstance(job.answer, TreeError):
            raise job.answer
        return job.answer  # type: ignore[no-any-return]

    def close(self) -> None:
        """End the workers, and what they are at."""
        while self._processes:
            self._processes.pop().end()
        self._at_work.clear()
        self._own.close()

    # --- helpers ---

    def _seen(self, page: list[HeldCopy], job: Job) -> Iterator[tuple[HeldCopy, Opened | None]]:
        answers: list[Any] = self.result(job)
        for held, glance in zip(page, answers, strict=True):
            yield held, None if glance is None else opened_from(glance, self._keys)

    def _hand_out(self) -> None:
        for link, job in self._at_work.items():
            if job is None and self._waiting:
                self._at_work[link] = taken = self._waiting.popleft()
                self._tell(link, taken)

    def _tell(self, link: Connection, job: Job) -> None:
        try:
            link.send(job.question)
        except OSError:
            self._fail(link)

    def _collect(self) -> None:
        """Take the answers that are there; wait for one."""
        at_work = {link: job for link, job in self._at_work.items() if job is not None}
        ready = set(wait(at_work))
        for link, job in at_work.items():
            if link in ready:
                try:
                    job.answer = link.recv()
                except (EOFError, OSError):
                    self._fail(link)
                job.is_done, self._at_work[link] = True, None
        self._hand_out()

    def _fail(self, link: Connection) -> None:
        process = next(each for each in self._processes if each.links[0] is link)
        raise TreeError(f"a worker process of the restore ended: {process.fate()}; run the same command again")


def _serve(links: list[Connection], small: SmallFiles, parent: int) -> None:
    (link,) = links
    while True:
        link.send(_answer(small, link.recv(), parent))


def _answer(small: SmallFiles, question: tuple[Any, ...], parent: int | None = None) -> Any:
    what, *rest = question
    if what == "look":
        return small.look(*rest)
    try:
        return small.write(*rest, goes_on=lambda: parent is None or os.getppid() == parent)
    except TreeError as error:
        return NoRoomError(str(error)) if isinstance(error, NoRoomError) else TreeError(str(error))
