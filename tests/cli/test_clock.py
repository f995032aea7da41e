"""What the commands say about a clock that is, or once was, years ahead."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ledger.log import Ledger
from ledger.sql import open_store
from tests.ledger.world import began

if TYPE_CHECKING:
    from tests.conftest import RunCli

YEAR_US = 366 * 86_400_000_000


def made(url: str, clock_us: int) -> None:
    store = open_store(url, create=True)
    Ledger(store, clock=lambda: clock_us).append([began()])
    store.close()


def test_a_ledger_whose_last_event_is_years_ago_is_written_once_the_clock_was_accepted(
    run_cli: RunCli, ledger_url: str, free_port: int
) -> None:
    made(ledger_url, time.time_ns() // 1000 - 5 * YEAR_US)
    collect = ["--token", "a-token-of-a-test", "--server-url", f"http://127.0.0.1:{free_port}", "collect", "--once"]
    refused = run_cli("--db-string", ledger_url, *collect)
    assert refused.returncode == 1
    assert "years after the ledger's last event" in refused.stderr
    assert "kropotcli db accept-clock" in refused.stderr
    accepted = run_cli("--db-string", ledger_url, "db", "accept-clock")
    assert accepted.returncode == 0
    assert accepted.stdout.startswith("accepted: the ledger's time goes on from 20")
    assert "nothing to do" in run_cli("--db-string", ledger_url, "db", "accept-clock").stdout
    again = run_cli("--db-string", ledger_url, *collect)
    assert "last event" not in again.stderr


def test_time_that_stands_still_is_told(run_cli: RunCli, ledger_url: str) -> None:
    told = "warning: the ledger's time has stopped at "
    made(ledger_url, time.time_ns() // 1000 + 13 * YEAR_US)
    assert told in run_cli("--db-string", ledger_url, "status").stderr
