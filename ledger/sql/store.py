"""A ledger's database on SQLite, PostgreSQL, MySQL or MariaDB."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from ledger.sql.blobs import SqlBlobs
from ledger.sql.connections import Connections
from ledger.sql.dialects import NOW
from ledger.sql.log import SqlLog
from ledger.sql.projection import SqlProjection
from ledger.sql.statements import Statements
from ledger.sql.work import SqlWorkQueue
from ledger.sql.writing import SqlWriting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ledger.sql.dialects import Place


class SqlStore:
    """A LedgerStore in a SQL database; one object for each process, any number of threads."""

    def __init__(self, place: Place, *, read_only: bool = False) -> None:
        """Use a database that `open_store` has checked; nothing is connected yet."""
        self.place = place
        self._connections = Connections(place, read_only=read_only)
        self._statements = Statements(self._connections.writers)
        self.log = SqlLog(self._connections, self._statements)
        self.projection = SqlProjection(self._connections, self._statements)
        self.work = SqlWorkQueue(self._connections, self._statements)
        self.blobs = SqlBlobs(self._connections)

    @contextmanager
    def writing(self) -> Iterator[SqlWriting]:
        """Lock the head and begin; commit when the block ends, undo everything when it raises."""
        with self._connections.head_locked() as (connection, locked):
            yield SqlWriting(connection, self._statements, locked)

    def now_us(self) -> int | None:
        """Return the database server's time; None on SQLite, which has none of its own."""
        kind = self._connections.kind
        if kind == "sqlite":
            return None
        return int(self._connections.raw_rows(NOW.get(kind, NOW["mysql"]), ())[0][0])

    def free_bytes(self) -> int | None:
        """Return the room on the file system of SQLite's file; None for a server, which does not say."""
        try:
            return None if self.place.path is None else shutil.disk_usage(self.place.path).free
        except OSError:
            return None

    def reopener(self) -> Callable[[], SqlStore] | None:
        """Return what opens this store for reading in a process about to be forked, None once this one has written."""
        if not self._connections.let_go():
            return None
        return partial(SqlStore, self.place, read_only=True)

    def close(self) -> None:
        """Close every connection."""
        self._connections.close()
