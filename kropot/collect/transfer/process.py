"""Transfers in a process of their own, so that they and the ledger do not wait for each other's interpreter lock.

The process is a fork of this one. It stages and publishes contents in the storage that it inherited; only numbers,
digests and reasons come back. It ends when its pipes close, which also happens when this process dies in any way. What
it had staged is then a leftover, and what it had published is durable. See docs/decisions/0017.
"""

from __future__ import annotations

import os
import queue
import threading
import traceback
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, cast

from msgspec.structs import replace

from kropot.collect.decide.inputs import Received
from kropot.collect.transfer.prefetch import PrefetchedObject
from kropot.errors import KropotError
from kropot.objects.store import Staged
from kropot.processes import ChildProcess
from kropot.securecopy.bulkread import BulkWanted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing.connection import Connection

    from kropot.collect.decide.inputs import NotReceived, Receipt
    from kropot.collect.transfer.engine import FetchJob, TransferEngine
    from kropot.collect.transfer.prefetch import PrefetchAnswers, PrefetchThreads
    from kropot.objects.store import ObjectStore, Published, PublishError
    from ledger.replica import Entry

POLL_S = 0.05
TELL_AFTER = 64
TELL_AFTER_S = 0.02
"""Receipts are sent in groups, limited by number and by time, whichever comes first."""

_FETCH, _DISCARD, _CLOSE = range(3)
_TOLD, _CLOSED, _CRASHED = range(3)


class TransferLostError(KropotError):
    """The process that moves contents has ended; nothing that was acknowledged is lost."""


class TransferProcess:
    """A process that fetches contents and publishes them.

    One thread uses it as an engine, another may publish, and a third may use `prefetching`.
    """

    def __init__(
        self,
        make: Callable[[], TransferEngine],
        store: ObjectStore,
        make_prefetching: Callable[[], PrefetchThreads] | None = None,
    ) -> None:
        """Fork. `store` is locked already; from now on, only the child stages in it. There MUST be no other thread."""
        self._process = ChildProcess(_serve, make, store, make_prefetching, pipes=3)
        self._transfers, self._publishing, prefetches = self._process.links
        self.prefetching = RemotePrefetching(prefetches, self._send, self._receive)
        self._jobs: dict[int, FetchJob] = {}
        self._numbers = 0

    @property
    def name(self) -> str:
        """Which engine this is."""
        return f"process {self.pid}"

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    @property
    def in_flight(self) -> int:
        """Jobs submitted and not yet answered."""
        return len(self._jobs)

    def submit(self, jobs: Sequence[FetchJob]) -> None:
        """Send the jobs over. Raises: TransferLostError."""
        rows = []
        for job in jobs:
            self._numbers += 1
            self._jobs[self._numbers] = job
            rows.append(replace(job, entry=cast("Entry", self._numbers)))
        self._send(self._transfers, (_FETCH, rows))

    def poll(self, timeout_s: float) -> list[Receipt]:
        """Take the receipts that are there, waiting for the first. Raises: TransferLostError."""
        receipts: list[Receipt] = []
        while self._jobs and self._transfers.poll(0.0 if receipts else timeout_s):
            _, told = self._receive(self._transfers)
            receipts += [self._read(each) for each in told]
        return receipts

    def publish(self, batch: Sequence[Staged]) -> list[Published | PublishError]:
        """Publish staged objects, as `ObjectStore.publish` does. Raises: TransferLostError."""
        self._send(self._publishing, [staged.pending for staged in batch])
        return cast("list[Published | PublishError]", self._receive(self._publishing)[1])

    def close(self) -> None:
        """Break off what is in flight; the next `submit` starts again. Raises: TransferLostError."""
        self._send(self._transfers, (_CLOSE, None))
        unwanted: list[Any] = []
        while True:
            kind, told = self._receive(self._transfers)
            if kind == _CLOSED:
                break
            unwanted += [each[1] for each in told if isinstance(each, tuple)]
        self._send(self._transfers, (_DISCARD, unwanted))
        self._jobs.clear()

    def end(self) -> None:
        """End the process, with everything that is in flight."""
        self._process.end()

    def _read(self, told: tuple[int, int, bytes, int, bytes | None] | NotReceived) -> Receipt:
        if isinstance(told, tuple):
            number, token, sha256, size, iv = told
            # The child's store knows it by its token.
            staged = Staged(path="", sha256=sha256, size=size, pending=token)
            return Received(entry=self._jobs.pop(number).entry, staged=staged, iv=iv)
        return replace(told, entry=self._jobs.pop(cast("int", told.entry)).entry)

    def _send(self, link: Connection, message: object) -> None:
        try:
            link.send(message)
        except OSError as error:
            raise self._lost() from error

    def _receive(self, link: Connection) -> tuple[int, Any]:
        try:
            kind, message = link.recv()
        except (EOFError, OSError) as error:
            raise self._lost() from error
        if kind == _CRASHED:
            raise TransferLostError(
                f"the process that transfers contents failed ({message}): start the collector again"
            )
        return kind, message

    def _lost(self) -> TransferLostError:
        why = self._process.fate()
        return TransferLostError(
            f"the process that transfers contents is gone ({why}): nothing acknowledged is lost; start the collector "
            f"again"
        )


