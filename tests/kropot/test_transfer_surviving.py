"""A transfer process that is killed is followed by another; nothing that it had is lost, or taken for another thing."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kropot.collect.transfer.apart import TransferLostError
from kropot.collect.transfer.engine import Got
from kropot.collect.transfer.surviving import MOST_DEATHS, SurvivingTransfers
from kropot.objects.directory import DirectoryObjects
from kropot.objects.store import DiscardedError, Published, PublishError
from ledger.events import FetchFailed
from tests.kropot.replicas import Folder, wait_until
from tests.kropot.scripted import Asked, ScriptedServer, Wait
from tests.kropot.test_transfer_apart import answer, body_of, drain, jobs, server_at
from tests.oldserver import OldServer, slow_start

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tests.kropot.scripted import Part


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DirectoryObjects]:
    store = DirectoryObjects(tmp_path / "store", "one")
    store.claim()
    yield store
    store.close()


def kill(transfers: SurvivingTransfers) -> None:
    os.kill(transfers.process.pid, signal.SIGKILL)


def test_what_was_in_flight_is_fetched_by_the_next_process(store: DirectoryObjects) -> None:
    told: list[str] = []
    asked = threading.Semaphore(0)
    is_calm = threading.Event()

    def script(request: Asked) -> Iterable[Part]:
        asked.release()
        return answer(request) if is_calm.is_set() else [Wait(60)]

    with (
        ScriptedServer(script) as server,
        closing(SurvivingTransfers(server_at(server.url), store, told=told.append)) as transfers,
    ):
        engine = transfers.engine()
        engine.submit(jobs(60))
        assert asked.acquire(timeout=20)
        kill(transfers)
        is_calm.set()
        results = drain(engine)
        outcomes = transfers.publish([result.staged for result in results if isinstance(result, Got)])
    assert sorted(result.job.number for result in results) == list(range(60))
    assert len(outcomes) == 54
    assert all(isinstance(outcome, Published) for outcome in outcomes)
    assert len(told) == 1
    assert "killed by signal 9" in told[0]
    assert list(store.leftovers()) == []


def test_what_was_staged_is_gone_and_never_taken_for_what_the_next_process_staged(store: DirectoryObjects) -> None:
    with (
        ScriptedServer(answer) as server,
        closing(SurvivingTransfers(server_at(server.url), store, told=lambda _: None)) as transfers,
    ):
        engine = transfers.engine()
        engine.submit(jobs(4))
        old = {result.job.number: result for result in drain(engine) if isinstance(result, Got)}
        kill(transfers)
        engine.submit(jobs(6)[4:])
        new = {result.job.number: result for result in drain(engine) if isinstance(result, Got)}
        assert (sorted(old), sorted(new)) == ([0, 1, 2, 3], [4, 5])
        outcomes = transfers.publish([old[0].staged, new[4].staged, old[1].staged, new[5].staged, old[2].staged])
        lost, four, gone, five, _ = outcomes
        for outcome, was in ((lost, old[0]), (gone, old[1])):
            assert isinstance(outcome, PublishError)
            assert isinstance(outcome.error, DiscardedError)
            assert outcome.sha256 == was.staged.sha256
        for outcome, number in ((four, 4), (five, 5)):
            assert isinstance(outcome, Published)
            with store.open(hashlib.sha256(body_of(number)).digest()) as reader:
                assert reader.read() == body_of(number)
        kill(transfers)
        engine.submit(jobs(1))
        assert len(drain(engine)) == 1
        (alone,) = transfers.publish([new[4].staged])
        assert isinstance(alone, PublishError)


def test_the_publisher_may_be_the_first_to_notice(store: DirectoryObjects) -> None:
    told: list[str] = []
    with (
        ScriptedServer(answer) as server,
        closing(SurvivingTransfers(server_at(server.url), store, told=told.append)) as transfers,
    ):
        engine = transfers.engine()
        engine.submit(jobs(3))
        staged = [result.staged for result in drain(engine) if isinstance(result, Got)]
        kill(transfers)
        assert all(isinstance(outcome, PublishError) for outcome in transfers.publish(staged))
        engine.submit(jobs(3))
        again = [result.staged for result in drain(engine) if isinstance(result, Got)]
        assert all(isinstance(outcome, Published) for outcome in transfers.publish(again))
    assert len(told) == 1
    assert list(store.leftovers()) == []


def test_one_that_dies_again_and_again_is_given_up_in_one_sentence(store: DirectoryObjects) -> None:
    told: list[str] = []
    with (
        ScriptedServer(lambda _: [Wait(60)]) as server,
        closing(SurvivingTransfers(server_at(server.url), store, told=told.append)) as transfers,
    ):
        engine = transfers.engine()
        engine.submit(jobs(3))
        for death in range(1, MOST_DEATHS):
            kill(transfers)
            assert engine.poll(20) == []
            assert (len(told), engine.in_flight) == (death, 3)
        kill(transfers)
        with pytest.raises(TransferLostError, match=r"died 4 times in a row .*killed by signal 9"):
            engine.poll(20)


def test_deaths_with_something_durable_between_them_are_not_in_a_row(store: DirectoryObjects) -> None:
    with (
        ScriptedServer(answer) as server,
        closing(SurvivingTransfers(server_at(server.url), store, told=lambda _: None)) as transfers,
    ):
        engine = transfers.engine()
        for number in range(MOST_DEATHS + 1):
            engine.submit(jobs(MOST_DEATHS + 1)[number : number + 1])
            staged = [result.staged for result in drain(engine) if isinstance(result, Got)]
            assert isinstance(transfers.publish(staged)[0], Published)
            kill(transfers)


def test_a_collector_goes_on_when_its_transfer_process_is_killed(tmp_path: Path) -> None:
    files = {f"file {number}.txt": hashlib.sha256(b"%d" % number).digest() * 50 for number in range(300)}
    with OldServer(files) as server:
        # One content does not come at its first visit, so that the run cannot be over before the kill.
        late, hang = server.id_of("file 7.txt"), slow_start(600)
        server.plan = lambda request: hang if request.id == late and request.visit == 1 else None
        folder = Folder(tmp_path, server)
        objects = tmp_path / "storage" / "objects"
        with folder.collecting("--once") as process:
            wait_until("copies", lambda: sum(1 for path in objects.rglob("*") if path.is_file()) > 5)
            wait_until("the question that hangs", lambda: any(asked.id == late for asked in server.asked()))
            os.kill(child_of(process.pid), signal.SIGKILL)
            _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert err.count("killed by signal 9") == 1
        assert folder.contents() == folder.expected()
        assert folder.facts(FetchFailed) == []
        assert folder.temporary() == []


def child_of(pid: int) -> int:
    """Return the only child process of a process."""
    (child,) = {
        int(word) for task in Path(f"/proc/{pid}/task").iterdir() for word in (task / "children").read_text().split()
    }
    return child
