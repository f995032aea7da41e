"""On SQLite a lease does not wait for the disk, and whatever is appended after it does again."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from ledger.errors import LedgerError
from ledger.log import Ledger
from ledger.sql import open_store
from tests.ledger.world import began, copied, observed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ledger.sql.store import SqlStore

NORMAL, FULL = 1, 2
HOUR = 3_600_000_000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    with closing(open_store(f"sqlite:///{tmp_path / 'ledger.db'}", create=True)) as store:
        yield store


def waits(store: SqlStore, *, fleeting: bool = False) -> int:
    """Return how a transaction of this kind waits for the disk."""
    with store._connections.transaction(fleeting=fleeting) as connection:
        return int(connection.exec_driver_sql("PRAGMA synchronous").scalar_one())


def test_a_lease_does_not_wait_for_the_disk_and_the_next_append_does(store: SqlStore) -> None:
    ledger = Ledger(store)
    ledger.append([began(), observed(1), observed(2)])
    assert waits(store) == FULL
    assert waits(store, fleeting=True) == NORMAL
    assert waits(store) == FULL
    assert len(ledger.take(instance="one", lease_us=HOUR)) == 2
    assert waits(store) == FULL
    ledger.append([copied(1)], release="one")
    ledger.release("one")
    assert waits(store) == FULL


def test_a_lease_that_fails_leaves_nothing_behind_that_does_not_wait(store: SqlStore) -> None:
    ledger = Ledger(store)
    ledger.append([began(), observed(1)])
    with closing(sqlite3.connect(str(store._connections.place.path))) as other:
        other.execute("ALTER TABLE lease RENAME TO gone")
        with pytest.raises((LedgerError, sqlite3.Error)):
            ledger.take(instance="one", lease_us=HOUR)
        other.execute("ALTER TABLE gone RENAME TO lease")
    assert waits(store) == FULL
    assert len(ledger.take(instance="one", lease_us=HOUR)) == 1
