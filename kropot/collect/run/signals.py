"""Ends a collector cleanly on SIGTERM and SIGINT."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kropot.collect.decide.inputs import StopRequested

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kropot.collect.run.loop import Loop
    from kropot.errors import Exit


class _TerminatedError(KeyboardInterrupt):
    """SIGTERM arrived. Database drivers know how to handle an interrupt from the keyboard, so it is one of those."""


@contextmanager
def ended_by_sigterm(code: Exit) -> Iterator[None]:
    """End the process with this code on SIGTERM while no loop runs that could be asked to stop.

    Without this the process would leave its name in the ledger, and the name would count as alive until its lease ends.
    """

    def end(_number: int, _frame: object) -> None:
        raise _TerminatedError

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except _TerminatedError:
        raise SystemExit(int(code)) from None
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def stopped_by_signals(loop: Loop) -> Iterator[None]:
    """Ask the loop to stop on SIGTERM and SIGINT; a second signal ends the process at once."""
    before: dict[signal.Signals, Any] = {}

    def ask(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler)
        loop.request_stop(StopRequested(how="term" if number == signal.SIGTERM else "int"))

    for each in (signal.SIGTERM, signal.SIGINT):
        before[each] = signal.signal(each, ask)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
