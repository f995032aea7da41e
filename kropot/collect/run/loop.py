"""The loop: carries a collector's actions out, with the ledger in this thread and everything slow in others."""

from __future__ import annotations

import queue
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from kropot.collect.decide.actions import (
    Abandon,
    AskGone,
    Fetch,
    Finish,
    FlushPrefetched,
    ListPage,
    Prefetch,
    Publish,
    Say,
)
from kropot.collect.decide.inputs import Input, Started, StopRequested, Tick
from kropot.collect.run.effects import LEDGER_ACTIONS
from kropot.collect.run.workers import Crashed
from ledger.errors import LedgerUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from kropot.collect.decide.actions import Action
    from kropot.collect.decide.step import Collector
    from kropot.collect.run.effects import LedgerAction, LedgerEffects
    from kropot.collect.run.workers import Control, Inbox, Prefetching, Publisher, Transfer
    from kropot.errors import Exit

PATIENCE_S = 2.0
"""A thread that does not end within this time after it was asked to is left to the end of the process."""

LONGEST_WAIT_S = 1.0
LEDGER_TRIES = 10


class ProgressListener(Protocol):
    """Follows how a run goes."""

    def hear(self, say: Say) -> None:
        """Take in a message."""
        ...

    def look(self, collector: Collector) -> None:
        """Look at the collector; this is called often."""
        ...


@dataclass(slots=True, kw_only=True)
class Loop:
    """One collector at work. `clock` gives microseconds since 1970, `rest` sleeps for so many seconds."""

    collector: Collector
    effects: LedgerEffects
    control: Control
    transfer: Transfer
    publisher: Publisher
    prefetching: Prefetching
    inbox: Inbox
    listener: ProgressListener
    clock: Callable[[], int]
    rest: Callable[[float], None]
    _is_stopping: bool = False

    def run(self) -> Exit:
        """Work until the collector finishes; return its exit code.

        Raises: LedgerError, StorageError, or any unexpected error of a thread.
        """
        workers = (self.control, self.transfer, self.publisher, self.prefetching)
        for worker in workers:
            worker.start()
        try:
            return self._run()
        finally:
            for worker in workers:
                worker.stop(PATIENCE_S)

    @property
    def is_stopping(self) -> bool:
        """Whether somebody asked the loop to end."""
        return self._is_stopping

    def request_stop(self, happened: StopRequested) -> None:
        """Ask the loop to end; for signal handlers and other threads."""
        self._is_stopping = True
        self.inbox.put(happened)

    def _run(self) -> Exit:
        happened: deque[Input] = deque([Started(position=self.effects.ledger.head().position)])
        while True:
            self._receive(happened)
            now_us = self.clock()
            for action in self.collector.step(now_us, happened.popleft() if happened else Tick()):
                if isinstance(action, Finish):
                    self.listener.look(self.collector)
                    return action.code
                answer = self._perform(action)
                if answer is not None:
                    happened.append(answer)
            self.listener.look(self.collector)

    def _receive(self, happened: deque[Input]) -> None:
        """Append what the threads report to `happened`; if that is empty, wait for a report."""
        wait_s = 0.0
        if not happened:
            wait_s = min(max((self.collector.wakes_us - self.clock()) / 1e6, 0.0), LONGEST_WAIT_S)
        try:
            while True:
                came = self.inbox.get(timeout=wait_s) if wait_s > 0 else self.inbox.get_nowait()
                if isinstance(came, Crashed):
                    raise came.error
                happened.append(came)
                wait_s = 0.0
        except queue.Empty:
            pass

    def _perform(self, action: Action) -> Input | None:
        match action:
            case ListPage() | AskGone():
                self.control.todo.put(action)
            case Fetch() | Abandon():
                self.transfer.todo.put(action)
            case Publish():
                self.publisher.todo.put(action)
            case Prefetch() | FlushPrefetched():
                self.prefetching.todo.put(action)
            case Say():
                self.listener.hear(action)
            case _ if isinstance(action, LEDGER_ACTIONS):
                return self._ask_ledger(action)
            case _:
                raise TypeError(type(action))
        return None

    def _ask_ledger(self, action: LedgerAction) -> Input | None:
        """Carry out the ledger's part, patiently, because a database may be unavailable or busy for a while."""
        for attempt in range(LEDGER_TRIES):
            try:
                return self.effects.perform(action)
            except LedgerUnavailableError as error:
                if attempt + 1 == LEDGER_TRIES or self._is_stopping:
                    raise
                text = f"the ledger's database is away or busy ({error}); trying again"
                self.listener.hear(Say(level="warning", event="ledger_unavailable", text=text))
                self.rest(min(0.5 * 2**attempt, 30))
        raise AssertionError("unreachable")
