"""The fast engine: libcurl's multi interface in one thread, and others for what would keep it from its sockets.

Large bodies go to blocking readers of 1 MiB, because libcurl hands out 16 KiB a call, which Python pays for; bodies of
middling size are hashed and written by finishers, for both release the interpreter's lock.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING

import pycurl

from kropot.collect.decide.inputs import Received
from kropot.collect.transfer.connection import CurlConnection
from kropot.collect.transfer.engine import refusal_in
from kropot.collect.transfer.plain import PlainEngine
from kropot.collect.transfer.receive import ContentReceiver

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kropot.collect.decide.inputs import Receipt
    from kropot.collect.transfer.engine import FetchJob, Server
    from kropot.objects.store import ObjectStore

HANDLES = 16
LARGE = 8 << 20
"""A body of this length goes to a blocking reader, though that costs it a second request."""
KNOWN_LARGE = 1 << 20
"""One whose length the listing tells goes there from this length on, at no cost."""
LARGE_THREADS = 2
FINISHED_ASIDE = 64 << 10
"""Bodies from this length on are hashed and written by finishers."""
FINISHERS = 2

_LOOK_S = 0.25
_LONGEST_WAIT_S = 1.0
_LONGEST_WAIT_BESIDE_S = 0.01


class CurlEngine:
    """Fetches with libcurl; all methods are for one thread."""

    def __init__(
        self,
        server: Server,
        store: ObjectStore,
        *,
        keep_free: int = 0,
        handles: int = HANDLES,
        large: int = LARGE,
        aside: int = FINISHED_ASIDE,
    ) -> None:
        """Prepare the handles, which keep their connections for all jobs to come.

        Bodies of `large` bytes and more go to the blocking readers, those of `aside` and more to the finishers.
        """
        self._server = server
        self._store = store
        self._keep_free = keep_free
        self._aside = aside
        self._known_large = min(large, KNOWN_LARGE)
        self._waiting: deque[FetchJob] = deque()
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_MAXCONNECTS, handles)
        self._connections = [CurlConnection(server, large) for _ in range(handles)]
        self._idle = list(self._connections)
        self._busy: dict[pycurl.Curl, CurlConnection] = {}
        self._large = PlainEngine(server, store, keep_free=keep_free, threads=LARGE_THREADS)
        self._finishers = ThreadPoolExecutor(FINISHERS, thread_name_prefix="finish")
        self._look_at = 0.0
        self._finishing: set[Future[Receipt]] = set()

    @property
    def name(self) -> str:
        """Which engine this is."""
        return f"libcurl multi with {len(self._connections)} handles"

    @property
    def in_flight(self) -> int:
        """Jobs submitted and not yet answered."""
        return len(self._waiting) + len(self._busy) + len(self._finishing) + self._large.in_flight

    def submit(self, jobs: Sequence[FetchJob]) -> None:
        """Queue the jobs; those that are known to be large take the other way at once."""
        self._waiting.extend(job for job in jobs if (job.size or 0) < self._known_large)
        self._large.submit([job for job in jobs if (job.size or 0) >= self._known_large])

    def poll(self, timeout_s: float) -> list[Receipt]:
        """Turn libcurl's wheel until something has ended."""
        deadline = monotonic() + timeout_s
        results: list[Receipt] = []
        while True:
            self._fill()
            while self._multi.perform()[0] == pycurl.E_CALL_MULTI_PERFORM:
                pass
            ended = self._reap(results) or self._give_up_silent(results)
            self._gather(results)
            refusal = refusal_in(results)
            if refusal is not None:
                results += [replace(refusal, entry=job.entry) for job in self._waiting]
                self._waiting.clear()
            left = deadline - monotonic()
            if results or not self.in_flight or left <= 0:
                self._fill()
                return results
            if not ended:
                self._wait(min(left, _LONGEST_WAIT_S), results)

    def close(self) -> None:
        """Break off everything; libcurl closes its connections."""
        self._waiting.clear()
        for curl, connection in self._busy.items():
            self._multi.remove_handle(curl)
            connection.abort()
        self._busy.clear()
        for connection in self._connections:
            connection.curl.close()
        self._connections.clear()
        self._multi.close()
        self._large.close()
        self._finishers.shutdown(wait=True)
        results: list[Receipt] = []
        self._gather(results)
        self._store.discard([result.staged for result in results if isinstance(result, Received)])

    def _wait(self, seconds: float, results: list[Receipt]) -> None:
        """Sleep until something may have happened; what others do beside libcurl does not wake it."""
        if self._busy:
            is_alone = not self._finishing and not self._large.in_flight
            self._multi.select(seconds if is_alone else min(seconds, _LONGEST_WAIT_BESIDE_S))
        elif self._finishing:
            wait(self._finishing, min(seconds, _LONGEST_WAIT_BESIDE_S), FIRST_COMPLETED)
        else:
            results += self._large.poll(seconds)

    def _fill(self) -> None:
        # What waits for the finishers is held in memory: no more of it than there are handles.
        while self._waiting and self._idle and len(self._finishing) < len(self._connections):
            connection = self._idle.pop()
            connection.start(ContentReceiver(self._waiting.popleft(), self._store, self._keep_free))
            self._busy[connection.curl] = connection
            self._multi.add_handle(connection.curl)

    def _reap(self, results: list[Receipt]) -> bool:
        """Take what libcurl is done with; return whether there was anything."""
        ended = 0
        queued = 1
        while queued:
            queued, done, broken = self._multi.info_read()
            for curl in done:
                self._end(curl, 0, results)
            for curl, code, _ in broken:
                self._end(curl, code, results)
            ended += len(done) + len(broken)
        return ended > 0

    def _give_up_silent(self, results: list[Receipt]) -> bool:
        """End transfers that have been silent for too long; return whether there were any."""
        now = monotonic()
        if now < self._look_at:
            return False
        self._look_at = now + _LOOK_S
        silent = [curl for curl, connection in self._busy.items() if connection.is_silent(now)]
        for curl in silent:
            self._end(curl, pycurl.E_OPERATION_TIMEDOUT, results)
        return bool(silent)

    def _end(self, curl: pycurl.Curl, code: int, results: list[Receipt]) -> None:
        self._multi.remove_handle(curl)
        connection = self._busy.pop(curl)
        if connection.is_large:
            self._large.submit([connection.abort()])
        elif connection.resume(code):
            self._busy[curl] = connection
            self._multi.add_handle(curl)
            return
        else:
            ended = connection.end(code)
            if not isinstance(ended, ContentReceiver):
                results.append(ended)
            elif ended.received < self._aside:
                results.append(ended.conclude())
            else:
                self._finishing.add(self._finishers.submit(ended.conclude))
        self._idle.append(connection)

    def _gather(self, results: list[Receipt]) -> None:
        """Take what finishers and blocking readers are done with."""
        if self._finishing:
            done = {future for future in self._finishing if future.done()}
            self._finishing -= done
            results += [future.result() for future in done]
        if self._large.in_flight:
            results += self._large.poll(0.0)
