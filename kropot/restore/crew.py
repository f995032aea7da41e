"""The worker processes of a restore: they open forms and write small files, a page at a time.

With one processor, there are none. Work that no worker could do comes back undone, and the caller does it itself.
kropot/restore/worker.py has the messages in the pipes, and the worker's side.
"""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self

from kropot.durable.refusals import TreeError
from kropot.processes import ChildProcess, can_fork, processors
from kropot.replay.fold import pages
from kropot.restore.small import REMEMBERED, Glance, SmallFiles, Wrote, opened_from
from kropot.restore.worker import LOOK, WRITE, look_question, read_answer, serve, sync_question, write_question

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from multiprocessing.connection import Connection

    from kropot.replay.copies import Copies, HeldCopy
    from kropot.restore.opener import Key, Opened
    from kropot.restore.owners import Owners
    from kropot.restore.plan import Planned
    from kropot.restore.small import Task
    from ledger.places import Placement

_PAGE: Final = 250
"""How many forms a worker opens at a time."""

_AT_ONCE: Final = 4
"""How many pages of forms a worker has at once: one being opened, and others waiting. Writing does not count."""


@dataclass(slots=True, eq=False)
class Job:
    """A question for a worker, and its answer. `worker` answers it, None while any worker may take it.

    `first` is the number of the first form that it looks at, counted for each worker from 0.
    """

    kind: int
    question: tuple[Any, ...]
    worker: int | None = None
    first: int = 0
    answer: Any = None
    is_done: bool = False


class Crew:
    """Worker processes, started before any thread. `close` MUST be called before their target is closed."""

    def __init__(self, copies: Copies, keys: Sequence[Key], owners: Owners, *, workers: int | None = None) -> None:
        """Start one per processor. Without a safe fork, or with one processor, the caller's process does the work."""
        self._keys = tuple(keys)
        self._own = SmallFiles(copies, keys, owners)
        self._processes: list[ChildProcess] = []
        count = processors() if workers is None else workers
        if count > 1 and can_fork():
            for _ in range(count):
                self._processes.append(ChildProcess(serve, self._own, os.getpid(), siblings=self._processes))
        self._at_work: dict[Connection, dict[int, Job]] = {each.links[0]: {} for each in self._processes}
        self._numbers = 0
        self._waiting: deque[Job] = deque()
        # How many forms each worker has looked at.
        self._looked = [0] * max(1, len(self._processes))

    def __enter__(self) -> Self:
        """Return itself; the end of the block ends the workers."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the workers."""
        self.close()

    @property
    def is_alone(self) -> bool:
        """Whether there are no workers, so that each batch is durable when it is written."""
        return not self._processes

    def looks(self, helds: Iterable[HeldCopy]) -> Iterator[tuple[HeldCopy, Opened | None]]:
        """Yield each copy, in order, with a glance at its form; None if it is not a small file that a key opens."""
        under_way: deque[tuple[list[HeldCopy], Job]] = deque()
        for page in pages(helds, _PAGE):
            under_way.append((page, self._submit(Job(LOOK, (page,)))))
            if len(under_way) > _AT_ONCE * len(self._processes):
                yield from self._seen(*under_way.popleft())
        while under_way:
            yield from self._seen(*under_way.popleft())

    def remember(self, held: HeldCopy, opened: Opened) -> None:
        """Remember a form that is already open. Workers open it themselves."""
        if not self._processes:
            self._own.remember(held, opened)

    def writes(self, root: str, plans: Sequence[Planned], places: Sequence[Placement | None]) -> Job:
        """Have small files written. After a `sync`, `result` returns the outcome, as `SmallFiles.write` does.

        The same worker, or none, has looked at all of them. That worker writes them, because it has their forms open.
        """
        kept = plans[0].opened.kept
        worker = None if kept is None else kept[0]
        # A worker keeps only the last forms that it opened.
        lost = self._looked[worker or 0] - REMEMBERED
        tasks: list[Task] = []
        for plan, place in zip(plans, places, strict=True):
            number = -1 if plan.opened.kept is None else plan.opened.kept[1]
            held = plan.held if number < lost or number < 0 else None
            tasks.append((number, held, plan.path, place))
        return self._submit(Job(WRITE, (root, tasks), worker))

    def sync(self) -> None:
        """Have everything submitted so far made durable. The workers continue meanwhile. Raises: TreeError."""
        for link in self._at_work:
            self._send(link, sync_question())

    def result(self, job: Job) -> list[Wrote | None]:
        """Wait for the answer to a job, and return it. Raises: TreeError."""
        while not job.is_done:
            if self._processes:
                self._collect()
            else:
                self._begin(0, job)
                job.answer, job.is_done = _answered(self._own, job), True
        if isinstance(job.answer, TreeError):
            raise job.answer
        if job.kind == LOOK:
            return job.answer  # type: ignore[no-any-return]
        return [each and Wrote._make(each) for each in job.answer]

    def close(self) -> None:
        """End the workers, and whatever they are doing."""
        while self._processes:
            self._processes.pop().end()
        self._at_work.clear()
        self._own.close()

    # --- helpers ---

    def _submit(self, job: Job) -> Job:
        """Take a job. Send it to its worker at once, or to any worker as soon as one is free."""
        if not self._processes:
            return job
        if job.worker is None:
            self._waiting.append(job)
            self._hand_out()
        else:
            self._tell(job.worker, self._processes[job.worker].links[0], job)
        return job

    def _seen(self, page: list[HeldCopy], job: Job) -> Iterator[tuple[HeldCopy, Opened | None]]:
        answers: list[Any] = self.result(job)
        worker = job.worker or 0
        for number, (held, glance) in enumerate(zip(page, answers, strict=True), job.first):
            yield held, None if glance is None else opened_from(Glance._make(glance), self._keys, (worker, number))

    def _hand_out(self) -> None:
        for few in range(_AT_ONCE):
            for worker, (link, jobs) in enumerate(self._at_work.items()):
                if self._waiting and sum(job.kind == LOOK for job in jobs.values()) <= few:
                    self._tell(worker, link, self._waiting.popleft())

    def _begin(self, worker: int, job: Job) -> None:
        """Note which worker does a job, and count the forms that it looks at."""
        job.worker = worker
        if job.kind == LOOK:
            job.first = self._looked[worker]
            self._looked[worker] += len(job.question[0])

    def _tell(self, worker: int, link: Connection, job: Job) -> None:
        self._begin(worker, job)
        self._numbers += 1
        self._at_work[link][self._numbers] = job
        make = look_question if job.kind == LOOK else write_question
        self._send(link, make(self._numbers, *job.question))

    def _send(self, link: Connection, question: bytes) -> None:
        try:
            link.send_bytes(question)
        except OSError:
            self._fail(link)

    def _collect(self) -> None:
        """Take the answers that have arrived. Wait for at least one."""
        at_work = {link: jobs for link, jobs in self._at_work.items() if jobs}
        ready = set(wait(at_work))
        for link, jobs in at_work.items():
            if link in ready:
                try:
                    number, answer = read_answer(link.recv_bytes())
                except (EOFError, OSError):
                    self._fail(link)
                job = jobs.pop(number)
                job.answer, job.is_done = answer, True
        self._hand_out()

    def _fail(self, link: Connection) -> NoReturn:
        process = next(each for each in self._processes if each.links[0] is link)
        raise TreeError(f"a worker process of the restore ended: {process.fate()}; run the same command again")


def _answered(small: SmallFiles, job: Job) -> Any:
    """Return the answer of the caller's own process."""
    try:
        return small.look(*job.question) if job.kind == LOOK else small.write(*job.question)
    except TreeError as error:
        return error
