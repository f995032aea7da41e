"""Runs functions that can block in threads, so that they hold up no other request."""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

_T = TypeVar("_T")
_STUCK_S = 0.05


async def in_pool(pool: Executor, work: Callable[..., _T], *args: Any) -> _T:
    """Run a function that can block, in a thread of the pool."""
    return await asyncio.get_running_loop().run_in_executor(pool, work, *args)


class Turns:
    """Lets threads that compute take turns.

    Only one of them can compute at a time anyway, and threads that compete for that cost a fifth of a gateway's
    processor time. A thread that waits for more than 50 ms runs without a turn: a file system can hold up the other.
    """

    def __init__(self) -> None:
        """Start with nobody's turn."""
        self._lock = threading.Lock()

    def take(self, work: Callable[..., _T], *args: Any) -> _T:
        """Run a function when it is its turn."""
        is_held = self._lock.acquire(timeout=_STUCK_S)
        try:
            return work(*args)
        finally:
            if is_held:
                self._lock.release()


class Opens:
    """Runs work that can hang, for example on a file system, without holding up other work.

    A few threads do everything as long as nothing hangs, because many would only get in each other's way. Work that
    could not start within 50 ms goes to a pool that grows to 128 threads.
    """

    def __init__(self) -> None:
        """Start no thread yet."""
        self._few = ThreadPoolExecutor(2, thread_name_prefix="open")
        self._many = ThreadPoolExecutor(128, thread_name_prefix="open-slow")

    async def run(self, work: Callable[..., _T], *args: Any) -> _T:
        """Run a function that can block for a long time."""
        job = self._few.submit(work, *args)
        moved: list[bool] = []
        timer = asyncio.get_running_loop().call_later(_STUCK_S, lambda: moved.append(job.cancel()))
        try:
            return await asyncio.wrap_future(job)
        except asyncio.CancelledError:
            if moved != [True]:
                raise
        finally:
            timer.cancel()
        return await in_pool(self._many, work, *args)

    def close_file(self, descriptor: int) -> None:
        """Close a file soon, in a thread, because even this can wait for a network file system."""
        self._many.submit(os.close, descriptor)

    def shutdown(self) -> None:
        """End the threads when their current work is done."""
        for pool in (self._few, self._many):
            pool.shutdown(cancel_futures=True)
