"""What a verification needs from outside: time, a stop request, and a display of its progress."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct, field

if TYPE_CHECKING:
    from collections.abc import Callable


class PartProgress(Protocol):
    """Shows how far a run has come. The run calls it often."""

    def part(self, what: str, noun: str, *, count: int | None = None, size: int | None = None) -> None:
        """Begin a part of the run: `count` things and `size` bytes are to be done, None if unknown."""

    def reached(self, count: int, size: int = 0) -> None:
        """Report how many things and bytes of this part are done."""


class Unshown:
    """Shows no progress."""

    def part(self, what: str, noun: str, *, count: int | None = None, size: int | None = None) -> None:
        """Ignore it."""

    def reached(self, count: int, size: int = 0) -> None:
        """Ignore it."""


def never() -> bool:
    """Return False: no stop was requested."""
    return False


class World(Struct, frozen=True, kw_only=True):
    """What a run needs from outside: sleep (seconds), a clock (seconds), a stop request, and a display of progress."""

    sleep: Callable[[float], None] = time.sleep
    monotonic: Callable[[], float] = time.monotonic
    stopped: Callable[[], bool] = never
    progress: PartProgress = field(default_factory=Unshown)
