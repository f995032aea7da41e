"""Notices from outside when a collector's rounds begin and end, and makes metrics of them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from msgspec import Struct

from kropot.metrics.text import MetricSample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from kropot.collect.decide.step import Collector

_COUNTED = ("new", "changed", "reappeared", "vanished", "copied", "bytes", "failed")
_CHANGES = ("new", "changed", "reappeared", "vanished")


class RoundEnd(Struct, frozen=True, kw_only=True):
    """How a round ended. `trouble` is the stable word for why it failed, or None if it did not.

    `counts` is what the round added to the run's progress, by the names of `progress`.
    """

    trouble: str | None
    seconds: float
    counts: Mapping[str, int]


@dataclass(slots=True, kw_only=True)
class RoundWatch:
    """Calls `began` and `ended` for each round. It looks at the collector after each step, at almost no cost."""

    began: Callable[[], None]
    ended: Callable[[RoundEnd], None]
    clock: Callable[[], float] = time.monotonic
    good: int = 0
    bad: int = 0
    ended_well_at: float | None = None
    seconds: float | None = None
    _since: float | None = None
    _before: dict[str, int] = field(default_factory=dict)

    @property
    def is_open(self) -> bool:
        """Whether a round is under way."""
        return self._since is not None

    def look(self, collector: Collector) -> None:
        """Check whether a round has begun or ended."""
        if self._since is None:
            if collector.stage == "listing":
                self._since = self.clock()
                self._before = _counts(collector)
                self.began()
        elif collector.stage == "complete":
            now = self.clock()
            seconds, self._since = now - self._since, None
            self.seconds = seconds
            if collector.trouble is None:
                self.good += 1
                self.ended_well_at = time.time()
            else:
                self.bad += 1
            counts = {name: value - self._before[name] for name, value in _counts(collector).items()}
            self.ended(RoundEnd(trouble=collector.trouble, seconds=seconds, counts=counts))

    def samples(self, collector: Collector) -> Iterator[MetricSample]:
        """Yield the metrics of the run so far. Any thread may call this."""
        for result, count in (("success", self.good), ("fail", self.bad)):
            yield MetricSample(name="kropot_collect_rounds_total", value=count, labels={"result": result})
        if self.ended_well_at is not None:
            yield MetricSample(name="kropot_collect_round_timestamp_seconds", value=self.ended_well_at)
        if self.seconds is not None:
            yield MetricSample(name="kropot_collect_round_duration_seconds", value=round(self.seconds, 3))
        progress = collector.progress
        for change in _CHANGES:
            count = getattr(progress, change)
            yield MetricSample(name="kropot_collect_changes_total", value=count, labels={"change": change})
        yield MetricSample(name="kropot_collect_copies_total", value=progress.copied)
        yield MetricSample(name="kropot_collect_copied_bytes_total", value=progress.bytes)
        for reason, count in sorted(dict(progress.reasons).items()):
            yield MetricSample(name="kropot_collect_failed_fetches_total", value=count, labels={"reason": reason})
        yield MetricSample(name="kropot_collect_outstanding", value=collector.outstanding)
        yield MetricSample(name="kropot_collect_token_refused", value=collector.is_refused)


def _counts(collector: Collector) -> dict[str, int]:
    return {name: getattr(collector.progress, name) for name in _COUNTED}
