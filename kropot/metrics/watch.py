"""Looks at the replica's health now and then, from a separate thread, for metrics and for calls about alarms."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final, Self

from msgspec import Struct

from kropot.errors import KropotError
from kropot.query.facts import gather
from kropot.query.health import health
from ledger.errors import LedgerError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from types import TracebackType

    from kropot.objects.opening import Storage
    from kropot.query.alarm import Alarm
    from kropot.query.facts import Facts
    from kropot.query.health import Limits
    from ledger.log import Ledger

EVERY_S: Final = 60.0
_PATIENCE_S: Final = 5.0


class ReplicaLook(Struct, frozen=True, kw_only=True):
    """The replica's facts and alarms at `at_us`."""

    facts: Facts
    alarms: tuple[Alarm, ...]
    at_us: int
    ledger_id: bytes


class ReplicaWatch:
    """Looks once a minute, or sooner after `hurry`, with its own connection."""

    def __init__(
        self,
        *,
        opened: Callable[[], AbstractContextManager[Ledger]],
        storage: Storage,
        limits: Limits,
        seen: Callable[[ReplicaLook], None],
        every_s: float = EVERY_S,
    ) -> None:
        """Start nothing yet. `opened` opens the ledger to read; `seen` is called in the thread after each look."""
        self.latest: ReplicaLook | None = None
        self._opened = opened
        self._storage = storage
        self._limits = limits
        self._seen = seen
        self._every_s = every_s
        self._wake = threading.Event()
        self._is_over = False
        self._thread = threading.Thread(target=self._work, name="watch", daemon=True)

    def __enter__(self) -> Self:
        """Start looking."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Look once more if there is time, and stop."""
        self._is_over = True
        self._wake.set()
        self._thread.join(_PATIENCE_S)

    def hurry(self) -> None:
        """Look again now, because something has changed."""
        self._wake.set()

    def look(self) -> ReplicaLook | None:
        """Look now, in this thread. Return None if the ledger or the storage cannot be read just now."""
        try:
            with self._opened() as ledger:
                now_us = ledger.clock_us()
                ledger_id = ledger.identity().ledger_id
                facts = gather(ledger, self._storage, shown=0)
        except (LedgerError, KropotError, OSError):
            # The work meets the same error and reports it. A monitor sees it from the time of the latest look.
            return None
        alarms = tuple(health(now_us, facts, self._limits))
        return ReplicaLook(facts=facts, alarms=alarms, at_us=now_us, ledger_id=ledger_id)

    def _work(self) -> None:
        while True:
            self._wake.clear()
            is_last = self._is_over
            found = self.look()
            if found is not None:
                self.latest = found
                self._seen(found)
            if is_last:
                return
            began = time.monotonic()
            self._wake.wait(self._every_s)
            # Rounds can end many times a second, and each look costs a few statements.
            if not self._is_over:
                self._wait_a_moment(began)

    def _wait_a_moment(self, began: float) -> None:
        while not self._is_over and time.monotonic() - began < min(1.0, self._every_s):
            time.sleep(0.05)
