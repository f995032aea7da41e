"""Transfers in a process of their own, so that they and the ledger do not wait for each other's interpreter lock.

libcurl takes that lock for every line of a head, sqlite3 gives it back after every row: in one process each stands in
the other's way (docs/decisions/0006). The process dies with its pipe; what it had staged is then a leftover, and what
it had published is durable.
"""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

import kropot
from kropot.collect.transfer.engine import Got
from kropot.collect.transfer.messages import (
    BREAK_OFF,
    BROKEN_OFF,
    CONFIG,
    CRASHED,
    DISCARD,
    JOBS,
    PUBLISH,
    PUBLISHED,
    READY,
    RESULTS,
    Sender,
    failure_of_row,
    job_to_row,
    outcome_of_row,
    receive,
)
from kropot.errors import KropotError
from kropot.objects.store import DiscardedError, PublishError, Staged

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kropot.collect.transfer.engine import FetchJob, FetchResult, Server
    from kropot.objects.directory import DirectoryObjects
    from kropot.objects.store import Published

# Not by `-m`, which would look into the working folder first, where anybody may have put anything; what this process
# was imported from is looked at last.
_CHILD = "import sys; sys.path.append(sys.argv[1]); from kropot.collect.transfer.child import main; main()"

START_S = 60.0
STOP_S = 5.0


class TransferLostError(KropotError):
    """The transfer process ended by itself; nothing acknowledged is lost."""


class TransferKilledError(TransferLostError):
    """It ended without a word, as if it was killed: another may fare better; `why` is a clause for a sentence."""

    def __init__(self, why: str) -> None:
        """Remember why."""
        super().__init__(f"the transfer process is gone ({why}): nothing acknowledged is lost, start again")
        self.why = why


class _Token(NamedTuple):
    """What a staged object is called in the process that staged it."""

    of: TransferProcess
    number: int


