"""Tries again what failed for a reason that may pass: waits longer each time, with jitter, and then gives up."""

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
    """A failure that may pass by itself: a connection that broke, a server that is busy."""

    reason = "storage_away"
    passes = True


class SlowDownError(PassingError):
    """The store asks for fewer requests."""


class Retries(Struct, frozen=True, kw_only=True):
    """At most so many attempts; the first wait is up to `first_s` seconds, each further one up to twice as long."""

    attempts: int = 6
    first_s: float = 0.25
    most_s: float = 20.0
    sleep: Callable[[float], None] = time.sleep
    uniform: Callable[[float, float], float] = random.uniform

    def run(self, work: Callable[[], T]) -> T:
        """Return what `work` returns. Raises: StorageError, the last one where all attempts failed."""
        longest = self.first_s
        for _ in range(self.attempts - 1):
            try:
                return work()
            except PassingError:
                # Collectors that were cut off together must not come back together.
                self.sleep(self.uniform(longest / 4, longest))
                longest = min(longest * 2, self.most_s)
        return work()
