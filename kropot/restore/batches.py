"""Puts small files together into batches, and hands them to the crew of a restore."""

from __future__ import annotations

import time
from collections import Counter, deque
from typing import TYPE_CHECKING, Final

from kropot.durable.refusals import NoRoomError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kropot.replay.copies import Copies
    from kropot.restore.crew import Crew, Job
    from kropot.restore.plan import Planned
    from kropot.restore.small import Wrote

BATCH: Final = 1000
"""The most files that a worker writes at once."""

SYNC_EVERY: Final = 12
"""How many batches to make durable together. A sync takes as long for one file as for thousands."""

SYNC_EVERY_S: Final = 5.0
"""After this many seconds, make everything written so far durable, so that it survives a killed run."""

BATCH_BYTES: Final = 16 << 20
"""The most stored bytes in a batch."""

Finished = list[tuple["Planned", "Wrote | None"]]
"""A batch and the result of each file: None if it was not written and must be restored on its own."""


class Batches:
    """The batches that are under way, in order. While some become durable, others are written, up to a limit."""

    def __init__(self, crew: Crew, copies: Copies, root: str) -> None:
        """Start with no batches. `root` is the target folder."""
        self._crew = crew
        self._copies = copies
        self._root = root
        # Separate for each worker that has the forms open.
        self._filling: dict[int | None, list[Planned]] = {}
        self._bytes: Counter[int | None] = Counter()
        self._under_way: deque[tuple[list[Planned], Job]] = deque()
        self._unsynced = 0
        self._synced_at = time.monotonic()

    def add(self, plan: Planned) -> None:
        """Take a small file whose folder exists."""
        kept = plan.opened.kept
        worker = None if kept is None else kept[0]
        filling = self._filling.setdefault(worker, [])
        filling.append(plan)
        self._bytes[worker] += plan.held.size
        if len(filling) >= BATCH or self._bytes[worker] >= BATCH_BYTES:
            self._send(worker)

    def finished(self) -> Iterator[Finished]:
        """Yield batches until there is room for another one. Raises: TreeError."""
        while len(self._under_way) > (1 if self._crew.is_alone else 2 * SYNC_EVERY):
            yield self._result(*self._under_way.popleft())

    def rest(self) -> Iterator[Finished]:
        """Yield all remaining batches. Raises: TreeError."""
        for worker in list(self._filling):
            self._send(worker)
        self._sync()
        while self._under_way:
            yield self._result(*self._under_way.popleft())

    def _send(self, worker: int | None) -> None:
        batch = self._filling.pop(worker)
        del self._bytes[worker]
        for plan in batch:
            if not plan.opened.is_glance:
                self._crew.remember(plan.held, plan.opened)
        places = self._copies.places([plan.held for plan in batch])
        self._under_way.append((batch, self._crew.writes(self._root, batch, places)))
        self._unsynced += 1
        if self._unsynced >= SYNC_EVERY or time.monotonic() - self._synced_at > SYNC_EVERY_S:
            self._sync()

    def _sync(self) -> None:
        self._crew.sync()
        self._unsynced, self._synced_at = 0, time.monotonic()

    def _result(self, batch: list[Planned], job: Job) -> Finished:
        try:
            return list(zip(batch, self._crew.result(job), strict=True))
        except NoRoomError:
            # Writing them one by one shows which of them fit.
            return [(plan, None) for plan in batch]
