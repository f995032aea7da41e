"""The transfer thread: every job that went in is answered once, whatever its element."""

from __future__ import annotations

import queue
from typing import TYPE_CHECKING

from kropot.collect.decide.actions import Fetch
from kropot.collect.decide.inputs import Fetched, NotReceived
from kropot.collect.run.workers import Inbox, Transfer
from ledger.replica import Entry
from tests.ledger.world import element, key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kropot.collect.decide.inputs import Receipt
    from kropot.collect.transfer.engine import FetchJob

PATIENCE_S = 20


class HeldEngine:
    """An engine that answers nothing before it has `wanted` jobs, and then answers all of them."""

    name = "held"

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.jobs: list[FetchJob] = []

    @property
    def in_flight(self) -> int:
        return len(self.jobs)

    def submit(self, jobs: Sequence[FetchJob]) -> None:
        self.jobs += jobs

    def poll(self, timeout_s: float) -> list[Receipt]:  # noqa: ARG002 -- the protocol has it
        if len(self.jobs) < self.wanted:
            return []
        answered, self.jobs = self.jobs, []
        return [NotReceived(entry=job.entry, reason="timeout") for job in answered]

    def close(self) -> None:
        self.jobs = []


def pending(number: int) -> Entry:
    """Build an entry for an element that has no copy; each call builds another one."""
    return Entry(key=key(f"e{number}"), stream=number, version=1, position=number, element=element())


def test_an_element_taken_twice_is_answered_twice() -> None:
    """A collector that slept past its lease takes an element again while it still fetches it."""
    inbox: Inbox = queue.SimpleQueue()
    transfer = Transfer(lambda: HeldEngine(wanted=3), inbox)
    transfer.start()
    try:
        transfer.todo.put(Fetch(entries=(pending(1), pending(2))))
        transfer.todo.put(Fetch(entries=(pending(1),)))
        came = inbox.get(timeout=PATIENCE_S)
        assert isinstance(came, Fetched)
        assert [one.entry.key.id for one in came.failed] == ["e1", "e2", "e1"]
    finally:
        assert transfer.stop(PATIENCE_S)
    assert inbox.empty()
