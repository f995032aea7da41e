"""Writers in processes of their own, killed at any moment and started again: whole batches, once, in gapless order."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ledger.audit import IndexAudit, LogAudit
from ledger.log import Ledger
from ledger.sql import open_store
from tests.ledger.databases import SQL_KINDS, fresh_url
from tests.ledger.world import began

COUNT = 100
KILLS = 2


def run_until_done(url: str, writer: str, rng: random.Random) -> list[str]:
    """Run one writer, kill it `KILLS` times somewhere in its work, and return what it has acknowledged."""
    acknowledged: list[str] = []
    for kill in range(KILLS + 1):
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.ledger.appender", url, writer, str(COUNT)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        if kill < KILLS:
            time.sleep(rng.uniform(0.0, 0.25))
            process.kill()
        said = process.stdout.read().split("\n")
        acknowledged += [line for line in said[:-1] if line != "done"]
        # A kill may come when all is done; the last run is never killed.
        assert process.wait() in ({0, -signal.SIGKILL} if kill < KILLS else {0})
    return acknowledged


@pytest.mark.parametrize("kind", SQL_KINDS)
def test_killed_writers_leave_whole_batches_in_gapless_order(kind: str, tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    with fresh_url(kind, tmp_path) as url, ThreadPoolExecutor(2) as pool:
        store = open_store(url, create=True)
        Ledger(store).append([began()])
        running = [pool.submit(run_until_done, url, name, random.Random(f"{seed} {name}")) for name in ("a", "b")]
        acknowledged = [line for one in running for line in one.result()]
        records = list(Ledger(store).events(after=2))
        names = [record.key.id for record in records if record.key is not None]
        assert [record.position for record in records] == list(range(3, 3 + 2 * COUNT))
        assert sorted(names) == sorted(f"{name} {n}" for name in ("a", "b") for n in range(COUNT))
        assert set(acknowledged) <= set(names)
        for at in range(0, len(names), 5):
            assert len({name.partition(" ")[0] for name in names[at : at + 5]}) == 1
        log = LogAudit(store.log)
        assert list(log.findings()) == []
        assert list(IndexAudit(store, log).findings()) == []
        store.close()
