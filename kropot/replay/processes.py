"""Work on pages of a ledger in several processes, each with its own connection to the database.

A single processor would limit a fold over millions of elements, and no page depends on another. If a page fails in a
child process, this process works on it again, so that the error is raised here.
"""

from __future__ import annotations

import gc
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from kropot.processes import ChildProcess, can_fork, processors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from multiprocessing.connection import Connection

    from ledger.log import Ledger

T = TypeVar("T")
R = TypeVar("R")

MANY_STREAMS = 100_000
"""From this number of streams on, more processes save time."""


def in_processes(
    work: Callable[[Ledger, int, T], R],
    ledger: Ledger,
    position: int,
    pages: Iterable[T],
    *,
    processes: int | None = None,
) -> Iterator[R]:
    """Yield `work(ledger, position, page)` for each page, in order, with several processes if possible.

    `processes` is their number. By default a ledger with few streams uses none, and a large ledger uses one for each
    processor. This process does all the work itself if the system cannot fork, if other threads run (a fork would leave
    them behind), or if no other process can open the ledger.

    Raises: any exception of `work`, at the turn of its page.
    """
    with _started(work, ledger, position, processes) as links:
        waiting: list[tuple[T, Connection | None]] = []
        for number, page in enumerate(pages):
            link = links[number % len(links)] if links else None
            if len(waiting) >= len(links) and waiting:
                earlier, busy = waiting.pop(0)
                answer = _received(busy)
                waiting.append((page, _sent(link, page)))
                yield work(ledger, position, earlier) if answer is None else answer
            else:
                waiting.append((page, _sent(link, page)))
        for page, busy in waiting:
            answer = _received(busy)
            yield work(ledger, position, page) if answer is None else answer


@contextmanager
def _started(
    work: Callable[[Ledger, int, T], R], ledger: Ledger, position: int, processes: int | None
) -> Iterator[list[Connection]]:
    """Start the processes and yield the connections to them. Yield none if they would not help or cannot start."""
    wanted = processes
    if wanted is None:
        wanted = processors() if ledger.log.head().streams >= MANY_STREAMS else 0
    useful = wanted > (1 if processes is None else 0)
    reopen = ledger.reopener() if useful and can_fork() else None
    if reopen is None:
        yield []
        return
    started: list[ChildProcess] = []
    try:
        for _ in range(wanted):
            started.append(ChildProcess(_serve, work, reopen, position, siblings=started))
        yield [each.links[0] for each in started]
    finally:
        for each in started:
            each.end()


def _sent(link: Connection | None, page: object) -> Connection | None:
    """Send a page. Return the connection that will bring its answer, None if the process has ended."""
    if link is None:
        return None
    with suppress(OSError):
        link.send(page)
        return link
    return None


def _received(link: Connection | None) -> Any:
    """Return the answer, None if the process failed or ended."""
    if link is None:
        return None
    with suppress(EOFError, OSError):
        return link.recv()
    return None


def _serve(
    links: list[Connection], work: Callable[[Ledger, int, Any], Any], reopen: Callable[[], Ledger], position: int
) -> None:
    """Answer pages until the parent closes its end."""
    # There are no reference cycles here, and the search for them takes a tenth of the time.
    gc.disable()
    ledger = reopen()
    (link,) = links
    while True:
        page = link.recv()
        try:
            answer = work(ledger, position, page)
        except Exception:  # noqa: BLE001 -- the parent works on the page again and raises it
            answer = None
        link.send(answer)
