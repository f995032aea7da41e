"""Child processes. Each serves until its parent closes its pipes or dies in any way.

They are not a pool of `concurrent.futures`, because such a pool outlives a parent that was killed. A fork costs
milliseconds and a fresh start a second, but a fork is safe only while there is one thread, because it does not copy the
others. A fork never touches the database connections that it inherits, and it ends without cleanup.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kropot.gc_tuning import look_for_cycles_rarely

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing.connection import Connection

MOST_PROCESSES: Final = 8
"""The most processes to start."""

PATIENCE_S: Final = 5.0
"""How many seconds to wait for a process to end before it is killed."""

_LOOKS: Final = 100
_LOOK_S: Final = 0.001
"""How often, and after how many seconds each, to look whether a thread has ended."""

_is_forbidden = False
_IGNORED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def processors() -> int:
    """Return how many processors this process can use, at most `MOST_PROCESSES`."""
    count = os.cpu_count() or 1
    if sys.platform == "linux":
        count = min(count, len(os.sched_getaffinity(0)))
    return min(count, MOST_PROCESSES)


def forbid_forks() -> None:
    """Stop this process from forking, because it uses a library whose threads would be missing in a fork."""
    global _is_forbidden  # noqa: PLW0603 -- it is a fact about the process
    _is_forbidden = True


def can_fork() -> bool:
    """Whether a fork is safe here and now."""
    return sys.platform == "linux" and threading.active_count() == 1 and not _is_forbidden and threads_have_ended()


def threads_have_ended() -> bool:
    """Wait a moment for threads that are ending; return whether the system knows no more threads than Python.

    A thread that was joined can still be ending, and hold a lock of OpenSSL's, which a fork would never release.
    """
    for _ in range(_LOOKS):
        try:
            if len(list(Path("/proc/self/task").iterdir())) <= threading.active_count():
                return True
        except OSError:
            return False
        time.sleep(_LOOK_S)
    return False


class ChildProcess:
    """A process that runs `serve(links, *arguments)` and ends with it. Its own `links` are our ends of the pipes."""

    def __init__(
        self,
        serve: Callable[..., None],
        *arguments: object,
        pipes: int = 1,
        siblings: Sequence[ChildProcess] = (),
        has_children: bool = False,
    ) -> None:
        """Start the process: as a fork if that is safe, else fresh.

        A fork closes the inherited pipes to its `siblings`, or it would keep them alive. With `has_children`, it can
        have child processes of its own. MUST NOT be called from several threads.
        """
        is_fork = can_fork()
        context = multiprocessing.get_context("fork") if is_fork else multiprocessing.get_context("spawn")
        pairs = [context.Pipe() for _ in range(pipes)]
        self.links = [ours for ours, _ in pairs]
        theirs = [link for _, link in pairs]
        inherited = [link for each in (*siblings, self) for link in each.links] if is_fork else []
        self._process = context.Process(
            target=_run, args=(inherited, serve, theirs, arguments), daemon=not has_children
        )
        # A signal that arrives before the child ignores it would end the child.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _IGNORED)
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for link in theirs:
            link.close()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid or 0

    def fate(self) -> str:
        """Return a clause that says how the process ended. Call it when its pipe is closed."""
        self._process.join(PATIENCE_S)
        code = self._process.exitcode
        if code is not None and code < 0:
            return f"signal {-code} killed it: was it out of memory?"
        return f"it ended with {code}"

    def kill(self) -> None:
        """Kill the process at once."""
        self._process.kill()

    def end(self) -> None:
        """Close the pipes and wait for the process to end. If it does not, kill it."""
        for link in self.links:
            link.close()
        self._process.join(PATIENCE_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _run(
    inherited: list[Connection], serve: Callable[..., None], links: list[Connection], arguments: tuple[object, ...]
) -> None:
    for link in inherited:
        link.close()
    # Ctrl-C and a service manager's SIGTERM reach the whole group, but the parent decides what they mean.
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _IGNORED)
    # Inherited objects are never collected: closing a connection would send its end through the parent's socket.
    look_for_cycles_rarely()
    try:
        with suppress(EOFError, BrokenPipeError, ConnectionResetError):
            serve(links, *arguments)
    except BaseException:  # noqa: BLE001 -- nobody above it can catch this; the parent sees the closed pipe
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
