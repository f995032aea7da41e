"""Work on pages of a ledger in several processes, each with its own connection to the database.

A single processor would limit a fold over millions of elements, and no page depends on another. If a page fails in a
child process, this process works on it again, so that the error is raised here. The children are not a pool of
`concurrent.futures`, because they must end as soon as their parent dies in any way. The closed pipe tells them.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from multiprocessing.connection import Connection

    from ledger.log import Ledger

T = TypeVar("T")
R = TypeVar("R")

MOST_PROCESSES = 8
"""The largest number of processes to start."""

MANY_STREAMS = 100_000
"""From this number of streams on, other processes save time."""

PATIENCE_S = 5.0
"""How many seconds to wait for a process to end before it is killed."""


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


def processors() -> int:
    """Return how many processors this process can use, at most `MOST_PROCESSES`."""
    count = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return min(count, MOST_PROCESSES)


@contextmanager
def _started(
    work: Callable[[Ledger, int, T], R], ledger: Ledger, position: int, processes: int | None
) -> Iterator[list[Connection]]:
    """Start the processes and yield the connections to them. Yield none if they would not help or cannot start."""
    wanted = processes
    if wanted is None:
        wanted = processors() if ledger.log.head().streams >= MANY_STREAMS else 0
    alone = sys.platform == "linux" and threading.active_count() == 1
    useful = wanted > (1 if processes is None else 0)
    reopen = ledger.reopener() if alone and useful else None
    if reopen is None:
        yield []
        return
    # The children never touch the database connections that they inherit, and they end without cleanup.
    context = multiprocessing.get_context("fork")
    links: list[Connection] = []
    started = []
    try:
        for _ in range(wanted):
            ours, theirs = context.Pipe()
            # A child that kept our ends of the pipes open would keep itself and the others alive.
            inherited = [*links, ours]
            process = context.Process(target=_serve, args=(theirs, inherited, work, reopen, position), daemon=True)
            process.start()
            theirs.close()
            links.append(ours)
            started.append(process)
        yield links
    finally:
        for link in links:
            link.close()
        for process in started:
            process.join(PATIENCE_S)
            if process.is_alive():
                process.kill()
                process.join()


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
    link: Connection,
    inherited: list[Connection],
    work: Callable[[Ledger, int, Any], Any],
    reopen: Callable[[], Ledger],
    position: int,
) -> None:
    """Answer pages until the parent closes its end or dies."""
    for each in inherited:
        each.close()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    # There are no reference cycles here, and the search for them takes a tenth of the time.
    gc.disable()
    gc.freeze()
    ledger = reopen()
    with suppress(EOFError, OSError):
        while True:
            page = link.recv()
            try:
                answer = work(ledger, position, page)
            except Exception:  # noqa: BLE001 -- the parent works on the page again and raises it
                answer = None
            link.send(answer)
