"""SIGHUP: end the work as a stop does, then begin again in the same process with the configuration as it is now.

The program is executed anew, so everything counts that a start reads: the configuration file, the token file, the
environment's files, and a newer version of the program. Large contents on the way go on where they broke off.
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
    """Whether SIGHUP asked for a new beginning."""

    def __init__(self) -> None:
        """Begin without."""
        self.is_wanted = False

    def begin_again(self) -> NoReturn:
        """Execute the program anew, with the arguments it was started with. Does not return."""
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - this very program


@contextmanager
def reloaded_by_hangup(check: Callable[[], None], said: Callable[[str | None], None]) -> Iterator[Reload]:
    """Yield what SIGHUP changes. It calls `check`, and ends the work as SIGTERM does if that raises nothing.

    If `check` raises KropotError, the service goes on as it is. `said` hears why, and None where it begins again. On a
    terminal, SIGHUP keeps its meaning: the terminal is gone. So it does where it is ignored already, as by nohup.
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
            # The new beginning inherits the mask, and takes a signal that came meanwhile once it can.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def _is_on_terminal() -> bool:
    try:
        return os.isatty(0)
    except OSError:
        return False
