"""Pages of a fold made by other processes, each with a connection of its own to the ledger's database.

A fold over millions of elements is bound by one processor, and nothing in it depends on what came before. Whatever
goes wrong in another process is done again in this one, where the error belongs.
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

from ledger.log import Ledger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from multiprocessing.connection import Connection

    from ledger.stores import LedgerStore

T = TypeVar("T")
R = TypeVar("R")

MOST_PROCESSES = 8
MANY_STREAMS = 100_000
"""From so many streams on, other processes pay for their start."""

PATIENCE_S = 5.0


def apart(
    work: Callable[[Ledger, int, T], R],
    ledger: Ledger,
    position: int,
    pages: Iterable[T],
    *,
    processes: int | None = None,
) -> Iterator[R]:
    """Yield `work(ledger, position, page)` of each page in order, worked out by several processes where that can be.

    `processes` is how many; where it is None, none for few streams, and for many as many as there are processors. In
    this process alone it goes where the system cannot fork or other threads run, which a fork would leave behind, and
    where nothing but this process sees the ledger.

    Raises: whatever `work` raises, at its page's turn.
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
    """Return how many processors this process may use, at most as many as are of use here."""
    count = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return min(count, MOST_PROCESSES)


@contextmanager
def _started(
    work: Callable[[Ledger, int, T], R], ledger: Ledger, position: int, processes: int | None
) -> Iterator[list[Connection]]:
    """Start the processes; give the ends to talk to them, none where they would be of no use or cannot be."""
    wanted = processes
    if wanted is None:
        wanted = processors() if ledger.log.head().streams >= MANY_STREAMS else 0
    alone = sys.platform == "linux" and threading.active_count() == 1
    useful = wanted > (1 if processes is None else 0)
    elsewhere = ledger.store.reopener() if alone and useful else None
    if elsewhere is None:
        yield []
        return
    # The children never touch the database connections that they inherit, and end without tidying up.
    context = multiprocessing.get_context("fork")
    links: list[Connection] = []
    started = []
    try:
        for _ in range(wanted):
            ours, theirs = context.Pipe()
            # A child that kept our ends open would keep itself and the others alive with them.
            inherited = [*links, ours]
            process = context.Process(target=_serve, args=(theirs, inherited, work, elsewhere, position), daemon=True)
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
    """Send a page, return where its answer will come from; None where the process is gone."""
    if link is None:
        return None
    with suppress(OSError):
        link.send(page)
        return link
    return None


def _received(link: Connection | None) -> Any:
    """Return an answer, None where there is none."""
    if link is None:
        return None
    with suppress(EOFError, OSError):
        return link.recv()
    return None


def _serve(
    link: Connection,
    inherited: list[Connection],
    work: Callable[[Ledger, int, Any], Any],
    elsewhere: Callable[[], LedgerStore],
    position: int,
) -> None:
    """Answer the pages that come, until the other end is closed: that is also how the parent's death is noticed."""
    for each in inherited:
        each.close()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    # Nothing here is circular, and looking for it costs a tenth of the time.
    gc.disable()
    gc.freeze()
    ledger = Ledger(elsewhere())
    with suppress(EOFError, OSError):
        while True:
            page = link.recv()
            try:
                answer = work(ledger, position, page)
            except Exception:  # noqa: BLE001 -- it is raised by the parent, which does the page again
                answer = None
            link.send(answer)
