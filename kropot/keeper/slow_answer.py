"""Answers that must read everything: computed on a background thread, one at a time, and kept for later requests."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from msgspec import Struct

from kropot.errors import KropotError
from kropot.logs import log
from ledger.errors import LedgerError

if TYPE_CHECKING:
    from collections.abc import Callable

Question = TypeVar("Question")
Value = TypeVar("Value")

PATIENCE_S: Final = 1.0
_REST: Final = 20
"""After work that took longer than `PATIENCE_S`, rest this many times as long."""

_END_S: Final = 30.0

_TURN: Final = 256
_PAUSE_S: Final = 0.001
"""Seconds to rest after every `_TURN` steps. Otherwise other answers wait for the interpreter at each query."""


class CountingEndedError(KropotError):
    """The computation was stopped, because nobody waits for the answer anymore."""


class Worked(Struct, Generic[Question, Value], frozen=True, kw_only=True):
    """The answer to a question, or the error, how long the work took, and when it ended (seconds)."""

    question: Question
    value: Value | None
    error: Exception | None
    took_s: float
    ended_s: float


class SlowAnswer(Generic[Question, Value]):
    """Answers one kind of question. `work` gets the question, and a function to call regularly, which can raise."""

    def __init__(self, work: Callable[[Question, Callable[[], None]], Value]) -> None:
        """Compute answers with `work`. Nothing runs before the first question."""
        self._work = work
        self._lock = threading.Lock()
        self._last: Worked[Question, Value] | None = None
        self._thread: threading.Thread | None = None
        self._done = threading.Event()
        self._stop = threading.Event()
        self._steps = 0

    def latest(self, question: Question, *, patience_s: float = PATIENCE_S) -> tuple[Question, Value] | None:
        """Return the last answer and its question, None if there is none yet.

        If it answers another question, start work on this one, and wait up to `patience_s`. Raises: what `work` raised.
        """
        with self._lock:
            if self._thread is None and self._is_due(question):
                self._done.clear()
                self._thread = threading.Thread(target=self._run, args=(question,), name="counting", daemon=True)
                self._thread.start()
            is_running = self._thread is not None
        if is_running:
            self._done.wait(patience_s)
        last = self._last
        if last is None:
            return None
        if last.error is not None:
            raise last.error
        return None if last.value is None else (last.question, last.value)

    def close(self) -> None:
        """Stop the work, and wait up to `_END_S` seconds for its thread to end."""
        self._stop.set()
        thread = self._thread
        if thread is not None:
            thread.join(_END_S)

    def _is_due(self, question: Question) -> bool:
        last = self._last
        if last is None:
            return not self._stop.is_set()
        rest_s = _REST * last.took_s if last.took_s > PATIENCE_S else 0.0
        is_rested = time.monotonic() - last.ended_s >= rest_s
        return last.question != question and is_rested and not self._stop.is_set()

    def _run(self, question: Question) -> None:
        began = time.monotonic()
        value, error = None, None
        try:
            value = self._work(question, self._go_on)
        except (KropotError, LedgerError, OSError) as failure:
            error = failure
        except Exception as failure:  # noqa: BLE001 -- if the thread died unseen, callers would wait forever
            log.error("counting_broken", reason=type(failure).__name__)
            error = KropotError("this could not be computed: the log has the reason")
        now = time.monotonic()
        with self._lock:
            self._last = Worked(question=question, value=value, error=error, took_s=now - began, ended_s=now)
            self._thread = None
        self._done.set()

    def _go_on(self) -> None:
        self._steps += 1
        if self._steps % _TURN == 0:
            time.sleep(_PAUSE_S)
        if self._stop.is_set():
            raise CountingEndedError("stopped")
