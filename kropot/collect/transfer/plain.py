"""The engine that needs nothing but the standard library: a few threads, each with a blocking connection."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING

from msgspec.structs import replace

from kropot.collect.decide.inputs import Received
from kropot.collect.transfer.blocking import BlockingFetcher
from kropot.collect.transfer.engine import refusal_in
from kropot.collect.transfer.receive import ContentReceiver, FreeSpace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kropot.collect.decide.inputs import NotReceived, Receipt
    from kropot.collect.transfer.engine import FetchJob, Server
    from kropot.objects.store import ObjectStore

THREADS = 4


class PlainEngine:
    """Fetches with threads over http.client; one thread submits and polls."""

    def __init__(self, server: Server, store: ObjectStore, *, keep_free: int = 0, threads: int = THREADS) -> None:
        """Prepare; threads start with the first job."""
        self._server = server
        self._store = store
        self._space = FreeSpace(store, keep_free)
        self._wanted = threads
        self._jobs: queue.SimpleQueue[FetchJob | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[Receipt | BaseException] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._fetchers: list[BlockingFetcher] = []
        self._closed = threading.Event()
        self.in_flight = 0

    @property
    def name(self) -> str:
        """Which engine this is."""
        return f"http.client with {self._wanted} threads"

    def submit(self, jobs: Sequence[FetchJob]) -> None:
        """Queue the jobs, and start threads as long as there are fewer threads than jobs."""
        for job in jobs:
            self.in_flight += 1
            self._jobs.put(job)
            if len(self._threads) < min(self._wanted, self.in_flight):
                fetcher = BlockingFetcher(self._server)
                thread = threading.Thread(target=self._work, args=(fetcher,), name="transfer", daemon=True)
                self._fetchers.append(fetcher)
                self._threads.append(thread)
                thread.start()

    def poll(self, timeout_s: float) -> list[Receipt]:
        """Wait for the first result, then take all that are there."""
        results: list[Receipt] = []
        try:
            while self.in_flight:
                result = self._results.get(block=not results, timeout=timeout_s)
                if isinstance(result, BaseException):
                    raise result
                self.in_flight -= 1
                results.append(result)
        except queue.Empty:
            pass
        refusal = refusal_in(results)
        return results if refusal is None else results + self._refuse_waiting(refusal)

    def _refuse_waiting(self, refusal: NotReceived) -> list[Receipt]:
        """Answer every job that no thread has taken with the same refusal."""
        refused: list[Receipt] = []
        try:
            while (job := self._jobs.get_nowait()) is not None:
                self.in_flight -= 1
                refused.append(replace(refusal, entry=job.entry))
        except queue.Empty:
            pass
        return refused

    def close(self) -> None:
        """Break off every transfer, wait for the threads, discard what nobody took."""
        self._closed.set()
        for _ in self._threads:
            self._jobs.put(None)
        for fetcher in self._fetchers:
            fetcher.close()
        for thread in self._threads:
            thread.join()
        while not self._results.empty():
            result = self._results.get()
            if isinstance(result, Received):
                self._store.discard([result.staged])
        self.in_flight = 0

    def _work(self, fetcher: BlockingFetcher) -> None:
        while (job := self._jobs.get()) is not None and not self._closed.is_set():
            try:
                self._results.put(fetcher.fetch(ContentReceiver(job, self._store, self._space)))
            except BaseException as error:  # noqa: BLE001 -- a thread cannot report it, so poll raises it
                self._results.put(error)
