"""SIGHUP: end the work as a stop does, then start again in the same process with the current configuration.

The program is executed again, so it reads everything that a start reads: the configuration file, the token file, the
environment's files, and a newer version of the program. Large contents continue where they broke off.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

from kropot.errors import KropotError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Reload:
    """Whether SIGHUP asked for a restart."""

    def __init__(self) -> None:
        """Start with no such request."""
        self.is_wanted = False

    def begin_again(self) -> NoReturn:
        """Execute the program again, with the arguments it was started with. Does not return."""
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - this very program


@contextmanager
def reloaded_by_hangup(check: Callable[[], None], said: Callable[[str | None], None]) -> Iterator[Reload]:
    """Yield a `Reload` that SIGHUP sets. It calls `check`, and if that raises nothing, ends the work as SIGTERM does.

    If `check` raises KropotError, the service continues as is. `said` gets the error's text, or None before a restart.
    SIGHUP keeps its usual meaning on a terminal (the terminal is gone), and where it is already ignored, as by nohup.
    """
    reload = Reload()
    if _is_on_terminal() or signal.getsignal(signal.SIGHUP) != signal.SIG_DFL:
        yield reload
        return

    def hear(_number: int, _frame: object) -> None:
        if reload.is_wanted:
            return
        try:
            check()
        except KropotError as error:
            said(str(error))
            return
        reload.is_wanted = True
        said(None)
        os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGHUP, hear)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
    try:
        yield reload
    finally:
        if reload.is_wanted:
            # The new program inherits the mask, and handles a signal that came meanwhile once it can.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def _is_on_terminal() -> bool:
    try:
        return os.isatty(0)
    except OSError:
        return False
