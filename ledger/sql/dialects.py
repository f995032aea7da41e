"""The differences between the databases: places, engines, bulk statements, locks and clocks."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from sqlalchemy import create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError
from sqlalchemy.pool import NullPool, QueuePool

from ledger.errors import BadPlaceError, LedgerError
from ledger.sql.sessions import driver_arguments, prepare_sessions
from ledger.sql.unlocked import SqliteConnection, Unlocked, needs_no_locks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import URL, Engine, Table

BUSY_SECONDS = 30
"""How long SQLite waits for another process's write before it fails, in seconds."""

WRITER_KIB = 16 << 10
READER_KIB = 8 << 10
"""How many KiB of the file an SQLite connection caches: the pages that a batch changes, and inner index pages.

Index leaves are read in random order. A cache for all of them would grow with the ledger, and the system has one.
"""

PAGE_BYTES = 4096
WAL_PAGES = 16 << 10
"""How large SQLite's write-ahead log grows before its pages move into the file: 64 MiB.

Keys and hashes come in random order, so a batch changes one page for almost each of them. A longer log moves more
changes of a page together.
"""

_DRIVERS = {
    "sqlite": ("sqlite", "sqlite3", ""),
    "postgresql": ("postgresql+psycopg", "psycopg", "postgresql"),
    "mysql": ("mysql+pymysql", "pymysql", "mysql"),
    "mariadb": ("mariadb+pymysql", "pymysql", "mysql"),
}


class Place(Struct, frozen=True, kw_only=True):
    """A database and its URL. `path` is the absolute file on SQLite, else None. Its text never shows the password."""

    url: URL
    path: Path | None

    def __str__(self) -> str:
        """Return the absolute path, or the URL without password and options."""
        if self.path is not None:
            return str(self.path)
        return self.url.set(query={}, drivername=self.kind).render_as_string(hide_password=True)

    __repr__ = __str__

    @property
    def kind(self) -> str:
        """One of "sqlite", "postgresql", "mysql", "mariadb"."""
        return self.url.get_backend_name()


def parse_place(url: str) -> Place:
    """Return the place that a SQLAlchemy URL names, with the driver that this program uses for it.

    Raises:
        BadPlaceError: if `url` is not such a URL. The message never shows the password.
        LedgerError: if its driver is not installed.
    """
    try:
        parsed = make_url(url)
        kind = parsed.get_backend_name()
    except (ArgumentError, NoSuchModuleError, ValueError):
        scheme = url.partition(":")[0] if "://" in url else ""
        what = f"a URL that begins with {scheme!r}" if scheme.replace("+", "").isalnum() else "the address given"
        raise BadPlaceError(f"{what} does not name a database: try sqlite:///database.db") from None
    if kind not in _DRIVERS:
        raise BadPlaceError(f"{kind!r} cannot hold a ledger: use sqlite, postgresql, mysql or mariadb")
    name, module, extra = _DRIVERS[kind]
    if parsed.drivername not in (kind, name):
        raise BadPlaceError(f"the driver {parsed.drivername!r} is not supported: write {kind}://...")
    try:
        __import__(module)
    except ImportError:
        raise LedgerError(
            f"the driver for {kind} is missing: run pip install '.[{extra}]' in the folder of this program's source"
        ) from None
    path = None
    if kind == "sqlite":
        if not parsed.database or parsed.database == ":memory:" or parsed.database.startswith("file:"):
            raise BadPlaceError("a ledger on SQLite needs a file: sqlite:///database.db, or sqlite:////absolute/path")
        path = Path(parsed.database).absolute()
    elif not parsed.database:
        raise BadPlaceError(f"the URL does not name a database: write it like {kind}://user@host/database")
    return Place(url=parsed.set(drivername=name), path=path)


def server_place(place: Place) -> Place:
    """Return the place without its database, if the server answers queries without one (not PostgreSQL)."""
    return place if place.kind == "postgresql" else Place(url=place.url.set(database=""), path=None)


def writer_engine(place: Place) -> Engine:
    """Return an engine for this process's one writing connection."""
    if place.path is not None:
        return _sqlite_engine(place.path, writes=True)
    return _server_engine(place, reads_only=False)


def reader_engine(place: Place) -> Engine:
    """Return an engine whose connections only read, each statement in its own transaction."""
    if place.path is not None:
        return _sqlite_engine(place.path, writes=False)
    return _server_engine(place, reads_only=True)


def roll_back_what_a_crash_left(path: Path) -> None:
    """Let SQLite undo a transaction that a killed process or a power cut left in the journal next to the file.

    A ledger uses a write-ahead log, which readers recover by themselves. But the creation of a ledger begins with a
    rollback journal, and a read-only connection refuses a file with one. SQLite ignores the journal while another
    process writes. If SQLite cannot undo the transaction, the next connection fails.
    """
    journal = path.with_name(f"{path.name}-journal")
    if not path.exists() or not journal.exists() or journal.stat().st_size == 0:
        return
    with suppress(sqlite3.Error), closing(sqlite3.connect(path, timeout=BUSY_SECONDS)) as connection:
        connection.execute("SELECT count(*) FROM sqlite_schema")


