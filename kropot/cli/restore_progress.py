"""Shows a running restore on stderr, with bytes and the time that is left: a bar on a terminal, log lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kropot.cli.output import is_terminal
from kropot.cli.progress import BAR_EVERY_S, LOG_EVERY_S
from kropot.logs import log
from kropot.wording import amount, number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.progress import Progress

    from kropot.cli.settings import Settings

PER_FILE = 256 << 10
"""A file takes about as long as so many bytes, however small it is. The time that is left is estimated with this."""


class RestoreProgress:
    """Counts files and bytes, and shows them now and then. Any thread may call it.

    `files` and `size` (bytes) are what there is to do, None if that is not known.
    """

    def __init__(
        self,
        bar: Progress | None,
        *,
        files: int | None,
        size: int | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin with nothing done."""
        self._bar = bar
        self._files = files
        self._size = size
        self._clock = clock
        self._began = self._next = clock()
        self._lock = threading.Lock()
        self._every = LOG_EVERY_S if bar is None else BAR_EVERY_S
        self._next += self._every
        self._task = None if bar is None else bar.add_task("restore", total=self._work, text="")
        self.files_done = 0
        self.bytes_done = 0

    def moved(self, size: int) -> None:
        """Count bytes that were written or compared."""
        with self._lock:
            self.bytes_done += size
            self._show()

    def finished(self) -> None:
        """Count a file."""
        with self._lock:
            self.files_done += 1
            self._show()

    @property
    def left_s(self) -> float | None:
        """The seconds that are left at the pace so far, None if that is not known."""
        work, done, spent = self._work, self._done, self._clock() - self._began
        if work is None or done <= 0 or spent <= 0:
            return None
        return max(work - done, 0) * spent / done

    # --- helpers ---

    @property
    def _work(self) -> int | None:
        return None if self._files is None or self._size is None else self._size + self._files * PER_FILE

    @property
    def _done(self) -> int:
        return self.bytes_done + self.files_done * PER_FILE

    def _show(self) -> None:
        now = self._clock()
        if now < self._next:
            return
        self._next = now + self._every
        if self._bar is not None and self._task is not None:
            work = None if self._work is None else max(self._work, self._done)
            self._bar.update(self._task, completed=self._done, total=work, text=self._text(now))
            return
        left = self.left_s
        log.info(
            "progress",
            files=self.files_done,
            of_files=self._files,
            bytes=self.bytes_done,
            of_bytes=self._size,
            seconds_left=None if left is None else round(left),
        )

    def _text(self, now: float) -> str:
        files = number(self.files_done, "file") if self._files is None else f"{self.files_done:,}/{self._files:,} files"
        size = amount(self.bytes_done) if self._size is None else f"{amount(self.bytes_done)}/{amount(self._size)}"
        rate = self.bytes_done / max(now - self._began, 1e-9)
        return f"{files}  {size}  {amount(int(rate))}/s"


@contextmanager
def restore_progress(settings: Settings, *, files: int | None, size: int | None) -> Iterator[RestoreProgress]:
    """Yield a display with a progress bar if stderr is a terminal, else one with log lines."""
    if settings.log_format == "json" or not is_terminal(sys.stderr):
        yield RestoreProgress(None, files=files, size=size)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    columns = (
        SpinnerColumn(),
        BarColumn(),
        TextColumn("{task.fields[text]}", markup=False),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    # The bar takes the place of stdout too, so that lines appear above it. A file or a pipe must not lose them to it.
    goes_above = is_terminal(sys.stdout)
    with Progress(*columns, console=console, transient=True, refresh_per_second=5, redirect_stdout=goes_above) as bar:
        yield RestoreProgress(bar, files=files, size=size)
