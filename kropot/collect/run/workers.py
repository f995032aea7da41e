"""The threads for slow work: one asks the server, two move contents, one makes them durable.

Each thread takes actions from its own queue and puts what happened into the loop's inbox. An exception that a thread
did not expect goes into the inbox, too, and the loop raises it.
"""

from __future__ import annotations

import queue
import threading
from abc import ABC, abstractmethod
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct

from kropot.collect.decide.actions import Abandon, AskGone, Fetch, FlushPrefetched, ListPage, Prefetch, Publish
from kropot.collect.decide.inputs import (
    Abandoned,
    Fetched,
    GoneAnswered,
    Input,
    NotReceived,
    PageFailed,
    PageListed,
    PageRefused,
    Prefetched,
    PrefetchedCopy,
    PublishDone,
    Received,
)
from kropot.collect.transfer.engine import FetchJob, content_path
from kropot.errors import ServerRefusedError
from kropot.lister.conversation import Trouble
from kropot.securecopy.bulkread import BulkWanted
from kropot.securecopy.client import ServerTroubleError
from kropot.securecopy.sealed_form import etag_in
from kropot.securecopy.wire import is_sealed_form, sealed_header
from ledger.places import Placement

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kropot.collect.decide.inputs import Receipt
    from kropot.collect.transfer.engine import TransferEngine
    from kropot.collect.transfer.prefetch import PrefetchedObject, PrefetchEngine
    from kropot.objects.store import Published, PublishError, Staged
    from kropot.securecopy.wire import Listed, Page
    from ledger.replica import Entry

BATCH = 1000
BATCH_BYTES = 64 << 20
BATCH_S = 0.5
"""A batch is published once it holds this many contents or bytes, or after this time, whichever comes first."""

POLL_S = 0.05
PREFETCH_POLL_S = 0.005
"""While other orders are in flight, a new one waits at most this long."""


class ListClient(Protocol):
    """What the control thread needs of a client."""

    def list(self, since: str | None, limit: int) -> Page:
        """Return a page. Raises: ServerRefusedError, ServerTroubleError."""
        ...

    def submitdata(self, id_: str) -> Listed | None:
        """Return an element, None if it is gone. Raises: ServerRefusedError, ServerTroubleError."""
        ...


class Crashed(Struct, frozen=True):
    """A thread met an unexpected error."""

    error: BaseException


Inbox = queue.SimpleQueue[Input | Crashed]


