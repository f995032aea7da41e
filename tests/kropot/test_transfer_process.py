"""The process that moves contents: every job is answered by its own entry, and nothing is left when it goes."""

from __future__ import annotations

import os
import signal
import time
from functools import partial
from typing import TYPE_CHECKING

import pytest

from kropot.collect.decide.inputs import NotReceived, Received
from kropot.collect.transfer.process import TransferLostError, TransferProcess
from kropot.objects.directory import DirectoryObjects
from kropot.objects.store import Published
from tests.kropot.jobs import fetch_job

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from kropot.collect.decide.inputs import Receipt
    from kropot.collect.transfer.engine import FetchJob

pytestmark = pytest.mark.usefixtures("forking")

PATIENCE_S = 20.0
IV = bytes(range(16))


class Echo:
    """An engine whose server sends every element's own id, fails "failing", never sends "slow" and trips over "odd"."""

    name = "echo"

    def __init__(self, store: DirectoryObjects) -> None:
        self.store = store
        self.jobs: list[FetchJob] = []

    @property
    def in_flight(self) -> int:
        return len(self.jobs)

    def submit(self, jobs: Sequence[FetchJob]) -> None:
        self.jobs += jobs

    def poll(self, timeout_s: float) -> list[Receipt]:
        answered = [job for job in self.jobs if "slow" not in job.path]
        self.jobs = [job for job in self.jobs if "slow" in job.path]
        if not answered:
            time.sleep(timeout_s)
        return [self.answer(job) for job in answered]

    def answer(self, job: FetchJob) -> Receipt:
        if "odd" in job.path:
            raise ZeroDivisionError("nobody foresaw this")
        if "failing" in job.path:
            return NotReceived(entry=job.entry, reason="cut", status=200)
        upload = self.store.stage()
        upload.write(job.path.encode())
        return Received(entry=job.entry, staged=upload.finish(), iv=IV)

    def close(self) -> None:
        self.jobs = []


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DirectoryObjects]:
    store = DirectoryObjects(tmp_path / "storage", "tests")
    store.lock()
    yield store
    store.close()


@pytest.fixture
def process(store: DirectoryObjects) -> Iterator[TransferProcess]:
    process = TransferProcess(partial(Echo, store), store)
    yield process
    process.end()


def receipts(process: TransferProcess, count: int) -> list[Receipt]:
    """Poll until so many jobs are answered."""
    found: list[Receipt] = []
    deadline = time.monotonic() + PATIENCE_S
    while len(found) < count:
        assert time.monotonic() < deadline, found
        found += process.poll(0.1)
    return found


def unfinished(store: DirectoryObjects) -> list[str]:
    return [left.path for left in store.leftovers() if left.kind == "temporary"]


def test_what_is_fetched_there_is_published_there(process: TransferProcess, store: DirectoryObjects) -> None:
    jobs = [fetch_job(number, f"e{number}") for number in range(200)]
    process.submit(jobs)
    assert process.in_flight == 200
    came = [one for one in receipts(process, 200) if isinstance(one, Received)]
    assert process.in_flight == 0
    assert {id(one.entry) for one in came} == {id(job.entry) for job in jobs}
    assert {one.iv for one in came} == {IV}
    outcomes = process.publish([one.staged for one in came])
    assert [(one.sha256, one.size) for one in outcomes] == [(one.staged.sha256, one.staged.size) for one in came]
    assert all(isinstance(one, Published) for one in outcomes)
    for one in came:
        with store.open(one.staged.sha256) as object_:
            assert object_.read().decode().endswith(f"/{one.entry.key.id}/content")
    assert unfinished(store) == []


def test_a_failure_says_what_the_engine_said(process: TransferProcess) -> None:
    job = fetch_job(1, "failing")
    process.submit([job])
    (failed,) = receipts(process, 1)
    assert failed == NotReceived(entry=job.entry, reason="cut", status=200)
    assert failed.entry is job.entry


def test_what_is_broken_off_leaves_nothing_and_more_can_be_asked_for(
    process: TransferProcess, store: DirectoryObjects
) -> None:
    process.submit([fetch_job(number, f"e{number}") for number in range(100)] + [fetch_job(100, "slow")])
    process.close()
    assert process.in_flight == 0
    process.submit([fetch_job(101, "next")])
    (came,) = receipts(process, 1)
    assert isinstance(came, Received)
    # What was discarded is gone by now: the process does one thing after the other.
    assert len(unfinished(store)) == 1
    assert isinstance(process.publish([came.staged])[0], Published)
    assert [size for _, size in store.walk()] == [came.staged.size]


def test_a_process_that_is_killed_is_missed_at_once(process: TransferProcess) -> None:
    process.submit([fetch_job(1, "slow")])
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(TransferLostError, match="signal 9 killed it: was it out of memory"):
        receipts(process, 1)
    with pytest.raises(TransferLostError, match="nothing acknowledged is lost; start the collector again"):
        process.publish([])


def test_what_nobody_foresaw_there_is_said_here(process: TransferProcess) -> None:
    process.submit([fetch_job(1, "odd")])
    with pytest.raises(TransferLostError, match="nobody foresaw this"):
        receipts(process, 1)


def test_it_ends_when_it_is_told_to_whatever_is_in_flight(process: TransferProcess) -> None:
    process.submit([fetch_job(1, "slow")])
    process.end()
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)


def test_signals_that_reach_the_whole_group_do_not_end_it(process: TransferProcess) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(process.pid, number)
    process.submit([fetch_job(1, "e1")])
    assert len(receipts(process, 1)) == 1