def sync(path: Path) -> None:
    """Make a file's bytes, or a folder's names, durable. Do nothing if it does not exist. Raises: OSError."""
    with suppress(FileNotFoundError):
        fd = os.open(path, (os.O_RDONLY if path.is_dir() else os.O_RDWR) | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def upsert(engine: Engine, table: Table, *, add: Sequence[str] = ()) -> Any:
    """Return the INSERT that replaces a row with the same key. It adds to the columns named in `add` instead."""
    kind = engine.dialect.name
    # Each dialect takes a long time to import, and a process needs only its own.
    dialect: Any = import_module(f"sqlalchemy.dialects.{'mysql' if kind == 'mariadb' else kind}")
    keys = [column.name for column in table.primary_key]
    rest = [column.name for column in table.columns if column.name not in keys]
    if kind in {"sqlite", "postgresql"}:
        insert = dialect.insert(table)
        new = insert.excluded
        values = {name: table.c[name] + new[name] if name in add else new[name] for name in rest}
        return insert.on_conflict_do_update(index_elements=keys, set_=values)
    bulk = dialect.insert(table)
    fresh = bulk.inserted
    return bulk.on_duplicate_key_update(
        {name: table.c[name] + fresh[name] if name in add else fresh[name] for name in rest}
    )


_POSTGRESQL_NOW = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
_MYSQL_NOW = "CAST(UNIX_TIMESTAMP(SYSDATE(6)) * 1000000 AS SIGNED)"
NOW = {"postgresql": f"SELECT {_POSTGRESQL_NOW}", "mysql": f"SELECT {_MYSQL_NOW}"}

_LOCK_HEAD = (
    "SELECT position, recorded_us, streams, frontier, {},"
    " (SELECT coalesce(max(seq), 0) FROM event), (SELECT coalesce(max(id), 0) FROM stream) FROM head WHERE id = 1{}"
)
LOCK_HEAD = {
    "sqlite": _LOCK_HEAD.format("NULL", ""),
    "postgresql": _LOCK_HEAD.format(_POSTGRESQL_NOW, " FOR UPDATE"),
    "mysql": _LOCK_HEAD.format(_MYSQL_NOW, " FOR UPDATE"),
}
"""Reads the head, the database's time, the last event and the last stream, and locks the head.

On SQLite, BEGIN IMMEDIATE has locked it already.
"""


# --- helpers ---------------------------------------------------------------------------------------------------------


def _sqlite_engine(path: Path, *, writes: bool) -> Engine:
    def connect() -> SqliteConnection:
        # A name in a URI cannot contain these three characters unescaped.
        name = str(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
        mode = "rw" if writes else "ro"
        unlocked = Unlocked(path) if not writes and needs_no_locks(path) else None
        if unlocked is not None:
            mode = "ro&immutable=1"
        connection = sqlite3.connect(
            f"file:{name}?mode={mode}",
            uri=True,
            timeout=BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
            factory=SqliteConnection,
        )
        connection.unlocked = unlocked
        connection.execute(f"PRAGMA cache_size = {-(WRITER_KIB if writes else READER_KIB)}")
        if writes:
            # This must come first, because the change of mode below is its own transaction. EXTRA includes FULL.
            # Without a write-ahead log (a file system without shared memory, a temporary error), it also makes the end
            # of a transaction durable. Otherwise a power cut could undo the transaction.
            connection.execute("PRAGMA synchronous = EXTRA")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA wal_autocheckpoint = {WAL_PAGES}")
            connection.execute(f"PRAGMA journal_size_limit = {WAL_PAGES * PAGE_BYTES}")
            connection.execute("PRAGMA recursive_triggers = ON")
            # SQLite can undo a single statement. Keep the data for that in memory, because a file costs 3 us per event.
            connection.execute("PRAGMA temp_store = MEMORY")
        else:
            # SQLite before 3.51.3 can lose pages when two connections checkpoint at once. So readers never checkpoint.
            connection.execute("PRAGMA query_only = ON")
        return connection

    # Use the most recently returned connection first, so that the caches of the others stay empty.
    pool: dict[str, Any] = {"poolclass": NullPool} if writes else {"poolclass": QueuePool, "pool_use_lifo": True}
    engine = create_engine("sqlite://", creator=connect, **pool)
    if writes:

        @event.listens_for(engine, "begin")
        def begin(connection: Any) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _server_engine(place: Place, *, reads_only: bool) -> Engine:
    options: dict[str, Any] = {"pool_size": 4, "max_overflow": 12}
    if reads_only:
        options |= {"isolation_level": "AUTOCOMMIT", "pool_reset_on_return": None, "pool_use_lifo": True}
    else:
        options = {"poolclass": NullPool, "isolation_level": "READ COMMITTED"}
    engine = create_engine(place.url, paramstyle="format", connect_args=driver_arguments(place.url), **options)
    prepare_sessions(engine, reads_only=reads_only)
    return engine
