"""Retry work that failed for a reason that might pass: wait longer each time, with jitter, and then give up."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, TypeVar

from msgspec import Struct

from kropot.durable.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class PassingError(StorageError):
    """A failure that might pass by itself: a broken connection, a busy server."""

    reason = "storage_away"
    passes = True


class SlowDownError(PassingError):
    """The store asks for fewer requests."""


class Retries(Struct, frozen=True, kw_only=True):
    """At most this many attempts; the first wait is up to `first_s` seconds, each later one up to twice as long."""

    attempts: int = 6
    first_s: float = 0.25
    most_s: float = 20.0
    sleep: Callable[[float], None] = time.sleep
    uniform: Callable[[float, float], float] = random.uniform

    def run(self, work: Callable[[], T]) -> T:
        """Return what `work` returns. Raises: StorageError, the last one if all attempts failed."""
        longest = self.first_s
        for _ in range(self.attempts - 1):
            try:
                return work()
            except PassingError:
                # Collectors that were cut off together must not come back together.
                self.sleep(self.uniform(longest / 4, longest))
                longest = min(longest * 2, self.most_s)
        return work()