class Worker(ABC):
    """A daemon thread that carries out actions one after the other."""

    def __init__(self, name: str, inbox: Inbox) -> None:
        """Prepare; `start` begins."""
        self.inbox = inbox
        self.todo: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, patience_s: float) -> bool:
        """Ask the thread to end; return whether it did so in time."""
        self.todo.put(None)
        if self._thread.ident is not None:
            self._thread.join(patience_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self.work()
        except BaseException as error:  # noqa: BLE001 - whatever it is, the loop MUST hear of it
            self.inbox.put(Crashed(error))

    @abstractmethod
    def work(self) -> None:
        """Carry out actions until None comes."""


class Responder(Worker):
    """A worker that answers each action with one input."""

    def work(self) -> None:
        """Carry out actions until None comes."""
        while (action := self.todo.get()) is not None:
            self.inbox.put(self.perform(action))

    @abstractmethod
    def perform(self, action: object) -> Input:
        """Carry one action out, and return what happened."""


class Control(Responder):
    """Asks the server for pages and single elements."""

    def __init__(self, client: ListClient, inbox: Inbox) -> None:
        """Prepare."""
        super().__init__("control", inbox)
        self._client = client

    def perform(self, action: object) -> Input:
        """Ask for a page, or whether an element is gone, and return the answer."""
        if isinstance(action, AskGone):
            return self._ask_gone(action.failed)
        if not isinstance(action, ListPage):
            raise TypeError(type(action))
        ask = action.ask
        try:
            page = self._client.list(ask.since, ask.limit)
        except ServerRefusedError:
            return PageRefused(check=action.check)
        except ServerTroubleError as error:
            return PageFailed(trouble=Trouble(reason=error.reason, status=error.status), check=action.check)
        return PageListed(page=page, check=action.check)

    def _ask_gone(self, failed: NotReceived) -> Input:
        try:
            found = self._client.submitdata(failed.entry.key.id)
        except (ServerRefusedError, ServerTroubleError):
            return GoneAnswered(failed=failed, gone=None)
        return GoneAnswered(failed=failed, gone=found is None)


class ObjectPublisher(Protocol):
    """What the publisher needs: an object store, or a stand-in for one."""

    def publish(self, batch: Sequence[Staged]) -> list[Published | PublishError]:
        """Make the objects durable, as `ObjectStore.publish` does."""
        ...


class Publisher(Responder):
    """Makes batches of contents durable."""

    def __init__(self, objects: ObjectPublisher, inbox: Inbox) -> None:
        """Prepare."""
        super().__init__("publisher", inbox)
        self._objects = objects

    def perform(self, action: object) -> Input:
        """Publish a batch."""
        if not isinstance(action, Publish):
            raise TypeError(type(action))
        results = self._objects.publish([receipt.staged for receipt in action.batch])
        return PublishDone(batch=action.batch, results=tuple(results))


def job_of(entry: Entry) -> FetchJob:
    """Return what to fetch for an entry, and what the list said about it. Raises: TypeError if it was erased."""
    element = entry.element
    if element is None:
        raise TypeError("an erased element cannot be fetched")
    sealed = sealed_header(element.form)
    return FetchJob(
        entry=entry,
        stream=entry.key,
        path=content_path(entry.key.id),
        opaque=is_sealed_form(element.form),
        size=element.size,
        etag=element.etag if sealed is None else sealed.etag,
        sealed=sealed,
    )


class Prefetching(Worker):
    """Has contents fetched in bulk, and passes the results on."""

    def __init__(self, make: Callable[[], PrefetchEngine], inbox: Inbox) -> None:
        """Prepare; `make` makes an engine when the first order comes."""
        super().__init__("prefetch", inbox)
        self._make = make

    def work(self) -> None:
        """Pass orders on and take in their answers until None comes; then break off what is in flight."""
        engine: PrefetchEngine | None = None
        while True:
            try:
                action = self.todo.get(block=engine is None or not engine.in_flight)
            except queue.Empty:
                action = Ellipsis
            if action is None:
                break
            engine = engine or self._make()
            if isinstance(action, Prefetch):
                engine.submit(action.number, [bulk_wanted(listed) for listed in action.entries])
            elif isinstance(action, FlushPrefetched):
                engine.flush()
            else:
                answers = engine.poll(PREFETCH_POLL_S)
                if answers:
                    self.inbox.put(Prefetched(copies={number: _copies(came) for number, came in answers.items()}))
        if engine is not None:
            engine.close()


def bulk_wanted(listed: Listed) -> BulkWanted:
    """Return what a bulk request asks for to get this entry. Raises: TypeError if it lacks an etag or a size."""
    header = listed.header
    etag = listed.etag if header is None else etag_in(header)
    if etag is None or listed.size is None:
        raise TypeError("an entry without etag and size cannot be fetched in bulk")
    return BulkWanted(listed.id, etag, listed.size, listed.is_sealed, header)


def _copies(came: list[PrefetchedObject]) -> dict[int, PrefetchedCopy]:
    """Return copies by the places of their entries."""
    return {
        at: PrefetchedCopy(
            sha256=sha256,
            size=size,
            iv=iv,
            place=None if pack is None else Placement(sha256, pack, offset, size),
        )
        for at, sha256, size, iv, pack, offset in came
    }


class Transfer(Worker):
    """Moves contents through an engine, and passes their receipts on in batches."""

    def __init__(self, make: Callable[[], TransferEngine], inbox: Inbox) -> None:
        """Prepare; `make` makes an engine, and a new one after that was closed."""
        super().__init__("transfer", inbox)
        self._make = make
        self._engine: TransferEngine | None = None
        # By the identity of the entry, not by its key: a collector that slept past its lease may take an element that
        # it is still fetching, and then fetches it twice.
        self._waiting: dict[int, Entry] = {}

    def work(self) -> None:
        """Feed the engine and gather its receipts until None comes; then break off what is in flight."""
        received: list[Received] = []
        failed: list[NotReceived] = []
        size, since = 0, monotonic()
        while True:
            is_resting = not self._waiting and not received and not failed
            try:
                action = self.todo.get(block=is_resting)
            except queue.Empty:
                action = Ellipsis
            if action is None:
                break
            if isinstance(action, Fetch):
                self._submit(action.entries)
                continue
            if isinstance(action, Abandon):
                self._hand_on(received, failed)
                received, failed, size = [], [], 0
                self.inbox.put(self._abandon())
                continue
            for receipt in self._poll():
                if not received and not failed:
                    since = monotonic()
                del self._waiting[id(receipt.entry)]
                if isinstance(receipt, Received):
                    received.append(receipt)
                    size += receipt.staged.size
                else:
                    failed.append(receipt)
            is_full = len(received) + len(failed) >= BATCH or size >= BATCH_BYTES
            if is_full or ((received or failed) and (not self._waiting or monotonic() - since >= BATCH_S)):
                self._hand_on(received, failed)
                received, failed, size = [], [], 0
        self._close()

    def _submit(self, entries: tuple[Entry, ...]) -> None:
        jobs: list[FetchJob] = []
        for entry in entries:
            self._waiting[id(entry)] = entry
            jobs.append(job_of(entry))
        if self._engine is None:
            self._engine = self._make()
        self._engine.submit(jobs)

    def _poll(self) -> list[Receipt]:
        return [] if self._engine is None else self._engine.poll(POLL_S)

    def _hand_on(self, received: list[Received], failed: list[NotReceived]) -> None:
        if received or failed:
            self.inbox.put(Fetched(received=tuple(received), failed=tuple(failed)))

    def _abandon(self) -> Abandoned:
        self._close()
        entries = tuple(self._waiting.values())
        self._waiting.clear()
        return Abandoned(entries=entries)

    def _close(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()
