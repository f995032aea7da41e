"""The connections of one process: one for writing, which stays open for one thread at a time, and some for reading."""

from __future__ import annotations

import sqlite3
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import SQLAlchemyError

from ledger.errors import DamagedRowError, LedgerUnavailableError, ReadOnlyLedgerError
from ledger.sql.dialects import LOCK_HEAD, reader_engine, sync, writer_engine
from ledger.sql.errors import translated
from ledger.sql.sessions import is_alive
from ledger.sql.unlocked import undisturbed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from sqlalchemy import Connection, Executable

    from ledger.sql.dialects import Place


class Connections:
    """Provides short reads and write transactions on one database."""

    def __init__(self, place: Place, *, read_only: bool) -> None:
        """Prepare the engines. Nothing is connected yet."""
        self.place = place
        self.readers = reader_engine(place)
        self.writers = writer_engine(place)
        self.kind = self.writers.dialect.name
        self._driver_errors: tuple[type[Exception], ...] = (SQLAlchemyError, self.writers.dialect.loaded_dbapi.Error)
        self._read_only = read_only
        self._lock = threading.RLock()
        self._writer: Connection | None = None
        self._writer_idle_since: float | None = None
        self._has_hole = False

    def close(self) -> None:
        """Close all connections, the writer last: on SQLite, the last one folds the write-ahead log into the file."""
        self.readers.dispose()
        with self._lock:
            if self._has_hole:
                with suppress(*self._driver_errors, LedgerUnavailableError):
                    self._connect_writer()
            self._drop_writer()
            self.writers.dispose()

    def let_go(self) -> bool:
        """Close the reading connections, which reopen when needed. Return False if the writing one is open."""
        if self._writer is not None:
            return False
        self.readers.dispose()
        return True

    def rows(self, statement: Executable, values: Mapping[str, Any] | None = None) -> Sequence[Any]:
        """Return all rows of a reading statement."""
        return self._read(lambda connection: connection.execute(statement, values or {}).fetchall())

    def raw_rows(self, statement: str, values: Sequence[Any]) -> Sequence[tuple[Any, ...]]:
        """Return all rows as the driver's own tuples, for scans of millions of rows, where wrappers cost time."""

        def work(connection: Connection) -> Sequence[tuple[Any, ...]]:
            # Without this, PostgreSQL sends bytes as hexadecimal text.
            how = {"binary": True} if self.kind == "postgresql" else {}
            cursor = connection.connection.cursor(**how)
            try:
                cursor.execute(statement, values)
                rows: Sequence[tuple[Any, ...]] = cursor.fetchall()
            except self.readers.dialect.loaded_dbapi.Error:
                # This closes the connection, and with it the cursor.
                connection.invalidate()
                raise
            cursor.close()
            return rows

        return self._read(work)

    def _read(self, work: Callable[[Connection], Sequence[Any]]) -> Sequence[Any]:
        """Do reading work on a connection. If the connection was lost, do it once more on a new one."""
        try:
            with self._reading() as connection:
                return work(connection)
        except LedgerUnavailableError:
            with self._reading() as connection:
                return work(connection)

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        """Yield a connection for one statement, whose answer counts only if the block succeeds."""
        with (
            translated(self.readers.dialect),
            self.readers.connect() as connection,
            undisturbed(connection, self.readers),
        ):
            yield connection

    @contextmanager
    def transaction(self, *, fleeting: bool = False) -> Iterator[Connection]:
        """Begin a write transaction, and commit it at the end. A connection that failed is never used again.

        A power cut can lose a `fleeting` transaction, because SQLite does not wait for the disk. SQLite's log is in
        order, so the next transaction that is not fleeting makes this one durable too.

        Raises:
            ReadOnlyLedgerError: if the store was opened for reading.
        """
        if self._read_only:
            raise ReadOnlyLedgerError(f"the ledger at {self.place} was opened only for reading")
        with self._lock, translated(self.writers.dialect):
            connection = self._living_writer()
            try:
                if connection is None:
                    connection = self._connect_writer()
                with self._hurried(connection, fleeting=fleeting), connection.begin():
                    yield connection
            except BaseException as error:
                # This also covers a connection that was interrupted during an answer.
                if isinstance(error, self._driver_errors) or not isinstance(error, Exception):
                    self._drop_writer()
                self._has_hole = self._has_hole or _is_io_error(error)
                raise
            finally:
                self._writer_idle_since = time.monotonic()

    @contextmanager
    def head_locked(self, *, fleeting: bool = False) -> Iterator[tuple[Connection, tuple[Any, ...]]]:
        """Begin a write transaction that excludes all others. Also yield the columns of `LOCK_HEAD`."""
        with self.transaction(fleeting=fleeting) as connection:
            cursor = connection.connection.cursor()
            try:
                cursor.execute(LOCK_HEAD.get(self.kind, LOCK_HEAD["mysql"]))
                row = cursor.fetchone()
            finally:
                cursor.close()
            if row is None:
                raise DamagedRowError("the table `head` is empty, so nothing can be read or recorded")
            yield connection, tuple(row)

    @contextmanager
    def _hurried(self, connection: Connection, *, fleeting: bool) -> Iterator[None]:
        if not fleeting or self.kind != "sqlite":
            yield
            return
        # Do not use SQLAlchemy here: it would begin the transaction, and the setting cannot change within one.
        driver: Any = connection.connection.driver_connection
        driver.execute("PRAGMA synchronous = NORMAL")
        try:
            yield
        except BaseException:
            # This connection might be unusable. The next one gets all its settings again.
            self._drop_writer()
            raise
        driver.execute("PRAGMA synchronous = EXTRA")

    def _connect_writer(self) -> Connection:
        """Open the writing connection. If a sync of SQLite's log has failed, fold the log first.

        After a failed sync, the system considers the data written and does not try again. The failed transaction is
        written again, but a fleeting one before it is not. This leaves a hole in the log. After a power cut, SQLite
        would find nothing after the hole. Folding the log puts everything into the database file, whose sync can be
        trusted, and starts an empty log.

        Raises:
            LedgerUnavailableError: while the log cannot be folded. The driver's own error can also be raised.
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

    def fold_log(self) -> bool:
        """Move SQLite's log into the database and empty it. Return False while another connection reads it."""
        connection = self.writers.connect()
        try:
            self._fold_log(connection.connection.driver_connection)
        except LedgerUnavailableError:
            return False
        finally:
            connection.close()
        return True

    def _fold_log(self, driver: Any) -> None:
        """Move SQLite's log into the database and empty it, durably. Raises: as `_connect_writer` does."""
        is_busy, *_ = driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if is_busy:
            raise LedgerUnavailableError(f"the database {self.place} is busy, so its write-ahead log cannot be merged")
        path = self.place.path
        if path is None:
            return
        try:
            sync(path.with_name(f"{path.name}-wal"))
        except OSError as error:
            raise LedgerUnavailableError(
                f"cannot sync the log of the ledger {path} ({error.strerror}): check the disk"
            ) from error

    def _living_writer(self) -> Connection | None:
        """Return the writing connection, or None if there is none or a server ended it while it was idle."""
        writer = self._writer
        if writer is None or self.kind == "sqlite":
            return writer
        if not is_alive(self.writers, writer.connection.driver_connection, self._writer_idle_since):
            self._drop_writer()
        return self._writer

    def _drop_writer(self) -> None:
        connection, self._writer = self._writer, None
        if connection is not None:
            connection.invalidate()
            connection.close()


def _is_io_error(error: BaseException) -> bool:
    """Return whether SQLite reports that the disk failed to read, write or sync."""
    cause = getattr(error, "orig", error)
    return getattr(cause, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_IOERR
