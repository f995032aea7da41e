"""Run several tasks at a time and yield their results in order. A limit on running tasks keeps memory flat."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Executor, Future

T = TypeVar("T")
R = TypeVar("R")


def in_order(pool: Executor, work: Callable[[T], R], items: Iterable[T], *, window: int) -> Iterator[R]:
    """Yield `work(item)` for each item, in order.

    The caller's own thread takes the items, at most `window` ahead. An exception from `work` is raised at its item's
    turn. Tasks that have not started by then are cancelled. Tasks that have started run to their end, so the caller
    MUST shut the pool down before it closes what they use.
    """
    under_way: deque[Future[R]] = deque()
    try:
        for item in items:
            under_way.append(pool.submit(work, item))
            if len(under_way) >= window:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        for future in under_way:
            future.cancel()
