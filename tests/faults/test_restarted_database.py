"""A database server is stopped in mid-run, as by a power cut, and started again: nothing is lost or stands twice."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from kropot.errors import Exit
from ledger.errors import LedgerUnavailableError
from ledger.events import CopyStored
from ledger.log import Ledger
from ledger.sql import open_store
from tests.ledger.private_servers import PATIENCE_S, SERVERS, PrivateServer, private_server
from tests.ledger.world import began, observed
from tests.oldserver import OldServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ledger.stores import LedgerStore
    from tests.forked import ForkedProgram
    from tests.oldserver import Fault, Request

TOKEN = "a-token-that-nobody-else-may-see"
FILES = 300
STOPS = (("list", 2), ("content", 100))
"""What is asked of the source, and how often, when the database's server is stopped."""

WRITERS = 3
EVENTS = 200


@pytest.fixture(
    scope="module",
    params=[pytest.param(kind, marks=pytest.mark.xdist_group(f"a {kind} of its own")) for kind in SERVERS],
)
def server(request: pytest.FixtureRequest) -> Iterator[PrivateServer]:
    with private_server(request.param) as server:
        yield server


@pytest.fixture
def database(server: PrivateServer) -> PrivateServer:
    server.empty()
    return server


class Milestones:
    """Counts what several threads have done, and lets another wait for a number of it."""

    def __init__(self) -> None:
        self._count = 0
        self._changed = threading.Condition()

    def add(self) -> None:
        with self._changed:
            self._count += 1
            self._changed.notify_all()

    def wait_for(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self._count >= count, PATIENCE_S)


def write_patiently(store: LedgerStore, writer: str, done: Milestones, *, is_up: threading.Event) -> None:
    """Append one element after another, each as often as it takes."""
    ledger = Ledger(store, writer=writer)
    for number in range(EVENTS):
        name = f"{writer} {number}"
        while True:
            try:
                ledger.append([observed(name)], batch_key=name.encode())
                break
            except LedgerUnavailableError:
                assert is_up.wait(PATIENCE_S)
        done.add()


def test_writers_outlive_a_server_that_is_stopped_and_started_again(database: PrivateServer) -> None:
    done, is_up = Milestones(), threading.Event()
    stores = [open_store(database.url, create=True) for _ in range(WRITERS)]
    Ledger(stores[0]).append([began()])
    is_up.set()
    with ThreadPoolExecutor(WRITERS) as pool:
        running = [pool.submit(write_patiently, store, str(n), done, is_up=is_up) for n, store in enumerate(stores)]
        for turn in range(1, 4):
            done.wait_for(turn * WRITERS * EVENTS // 4)
            is_up.clear()
            database.stop_at_once()
            database.start()
            is_up.set()
        for one in running:
            one.result()
    records = list(Ledger(stores[0]).events(after=2))
    assert [record.position for record in records] == list(range(3, 3 + WRITERS * EVENTS))
    named = Counter(record.key.id for record in records if record.key)
    assert named == Counter(f"{n} {i}" for n in range(WRITERS) for i in range(EVENTS))
    for store in stores:
        store.close()


def test_a_collector_outlives_a_server_that_is_stopped_and_started_again(
    database: PrivateServer, kropotcli: Path, forked: ForkedProgram, tmp_path: Path
) -> None:
    files = {f"plain-name-{number:04}.bin": number.to_bytes(4, "big") * 50 for number in range(FILES)}
    asked, due, stopped, is_up = Counter[str](), deque(STOPS), threading.Semaphore(0), threading.Event()
    is_up.set()

    def stop_now_and_then(request: Request) -> Fault | None:
        asked[request.kind] += 1
        if is_up.is_set() and due and request.kind == due[0][0] and asked[request.kind] >= due[0][1]:
            due.popleft()
            is_up.clear()
            database.stop_at_once()
            stopped.release()
        return None

    with OldServer(files, token=TOKEN, plan=stop_now_and_then) as server, (tmp_path / "log").open("w") as log:
        env = {
            **os.environ,
            "KROPOT_TOKEN": TOKEN,
            "KROPOT_DB_STRING": database.url,
            "KROPOT_SERVER_URL": server.url,
        }
        process = subprocess.Popen([str(kropotcli), "collect", "--once"], cwd=tmp_path, env=env, stderr=log)
        try:
            for times in range(1, len(STOPS) + 1):
                assert stopped.acquire(timeout=PATIENCE_S), said(tmp_path)
                wait_until_missed(tmp_path, times)
                database.start()
                is_up.set()
            assert process.wait(PATIENCE_S) == Exit.DONE, said(tmp_path)
        finally:
            process.kill()
            process.wait()
    store = open_store(database.url, read_only=True)
    copied = Counter(record.key for record in Ledger(store).events() if isinstance(record.fact, CopyStored))
    assert len(copied) == FILES
    assert set(copied.values()) == {1}
    assert store.work.instances() == []
    store.close()
    checked = forked.run(("verify",), cwd=tmp_path, env=env, stdin=None, timeout=60)
    assert checked.returncode == Exit.DONE, checked.stdout + checked.stderr


def wait_until_missed(folder: Path, times: int) -> None:
    """Return once the collector has said so often that its database is away."""
    deadline = time.monotonic() + PATIENCE_S
    while said(folder).count("trying again") < times:
        assert time.monotonic() < deadline, said(folder)
        time.sleep(0.02)


def said(folder: Path) -> str:
    return (folder / "log").read_text()
