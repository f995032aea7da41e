"""Several collectors on one ledger and one storage path, killed and stopped at random, against a failing server."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import create_engine, func, select, update
from sqlalchemy.exc import DBAPIError

from kropot.errors import Exit
from ledger.events import CopyStored
from ledger.log import Ledger
from ledger.sql import open_store, parse_place
from ledger.sql.dialects import reader_engine
from ledger.sql.schema import metadata
from tests.ledger.databases import fresh_url
from tests.oldserver import OldServer, Status, seeded, slow_start

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.forked import ForkedProgram

TOKEN = "a-token-that-nobody-else-may-see"
SEED = int(os.environ.get("KROPOT_TEST_SEED", "0")) or random.SystemRandom().randrange(1 << 32)
FILES = 600
PATIENCE_S = 120
COLLECTORS = {"sqlite": 2, "postgresql": 4, "mariadb": 4}
FAULTS = [Status(500), Status(503), *(slow_start(seconds) for seconds in (0.5, 0.5, 1, 1, 2, 2))]
"""It takes its time, so that whoever is stopped has something in its hands."""

LEASE_US = 300_000_000
BRIEF = {
    "sqlite": "SELECT 1",  # it is told when it connects
    "postgresql": "SET lock_timeout = 300",
    "mysql": "SET innodb_lock_wait_timeout = 1",
    "mariadb": "SET innodb_lock_wait_timeout = 1",
}
"""How not to wait for what a stopped collector has locked."""


@dataclass
class Crowd:
    """Collectors at work; `upset` kills, stops or wakes one, or lets the time of one that is stopped run out."""

    program: Path
    folder: Path
    env: dict[str, str]
    url: str
    count: int
    dice: random.Random
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    started_us: dict[str, int] = field(default_factory=dict)
    asleep: set[str] = field(default_factory=set)
    deeds: Counter[str] = field(default_factory=Counter)

    def start(self, name: str, *options: str) -> None:
        self.started_us[name] = time.time_ns() // 1000
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                [str(self.program), "--instance-name", name, "--refresh-time", "1", "collect", *options],
                cwd=self.folder,
                env=self.env,
                stdout=log,
                stderr=log,
            )

    def start_all(self) -> None:
        for number in range(self.count):
            self.start(f"c{number}")

    def upset(self) -> None:
        name = self.dice.choice(sorted(self.running))
        process = self.running[name]
        assert process.poll() is None, self.log(name)
        deed = self.dice.choice(("wake", "outlast") if name in self.asleep else ("kill", "stop", "stop"))
        self.deeds[deed] += 1
        if deed == "kill":
            process.kill()
            process.wait()
            self.start(name)
        elif deed == "stop":
            process.send_signal(signal.SIGSTOP)
            self.asleep.add(name)
        elif deed == "outlast":
            self.deeds["outlasted"] += outlast(self.url, name)
        else:
            process.send_signal(signal.SIGCONT)
            self.asleep.discard(name)

    def wake_all(self) -> None:
        for name in self.asleep:
            self.running[name].send_signal(signal.SIGCONT)
        self.asleep.clear()

    def end(self) -> dict[str, int]:
        self.wake_all()
        for process in self.running.values():
            process.terminate()
        return {name: process.wait(30) for name, process in self.running.items()}

    def clear_up(self, url: str) -> None:
        """Let the next of its name clear away what a killed one left, where one was ended before it could do so."""
        store = open_store(url, read_only=True)
        left = store.work.instances()
        store.close()
        for row in left:
            assert row.started_us < self.started_us[row.name], f"it ended, and left its name: {self.log(row.name)}"
            self.start(row.name, "--once")
            assert self.running[row.name].wait(60) == Exit.DONE, self.log(row.name)

    def log(self, name: str) -> str:
        return f"seed {SEED}, {name}:\n{(self.folder / f'{name}.log').read_text()[-3000:]}"

    def kill(self) -> None:
        for process in self.running.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait()


@pytest.fixture(params=sorted(COLLECTORS))
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with fresh_url(request.param, tmp_path) as url:
        yield url


def current(url: str) -> int:
    store = open_store(url, read_only=True)
    try:
        return sum(tally.elements for tally in Ledger(store).tallies() if tally.state == "current")
    finally:
        store.close()


def outlast(url: str, name: str) -> int:
    """Let the leases and claims of an instance run out, as if it had been stopped for five minutes.

    Return how many leases that were; none where it was stopped in the middle of a transaction.
    """
    instance, lease, claim = (metadata.tables[table] for table in ("instance", "lease", "claim"))
    place = parse_place(url)
    engine = create_engine(place.url, connect_args={"timeout": 0.3} if place.kind == "sqlite" else {})
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql(BRIEF[engine.dialect.name])
            session = connection.execute(select(instance.c.session).where(instance.c.name == name)).scalar()
            count = 0
            for table in (instance, claim, lease):
                ended = update(table).where(table.c.session == session)
                count = connection.execute(ended.values(expires_us=table.c.expires_us - LEASE_US)).rowcount
            connection.commit()
            return count
    except DBAPIError:
        return 0
    finally:
        engine.dispose()


def left_over(url: str) -> dict[str, int]:
    """Return how many leases and claims are still there, whoever they belonged to."""
    engine = reader_engine(parse_place(url))
    try:
        with engine.connect() as connection:
            return {
                name: connection.execute(select(func.count()).select_from(metadata.tables[name])).scalar_one()
                for name in ("lease", "claim")
            }
    finally:
        engine.dispose()


def test_collectors_that_are_killed_and_stopped_copy_everything_once(
    url: str, kropotcli: Path, forked: ForkedProgram, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    print(f"seed {SEED}")
    dice = random.Random(SEED)
    kind = request.node.callspec.params["url"]
    files = {f"plain-name-{number:04}.bin": dice.randbytes(dice.randrange(4000)) for number in range(FILES)}
    env = {**os.environ, "KROPOT_TOKEN": TOKEN, "KROPOT_DB_STRING": url}
    with OldServer(files, token=TOKEN, plan=seeded(SEED, 0.3, FAULTS)) as server:
        crowd = Crowd(kropotcli, tmp_path, {**env, "KROPOT_SERVER_URL": server.url}, url, COLLECTORS[kind], dice)
        try:
            crowd.start_all()
            deadline = time.monotonic() + PATIENCE_S
            while not (tmp_path / "storage" / "objects").exists():
                assert time.monotonic() < deadline, crowd.log("c0")
                time.sleep(0.05)
            for _ in range(4 * crowd.count):
                time.sleep(dice.uniform(0.05, 0.6))
                crowd.upset()
            print(dict(crowd.deeds), f"{current(url)} of {FILES} copied meanwhile")
            crowd.wake_all()
            server.plan = None
            while current(url) < FILES:
                assert time.monotonic() < deadline, (current(url), crowd.deeds, *map(crowd.log, crowd.running))
                time.sleep(0.2)
            codes = crowd.end()
            crowd.clear_up(url)
        finally:
            crowd.kill()
    # One that was started a moment ago may not have come to where it minds signals.
    assert set(codes.values()) <= {Exit.DONE, -signal.SIGTERM}, [crowd.log(name) for name in crowd.running]
    store = open_store(url, read_only=True)
    try:
        ledger = Ledger(store)
        copied = Counter(
            (record.key, record.fact.element.revision)
            for record in ledger.events()
            if isinstance(record.fact, CopyStored)
        )
        assert len(ledger.sources()) == 1
        assert len(copied) == FILES
        assert set(copied.values()) == {1}
        assert store.work.instances() == []
    finally:
        store.close()
    assert left_over(url) == {"lease": 0, "claim": 0}
    checked = forked.run(("verify",), cwd=tmp_path, env=env, stdin=None, timeout=60)
    assert checked.returncode == Exit.DONE, checked.stdout + checked.stderr
