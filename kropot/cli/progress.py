"""How a running collector is shown: a progress bar on a terminal, log lines elsewhere; both on stderr."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kropot.cli.output import is_terminal, log, say
from kropot.cli.settings import LOG_LEVELS
from kropot.wording import amount

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.progress import Progress

    from kropot.cli.settings import Settings
    from kropot.collect.decide.actions import Say
    from kropot.collect.decide.step import Collector

LOOK_S = 0.2
TELL_S = 30.0
RATE_S = 2.0


class ProgressDisplay:
    """Hears messages and looks at progress; the loop calls it often, so that it mostly does nothing."""

    def __init__(self, settings: Settings, bar: Progress | None) -> None:
        """Tell by log lines, or beside a bar."""
        self._is_json = settings.log_format == "json"
        self._least = LOG_LEVELS.index(settings.log_level)
        self._is_plain = self._is_json or bar is None
        self._bar = bar
        self._task = None if bar is None else bar.add_task("collect", total=None, bytes="0 B", rate="0", failed=0)
        self._next = 0.0
        self._told = (0, time.monotonic())
        self._shown = 0.0

    def hear(self, message: Say) -> None:
        """Log a message with its fields, or say it to a person."""
        if self._is_plain:
            tell = getattr(log, message.level)
            if self._is_json:
                tell(message.event, message=message.text, **message.fields)
            else:
                tell(message.text)
        elif LOG_LEVELS.index(message.level) >= self._least:
            say(message.text, level=message.level)

    def look(self, collector: Collector) -> None:
        """Show how far it is, now and then."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + LOOK_S
        progress = collector.progress
        if self._bar is not None and self._task is not None:
            self._bar.update(
                self._task,
                completed=progress.copied,
                total=max(collector.wanted, progress.copied) or None,
                bytes=amount(progress.bytes),
                rate=f"{self._rate(now, progress.copied):,.0f}",
                failed=progress.failed,
            )
            return
        copied, at = self._told
        if now - at >= TELL_S and progress.copied != copied:
            rate = (progress.copied - copied) / (now - at)
            log.info(
                "progress", copied=progress.copied, bytes=progress.bytes, failed=progress.failed, rate=round(rate, 1)
            )
            self._told = (progress.copied, now)

    def _rate(self, now: float, copied: int) -> float:
        """Return the files a second of the last moments."""
        before, at = self._told
        if now - at >= RATE_S:
            self._shown, self._told = (copied - before) / (now - at), (copied, now)
        return self._shown


@contextmanager
def progress_display(settings: Settings) -> Iterator[ProgressDisplay]:
    """Yield the display that suits the place where stderr goes."""
    if settings.log_format == "json" or not is_terminal(sys.stderr):
        yield ProgressDisplay(settings, None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    columns = (
        SpinnerColumn(),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("files  {task.fields[bytes]}"),
        TextColumn("{task.fields[rate]}/s"),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        TextColumn("failed {task.fields[failed]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True, refresh_per_second=5) as bar:
        yield ProgressDisplay(settings, bar)
