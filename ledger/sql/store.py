"""A ledger's database on SQLite, PostgreSQL, MySQL or MariaDB."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from ledger.sql.blobs import SqlBlobs
from ledger.sql.connections import Connections
from ledger.sql.dialects import NOW
from ledger.sql.log import SqlLog
from ledger.sql.places import SqlPlaces
from ledger.sql.projection import SqlProjection
from ledger.sql.statements import Statements
from ledger.sql.work import SqlWorkQueue
from ledger.sql.writing import SqlWriting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ledger.sql.dialects import Place

_MOST_DAMAGES = 100
"""SQLite stops checking after this many."""


class SqlStore:
    """A LedgerStore in a SQL database: one object per process, any number of threads."""

    def __init__(self, place: Place, *, read_only: bool = False, is_guarded: bool = True) -> None:
        """Use a database that `open_store` has checked. Nothing is connected yet.

        `is_guarded` is False if the ledger was just created and the server refused its triggers.
        """
        self.place = place
        self.is_guarded = is_guarded
        self._connections = Connections(place, read_only=read_only)
        self._statements = Statements(self._connections.writers)
        self.log = SqlLog(self._connections, self._statements)
        self.projection = SqlProjection(self._connections, self._statements)
        self.work = SqlWorkQueue(self._connections, self._statements)
        self.blobs = SqlBlobs(self._connections)
        self.places = SqlPlaces(self._connections, self._statements)

    @contextmanager
    def writing(self) -> Iterator[SqlWriting]:
        """Lock the head and begin a transaction. Commit when the block ends; undo everything if it raises."""
        with self._connections.head_locked() as (connection, locked):
            yield SqlWriting(connection, self._statements, locked)

    def now_us(self) -> int | None:
        """Return the database server's time, or None on SQLite, which has no clock of its own."""
        kind = self._connections.kind
        if kind == "sqlite":
            return None
        return int(self._connections.raw_rows(NOW.get(kind, NOW["mysql"]), ())[0][0])

    def damage(self) -> Iterator[str]:
        """Yield what SQLite's integrity check finds, which compares every index with its table.

        PostgreSQL, MySQL and MariaDB have no check that a plain user may run.
        """
        if self._connections.kind == "sqlite":
            for (found,) in self._connections.raw_rows(f"PRAGMA integrity_check({_MOST_DAMAGES})", ()):
                if found != "ok":
                    yield " ".join(str(found).split())

    def fold_log(self) -> bool:
        """Move SQLite's log into its file and empty it. A server's log is left to its owner."""
        return self._connections.kind != "sqlite" or self._connections.fold_log()

    def free_bytes(self) -> int | None:
        """Return the free space on the file system of SQLite's file, or None for a server, which does not say."""
        try:
            return None if self.place.path is None else shutil.disk_usage(self.place.path).free
        except OSError:
            return None

    def free_files(self) -> int | None:
        """Return the free inodes where SQLite's file is, or None for a server or if there is no fixed number."""
        try:
            room = None if self.place.path is None else os.statvfs(self.place.path)
        except OSError:
            return None
        return None if room is None or not room.f_files else room.f_favail

    def reopener(self) -> Callable[[], SqlStore] | None:
        """Return a function that opens this store for reading in a forked process, or None if this one has written."""
        if not self._connections.let_go():
            return None
        return partial(SqlStore, self.place, read_only=True)

    def close(self) -> None:
        """Close every connection."""
        self._connections.close()
