"""The threads that do what takes time: one asks the server, one moves contents, one makes them durable.

Each takes actions from a queue of its own and puts what happened into the loop's inbox; a thread that meets something
unforeseen puts that in, too, and the loop raises it.
"""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from kropot.collect.decide.actions import Abandon, AskGone, Fetch, ListPage, Publish
from kropot.collect.decide.inputs import (
    Abandoned,
    Bad,
    Fetched,
    GoneAnswered,
    Good,
    Input,
    PageFailed,
    PageListed,
    PageRefused,
    PublishDone,
)
from kropot.collect.transfer.engine import FetchJob, Got, content_path
from kropot.errors import ServerRefusedError
from kropot.lister.conversation import Trouble
from kropot.securecopy.client import ServerTroubleError
from kropot.securecopy.wire import is_sealed_form

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kropot.collect.transfer.engine import FetchResult, TransferEngine
    from kropot.objects.store import Published, PublishError, Staged
    from kropot.securecopy.wire import Listed, Page
    from ledger.replica import Entry

BATCH = 1000
BATCH_BYTES = 64 << 20
BATCH_S = 0.5
"""What was fetched is published in batches: so many, so large, or after so long, whichever comes first."""

POLL_S = 0.05


class ListClient(Protocol):
    """What the control thread needs of a client."""

    def list(self, since: str | None, limit: int) -> Page:
        """Return a page. Raises: ServerRefusedError, ServerTroubleError."""
        ...

    def submitdata(self, id_: str) -> Listed | None:
        """Return an element, None if it is gone. Raises: ServerRefusedError, ServerTroubleError."""
        ...


@dataclass(frozen=True, slots=True)
class Crashed:
    """A thread met something unforeseen."""

    error: BaseException


Inbox = queue.SimpleQueue[Input | Crashed]


class Worker:
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

    def work(self) -> None:
        """Carry out actions until None comes."""
        while (action := self.todo.get()) is not None:
            self.inbox.put(self.perform(action))

    def perform(self, action: object) -> Input:
        """Carry one action out."""
        raise NotImplementedError


class Control(Worker):
    """Asks the server for pages and single elements."""

    def __init__(self, client: ListClient, inbox: Inbox) -> None:
        """Prepare."""
        super().__init__("control", inbox)
        self._client = client

    def perform(self, action: object) -> Input:
        """PageRequest, and say what came."""
        if isinstance(action, AskGone):
            return self._ask_gone(action.bad)
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

    def _ask_gone(self, bad: Bad) -> Input:
        try:
            found = self._client.submitdata(bad.entry.key.id)
        except (ServerRefusedError, ServerTroubleError):
            return GoneAnswered(bad=bad, gone=None)
        return GoneAnswered(bad=bad, gone=found is None)


class ObjectPublisher(Protocol):
    """What the publisher needs: an object store, or whoever stands before one."""

    def publish(self, batch: Sequence[Staged]) -> list[Published | PublishError]:
        """Make the objects durable, as `ObjectStore.publish` does."""
        ...


class Publisher(Worker):
    """Makes batches of contents durable."""

    def __init__(self, objects: ObjectPublisher, inbox: Inbox) -> None:
        """Prepare."""
        super().__init__("publisher", inbox)
        self._objects = objects

    def perform(self, action: object) -> Input:
        """Publish a batch."""
        if not isinstance(action, Publish):
            raise TypeError(type(action))
        results = self._objects.publish([good.staged for good in action.batch])
        return PublishDone(batch=action.batch, results=tuple(results))


class Transfer(Worker):
    """Moves contents through an engine, and hands them on in batches."""

    def __init__(self, make: Callable[[], TransferEngine], inbox: Inbox) -> None:
        """Prepare; `make` makes an engine, again after it was closed."""
        super().__init__("transfer", inbox)
        self._make = make
        self._engine: TransferEngine | None = None
        self._numbers = 0
        self._entries: dict[int, Entry] = {}

    def work(self) -> None:
        """Feed the engine and gather its results until None comes; what is in flight then is broken off."""
        good: list[Good] = []
        bad: list[Bad] = []
        size, since = 0, monotonic()
        while True:
            is_resting = not self._entries and not good and not bad
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
                self._hand_on(good, bad)
                good, bad, size = [], [], 0
                self.inbox.put(self._abandon())
                continue
            for result in self._poll():
                if not good and not bad:
                    since = monotonic()
                entry = self._entries.pop(result.job.number)
                if isinstance(result, Got):
                    good.append(Good(entry=entry, staged=result.staged, iv=result.iv))
                    size += result.size
                else:
                    bad.append(_bad(entry, result))
            is_full = len(good) + len(bad) >= BATCH or size >= BATCH_BYTES
            if is_full or ((good or bad) and (not self._entries or monotonic() - since >= BATCH_S)):
                self._hand_on(good, bad)
                good, bad, size = [], [], 0
        self._close()

    def _submit(self, entries: tuple[Entry, ...]) -> None:
        jobs: list[FetchJob] = []
        for entry in entries:
            element = entry.element
            if element is None:
                raise TypeError("work is never taken on an erased element")
            self._numbers += 1
            self._entries[self._numbers] = entry
            jobs.append(
                FetchJob(
                    number=self._numbers,
                    path=content_path(entry.key.id),
                    opaque=is_sealed_form(element.form),
                    size=element.size,
                    etag=element.etag,
                )
            )
        if self._engine is None:
            self._engine = self._make()
        self._engine.submit(jobs)

    def _poll(self) -> list[FetchResult]:
        return [] if self._engine is None else self._engine.poll(POLL_S)

    def _hand_on(self, good: list[Good], bad: list[Bad]) -> None:
        if good or bad:
            self.inbox.put(Fetched(good=tuple(good), bad=tuple(bad)))

    def _abandon(self) -> Abandoned:
        self._close()
        entries = tuple(self._entries.values())
        self._entries.clear()
        return Abandoned(entries=entries)

    def _close(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()


def _bad(entry: Entry, result: FetchResult) -> Bad:
    if isinstance(result, Got):
        raise TypeError("a good result")
    return Bad(
        entry=entry,
        reason=result.reason,
        status=result.status,
        refused=result.refused,
        storage=result.is_storage,
        detail=result.detail,
    )
