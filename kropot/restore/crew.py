"""The worker processes of a restore: they open forms and write small files, a page at a time. On one processor, none.

A worker answers each question before it gets the next one, so no pipe ever fills up at both ends. Work that no worker
could do comes back undone, and the caller does it itself.
"""

from __future__ import annotations

import marshal
import os
from collections import deque
from dataclasses import dataclass
from multiprocessing.connection import wait
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self

from kropot.durable.refusals import NoRoomError, TreeError
from kropot.processes import ChildProcess, can_fork, processors
from kropot.replay.copies import flat, from_flat
from kropot.replay.fold import pages
from kropot.restore.small import REMEMBERED, Glance, SmallFiles, Wrote, opened_from
from ledger.places import Placement

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from multiprocessing.connection import Connection

    from kropot.replay.copies import Copies, HeldCopy
    from kropot.restore.opener import Key, Opened
    from kropot.restore.owners import Owners
    from kropot.restore.plan import Planned
    from kropot.restore.small import Task

_PAGE: Final = 250
"""How many forms a worker opens at a time."""

_PLAIN: Final = 2
"""The version of `marshal` that looks for no object that comes twice: nearly none does."""

_PLACE: Final = ("sha256", "pack", "offset", "length")
_FLAT_PLACE: Final = attrgetter(*_PLACE)

_LOOK, _WRITE = range(2)
_DONE, _BROKEN, _FULL = range(3)


@dataclass(slots=True, eq=False)
class Job:
    """A question for a worker, and its answer. `worker` does it, None as long as any may.

    `first` is the number of the first form that it looks at, counted for each worker from 0.
    """

    kind: int
    question: tuple[Any, ...]
    worker: int | None = None
    first: int = 0
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
        self._for_one: list[deque[Job]] = [deque() for _ in self._processes]
        # How many forms each has looked at.
        self._looked = [0] * max(1, len(self._processes))

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
            under_way.append((page, self._submit(Job(_LOOK, (page,)))))
            if len(under_way) > self.window:
                yield from self._seen(*under_way.popleft())
        while under_way:
            yield from self._seen(*under_way.popleft())

    def remember(self, held: HeldCopy, opened: Opened) -> None:
        """Be told of a form that is open already. Workers open it themselves."""
        if not self._processes:
            self._own.remember(held, opened)

    def writes(self, root: str, plans: Sequence[Planned], places: Sequence[Placement | None]) -> Job:
        """Have small files written. `result` returns what came of it, as `SmallFiles.write` does.

        All of them were looked at by the same worker, or by none. That one is asked, since it has their forms open.
        """
        kept = plans[0].opened.kept
        worker = None if kept is None else kept[0]
        # A worker keeps the last forms that it has opened.
        lost = self._looked[worker or 0] - REMEMBERED
        tasks: list[Task] = []
        for plan, place in zip(plans, places, strict=True):
            number = -1 if plan.opened.kept is None else plan.opened.kept[1]
            held = plan.held if number < lost or number < 0 else None
            tasks.append((number, held, plan.path, place))
        return self._submit(Job(_WRITE, (root, tasks), worker))

    def result(self, job: Job) -> list[Wrote | None]:
        """Return the answer to a job when it is there. Raises: TreeError."""
        while not job.is_done:
            if self._processes:
                self._collect()
            else:
                self._begin(0, job)
                job.answer, job.is_done = _answer(self._own, job.kind, job.question), True
        if isinstance(job.answer, TreeError):
            raise job.answer
        if job.kind == _LOOK:
            return job.answer  # type: ignore[no-any-return]
        return [each and Wrote._make(each) for each in job.answer]

    def close(self) -> None:
        """End the workers, and what they are at."""
        while self._processes:
            self._processes.pop().end()
        self._at_work.clear()
        self._own.close()

    # --- helpers ---

    def _submit(self, job: Job) -> Job:
        """Take a job; the worker that it is for gets it as soon as it is free."""
        if self._processes:
            (self._waiting if job.worker is None else self._for_one[job.worker]).append(job)
            self._hand_out()
        return job

    def _seen(self, page: list[HeldCopy], job: Job) -> Iterator[tuple[HeldCopy, Opened | None]]:
        answers: list[Any] = self.result(job)
        worker = job.worker or 0
        for number, (held, glance) in enumerate(zip(page, answers, strict=True), job.first):
            yield held, None if glance is None else opened_from(Glance._make(glance), self._keys, (worker, number))

    def _hand_out(self) -> None:
        for worker, (link, job) in enumerate(self._at_work.items()):
            waiting = self._for_one[worker] or self._waiting
            if job is None and waiting:
                self._at_work[link] = taken = waiting.popleft()
                self._begin(worker, taken)
                self._tell(link, taken)

    def _begin(self, worker: int, job: Job) -> None:
        """Note who does a job, and count the forms that it looks at."""
        job.worker = worker
        if job.kind == _LOOK:
            job.first = self._looked[worker]
            self._looked[worker] += len(job.question[0])

    def _tell(self, link: Connection, job: Job) -> None:
        if job.kind == _LOOK:
            question: tuple[Any, ...] = ([flat(held) for held in job.question[0]],)
        else:
            root, tasks = job.question
            question = (
                root,
                [
                    (number, held and flat(held), path, place and _FLAT_PLACE(place))
                    for number, held, path, place in tasks
                ],
            )
        try:
            link.send_bytes(_packed((job.kind, question)))
        except OSError:
            self._fail(link)

    def _collect(self) -> None:
        """Take the answers that are there; wait for one."""
        at_work = {link: job for link, job in self._at_work.items() if job is not None}
        ready = set(wait(at_work))
        for link, job in at_work.items():
            if link in ready:
                try:
                    how, answer = _unpacked(link.recv_bytes())
                except (EOFError, OSError):
                    self._fail(link)
                job.answer = answer if how == _DONE else NoRoomError(answer) if how == _FULL else TreeError(answer)
                job.is_done, self._at_work[link] = True, None
        self._hand_out()

    def _fail(self, link: Connection) -> NoReturn:
        process = next(each for each in self._processes if each.links[0] is link)
        raise TreeError(f"a worker process of the restore ended: {process.fate()}; run the same command again")


