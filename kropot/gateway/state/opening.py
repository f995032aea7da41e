"""Opens the gateway's database or creates it. Checks what is there before it writes anything."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from kropot.errors import NoLedgerError, UsageError
from kropot.gateway.state import tables
from kropot.gateway.state.rows import StateError
from kropot.gateway.state.store import State
from kropot.gateway.state.transactions import sentence
from ledger.sql.sessions import driver_arguments, let_locks_wait, tables_without_transactions

_BUSY_S: Final = 30
_DRIVERS: Final = {
    "postgresql": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mariadb+pymysql",
}


def open_state(url: str, *, create: bool, entropy: Any = os.urandom) -> State:
    """Open the gateway's database. A new SQLite file gets mode 0600.

    Raises:
        NoLedgerError: there is no database and `create` is False.
        StateError: the database cannot be opened, or belongs to another program or another version.
        UsageError: `url` is not a database URL.
    """
    parsed = _parsed(url)
    parsed = parsed.set(drivername=_DRIVERS.get(parsed.drivername, parsed.drivername))
    place = parsed.set(drivername=parsed.get_backend_name(), query={}).render_as_string(hide_password=True)
    file = sqlite_file(url)
    if file is not None:
        place = str(file)
        _make_file(file, create=create)
    try:
        engine = _engine(parsed)
        found = set(sa.inspect(engine).get_table_names())
        with engine.connect() as at:
            fragile = sorted(tables_without_transactions(at).keys() & tables.metadata.tables.keys())
    except (sa.exc.SQLAlchemyError, ImportError) as error:
        raise StateError(sentence(place, error)) from error
    ours = set(tables.metadata.tables)
    try:
        _refuse_unfit(place, found - ours, fragile)
    except StateError:
        engine.dispose()
        raise
    state = State(engine, place)
    state_schema = _schema(state) if tables.meta.name in found else None
    if state_schema is not None and (found >= ours or state_schema != tables.SCHEMA):
        if state_schema in tables.OLDER:
            state_schema = _upgrade(state, engine)
        if state_schema != tables.SCHEMA:
            state.close()
            raise StateError(
                f"another version of kropotcli made the database {place} (schema {state_schema.decode()}): install "
                "that version"
            )
        return state
    # The rest also completes a creation that was interrupted: tables without a schema row hold no data yet.
    if not create:
        state.close()
        raise NoLedgerError(f"there is no gateway database at {place}: create one with `kropotcli gateway serve`")
    with state.explained():
        if file is not None:
            # Set this only now, when the file is certainly ours: SQLite stores the setting in the file for good.
            connection = engine.raw_connection()
            try:
                connection.cursor().execute("PRAGMA journal_mode=WAL")
            finally:
                connection.close()
        tables.metadata.create_all(engine)
    with state.write() as at:
        if at.scalar(sa.select(sa.func.count()).select_from(tables.source)) == 0:
            at.execute(tables.meta.insert().values(name="schema", value=tables.SCHEMA))
            at.execute(tables.source.insert().values(number=1, uid=entropy(16), is_ready=False))
    return state


def sqlite_file(url: str) -> Path | None:
    """Return the absolute path of the file behind an SQLite URL. None for another database, or one in memory.

    Raises:
        UsageError: `url` is not a database URL.
    """
    parsed = _parsed(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database or parsed.database == ":memory:":
        return None
    return Path(parsed.database).absolute()


def _refuse_unfit(place: str, foreign: set[str], fragile: list[str]) -> None:
    """Refuse a database with `foreign` tables, or with tables whose engine has no transactions (`fragile`)."""
    if foreign:
        raise StateError(
            f"the database {place} holds tables of another program ({', '.join(sorted(foreign)[:3])}); nothing was"
            " written: give the gateway its own database with --state"
        )
    if fragile:
        raise StateError(
            f"the database {place} has tables of an engine without transactions ({', '.join(fragile)}), which a crash"
            " can destroy; nothing was written: back it up, and run ALTER TABLE ... ENGINE=InnoDB for each of them"
        )


def _parsed(url: str) -> sa.URL:
    """Return the parsed URL. Raises: UsageError if it is not valid; the message never shows a password."""
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        parsed = None
    if parsed is None or parsed.get_backend_name() not in {"sqlite", *_DRIVERS}:
        raise UsageError("--state is not a valid database URL: write it like sqlite:///gateway.db")
    return parsed


def _make_file(file: Path, *, create: bool) -> None:
    """Create the SQLite file so that only its owner can read it. SQLite would make it readable by everyone."""
    if file.exists():
        return
    if not create:
        raise NoLedgerError(f"there is no gateway database at {file}: create one with `kropotcli gateway serve`")
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise StateError(
            f"the gateway's database {file} cannot be created ({error.strerror}): name another file with --state"
        ) from error


def _engine(url: sa.URL) -> sa.Engine:
    """Return an engine. With SQLite, transactions begin explicitly and commits survive a power loss."""
    if url.get_backend_name() != "sqlite":
        arguments = driver_arguments(url)
        if url.get_backend_name() == "postgresql":
            # A pooler can run the next transaction in another session, which has other prepared statements.
            arguments["prepare_threshold"] = None
        engine = sa.create_engine(url, pool_pre_ping=True, isolation_level="READ COMMITTED", connect_args=arguments)
        let_locks_wait(engine)
        return engine
    engine = sa.create_engine(url, connect_args={"timeout": _BUSY_S, "check_same_thread": False})

    @sa.event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        for pragma in ("synchronous=EXTRA", "cache_size=-8192", "recursive_triggers=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def _begun(connection: sa.Connection) -> None:
        # SQLite can refuse a reader that becomes a writer. A transaction that begins as a writer waits for its turn.
        writes = connection.get_execution_options().get("gateway_writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _upgrade(state: State, engine: sa.Engine) -> bytes:
    """Add what older schemas lack, and return the new schema. An interrupted upgrade continues at the next opening."""
    with state.explained():
        tables.metadata.create_all(engine)
        inspector = sa.inspect(engine)
        there = {
            (name, column["name"])
            for name in (tables.file.name, tables.element.name)
            for column in inspector.get_columns(name)
        }
    for column in tables.ADDED:
        name = column.table.name
        if (name, column.name) not in there:
            kind = column.type.compile(engine.dialect)
            with state.explained(), engine.begin() as at:
                at.execute(sa.text(f"ALTER TABLE {name} ADD COLUMN {column.name} {kind}"))
    with state.write() as at:
        at.execute(tables.meta.update().where(tables.meta.c.name == "schema").values(value=tables.SCHEMA))
    return tables.SCHEMA


def _schema(state: State) -> bytes | None:
    """Return the schema that the database names, or None if its creation was interrupted before that."""
    with state.read() as at:
        return at.scalar(sa.select(tables.meta.c.value).where(tables.meta.c.name == "schema"))
