"""How many elements a collector takes on at a time: the faster it finishes them, the more."""

from __future__ import annotations

from dataclasses import dataclass, field

from kropot.collect.decide.plan import SECOND_US

FAST_US = SECOND_US
"""The limit doubles when as many elements as it allows pass within this time."""

SLOW_US = 4 * SECOND_US
"""The limit halves when they take longer than this."""


@dataclass(slots=True, kw_only=True)
class InFlightLimit:
    """A limit between `least` and `most`, wide enough that nothing waits for the ledger when everything is fast.

    No other collector can fetch what one has taken on, so with a slow server that must not be an hour's work.
    """

    least: int
    most: int
    size: int = field(init=False)
    _done: int = 0
    _since_us: int | None = None

    def __post_init__(self) -> None:
        """Start with the lowest limit."""
        self.size = self.least

    def entered(self, now_us: int) -> None:
        """Note that elements were taken on."""
        if self._since_us is None:
            self._since_us = now_us

    def passed(self, count: int, now_us: int) -> None:
        """Note that `count` more elements are done."""
        self._done += count
        if self._done < self.size or self._since_us is None:
            return
        took_us = now_us - self._since_us
        self._done, self._since_us = 0, now_us
        if took_us <= FAST_US:
            self.size = min(2 * self.size, self.most)
        elif took_us >= SLOW_US:
            self.size = max(self.size // 2, self.least)
