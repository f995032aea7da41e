"""The fast engine: libcurl's multi interface in one thread, and others for work that would hold it up.

Large bodies go to blocking readers of 1 MiB, because libcurl hands out 16 KiB a call, and calls are slow in Python.
Finishers hash and write all others, because making a file can take longer than fetching it, and needs no interpreter
lock. Middling bodies go to them one by one, small ones in batches, because a hand-over costs as much as a small body.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

import pycurl
from msgspec.structs import replace

from kropot.bandwidth import STEP_S
from kropot.collect.decide.inputs import Received
from kropot.collect.transfer.connection import CurlConnection
from kropot.collect.transfer.engine import refusal_in
from kropot.collect.transfer.kept import kept_name
from kropot.collect.transfer.plain import PlainEngine
from kropot.collect.transfer.receive import ContentReceiver, FreeSpace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kropot.collect.decide.inputs import Receipt
    from kropot.collect.transfer.engine import FetchJob, Server
    from kropot.objects.store import ObjectStore

HANDLES = 16
LARGE = 8 << 20
"""A body from this length on goes to a blocking reader, although that costs a second request."""
KNOWN_LARGE = 1 << 20
"""If the listing tells the length, a body from this length on goes there, at no cost."""
LARGE_THREADS = 2
MIDDLING = 64 << 10
"""Bodies from this length on go to the finishers one by one."""
FINISHERS = 2
MOST_SMALL = 256
"""When this many small bodies wait in memory for a finisher, no further content begins."""

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
        middling: int = MIDDLING,
    ) -> None:
        """Prepare the handles, which keep their connections for all jobs to come.

        Bodies of `large` bytes and more go to the blocking readers, those of `middling` and more to a finisher alone.
        """
        self._server = server
        self._store = store
        self._space = FreeSpace(store, keep_free)
        self._middling = middling
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
        self._small: list[ContentReceiver] = []
        self._finishing_small: Future[list[Receipt]] | None = None
        self._waiting_small = 0

    @property
    def name(self) -> str:
        """Which engine this is."""
        return f"libcurl multi with {len(self._connections)} handles"

    @property
    def in_flight(self) -> int:
        """Jobs submitted and not yet answered."""
        waiting = len(self._waiting) + len(self._busy) + self._large.in_flight
        return waiting + len(self._finishing) + self._waiting_small

    def submit(self, jobs: Sequence[FetchJob]) -> None:
        """Queue the jobs; those known to be large, or to have broken off, go to the blocking readers at once."""
        for job in jobs:
            is_large = (job.size or 0) >= self._known_large or self._store.has_kept(kept_name(job.stream))
            if is_large:
                self._large.submit([job])
            else:
                self._waiting.append(job)

    def poll(self, timeout_s: float) -> list[Receipt]:
        """Drive libcurl until something has ended or the time is up."""
        deadline = monotonic() + timeout_s
        results: list[Receipt] = []
        while True:
            self._fill()
            if self._may_read(results):
                while self._multi.perform()[0] == pycurl.E_CALL_MULTI_PERFORM:
                    pass
            ended = self._reap(results) or self._give_up_silent(results)
            self._gather(results)
            self._finish_small()
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
            connection.suspend()
        self._busy.clear()
        for connection in self._connections:
            connection.curl.close()
        self._connections.clear()
        self._multi.close()
        self._large.close()
        self._finishers.shutdown(wait=True)
        for receiver in self._small:
            receiver.abort()
        self._small.clear()
        results: list[Receipt] = []
        self._gather(results)
        self._store.discard([result.staged for result in results if isinstance(result, Received)])

    def _may_read(self, results: list[Receipt]) -> bool:
        """Whether the rate allows reading now; wait a moment if not. The server does not send what nobody reads."""
        limiter = self._server.limiter
        if limiter is None or not self._busy:
            return True
        owed_s = limiter.owed_s
        if owed_s > 0:
            began = monotonic()
            sleep(min(owed_s, STEP_S))
            for connection in self._busy.values():
                connection.excuse(monotonic() - began)
        for curl, connection in list(self._busy.items()):
            if limiter.owed_s > 0:
                return False
            if connection.is_paused:
                # The one that continues now is the last to continue next time.
                self._busy[curl] = self._busy.pop(curl)
                code = connection.go_on()
                if code is not None:
                    self._end(curl, code, results)
        return limiter.owed_s <= 0

    def _wait(self, seconds: float, results: list[Receipt]) -> None:
        """Sleep until something may have happened; work outside libcurl does not wake it."""
        if self._busy:
            if self._server.limiter is not None:
                # A paused transfer wakes nobody.
                seconds = min(seconds, max(self._server.limiter.owed_s, _LONGEST_WAIT_BESIDE_S))
            is_alone = not self._is_finishing and not self._large.in_flight
            self._multi.select(seconds if is_alone else min(seconds, _LONGEST_WAIT_BESIDE_S))
        elif self._is_finishing:
            under_way: list[Future[Any]] = [*self._finishing]
            if self._finishing_small is not None:
                under_way.append(self._finishing_small)
            wait(under_way, min(seconds, _LONGEST_WAIT_BESIDE_S), FIRST_COMPLETED)
        else:
            results += self._large.poll(seconds)

    @property
    def _is_finishing(self) -> bool:
        return bool(self._finishing) or self._finishing_small is not None

    def _fill(self) -> None:
        # Bodies that wait for the finishers are held in memory.
        if self._waiting_small >= MOST_SMALL:
            return
        while self._waiting and self._idle and len(self._finishing) < len(self._connections):
            connection = self._idle.pop()
            connection.start(ContentReceiver(self._waiting.popleft(), self._store, self._space))
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
            elif ended.received < self._middling:
                self._small.append(ended)
                self._waiting_small += 1
            else:
                self._finishing.add(self._finishers.submit(ended.conclude))
        self._idle.append(connection)

    def _finish_small(self) -> None:
        """Hand over the small bodies that came while the last batch of them was being finished."""
        if self._small and self._finishing_small is None:
            batch, self._small = self._small, []
            self._finishing_small = self._finishers.submit(_conclude_all, batch)

    def _gather(self, results: list[Receipt]) -> None:
        """Take what finishers and blocking readers are done with."""
        if self._finishing:
            done = {future for future in self._finishing if future.done()}
            self._finishing -= done
            results += [future.result() for future in done]
        if self._finishing_small is not None and self._finishing_small.done():
            finished, self._finishing_small = self._finishing_small.result(), None
            self._waiting_small -= len(finished)
            results += finished
        if self._large.in_flight:
            results += self._large.poll(0.0)


def _conclude_all(batch: list[ContentReceiver]) -> list[Receipt]:
    return [receiver.conclude() for receiver in batch]
