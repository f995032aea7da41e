"""Several collectors on one ledger and one storage, killed and stopped at random, against a failing server.

On one machine: every kind of database, and a folder. As on several: PostgreSQL and a bucket, each behind a proxy that
a test closes. KROPOT_TEST_FAULTS=all has eight collectors, a database that is silent for half a minute and a bucket
that is away for a whole one, and one collector more on each server of databases.
"""

from __future__ import annotations

import os
import random
import re
import signal
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import make_url

from kropot.errors import Exit
from tests.faults.crowd import SEED, Crowd, current, demand_everything_once
from tests.faults.proxy import proxied
from tests.ledger.databases import fresh_url
from tests.oldserver import OldServer, Status, seeded, slow_start
from tests.remote_stores import BucketServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.faults.proxy import Proxy
    from tests.forked import ForkedProgram
    from tests.remote_stores import Servers

TOKEN = "a-token-that-nobody-else-may-see"
EVERYTHING = os.environ.get("KROPOT_TEST_FAULTS") == "all"
FILES = 600 if EVERYTHING else 250
PATIENCE_S = 120
MANY = 4 if EVERYTHING else 3
COLLECTORS = {"sqlite": 2, "postgresql": MANY, "mariadb": MANY}
FAULTS = [Status(500), Status(503), *(slow_start(seconds) for seconds in (0.5, 0.5, 1, 1, 2, 2))]
"""It takes its time, so that whoever is stopped has something in its hands."""


@pytest.fixture(params=sorted(COLLECTORS))
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with fresh_url(request.param, tmp_path) as url:
        yield url


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
    demand_everything_once(url, FILES)
    checked = forked.run(("verify",), cwd=tmp_path, env=env, stdin=None, timeout=60)
    assert checked.returncode == Exit.DONE, checked.stdout + checked.stderr


# --- as on several machines ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Trial:
    """How much of it: files, collectors, kills and the like in each phase, and seconds that each of the two is away."""

    files: int
    collectors: int
    upsets: int
    silence_s: float
    away_s: float
    patience_s: float


TRIAL = (
    Trial(files=3_000, collectors=8, upsets=8, silence_s=30, away_s=60, patience_s=600)
    if EVERYTHING
    else Trial(files=800, collectors=3, upsets=2, silence_s=1, away_s=3, patience_s=120)
)


@contextmanager
def postgresql_behind_a_proxy(folder: Path) -> Iterator[tuple[str, str, Proxy]]:
    """Give the address of an empty ledger as it is, the same through a proxy, and the proxy."""
    with fresh_url("postgresql", folder) as url:
        address = make_url(url)
        with proxied(address.port or 5432) as proxy:
            host, _, port = proxy.address.partition(":")
            through = address.set(host=host, port=int(port))
            yield url, through.render_as_string(hide_password=False), proxy


@pytest.mark.xdist_group("stores")
def test_collectors_on_several_machines_outlive_their_database_and_their_bucket(
    store_servers: Servers, kropotcli: Path, forked: ForkedProgram, tmp_path: Path
) -> None:
    print(f"seed {SEED}")
    dice = random.Random(SEED)
    bucket = store_servers.get("seaweedfs")
    assert isinstance(bucket, BucketServer)
    files = {f"plain-name-{number:05}.bin": dice.randbytes(dice.randrange(4000)) for number in range(TRIAL.files)}
    place = {"KROPOT_STORAGE_PATH": bucket.address(f"crowd/{dice.randbytes(6).hex()}")}
    env = {**os.environ, **bucket.env(), **place, "KROPOT_TOKEN": TOKEN}
    with (
        postgresql_behind_a_proxy(tmp_path) as (url, url_through_proxy, database),
        proxied(bucket.port) as store,
        OldServer(files, token=TOKEN, plan=seeded(SEED, 0.3, FAULTS[2:])) as server,
    ):
        through = {"KROPOT_DB_STRING": url_through_proxy, "AWS_ENDPOINT_URL": store.endpoint}
        asked = {**env, **through, "KROPOT_SERVER_URL": server.url}
        crowd = Crowd(kropotcli, tmp_path, asked, url, TRIAL.collectors, dice, has_machines=True)
        try:
            crowd.start_all()
            wait_for(crowd, 1, TRIAL)
            some_upsets(crowd, TRIAL)
            database.is_silent = True
            some_upsets(crowd, TRIAL)
            time.sleep(TRIAL.silence_s)
            database.is_silent = False
            some_upsets(crowd, TRIAL)
            crowd.wake_all()
            crowd.revive()
            wait_for_work(crowd)
            store.is_away = True
            before = current(url)
            time.sleep(TRIAL.away_s)
            meanwhile = crowd.ended()
            store.is_away = False
            print(f"{dict(crowd.deeds)}; copied before the bucket was away: {before}, after: {current(url)}")
            assert meanwhile == {}, [crowd.log(name) for name in meanwhile]
            some_upsets(crowd, TRIAL)
            crowd.wake_all()
            crowd.revive()
            server.plan = None
            wait_for(crowd, TRIAL.files, TRIAL)
            codes = crowd.end()
            crowd.clear_up(url)
        finally:
            crowd.kill()
        assert set(codes.values()) <= {Exit.DONE, -signal.SIGTERM}, [crowd.log(name) for name in crowd.running]
        demand_everything_once(url, TRIAL.files)
        env["KROPOT_DB_STRING"] = url
        checked = forked.run(("verify",), cwd=tmp_path, env=env, stdin=None, timeout=TRIAL.patience_s)
        assert checked.returncode == Exit.DONE, checked.stdout + checked.stderr
        # Those that were killed may have left objects that no event names.
        read = re.search(r"([\d,]+) objects \(", checked.stdout)
        assert read is not None
        assert int(read[1].replace(",", "")) >= TRIAL.files


def wait_for_work(crowd: Crowd) -> None:
    """Return once all that were started again are past their start, which needs database and bucket."""
    deadline = time.monotonic() + TRIAL.patience_s
    while len(crowd.enrolled()) < crowd.count:
        assert time.monotonic() < deadline, [*map(crowd.log, crowd.running)]
        time.sleep(0.2)


def some_upsets(crowd: Crowd, trial: Trial) -> None:
    for _ in range(trial.upsets):
        time.sleep(crowd.dice.uniform(0.05, 0.6))
        crowd.upset()


def wait_for(crowd: Crowd, count: int, trial: Trial) -> None:
    """Return once so many elements have a copy."""
    deadline = time.monotonic() + trial.patience_s
    while crowd.current() < count:
        assert time.monotonic() < deadline, (crowd.current(), crowd.deeds, *map(crowd.log, crowd.running))
        time.sleep(0.2)
