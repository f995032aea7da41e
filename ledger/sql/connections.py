"""The connections of one process: one that writes, kept open and used by one thread at a time, and some that read."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import SQLAlchemyError

from ledger.errors import LedgerUnavailableError, ReadOnlyLedgerError
from ledger.sql.dialects import LOCK_HEAD, reader_engine, sync, writer_engine
from ledger.sql.errors import translated

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sqlalchemy import Connection, Executable

    from ledger.sql.dialects import Place


class Connections:
    """Hands out short read pages and write transactions on one database."""

    def __init__(self, place: Place, *, read_only: bool) -> None:
        """Connect to nothing yet."""
        self.place = place
        self.readers = reader_engine(place)
        self.writers = writer_engine(place)
        self.kind = self.writers.dialect.name
        self._driver_errors: tuple[type[Exception], ...] = (SQLAlchemyError, self.writers.dialect.loaded_dbapi.Error)
        self._read_only = read_only
        self._lock = threading.RLock()
        self._writer: Connection | None = None
        self._has_hole = False

    def close(self) -> None:
        """Close all, the writer last: on SQLite it is the last one that folds the write-ahead log into the file."""
        self.readers.dispose()
        with self._lock:
            if self._has_hole:
                with suppress(*self._driver_errors, LedgerUnavailableError):
                    self._connect_writer()
            self._drop_writer()
            self.writers.dispose()

    def let_go(self) -> bool:
        """Close the connections that read, to be opened anew when needed; False if one that writes is open."""
        if self._writer is not None:
            return False
        self.readers.dispose()
        return True

    def rows(self, statement: Executable, values: Mapping[str, Any] | None = None) -> Sequence[Any]:
        """Return all rows of a statement that reads; tried once more on a new connection if the old one was lost."""
        for last_try in (False, True):
            try:
                with translated(self.readers.dialect), self.readers.connect() as connection:
                    return connection.execute(statement, values or {}).fetchall()
            except LedgerUnavailableError:
                if last_try:
                    raise
        raise AssertionError("unreachable")

    def raw_rows(self, statement: str, values: Sequence[Any]) -> Sequence[tuple[Any, ...]]:
        """Return all rows as the driver's own tuples: for scans of millions of rows, where wrappers cost time."""
        for last_try in (False, True):
            try:
                with translated(self.readers.dialect), self.readers.connect() as connection:
                    # Without this, PostgreSQL sends bytes as hexadecimal text.
                    how = {"binary": True} if self.kind == "postgresql" else {}
                    cursor = connection.connection.cursor(**how)
                    try:
                        cursor.execute(statement, values)
                        rows = cursor.fetchall()
                    except self.readers.dialect.loaded_dbapi.Error:
                        # This closes the connection, and with it the cursor.
                        connection.invalidate()
                        raise
                    cursor.close()
                    return rows
            except LedgerUnavailableError:
                if last_try:
                    raise
        raise AssertionError("unreachable")

    @contextmanager
    def transaction(self, *, fleeting: bool = False) -> Iterator[Connection]:
        """Begin a write transaction, commit it at the end; a connection that failed is never used again.

        A power cut may lose a `fleeting` transaction, so SQLite does not wait for the disk. Its log is in order, so the
        next transaction that is not fleeting makes this one durable too.

        Raises:
            ReadOnlyLedgerError: if the store was opened for reading.
        """
        if self._read_only:
            raise ReadOnlyLedgerError(f"the ledger at {self.place} was opened for reading only")
        with self._lock, translated(self.writers.dialect):
            connection = self._writer
            try:
                if connection is None:
                    connection = self._connect_writer()
                with self._hurried(connection, fleeting=fleeting), connection.begin():
                    yield connection
            except BaseException as error:
                # This also covers a connection that was interrupted in the middle of an answer.
                if isinstance(error, self._driver_errors) or not isinstance(error, Exception):
                    self._drop_writer()
                self._has_hole = self._has_hole or _is_io_error(error)
                raise

    @contextmanager
    def head_locked(self) -> Iterator[tuple[Connection, tuple[Any, ...]]]:
        """Begin a write transaction that no other passes; also give the columns of `LOCK_HEAD`."""
        with self.transaction() as connection:
            cursor = connection.connection.cursor()
            try:
                cursor.execute(LOCK_HEAD.get(self.kind, LOCK_HEAD["mysql"]))
                row = cursor.fetchone()
            finally:
                cursor.close()
            if row is None:
                raise LedgerUnavailableError("the ledger has lost its head row")
            yield connection, tuple(row)

    @contextmanager
    def _hurried(self, connection: Connection, *, fleeting: bool) -> Iterator[None]:
        if not fleeting or self.kind != "sqlite":
            yield
            return
        # Not through SQLAlchemy, which would begin the transaction, in which this cannot be changed.
        driver: Any = connection.connection.driver_connection
        driver.execute("PRAGMA synchronous = NORMAL")
        try:
            yield
        except BaseException:
            # It may be unusable; the next one is set up anew.
            self._drop_writer()
            raise
        driver.execute("PRAGMA synchronous = EXTRA")

    def _connect_writer(self) -> Connection:
        """Open the connection that writes, and fold SQLite's log if a sync of it has failed.

        After a failed sync the system believes that the data was written, and never tries again. The transaction that
        failed is written again, but a fleeting one before it is not. It leaves a hole in the log, and after a power
        cut nothing behind the hole would be found. Folding the log puts everything into the database file, whose sync
        can be trusted, and starts an empty log.

        Raises: LedgerUnavailableError, or the driver's error, while that cannot be done.
        """
        connection = self.writers.connect()
        if self._has_hole:
            try:
                self._fold_log(connection.connection.driver_connection)
            except BaseException:
                connection.close()
                raise
            self._has_hole = False
        self._writer = connection
        return connection

    def _fold_log(self, driver: Any) -> None:
        """Put SQLite's log into the database and empty it, durably. Raises: as `_connect_writer` does."""
        is_busy, *_ = driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if is_busy:
            raise LedgerUnavailableError("the database is busy, and its log is to be folded first")
        path = self.place.path
        if path is None:
            return
        try:
            sync(path.with_name(f"{path.name}-wal"))
        except OSError as error:
            raise LedgerUnavailableError(f"the database's log cannot be synced: {error.strerror}") from error

    def _drop_writer(self) -> None:
        connection, self._writer = self._writer, None
        if connection is not None:
            connection.invalidate()
            connection.close()


def _is_io_error(error: BaseException) -> bool:
    """Return whether SQLite says that the disk could not read, write or sync."""
    cause = getattr(error, "orig", error)
    return getattr(cause, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_IOERR
