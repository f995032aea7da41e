"""Clocks that are wrong by years: the ledger does not believe them, and where one was believed, everything goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from kropot.query.facts import gather
from kropot.query.health import Limits, health
from ledger.audit import LogAudit
from ledger.clock import MOST_LEAP_US
from ledger.errors import ClockLeapError
from ledger.events import ListingCompleted
from ledger.log import Ledger, NewFact, source_key
from ledger.memory import MemoryStore
from ledger.sql import open_store
from tests.ledger.fresh import fresh_listing
from tests.ledger.world import SOURCE, began, observed, source

if TYPE_CHECKING:
    from pathlib import Path

    from ledger.stores import LedgerStore

NOW = 1_796_000_000_000_000
YEAR = 366 * 86_400_000_000
FAR = NOW + 13 * YEAR
LISTING = fresh_listing(seen=1, new=1)


def at(store: LedgerStore, clock_us: int) -> Ledger:
    return Ledger(store, writer="main", clock=lambda: clock_us)


def test_a_clock_that_leaps_by_years_is_not_believed_until_a_person_says_so(tmp_path: Path) -> None:
    for store in (MemoryStore(), open_store(f"sqlite:///{tmp_path / 'ledger.db'}", create=True)):
        at(store, NOW).append([began()])
        with pytest.raises(ClockLeapError, match=r"13\.0 years"):
            at(store, FAR).append([observed("a")])
        assert store.log.head().position == 2
        at(store, NOW + MOST_LEAP_US).append([observed("a")])  # long, and possible
        believing = at(store, FAR)
        believing.most_leap_us = None
        believing.append([observed("b")])
        assert at(store, FAR + 1).append([observed("c")]).recorded_us == FAR + 1
        store.close()


def test_a_clock_that_was_behind_by_decades_may_be_corrected() -> None:
    store = MemoryStore()
    at(store, 12 * 86_400_000_000).append([began()])  # a machine without a battery begins in 1970
    assert at(store, NOW).append([observed("a")]).recorded_us == NOW


def test_after_a_clock_was_years_ahead_the_ledger_goes_on_and_its_health_follows_the_corrected_clock() -> None:
    store = MemoryStore()
    at(store, FAR).append([replace(began(), observed_us=FAR)])
    now = at(store, NOW)
    completed = ListingCompleted(source=replace(source(SOURCE.hex()), listed_us=NOW), listing=LISTING)
    assert now.append([replace(observed("a"), observed_us=NOW)]).recorded_us == FAR
    now.append([NewFact(key=source_key(SOURCE), fact=completed, observed_us=NOW)])
    assert list(LogAudit(now.log).findings()) == []
    facts = gather(now)
    assert (facts.recorded_us, facts.observed_us) == (FAR, NOW)
    assert [alarm.name for alarm in health(NOW + 1, facts, Limits())] == []
    later = [alarm.name for alarm in health(NOW + 3 * 86_400_000_000, facts, Limits())]
    assert "listing_stale" in later
    assert "waiting" in later  # the element waits for its copy: no time in the future hides that
