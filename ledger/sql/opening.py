"""Opens a ledger's database, and checks what it contains before writing anything."""

from __future__ import annotations

import errno
import os
import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import inspect, select, text
from sqlalchemy.exc import DBAPIError

from ledger.errors import (
    ForeignDatabaseError,
    LedgerError,
    LedgerMissingError,
    LedgerUnavailableError,
    NewerLedgerError,
)
from ledger.log import program
from ledger.sql.dialects import (
    BUSY_SECONDS,
    parse_place,
    reader_engine,
    roll_back_what_a_crash_left,
    sync,
    writer_engine,
)
from ledger.sql.errors import is_trigger_refusal, translated
from ledger.sql.guards import renew
from ledger.sql.protection import protection
from ledger.sql.schema import REVISION, TABLES, VERSION_TABLE, metadata, version_table
from ledger.sql.sessions import tables_without_transactions
from ledger.sql.store import SqlStore
from ledger.sql.unlocked import undisturbed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection, Engine

    from ledger.sql.dialects import Place

SQLITE_MAGIC = b"SQLite format 3\0"
"""The first bytes of every SQLite database file."""

REVISIONS = ("0001", "0002", "0003", "0004")
"""Every schema that this version can read or upgrade, the oldest first."""

_NOTHING_TO_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EPERM, errno.EROFS})
"""Harmless errors: the folder cannot be synced, or this user or mount (a snapshot) cannot have written there."""

_PROGRAM = re.compile(r"kropotcli [0-9][0-9A-Za-z.+-]{0,40}")


def open_store(url: str, *, create: bool = False, read_only: bool = False) -> SqlStore:
    """Return the store at this SQLAlchemy URL. With `create`, an empty or missing database becomes an empty ledger.

    Raises:
        LedgerMissingError: if there is no ledger, and `create` is False or `read_only` is True.
        ForeignDatabaseError: if the database holds another program's tables. Nothing was written.
        NewerLedgerError: if a newer version of this program made the ledger.
        LedgerUnavailableError: if the database cannot be reached.
        LedgerError: if the URL names no database, its driver is not installed, the schema is old, or the tables use
            an engine without transactions.
    """
    place = parse_place(url)
    revision = schema_of(place)
    is_guarded = True
    if revision is None:
        if not create or read_only:
            raise LedgerMissingError(str(place))
        is_guarded = migrate(place)
    elif revision != REVISION:
        raise LedgerError(f"the ledger at {place} has the old schema {revision}: run `kropotcli db upgrade`")
    if place.path is not None and not read_only:
        _settle(place.path)
    return SqlStore(place, read_only=read_only, is_guarded=is_guarded)


def schema_of(place: Place) -> str | None:
    """Return the revision of the ledger's schema at this place, or None if there is no ledger.

    This writes nothing, except that SQLite itself undoes a transaction that a crash left unfinished.

    Raises:
        ForeignDatabaseError: if the database holds another program's tables.
        NewerLedgerError: if this version does not know the revision.
        LedgerError: if the file is not an SQLite database.
    """
    if place.path is not None:
        # This must come first: after a crash in the very first transaction, the file is not yet a valid database.
        roll_back_what_a_crash_left(place.path)
        if not place.path.exists() or place.path.stat().st_size == 0:
            return None
        _look_at_file(place.path)
    engine = reader_engine(place)
    try:
        with translated(engine.dialect), engine.connect() as connection, undisturbed(connection, engine):
            return _revision(connection, place)
    finally:
        engine.dispose()


def migrate(place: Place, *, demand_guards: bool = False) -> bool:
    """Create the newest schema, or upgrade the database to it. Several processes can safely do this at once.

    Returns whether the triggers exist. A MySQL or MariaDB server with a binary log can refuse them to this user. Then a
    new ledger has none, unless `demand_guards`. They are created as soon as this is called with the right to do so.

    Raises:
        ForeignDatabaseError: if the database holds another program's tables. Nothing was written.
        NewerLedgerError: if this version does not know the revision.
        LedgerError: if the server refuses the triggers that are demanded. Nothing is left behind.
    """
    # Check read-only first: a writing connection changes the journal mode, even of another program's file.
    schema_of(place)
    if place.path is not None:
        _create_file(place.path)
    is_guarded = True
    engine = writer_engine(place)
    try:
        with translated(engine.dialect), _alone(engine) as connection:
            revision = _revision(connection, place)  # another process might have been faster
            if revision is None:
                _sweep(connection, place)
                is_guarded = _make(connection, demand_guards=demand_guards)
            elif revision != REVISION:
                _upgrade(connection)
                connection.execute(text(f"UPDATE {VERSION_TABLE} SET program = :program"), {"program": program()})
            elif protection(place).kind == "none":
                is_guarded = _guard(connection, demand_guards=demand_guards)
    finally:
        engine.dispose()
    return is_guarded


# --- helpers ---------------------------------------------------------------------------------------------------------


def _revision(connection: Connection, place: Place) -> str | None:
    tables = set(inspect(connection).get_table_names())
    revision = None
    if VERSION_TABLE in tables:
        revision = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()
    if revision is None:
        foreign = sorted(tables - TABLES)
        if foreign:
            raise ForeignDatabaseError(str(place), tuple(foreign))
        return None
    if revision not in REVISIONS:
        raise NewerLedgerError(str(place), str(revision), _made_by(connection))
    _demand_transactions(connection, place)
    return str(revision)


