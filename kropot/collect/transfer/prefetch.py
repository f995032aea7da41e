"""Fetches contents and makes them durable before their elements are recorded: orders in, objects out.

One thread reads from the server and hashes, another publishes. If files are small, one order brings too little for a
pack, so contents of several orders are published together.
"""

from __future__ import annotations

import queue
import threading
from time import monotonic
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from kropot.collect.transfer.bulk import BulkFetcher
from kropot.collect.transfer.receive import FreeSpace
from kropot.durable.errors import StorageError
from kropot.objects.store import Published
from kropot.securecopy.content import UnbelievableError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kropot.collect.transfer.engine import Server
    from kropot.objects.store import ObjectStore, Staged
    from kropot.securecopy.bulkread import BulkWanted

PACK_BYTES: Final = 8 << 20
"""How much is published together, if as much again is here or ordered, so that the last bytes also fill a pack."""

PUBLISH_OBJECTS: Final = 16_384
PUBLISH_S: Final = 3.0
"""After this many objects, or this long without a new one, all of them are published."""

_HAND_OVER: Final = 1 << 20
_PATIENCE_S: Final = 2.0


class PrefetchedObject(NamedTuple):
    """An object that is durable: its element's place in the order, SHA-256, size, IV, and its pack and place there."""

    at: int
    sha256: bytes
    size: int
    iv: bytes | None
    pack: bytes | None = None
    offset: int = 0


PrefetchAnswers = dict[int, list[PrefetchedObject]]
"""The results of orders, by number; whatever is missing did not come."""


class PrefetchEngine(Protocol):
    """Fetches orders of small contents in bulk; for one thread."""

    @property
    def in_flight(self) -> int:
        """Orders that are not answered yet."""
        ...

    def submit(self, number: int, wanted: Sequence[BulkWanted]) -> None:
        """Take an order, and answer it under this number later, after those before it."""
        ...

    def flush(self) -> None:
        """Publish soon, because no further order comes for now."""
        ...

    def poll(self, timeout_s: float) -> PrefetchAnswers:
        """Return answers as soon as there are any, after `timeout_s` at the latest."""
        ...

    def close(self) -> None:
        """Break off what is under way. It is never answered."""
        ...


class _PrefetchedPart(NamedTuple):
    """Contents that an order brought, and whether they are its last."""

    number: int
    came: list[tuple[int, bytes | None, Staged]]
    size: int = 0
    is_last: bool = False


class PrefetchThreads:
    """Does the work in two threads of this process."""

    def __init__(self, server: Server, store: ObjectStore, *, keep_free: int = 0) -> None:
        """Start the threads. They stop writing when less than `keep_free` bytes would be left."""
        self.in_flight = 0
        self.answers: queue.SimpleQueue[PrefetchAnswers | BaseException] = queue.SimpleQueue()
        self._store = store
        self._space = FreeSpace(store, keep_free)
        self._fetcher = BulkFetcher(server)
        self._orders: queue.SimpleQueue[tuple[int, Sequence[BulkWanted]] | None] = queue.SimpleQueue()
        self._parts: queue.SimpleQueue[_PrefetchedPart | None] = queue.SimpleQueue()
        self._is_closed = False
        # Bytes that were ordered, and how many of them are here or will not come. Each is counted by one thread.
        self._ordered = self._answered = 0
        self._came: dict[int, list[PrefetchedObject]] = {}
        self._threads = [
            threading.Thread(target=self._guarded, args=(work,), name="prefetch", daemon=True)
            for work in (self._fetch, self._publish)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, number: int, wanted: Sequence[BulkWanted]) -> None:
        """Queue the order."""
        self.in_flight += 1
        self._ordered += sum([one.size for one in wanted])
        self._orders.put((number, wanted))

    def flush(self) -> None:
        """Make the publishing thread stop waiting once all orders are read."""
        self._orders.put(None)

    def poll(self, timeout_s: float) -> PrefetchAnswers:
        """Wait for answers."""
        try:
            answers = self.answers.get(timeout=timeout_s)
        except queue.Empty:
            return {}
        if isinstance(answers, BaseException):
            raise answers
        self.in_flight -= len(answers)
        return answers

    def close(self) -> None:
        """Break the connection off, and wait a moment for the threads."""
        self._is_closed = True
        self._fetcher.close()
        self._orders.put(None)
        self._parts.put(None)
        for thread in self._threads:
            thread.join(_PATIENCE_S)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 -- a thread cannot report it, so poll raises it
            self.answers.put(error)

    # --- the thread that reads ---

    def _fetch(self) -> None:
        while not self._is_closed:
            order = self._orders.get()
            if order is None:
                self._parts.put(None)
                continue
            number, wanted = order
            came: list[tuple[int, bytes | None, Staged]] = []
            size = 0
            answered = self._answered + sum([one.size for one in wanted])
            try:
                for content in self._fetcher.fetch(wanted):
                    self._space.take(len(content.data))
                    staged = self._store.stage_whole(content.data, content.sha256)
                    came.append((content.at, content.iv, staged))
                    size += staged.size
                    if size >= _HAND_OVER:
                        self._answered += size
                        self._parts.put(_PrefetchedPart(number, came, size))
                        came, size = [], 0
            except (UnbelievableError, StorageError):
                # No room, or no disk. Contents that are fetched singly meet the same error, and report it.
                pass
            self._answered = answered
            self._parts.put(_PrefetchedPart(number, came, size, is_last=True))

    # --- the thread that publishes ---

    def _publish(self) -> None:
        parts: list[_PrefetchedPart] = []
        since = monotonic()
        while not self._is_closed:
            try:
                part = self._parts.get(timeout=max(PUBLISH_S + since - monotonic(), 0) if parts else None)
            except queue.Empty:
                part = None
            if part is not None:
                since = monotonic()
                parts.append(part)
            due = len(parts) if part is None else _due(parts, self._ordered - self._answered)
            if due:
                self._settle(parts[:due])
                del parts[:due]

    def _settle(self, parts: list[_PrefetchedPart]) -> None:
        """Publish the contents of these parts, and answer the orders that end with them."""
        results = iter(self._store.publish([staged for part in parts for _, _, staged in part.came]))
        make = PrefetchedObject._make
        answers: PrefetchAnswers = {}
        for part in parts:
            came = self._came.setdefault(part.number, [])
            for at, iv, _ in part.came:
                result = next(results)
                if isinstance(result, Published):
                    sha256, size, _, _, place = result
                    pack, offset = (None, 0) if place is None else (place.pack, place.offset)
                    came.append(make((at, sha256, size, iv, pack, offset)))
            if part.is_last:
                answers[part.number] = self._came.pop(part.number)
        if answers:
            self.answers.put(answers)


def _due(parts: list[_PrefetchedPart], to_come: int) -> int:
    """Return how many of the first parts are published now; `to_come` bytes are ordered besides."""
    if sum(len(part.came) for part in parts) >= PUBLISH_OBJECTS:
        return len(parts)
    due = size = 0
    for part in parts:
        if part.size and size >= PACK_BYTES:
            break
        due, size = due + 1, size + part.size
    left = sum(part.size for part in parts[due:]) + to_come
    if size >= PACK_BYTES and left >= PACK_BYTES:
        return due
    # A part without contents waits only for those before it.
    return next((at for at, part in enumerate(parts) if part.size), len(parts))