class TransferProcess:
    """A process that fetches into a claimed store and publishes there; `engine` and `publish` may use a thread each."""

    def __init__(self, server: Server, objects: DirectoryObjects, *, keep_free: int = 0) -> None:
        """Start it; what it says is waited for when it is first needed. Raises: LockedError, StorageError."""
        lent = objects.lend()
        self._ready: queue.SimpleQueue[list[Any] | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[list[Any] | None] = queue.SimpleQueue()
        self._published: queue.SimpleQueue[list[Any] | None] = queue.SimpleQueue()
        self._last_words = ""
        self._process = subprocess.Popen(  # noqa: S603 -- this very interpreter and this very package
            [sys.executable, "-P", "-c", _CHILD, str(Path(kropot.__file__).parents[1])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[lent.lock],
        )
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("pipes were asked for")
        self._sender = Sender(self._process.stdin.fileno())
        # The token goes through the pipe: a command line and an environment can be read by others.
        config = {"server": asdict(server), "keep_free": keep_free, **asdict(lent)}
        self._send(CONFIG, config)
        self._listener = threading.Thread(target=self._listen, name="transfers", daemon=True)
        self._listener.start()

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def engine(self) -> TransferEngineApart:
        """Return an engine; only one is in use at a time, and the next may be made when it is closed."""
        return TransferEngineApart(self)

    def publish(self, batch: Sequence[Staged]) -> list[Published | PublishError]:
        """Publish what an engine staged, as `ObjectStore.publish` does; what another process staged is gone.

        Raises: TransferLostError.
        """
        self._send(PUBLISH, self._tokens(batch))
        rows = self.take(self._published, None)[1]
        known = iter(rows)
        is_whole = len(rows) == len(batch)
        return [outcome_of_row(next(known), each) if is_whole or self._has(each) else gone(each) for each in batch]

    def discard(self, batch: Sequence[Staged]) -> None:
        """Forget what an engine staged. Raises: TransferLostError."""
        self._send(DISCARD, self._tokens(batch))

    def describe(self) -> tuple[str, str]:
        """Return the engine's name and how files become durable. Raises: TransferLostError."""
        _, name, durable_by = self.take(self._ready, START_S)
        return name, durable_by

    def close(self) -> None:
        """Let the process die, with everything that is in flight."""
        self._sender.close(STOP_S)
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._listener.join(STOP_S)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def ask(self, *message: object) -> None:
        """Send a message of an engine's. Raises: TransferLostError."""
        self._send(*message)

    def next_results(self, timeout_s: float | None) -> list[Any] | None:
        """Return the next message for an engine, None if none came in time (None: ever). Raises: TransferLostError."""
        try:
            return self.take(self._results, timeout_s)
        except queue.Empty:
            return None

    def take(self, inbox: queue.SimpleQueue[list[Any] | None], timeout_s: float | None) -> list[Any]:
        """Return the next message of a kind. Raises: TransferLostError, queue.Empty."""
        message = inbox.get(timeout=timeout_s)
        if message is None:
            inbox.put(None)
            raise self._lost()
        return message

    def _tokens(self, batch: Sequence[Staged]) -> list[int]:
        """Return this process's own names for what it staged of the batch."""
        return [each.pending.number for each in batch if isinstance(each.pending, _Token) and each.pending.of is self]

    def _has(self, staged: Staged) -> bool:
        return isinstance(staged.pending, _Token) and staged.pending.of is self

    def _send(self, *message: object) -> None:
        try:
            self._sender.send(*message)
        except (OSError, ValueError) as error:
            raise self._lost() from error

    def _lost(self) -> TransferLostError:
        try:
            code = self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            code = None
        if self._last_words:
            return TransferLostError(
                f"the transfer process is gone ({self._last_words}): nothing acknowledged is lost, start again"
            )
        if code is not None and code < 0:
            why = f"it was killed by signal {-code}; was the memory used up?"
        else:
            why = f"it ended with {code}"
        return TransferKilledError(why)

    def _listen(self) -> None:
        inboxes = {READY: self._ready, RESULTS: self._results, BROKEN_OFF: self._results, PUBLISHED: self._published}
        if self._process.stdout is None:
            raise RuntimeError("a pipe was asked for")
        for message in receive(self._process.stdout.fileno()):
            if message[0] == CRASHED:
                self._last_words = message[1]
            else:
                inboxes[message[0]].put(message)
        for inbox in (self._ready, self._results, self._published):
            inbox.put(None)


class TransferEngineApart:
    """An engine in the transfer process; for one thread."""

    def __init__(self, process: TransferProcess) -> None:
        """Begin with nothing in flight."""
        self._process = process
        self._jobs: dict[int, FetchJob] = {}

    @property
    def name(self) -> str:
        """Where this engine is."""
        return f"process {self._process.pid}"

    @property
    def in_flight(self) -> int:
        """Jobs submitted and not yet answered."""
        return len(self._jobs)

    @property
    def unanswered(self) -> list[FetchJob]:
        """The jobs in flight, in the order in which they came."""
        return list(self._jobs.values())

    def submit(self, jobs: Sequence[FetchJob]) -> None:
        """Send the jobs over. Raises: TransferLostError."""
        if jobs:
            self._jobs |= {job.number: job for job in jobs}
            self._process.ask(JOBS, [job_to_row(job) for job in jobs])

    def poll(self, timeout_s: float) -> list[FetchResult]:
        """Take the results that are there, waiting for the first. Raises: TransferLostError."""
        deadline = monotonic() + timeout_s
        results: list[FetchResult] = []
        while self._jobs:
            message = self._process.next_results(0.0 if results else max(0.0, deadline - monotonic()))
            if message is None:
                break
            results += self._read(message)
        return results

    def close(self) -> None:
        """Break off what is in flight, and discard what came meanwhile. Raises: TransferLostError."""
        self._process.ask(BREAK_OFF)
        while (message := self._process.next_results(None)) is not None and message[0] == RESULTS:
            unwanted = [result.staged for result in self._read(message) if isinstance(result, Got)]
            self._process.discard(unwanted)
        self._jobs.clear()

    def _read(self, message: list[Any]) -> list[FetchResult]:
        results: list[FetchResult] = []
        for row in message[1]:
            job = self._jobs.pop(row[0])
            if len(row) == 5:  # noqa: PLR2004 -- five items are a success
                _, token, sha256, size, iv = row
                # The next process would count from 1 again: a token alone could name another object there.
                staged = Staged(path="", sha256=sha256, size=size, pending=_Token(self._process, token))
                results.append(Got(job=job, staged=staged, iv=iv, size=size))
            else:
                results.append(failure_of_row(row, job))
        return results


def gone(staged: Staged) -> PublishError:
    """Return what is answered of an object that went with the process that staged it."""
    error = DiscardedError("what was staged is gone with the transfer process, and is fetched again")
    return PublishError(sha256=staged.sha256, size=staged.size, error=error)
