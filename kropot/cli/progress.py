"""Show the progress of a collector on stderr: as a progress bar on a terminal, else as log lines."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kropot.cli.output import is_terminal, say
from kropot.cli.settings import LOG_LEVELS
from kropot.logs import log
from kropot.wording import amount

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.progress import Progress

    from kropot.cli.settings import Settings
    from kropot.collect.decide.actions import Say
    from kropot.collect.decide.step import Collector

BAR_EVERY_S = 0.2
LOG_EVERY_S = 30.0
RATE_EVERY_S = 2.0


class ProgressDisplay:
    """Shows the collector's messages and progress. The loop calls it often, and most calls do nothing."""

    def __init__(self, settings: Settings, bar: Progress | None) -> None:
        """Write log lines, or show messages above a progress bar."""
        self._is_json = settings.log_format == "json"
        self._least = LOG_LEVELS.index(settings.log_level)
        self._is_plain = self._is_json or bar is None
        self._bar = bar
        self._task = None if bar is None else bar.add_task("collect", total=None, bytes="0 B", rate="", failed=0)
        self._next = 0.0
        self._counted = (0, 0, time.monotonic())
        self._shown = "0 files/s"

    def hear(self, message: Say) -> None:
        """Log a message with its fields, or print it for a person."""
        if self._is_plain:
            write_log = getattr(log, message.level)
            if self._is_json:
                write_log(message.event, message=message.text, **message.fields)
            else:
                write_log(message.text)
        elif LOG_LEVELS.index(message.level) >= self._least:
            say(message.text, level=message.level)

    def look(self, collector: Collector) -> None:
        """Show the collector's progress, at most every `BAR_EVERY_S` or `LOG_EVERY_S` seconds."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + BAR_EVERY_S
        progress = collector.progress
        if self._bar is not None and self._task is not None:
            self._bar.update(
                self._task,
                completed=progress.copied,
                total=max(collector.wanted, progress.copied) or None,
                bytes=amount(progress.bytes),
                rate=self._rate(now, progress.copied, progress.bytes),
                failed=progress.failed,
            )
            return
        copied, _, at = self._counted
        if now - at >= LOG_EVERY_S and progress.copied != copied:
            rate = (progress.copied - copied) / (now - at)
            log.info(
                "progress", copied=progress.copied, bytes=progress.bytes, failed=progress.failed, rate=round(rate, 1)
            )
            self._counted = (progress.copied, progress.bytes, now)

    def _rate(self, now: float, copied: int, size: int) -> str:
        """Return how many files and bytes per second were copied recently."""
        files_before, bytes_before, at = self._counted
        if now - at >= RATE_EVERY_S:
            files, moved = (copied - files_before) / (now - at), (size - bytes_before) / (now - at)
            self._shown, self._counted = f"{files:,.0f} files/s  {amount(int(moved))}/s", (copied, size, now)
        return self._shown


@contextmanager
def progress_display(settings: Settings, *, is_alone: bool = True) -> Iterator[ProgressDisplay]:
    """Yield a display with a progress bar if stderr is a terminal that only this writes to, else with log lines."""
    if not is_alone or settings.quiet or settings.log_format == "json" or not is_terminal(sys.stderr):
        yield ProgressDisplay(settings, None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    columns = (
        SpinnerColumn(),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("files  {task.fields[bytes]}"),
        TextColumn("{task.fields[rate]}"),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        TextColumn("failed {task.fields[failed]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True, refresh_per_second=5) as bar:
        yield ProgressDisplay(settings, bar)