class RemotePrefetching:
    """The child's bulk fetching as this process sees it; for one thread."""

    def __init__(
        self,
        link: Connection,
        send: Callable[[Connection, object], None],
        receive: Callable[[Connection], tuple[int, Any]],
    ) -> None:
        """Take over the link. `send` and `receive` raise TransferLostError."""
        self.in_flight = 0
        self._link = link
        self._send = send
        self._receive = receive

    def submit(self, number: int, wanted: Sequence[BulkWanted]) -> None:
        """Send the order over. Raises: TransferLostError."""
        self.in_flight += 1
        self._send(self._link, (number, list(map(tuple, wanted))))

    def flush(self) -> None:
        """Have everything that came published, once all orders are read. Raises: TransferLostError."""
        self._send(self._link, None)

    def poll(self, timeout_s: float) -> PrefetchAnswers:
        """Wait for answers. Raises: TransferLostError."""
        if not self._link.poll(timeout_s):
            return {}
        _, answers = self._receive(self._link)
        self.in_flight -= len(answers)
        return {number: list(map(PrefetchedObject._make, came)) for number, came in answers.items()}

    def close(self) -> None:
        """Do nothing: the end of the process closes it."""


# --- in the child ----------------------------------------------------------------------------------------------------


def _serve(
    links: list[Connection],
    make: Callable[[], TransferEngine],
    store: ObjectStore,
    make_prefetching: Callable[[], PrefetchThreads] | None,
) -> None:
    """Carry out orders until the parent closes its ends of the pipes."""
    served = _Served(links, make, store)
    if make_prefetching is not None:
        prefetch = partial(served.prefetch, links[2], make_prefetching)
        threading.Thread(target=served.guarded, args=(prefetch,), daemon=True).start()
    threading.Thread(target=served.guarded, args=(served.publish,), daemon=True).start()
    threading.Thread(target=served.guarded, args=(served.transfer,), daemon=True).start()
    with suppress(EOFError, OSError):
        while True:
            # Always read at once, because a parent that waits to write reads no receipts.
            served.orders.put(links[0].recv())


class _Served:
    """The threads beside the listening one: one moves contents, one makes them durable, others fetch in bulk."""

    def __init__(self, links: list[Connection], make: Callable[[], TransferEngine], store: ObjectStore) -> None:
        self.orders: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        self._links = links
        self._link, self._publishing = links[:2]
        self._make = make
        self._store = store
        self._staged: dict[int, Staged] = {}
        self._tokens = 0

    def guarded(self, work: Callable[[], None]) -> None:
        """Work until the parent is gone; report unexpected errors to it."""
        try:
            work()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            os._exit(0)
        except BaseException as error:  # noqa: BLE001 -- the parent gets it, and tells the user
            traceback.print_exc()
            for link in self._links:
                with suppress(OSError):
                    link.send((_CRASHED, repr(error)))
            os._exit(1)

    def publish(self) -> None:
        """Publish batches of objects, which come as tokens, and send the results."""
        while True:
            batch = [self._staged.pop(token) for token in self._publishing.recv()]
            self._publishing.send((_TOLD, self._store.publish(batch)))

    def prefetch(self, link: Connection, make: Callable[[], PrefetchThreads]) -> None:
        """Pass orders on, and let another thread send the results."""
        threads: PrefetchThreads | None = None
        while True:
            order = link.recv()
            if threads is None:
                threads = make()
                tell = partial(self._tell_prefetched, link, threads)
                threading.Thread(target=self.guarded, args=(tell,), daemon=True).start()
            if order is None:
                threads.flush()
            else:
                number, wanted = order
                threads.submit(number, list(map(BulkWanted._make, wanted)))

    def _tell_prefetched(self, link: Connection, threads: PrefetchThreads) -> None:
        while True:
            answers = threads.answers.get()
            if isinstance(answers, BaseException):
                raise answers
            link.send((_TOLD, {number: list(map(tuple, came)) for number, came in answers.items()}))

    def transfer(self) -> None:
        """Feed an engine, and send its receipts in groups."""
        engine: TransferEngine | None = None
        receipts: list[Receipt] = []
        since = 0.0
        while True:
            for kind, what in self._orders(wait=engine is None or not (engine.in_flight or receipts)):
                if kind == _FETCH:
                    engine = engine or self._make()
                    engine.submit(what)
                elif kind == _DISCARD:
                    self._store.discard([self._staged.pop(token) for token in what])
                else:
                    if engine is not None:
                        engine.close()
                    engine = None
                    self._tell(receipts)
                    receipts = []
                    self._link.send((_CLOSED, None))
            if engine is None:
                continue
            found = engine.poll(TELL_AFTER_S if receipts else POLL_S)
            since = since if receipts else monotonic()
            receipts += found
            if len(receipts) >= TELL_AFTER or not engine.in_flight or monotonic() - since > TELL_AFTER_S:
                self._tell(receipts)
                receipts = []

    def _orders(self, *, wait: bool) -> list[tuple[int, Any]]:
        """Return the orders that are there; with `wait` sleep until there is one."""
        orders = [self.orders.get()] if wait else []
        with suppress(queue.Empty):
            while True:
                orders.append(self.orders.get_nowait())
        return orders

    def _tell(self, receipts: list[Receipt]) -> None:
        told: list[object] = []
        for receipt in receipts:
            if isinstance(receipt, Received):
                self._tokens += 1
                self._staged[self._tokens] = staged = receipt.staged
                told.append((receipt.entry, self._tokens, staged.sha256, staged.size, receipt.iv))
            else:
                told.append(receipt)
        if told:
            self._link.send((_TOLD, told))
