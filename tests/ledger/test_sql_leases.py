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

NORMAL, FULL = 1, 3
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
    assert len(ledger.work.take(instance="one", lease_us=HOUR)) == 2
    assert waits(store) == FULL
    ledger.append([copied(1)], release="one")
    ledger.work.release("one")
    assert waits(store) == FULL


def test_behind_a_sync_that_failed_nothing_is_written_before_the_log_was_folded(store: SqlStore) -> None:
    """A lease before it may be lost on the disk by then, and what follows it in the log would be lost with it."""
    ledger = Ledger(store)
    ledger.append([began(), observed(1), observed(2)])
    assert len(ledger.work.take(instance="one", lease_us=HOUR)) == 2
    path = store._connections.place.path
    assert path is not None
    log = path.with_name(f"{path.name}-wal")
    before = log.read_bytes()
    failure = sqlite3.OperationalError("disk I/O error")
    failure.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
    with pytest.raises(LedgerError, match="disk I/O"), store._connections.transaction():
        raise failure
    assert log.read_bytes() == before
    ledger.append([observed(3)])
    salts = slice(16, 24)
    assert log.read_bytes()[salts] != before[salts], "the log goes on where it was"
    assert ledger.head().position == 5


def test_a_ledger_that_is_closed_after_a_sync_that_failed_is_folded(store: SqlStore) -> None:
    ledger = Ledger(store)
    ledger.append([began(), observed(1)])
    failure = sqlite3.OperationalError("disk I/O error")
    failure.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
    path = store._connections.place.path
    assert path is not None
    # Another one that has it open: this one's end alone would not fold the log.
    with closing(sqlite3.connect(path)) as other:
        other.execute("SELECT count(*) FROM event").fetchone()
        with pytest.raises(LedgerError, match="disk I/O"), store._connections.transaction():
            raise failure
        store.close()
        assert path.with_name(f"{path.name}-wal").stat().st_size == 0


def test_a_lease_that_fails_leaves_nothing_behind_that_does_not_wait(store: SqlStore) -> None:
    ledger = Ledger(store)
    ledger.append([began(), observed(1)])
    with closing(sqlite3.connect(str(store._connections.place.path))) as other:
        other.execute("ALTER TABLE lease RENAME TO gone")
        with pytest.raises((LedgerError, sqlite3.Error)):
            ledger.work.take(instance="one", lease_us=HOUR)
        other.execute("ALTER TABLE gone RENAME TO lease")
    assert waits(store) == FULL
    assert len(ledger.work.take(instance="one", lease_us=HOUR)) == 1
