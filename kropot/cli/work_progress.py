"""Show long work on a terminal: items, bytes, rate and remaining time. Elsewhere, only JSON logs show it.

A command wraps its work in `with work_progress(settings, "prune", noun="object", count=n, size=bytes) as progress`,
and calls `progress.moved(bytes)` and `progress.finished()`, or `progress.reached(objects, bytes)` for work that counts
itself. Work with several parts calls `progress.part` at the beginning of each. A command prints how the work ended with
`emit_summary`, which --quiet leaves out.
"""

from __future__ import annotations

import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from kropot.cli.output import is_terminal
from kropot.cli.progress import BAR_EVERY_S, LOG_EVERY_S
from kropot.logs import log
from kropot.wording import amount, number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.progress import Progress

    from kropot.cli.settings import Settings

_LINE_EVERY_S: Final = 5.0


class WorkProgress:
    """Counts items and bytes, and shows them from time to time. Any thread may call it.

    The whole work is `count` items and `size` bytes, None if not known. The overhead of each item, however small, takes
    about as long as `each` bytes. The estimate of the remaining time uses this.
    """

    def __init__(
        self,
        bar: Progress | None,
        *,
        noun: str = "file",
        count: int | None,
        size: int | None,
        each: int = 0,
        is_logged: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start with nothing done. Without a bar, log lines show the progress if it `is_logged`."""
        self._bar = bar
        self._part: str | None = None
        self._noun = noun
        self._count = count
        self._size = size
        self._each = each
        self._is_logged = is_logged
        self._clock = clock
        self._began = clock()
        self._every = LOG_EVERY_S if bar is None else BAR_EVERY_S
        self._next = self._began + self._every
        self._lock = threading.Lock()
        self._task = None if bar is None else bar.add_task("work", total=self._work, part="", text="")
        self.count_done = 0
        self.bytes_done = 0

    def part(self, what: str, noun: str, *, count: int | None = None, size: int | None = None) -> None:
        """Start the part `what` of the work with nothing done. The rate and the remaining time are for this part."""
        with self._lock:
            self._part, self._noun, self._count, self._size = what, noun, count, size
            self._began = self._clock()
            self.count_done = self.bytes_done = 0
            if self._bar is not None and self._task is not None:
                self._bar.remove_task(self._task)
                self._task = self._bar.add_task("work", total=self._work, part=f" {what}", text="")
                self._bar.refresh()

    def moved(self, size: int) -> None:
        """Count bytes that were read, written or compared."""
        with self._lock:
            self.bytes_done += size
            self._show()

    def finished(self) -> None:
        """Count an item."""
        with self._lock:
            self.count_done += 1
            self._show()

    def reached(self, count: int, size: int = 0, *, of: int | None = None) -> None:
        """Set the sums of work that counts itself: items done, bytes done, and how many items there are."""
        with self._lock:
            self.count_done, self.bytes_done = count, size
            self._count = self._count if of is None else of
            self._show()

    @property
    def left_s(self) -> float | None:
        """The remaining seconds at the pace so far, None if not known."""
        work, done, spent = self._work, self._done, self._clock() - self._began
        if work is None or done <= 0 or spent <= 0:
            return None
        return max(work - done, 0) * spent / done

    # --- helpers ---

    @property
    def _work(self) -> int | None:
        """The whole work, in bytes, or in items if no bytes are counted; None if not known."""
        if self._size is None:
            return self._count if not self._each else None
        return self._size + (self._count or 0) * self._each

    @property
    def _done(self) -> int:
        return (
            self.count_done if self._size is None and not self._each else self.bytes_done + self.count_done * self._each
        )

    def _show(self) -> None:
        now = self._clock()
        if now < self._next:
            return
        self._next = now + self._every
        if self._bar is not None and self._task is not None:
            work = None if self._work is None else max(self._work, self._done)
            self._bar.update(self._task, completed=self._done, total=work, text=self._text(now))
            self._bar.refresh()
        elif self._is_logged:
            left = self.left_s
            log.info(
                "progress",
                **({} if self._part is None else {"part": self._part}),
                **{f"{self._noun}s": self.count_done, f"of_{self._noun}s": self._count},
                bytes=self.bytes_done,
                of_bytes=self._size,
                seconds_left=None if left is None else round(left),
            )

    def _text(self, now: float) -> str:
        spent = max(now - self._began, 1e-9)
        if self._count is None:
            parts = [number(self.count_done, self._noun)]
        else:
            parts = [f"{self.count_done:,}/{number(self._count, self._noun)}"]
        if self.bytes_done or self._size is not None:
            parts.append(amount(self.bytes_done) if self._size is None else _of(self.bytes_done, self._size))
            parts.append(f"{amount(int(self.bytes_done / spent))}/s")
        else:
            parts.append(f"{self.count_done / spent:,.0f} {self._noun}s/s")
        return "  ".join(parts)


def now_and_then(event: str, first: str, second: str) -> Callable[[int, int], None]:
    """Return a function that takes two numbers of long work, and logs them under these names every few seconds."""
    told = time.monotonic()

    def progress(one: int, other: int) -> None:
        nonlocal told
        if time.monotonic() - told >= _LINE_EVERY_S:
            told = time.monotonic()
            log.info(event, **{first: one, second: other})

    return progress


@contextmanager
def work_progress(
    settings: Settings,
    what: str,
    *,
    noun: str = "file",
    count: int | None = None,
    size: int | None = None,
    each: int = 0,
) -> Iterator[WorkProgress]:
    """Yield a display of the work `what`: a bar if stderr is a terminal, log lines with --log-format json, else none.

    --quiet turns the display off. The bar is drawn by the calling thread, so the work may fork.
    """
    is_json = settings.log_format == "json"
    if settings.quiet or is_json or not is_terminal(sys.stderr):
        is_logged = is_json and not settings.quiet
        yield WorkProgress(None, noun=noun, count=count, size=size, each=each, is_logged=is_logged)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn(f"{what}{{task.fields[part]}}"),
        BarColumn(),
        TextColumn("{task.fields[text]}", markup=False),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )
    # The bar redirects stdout too, so that lines appear above it, but not a file or a pipe, which must get its lines.
    goes_above = is_terminal(sys.stdout)
    with Progress(
        *columns, console=Console(stderr=True), transient=True, auto_refresh=False, redirect_stdout=goes_above
    ) as bar:
        yield WorkProgress(bar, noun=noun, count=count, size=size, each=each)


def _of(done: int, whole: int) -> str:
    return f"{amount(done)}/{amount(whole)}"
