"""The transfer process does what engine and store do, dies with its parent, and holds the instance's name so long."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import msgpack
import pytest

from kropot.collect.transfer.apart import TransferLostError, TransferProcess
from kropot.collect.transfer.choose import TransfersHere, open_transfers
from kropot.collect.transfer.engine import Failed, FetchJob, Got, Server, content_path
from kropot.collect.transfer.messages import CONFIG
from kropot.collect.transfer.surviving import SurvivingTransfers
from kropot.errors import LockedError
from kropot.objects.directory import DirectoryObjects
from kropot.objects.memory import MemoryObjects
from kropot.objects.store import Published, PublishError, StorageError, StorageFullError
from tests.kropot.scripted import Asked, ScriptedServer, Wait, head, measured

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from kropot.collect.transfer.engine import FetchResult, TransferEngine
    from tests.kropot.scripted import Part

IV = bytes.fromhex("00112233445566778899aabbccddeeff")


def body_of(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest() * (1 + number % 7)


def answer(asked: Asked) -> Iterable[Part]:
    number = int(asked.path.split("/")[3].removeprefix("id-"))
    return [measured(b"page", 500, Content_Type="text/html")] if number % 10 == 9 else [measured(body_of(number))]


def jobs(count: int) -> list[FetchJob]:
    return [FetchJob(number=n, path=content_path(f"id-{n}"), opaque=True) for n in range(count)]


def server_at(url: str) -> Server:
    return Server(base_url=url, headers={"token": "secret-token", "User-Agent": "kropotcli/test"}, total_s=30)


def drain(engine: TransferEngine) -> list[FetchResult]:
    results: list[FetchResult] = []
    deadline = time.monotonic() + 30
    while engine.in_flight and time.monotonic() < deadline:
        results += engine.poll(1.0)
    assert engine.in_flight == 0
    return results


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DirectoryObjects]:
    store = DirectoryObjects(tmp_path / "store", "one")
    store.claim()
    yield store
    store.close()


def test_everything_is_fetched_and_published_as_if_it_were_here(store: DirectoryObjects) -> None:
    with ScriptedServer(answer) as server, closing(TransferProcess(server_at(server.url), store)) as process:
        engine = process.engine()
        engine.submit(jobs(200))
        results = {result.job.number: result for result in drain(engine)}
        good = [result for result in results.values() if isinstance(result, Got)]
        outcomes = process.publish([result.staged for result in good])
    assert sorted(results) == list(range(200))
    for number, result in results.items():
        if number % 10 == 9:
            assert result == Failed(job=jobs(200)[number], reason="http_500", status=500)
        else:
            assert isinstance(result, Got)
            assert (result.iv, result.size) == (IV, len(body_of(number)))
    for result, outcome in zip(good, outcomes, strict=True):
        content = body_of(result.job.number)
        assert outcome == Published(sha256=hashlib.sha256(content).digest(), size=len(content))
        with store.open(outcome.sha256) as reader:
            assert reader.read() == content
    assert list(store.leftovers()) == []


def test_storage_errors_come_over_with_their_kind_and_words(tmp_path: Path, store: DirectoryObjects) -> None:
    with ScriptedServer(answer) as server:
        wanted = 1 << 60
        with closing(TransferProcess(server_at(server.url), store, keep_free=wanted)) as process:
            engine = process.engine()
            engine.submit(jobs(1))
            failed = drain(engine)[0]
        assert isinstance(failed, Failed)
        assert (failed.reason, failed.is_storage) == (StorageFullError.reason, True)
        assert str(wanted) in failed.detail
        with closing(TransferProcess(server_at(server.url), store)) as process:
            engine = process.engine()
            engine.submit(jobs(1))
            got = drain(engine)[0]
            assert isinstance(got, Got)
            # Somebody removes the temporary file: its rename fails.
            for leftover in store.leftovers():
                (tmp_path / "store" / leftover.path).unlink()
            outcome = process.publish([got.staged])[0]
    assert isinstance(outcome, PublishError)
    assert type(outcome.error) is StorageError
    assert "naming the object" in str(outcome.error)


def test_discarded_objects_leave_nothing(store: DirectoryObjects) -> None:
    with ScriptedServer(answer) as server, closing(TransferProcess(server_at(server.url), store)) as process:
        engine = process.engine()
        engine.submit(jobs(5))
        results = drain(engine)
        process.discard([result.staged for result in results if isinstance(result, Got)])
        assert process.publish([]) == []
        assert list(store.leftovers()) == []


def test_closed_engine_leaves_nothing_and_a_new_one_works(store: DirectoryObjects) -> None:
    reached = threading.Event()

    def script(asked: Asked) -> Iterator[Part]:
        if asked.path.endswith("id-0/content"):
            yield from answer(asked)
            return
        yield head(Content_Length=str(64 << 20)) + bytes(4 << 20)
        reached.set()
        yield Wait(60)

    with ScriptedServer(script) as server, closing(TransferProcess(server_at(server.url), store)) as process:
        engine = process.engine()
        engine.submit(jobs(30))
        assert reached.wait(20)
        begun = time.monotonic()
        engine.close()
        assert time.monotonic() - begun < 10
        assert engine.in_flight == 0
        assert process.publish([]) == []
        assert list(store.leftovers()) == []
        again = process.engine()
        again.submit(jobs(1))
        assert isinstance(drain(again)[0], Got)


def test_publishing_and_fetching_go_on_side_by_side(store: DirectoryObjects) -> None:
    published: list[Published | PublishError] = []
    with ScriptedServer(answer) as server, closing(TransferProcess(server_at(server.url), store)) as process:
        engine = process.engine()
        engine.submit(jobs(300))
        threads = []
        while engine.in_flight:
            batch = [result.staged for result in engine.poll(1.0) if isinstance(result, Got)]
            threads.append(threading.Thread(target=lambda b=batch: published.extend(process.publish(b))))
            threads[-1].start()
            threads[-1].join()
    assert len(published) == 270
    assert all(isinstance(outcome, Published) for outcome in published)


def test_killed_process_is_told_in_one_sentence(store: DirectoryObjects) -> None:
    with (
        ScriptedServer(lambda _: [Wait(60)]) as server,
        closing(TransferProcess(server_at(server.url), store)) as process,
    ):
        engine = process.engine()
        engine.submit(jobs(3))
        process.describe()
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(TransferLostError, match=r"killed by signal 9.*nothing acknowledged is lost"):
            engine.poll(20)
        with pytest.raises(TransferLostError):
            process.publish([])


def test_token_is_in_no_command_line_and_no_environment(store: DirectoryObjects) -> None:
    with closing(TransferProcess(server_at("http://127.0.0.1:9"), store)) as process:
        name, durable_by = process.describe()
        assert name in {"libcurl", "http.client"}
        assert "sync" in durable_by
        for file in ("cmdline", "environ"):
            assert b"secret-token" not in Path(f"/proc/{process.pid}/{file}").read_bytes()
    assert "secret-token" not in repr(vars(process))


PARENT = """
import os, sys, time
from pathlib import Path
from kropot.collect.transfer.apart import TransferProcess
from kropot.collect.transfer.engine import FetchJob, Server, content_path
from kropot.objects.directory import DirectoryObjects
store = DirectoryObjects(Path(sys.argv[1]), "one"); store.claim()
process = TransferProcess(Server(base_url=sys.argv[2], headers={"User-Agent": "x"}), store)
engine = process.engine(); engine.submit([FetchJob(number=n, path=content_path(str(n))) for n in range(20)])
process.describe(); print(process.pid, flush=True); engine.poll(60)
"""


def _is_running(pid: int) -> bool:
    """Whether the process exists and is no zombie that waits for somebody to ask for its end."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_name_of_a_killed_parent_is_taken_over_at_once_and_its_transfers_are_dead(tmp_path: Path) -> None:
    big = head(Content_Length=str(64 << 20)) + bytes(2 << 20)
    with ScriptedServer(lambda _: [big, Wait(60)]) as server:
        command = [sys.executable, "-c", PARENT, str(tmp_path / "store"), server.url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
            assert parent.stdout is not None
            child = int(parent.stdout.readline())
            second = DirectoryObjects(tmp_path / "store", "one")
            with pytest.raises(LockedError):
                second.claim()
            parent.send_signal(signal.SIGKILL)
            parent.wait()
            begun = time.monotonic()
            second.clean_own_leftovers()
            assert time.monotonic() - begun < 5
        # The name is free only when the process that shared it is gone: nobody writes behind the new holder's back.
        assert not _is_running(child)
        assert list(second.leftovers()) == []
        second.close()


def test_process_whose_parent_is_gone_before_it_is_ready_ends_without_a_word(store: DirectoryObjects) -> None:
    lent = store.lend()
    config = {"server": asdict(server_at("http://127.0.0.1:9")), "keep_free": 0, **asdict(lent)}
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-c", "from kropot.collect.transfer.child import main; main()"],
        input=msgpack.packb([CONFIG, config]),
        stdout=writing,
        stderr=subprocess.PIPE,
        pass_fds=[lent.lock],
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def test_process_ignores_the_signals_that_are_meant_for_its_parent(store: DirectoryObjects) -> None:
    with ScriptedServer(answer) as server, closing(TransferProcess(server_at(server.url), store)) as process:
        process.describe()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(process.pid, number)
        engine = process.engine()
        engine.submit(jobs(3))
        assert all(isinstance(result, Got) for result in drain(engine))


def test_working_folder_is_not_where_the_process_comes_from(
    tmp_path: Path, store: DirectoryObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("kropot", "msgpack", "pycurl"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported from the working folder')")
    monkeypatch.chdir(tmp_path)
    with closing(TransferProcess(server_at("http://127.0.0.1:9"), store)) as process:
        assert process.describe()


def test_one_processor_or_another_store_keeps_transfers_here(store: DirectoryObjects) -> None:
    server = server_at("http://127.0.0.1:9")
    assert isinstance(open_transfers(server, store, processors=1, told=print), TransfersHere)
    assert isinstance(open_transfers(server, MemoryObjects(), processors=8, told=print), TransfersHere)
    with closing(open_transfers(server, store, processors=2, told=print)) as transfers:
        assert isinstance(transfers, SurvivingTransfers)


def test_transfers_here_fetch_and_publish(store: DirectoryObjects) -> None:
    with ScriptedServer(answer) as server, closing(TransfersHere(server_at(server.url), store, 0)) as transfers:
        engine = transfers.engine()
        engine.submit(jobs(9))
        results = drain(engine)
        outcomes = transfers.publish([result.staged for result in results if isinstance(result, Got)])
    assert len(outcomes) == 9
    assert all(isinstance(outcome, Published) for outcome in outcomes)
