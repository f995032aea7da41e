"""Collectors at work on one ledger and one storage, which a test kills, stops and wakes; and what they leave behind."""

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

from sqlalchemy import create_engine, func, select, update
from sqlalchemy.exc import DBAPIError

from kropot.errors import Exit
from ledger.errors import LedgerMissingError
from ledger.events import CopyStored, RemoteCopied
from ledger.log import Ledger
from ledger.sql import open_store, parse_place
from ledger.sql.dialects import reader_engine
from ledger.sql.schema import metadata

if TYPE_CHECKING:
    from pathlib import Path

SEED = int(os.environ.get("KROPOT_TEST_SEED", "0")) or random.SystemRandom().randrange(1 << 32)
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
    """Collectors at work; `upset` kills, stops or wakes one, or lets the time of one that is stopped run out.

    With `has_machines` each has a folder and a state of its own, as on a machine of its own.
    """

    program: Path
    folder: Path
    env: dict[str, str]
    url: str
    count: int
    dice: random.Random
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    started_us: dict[str, int] = field(default_factory=dict)
    has_machines: bool = False
    asleep: set[str] = field(default_factory=set)
    deeds: Counter[str] = field(default_factory=Counter)

    def start(self, name: str, *options: str) -> None:
        self.started_us[name] = time.time_ns() // 1000
        env, folder = self.env, self.folder
        if self.has_machines:
            folder = self.folder / name
            folder.mkdir(exist_ok=True)
            env = {**env, "XDG_STATE_HOME": str(folder)}
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                [str(self.program), "--instance-name", name, "--refresh-time", "1", "collect", *options],
                cwd=folder,
                env=env,
                stdout=log,
                stderr=log,
            )

    def start_all(self) -> None:
        for number in range(self.count):
            self.start(f"c{number}")

    def upset(self) -> None:
        name = self.dice.choice(sorted(self.running))
        if self.has_machines:
            self.revive()
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

    def revive(self) -> None:
        """Start again who was started while database or bucket was away, and ended: as a service manager does."""
        for name, code in self.ended().items():
            said = self.log(name)
            assert code == Exit.ERROR, said
            assert "cannot reach the ledger" in said or "cannot be reached" in said, said
            self.deeds["revived"] += 1
            self.start(name)

    def ended(self) -> dict[str, int]:
        """Return the exit codes of those that ended by themselves."""
        return {name: code for name, process in self.running.items() if (code := process.poll()) is not None}

    def enrolled(self) -> set[str]:
        """Return the names under which those of now are in the ledger."""
        store = open_store(self.url, read_only=True)
        try:
            return {row.name for row in store.work.instances() if row.started_us >= self.started_us[row.name]}
        finally:
            store.close()

    def current(self) -> int:
        """Return how many elements have a copy; 0 while there is no ledger."""
        try:
            return current(self.url)
        except LedgerMissingError:
            return 0

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


def demand_everything_once(url: str, count: int) -> None:
    """Demand that so many elements have a copy each, and one, of one source; and that nobody left anything behind."""
    store = open_store(url, read_only=True)
    try:
        ledger = Ledger(store)
        copied = Counter(
            (record.key, record.fact.element.revision)
            for record in ledger.events()
            if isinstance(record.fact, (CopyStored, RemoteCopied))
        )
        assert len(ledger.sources()) == 1
        assert len(copied) == count
        assert set(copied.values()) == {1}
        assert store.work.instances() == []
    finally:
        store.close()
    assert left_over(url) == {"lease": 0, "claim": 0}
