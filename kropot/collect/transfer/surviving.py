"""Transfers that outlive their process: one that was killed is followed by another, which fetches anew.

What it had staged is gone with it; what it had published is durable. A process that dies again and again before
anything of its is durable is not started once more: then the collector ends, with one sentence.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from kropot.collect.transfer.apart import TransferKilledError, TransferLostError, TransferProcess, gone
from kropot.objects.store import Published

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kropot.collect.transfer.apart import TransferEngineApart
    from kropot.collect.transfer.engine import FetchJob, FetchResult, Server
    from kropot.objects.directory import DirectoryObjects
    from kropot.objects.store import PublishError, Staged

MOST_DEATHS: Final = 4
"""So many deaths in a row, with nothing made durable between them, are believed to have a reason that stays."""


class SurvivingTransfers:
    """A transfer process and, when it dies, the next; one thread uses the engine, another may publish."""

    def __init__(
        self, server: Server, objects: DirectoryObjects, *, keep_free: int = 0, told: Callable[[str], None]
    ) -> None:
        """Start the first process; `told` is told in one sentence when one was killed, by either thread.

        Raises: LockedError, StorageError.
        """
        self._server = server
        self._objects = objects
        self._keep_free = keep_free
        self._told = told
        self._lock = threading.Lock()
        self._deaths = 0
        self.process = self._start()

    def engine(self) -> SurvivingEngine:
        """Return an engine; only one is in use at a time, and the next may be made when it is closed."""
        return SurvivingEngine(self)

    def publish(self, batch: Sequence[Staged]) -> list[Published | PublishError]:
        """Publish what an engine staged; what went with its process is answered by a DiscardedError.

        Raises: TransferLostError where starting it again would not help.
        """
        process = self.process
        try:
            outcomes = process.publish(batch)
        except TransferKilledError as error:
            self.replace(process, error)
            return [gone(staged) for staged in batch]
        if any(isinstance(outcome, Published) for outcome in outcomes):
            self._deaths = 0
        return outcomes

    def replace(self, dead: TransferProcess, error: TransferKilledError) -> None:
        """Start the next process in the place of a dead one, unless that is done already. Raises: TransferLostError."""
        with self._lock:
            if self.process is not dead:
                return
            self._deaths += 1
            if self._deaths == MOST_DEATHS:
                raise TransferLostError(
                    f"the transfer process died {MOST_DEATHS} times in a row before anything of its was durable"
                    f" ({error.why}): nothing acknowledged is lost, start again once that is mended"
                )
            self._told(f"the transfer process died ({error.why}): it is started again, and what it had is fetched anew")
            dead.close()
            self._objects.clean_leftovers_of(dead.pid)
            self.process = self._start()

    def close(self) -> None:
        """Let the process die, with everything that is in flight."""
        with self._lock:
            self.process.close()

    def _start(self) -> TransferProcess:
        return TransferProcess(self._server, self._objects, keep_free=self._keep_free)


class SurvivingEngine:
    """An engine whose jobs go on in the next process; for one thread."""

    def __init__(self, transfers: SurvivingTransfers) -> None:
        """Begin with nothing in flight."""
        self._transfers = transfers
        self._process = transfers.process
        self._engine: TransferEngineApart = self._process.engine()

    @property
    def name(self) -> str:
        """Where this engine is."""
        return self._engine.name

    @property
    def in_flight(self) -> int:
        """Jobs submitted and not yet answered."""
        return self._engine.in_flight

    def submit(self, jobs: Sequence[FetchJob]) -> None:
        """Send the jobs over. Raises: TransferLostError where starting a dead process again would not help."""
        try:
            self._engine.submit(jobs)
        except TransferKilledError as error:
            self._go_on(error)

    def poll(self, timeout_s: float) -> list[FetchResult]:
        """Take the results that are there, waiting for the first. Raises: TransferLostError as `submit` does."""
        try:
            return self._engine.poll(timeout_s)
        except TransferKilledError as error:
            self._go_on(error)
            return []

    def close(self) -> None:
        """Break off what is in flight, and discard what came meanwhile; a dead process has nothing under way."""
        try:
            self._engine.close()
        except TransferKilledError as error:
            self._transfers.replace(self._process, error)

    def _go_on(self, error: TransferKilledError) -> None:
        """Hand everything that is unanswered to the next process, as often as it takes. Raises: TransferLostError."""
        while True:
            jobs = self._engine.unanswered
            self._transfers.replace(self._process, error)
            self._process = self._transfers.process
            self._engine = self._process.engine()
            try:
                self._engine.submit(jobs)
            except TransferKilledError as again:
                error = again
            else:
                return
