"""The transfer process: fetches, writes, publishes, and does nothing of its own accord.

It lives as long as its parent holds the other end of its pipe. It has inherited the descriptor with the lock on the
instance's name, so that the name is not free before both are gone.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import sys
import threading
import traceback
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from kropot.collect.run.garbage import look_rarely
from kropot.collect.transfer.choose import choose_engine
from kropot.collect.transfer.engine import Got, Server
from kropot.collect.transfer.messages import (
    BREAK_OFF,
    BROKEN_OFF,
    CRASHED,
    DISCARD,
    JOBS,
    PUBLISH,
    PUBLISHED,
    READY,
    RESULTS,
    Sender,
    failure_to_row,
    job_of_row,
    outcome_to_row,
    receive,
)
from kropot.errors import KropotError
from kropot.objects.directory import DirectoryObjects

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kropot.collect.transfer.engine import FetchResult, TransferEngine
    from kropot.objects.store import Staged

POLL_S = 0.05
TELL_AFTER = 64
TELL_AFTER_S = 0.02
"""Results are told in groups: so many, or after so long, whichever comes first."""


def main() -> None:
    """Obey messages on the standard input until its end."""
    # Ctrl-C and a service manager's SIGTERM reach the whole group: it is the parent who decides what they mean.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # Whatever prints goes to the standard error; the pipe is for messages alone.
    sender = Sender(os.dup(1))
    os.dup2(2, 1)
    messages = receive(0)
    first = next(messages, None)
    if first is None:
        return  # the parent was gone before it could say anything
    try:
        process = _Process(first[1], sender)
        process.start()
    except BrokenPipeError:
        os._exit(0)  # the parent is gone
    except KropotError as error:
        # The parent says it, in its own sentence.
        with contextlib.suppress(BrokenPipeError):
            sender.send(CRASHED, str(error))
        os._exit(1)
    look_rarely()
    for message in messages:
        process.obey(message)
    # The parent is gone or wants an end. What is half written is a leftover, which the next start removes.
    os._exit(0)


class _Process:
    """Two threads beside the one that listens: one moves contents, one makes them durable."""

    def __init__(self, config: dict[str, Any], sender: Sender) -> None:
        self._sender = sender
        self._store = DirectoryObjects(Path(config["root"]), config["instance"], lock=config["lock"])
        self._server = Server(**config["server"])
        self._keep_free = config["keep_free"]
        self._staged: dict[int, Staged] = {}
        self._tokens = iter(range(1, sys.maxsize))
        self._work: queue.SimpleQueue[list[Any]] = queue.SimpleQueue()
        self._publishing: queue.SimpleQueue[list[Any]] = queue.SimpleQueue()

    def start(self) -> None:
        """Begin to work."""
        self._store.claim()
        self._sender.send(READY, choose_engine().name, self._store.durable_by)
        for work in (self._transfer, self._publish):
            threading.Thread(target=self._guarded, args=(work,), daemon=True).start()

    def obey(self, message: list[Any]) -> None:
        """Put a message into the queue of the thread that it is for."""
        (self._publishing if message[0] in {PUBLISH, DISCARD} else self._work).put(message)

    def _guarded(self, work: Any) -> None:
        try:
            work()
        except BrokenPipeError:
            os._exit(0)  # the parent is gone
        except BaseException as error:  # noqa: BLE001 -- the parent is told, and tells the user
            if not isinstance(error, KropotError):
                traceback.print_exception(error)
            with contextlib.suppress(BrokenPipeError):  # the parent is gone, too
                self._sender.send(CRASHED, str(error) if isinstance(error, KropotError) else repr(error))
            os._exit(1)

    def _transfer(self) -> None:
        engine: TransferEngine | None = None
        results: list[FetchResult] = []
        since = 0.0
        while True:
            for message in self._messages(wait=engine is None or not (engine.in_flight or results)):
                if message[0] == JOBS:
                    if engine is None:
                        engine = choose_engine().make(self._server, self._store, keep_free=self._keep_free)
                    engine.submit([job_of_row(row) for row in message[1]])
                elif message[0] == BREAK_OFF:
                    if engine is not None:
                        engine.close()
                    engine = None
                    self._tell(results)
                    results = []
                    self._sender.send(BROKEN_OFF)
            if engine is None:
                continue
            found = engine.poll(TELL_AFTER_S if results else POLL_S)
            since = since if results else monotonic()
            results += found
            if results and (len(results) >= TELL_AFTER or not engine.in_flight or monotonic() - since > TELL_AFTER_S):
                self._tell(results)
                results = []

    def _messages(self, *, wait: bool) -> Iterator[list[Any]]:
        """Yield the messages that are there; with `wait` sleep until there is one."""
        try:
            if wait:
                yield self._work.get()
            while True:
                yield self._work.get_nowait()
        except queue.Empty:
            pass

    def _tell(self, results: list[FetchResult]) -> None:
        rows: list[list[object]] = []
        for result in results:
            if isinstance(result, Got):
                token = next(self._tokens)
                self._staged[token] = staged = result.staged
                rows.append([result.job.number, token, staged.sha256, staged.size, result.iv])
            else:
                rows.append(failure_to_row(result))
        if rows:
            self._sender.send(RESULTS, rows)

    def _publish(self) -> None:
        while True:
            kind, *rest = self._publishing.get()
            batch = [self._staged.pop(token) for token in rest[-1]]
            if kind == DISCARD:
                self._store.discard(batch)
            else:
                self._sender.send(PUBLISHED, [outcome_to_row(outcome) for outcome in self._store.publish(batch)])