def _demand_transactions(connection: Connection, place: Place) -> None:
    """Refuse a ledger whose tables a crash would leave half written. Raises: LedgerError."""
    found = {name: engine for name, engine in tables_without_transactions(connection).items() if name in TABLES}
    if found:
        engines = ", ".join(sorted(set(found.values())))
        statements = " ".join(f"ALTER TABLE {name} ENGINE=InnoDB;" for name in found)
        raise LedgerError(
            f"the ledger at {place} was not opened and nothing was written, because it has tables of an engine without "
            f"transactions ({engines}), which a crash can destroy: back up the database, run in it: {statements} Then "
            "run `kropotcli verify`"
        )


def _made_by(connection: Connection) -> str | None:
    """Return the version of this program that made the schema, or None if the database does not say."""
    try:
        found = connection.execute(text(f"SELECT program FROM {VERSION_TABLE}")).scalar()
    except DBAPIError:
        return None
    return found if isinstance(found, str) and _PROGRAM.fullmatch(found) else None


def _look_at_file(path: Path) -> None:
    """Refuse files that SQLite would refuse with an unclear error. Raises: LedgerError."""
    try:
        with path.open("rb") as file:
            begin = file.read(len(SQLITE_MAGIC))
    except OSError as error:
        raise LedgerError(
            f"cannot read the ledger {path} ({error.strerror}): check the file and its permissions"
        ) from None
    if begin != SQLITE_MAGIC:
        raise LedgerError(f"{path} is not an SQLite database, and nothing was written: name another file")


def _settle(path: Path) -> None:
    """Sync what a killed process wrote to SQLite's log but did not sync.

    Readers treat those transactions as done, but a power cut could still undo them.

    Raises:
        LedgerUnavailableError: if the log cannot be synced.
    """
    try:
        sync(path.with_name(f"{path.name}-wal"))
        sync(path.parent)
    except OSError as error:
        if error.errno in _NOTHING_TO_SYNC:
            return
        raise LedgerUnavailableError(
            f"cannot sync the log of the ledger {path} ({error.strerror}): check the disk"
        ) from error


def _create_file(path: Path) -> None:
    if not path.parent.is_dir():
        raise LedgerError(
            f"cannot create the ledger {path}, because there is no folder {path.parent}: create the folder first"
        )
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise LedgerError(
            f"cannot create the ledger {path} ({error.strerror}): check the folder and its permissions"
        ) from None


@contextmanager
def _alone(engine: Engine) -> Iterator[Connection]:
    """Yield a connection in a transaction that keeps other processes from creating or upgrading this database."""
    with engine.connect() as connection:
        kind = engine.dialect.name
        if kind == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('kropotcli ledger'))"))
        elif kind != "sqlite":
            got = connection.execute(
                text("SELECT GET_LOCK(concat('kropotcli ', left(database(), 40)), :patience)"),
                {"patience": BUSY_SECONDS},
            ).scalar()
            if got != 1:
                raise LedgerError(
                    f"another process has been creating or upgrading this ledger for over {BUSY_SECONDS} seconds: "
                    "try again later"
                )
        yield connection
        connection.commit()


def _sweep(connection: Connection, place: Place) -> None:
    """Remove what an interrupted creation left, on databases that do not undo CREATE TABLE.

    Raises:
        ForeignDatabaseError: if a table only has the same name as a ledger's table, or holds data already.
    """
    inspector = inspect(connection)
    tables = sorted(set(inspector.get_table_names()) & metadata.tables.keys())
    for name in tables:
        table = metadata.tables[name]
        foreign = {column["name"] for column in inspector.get_columns(name)} != set(table.columns.keys())
        if foreign or (name != "head" and connection.execute(select(table).limit(1)).first() is not None):
            raise ForeignDatabaseError(str(place), tuple(tables))
    for name in [*tables, VERSION_TABLE]:
        connection.execute(text(f"DROP TABLE IF EXISTS {name}"))


def _make(connection: Connection, *, demand_guards: bool) -> bool:
    """Create the newest schema in an empty database. Return whether it has its triggers.

    A test compares it with the schema of upgraded old ledgers. The version is written last. Without it there is no
    ledger yet, and the next creation removes the rest.
    """
    version = version_table()
    try:
        metadata.create_all(connection)
        connection.execute(
            metadata.tables["head"].insert().values(id=1, position=0, recorded_us=0, streams=0, frontier=b"")
        )
        is_guarded = _guard(connection, demand_guards=demand_guards)
        version.create(connection)
        connection.execute(version.insert().values(version_num=REVISION, program=program()))
    except DBAPIError as error:
        if connection.dialect.name in {"mysql", "mariadb"} and not error.connection_invalidated:
            # These servers do not undo CREATE TABLE.
            version.drop(connection, checkfirst=True)
            metadata.drop_all(connection)
        raise
    return is_guarded


def _guard(connection: Connection, *, demand_guards: bool) -> bool:
    """Create the triggers. Return False if the server refuses them and they are not demanded."""
    try:
        renew(connection)
    except DBAPIError as error:
        if demand_guards or error.orig is None or not is_trigger_refusal(error.orig):
            raise
        return False
    return True


def _upgrade(connection: Connection) -> None:
    # Migrations are rare, and importing Alembic takes longer than most commands run.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    if connection.dialect.name == "sqlite":
        # SQLite creates an index by sorting a whole table, which might not fit into memory.
        connection.exec_driver_sql("PRAGMA temp_store = FILE")
    config.attributes["transactional_ddl"] = connection.dialect.name in {"sqlite", "postgresql"}
    command.upgrade(config, "head")
