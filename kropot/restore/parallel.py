"""Several things at a time, answers in order, and never more than a few under way: memory stays flat."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Executor, Future

T = TypeVar("T")
R = TypeVar("R")


def in_order(pool: Executor, work: Callable[[T], R], items: Iterable[T], *, window: int) -> Iterator[R]:
    """Yield `work(item)` of each item in order; at most `window` items are taken ahead, in the caller's own thread.

    Raises whatever `work` raised, at its item's turn. What has not begun by then never does; what has begun ends when
    it ends: whoever closes what it works on MUST shut the pool down first.
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