def _serve(links: list[Connection], small: SmallFiles, parent: int) -> None:
    (link,) = links
    while True:
        kind, question = _unpacked(link.recv_bytes())
        if kind == _LOOK:
            question = ([from_flat(held) for held in question[0]],)
        else:
            root, tasks = question
            question = (
                root,
                [
                    (
                        number,
                        held and from_flat(held),
                        path,
                        place and Placement(**dict(zip(_PLACE, place, strict=True))),
                    )
                    for number, held, path, place in tasks
                ],
            )
        answer = _answer(small, kind, question, parent)
        if isinstance(answer, TreeError):
            link.send_bytes(_packed((_FULL if isinstance(answer, NoRoomError) else _BROKEN, str(answer))))
        else:
            # Named tuples are tuples to `marshal` only if they are made so.
            link.send_bytes(_packed((_DONE, [each and tuple(each) for each in answer])))


def _answer(small: SmallFiles, kind: int, question: tuple[Any, ...], parent: int | None = None) -> Any:
    if kind == _LOOK:
        return small.look(*question)
    try:
        return small.write(*question, goes_on=lambda: parent is None or os.getppid() == parent)
    except TreeError as error:
        return error


def _packed(message: tuple[int, Any]) -> bytes:
    """Return a message that holds numbers, texts, bytes, tuples and lists."""
    return marshal.dumps(message, _PLAIN)


def _unpacked(data: bytes) -> tuple[int, Any]:
    return marshal.loads(data)  # type: ignore[no-any-return]  # noqa: S302 -- both ends are one program that has forked
