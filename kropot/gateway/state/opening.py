"""Opening the gateway's database, and making it: what is found there is looked at before anything is written."""

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

_BUSY_S: Final = 30
_DRIVERS: Final = {
    "postgresql": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mariadb+pymysql",
}


def open_state(url: str, *, create: bool, entropy: Any = os.urandom) -> State:
    """Open the gateway's database; its SQLite file is made with mode 0600.

    Raises:
        NoLedgerError: there is none and `create` is not set.
        StateError: it cannot be opened, is another program's, or a newer version's.
        UsageError: the URL is none.
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
    except (sa.exc.SQLAlchemyError, ImportError) as error:
        raise StateError(sentence(place, error)) from error
    ours = set(tables.metadata.tables)
    if foreign := sorted(found - ours):
        engine.dispose()
        raise StateError(
            f"{place} holds tables of another program ({', '.join(foreign[:3])}): give the gateway a database of its "
            "own with --state; nothing was written"
        )
    state = State(engine, place)
    if found >= ours and (state_schema := _schema(state)) is not None:
        if state_schema != tables.SCHEMA:
            state.close()
            raise StateError(f"{place} was made by another version (schema {state_schema.decode()}): install that one")
        return state
    # What follows also finishes what was cut short: tables without the row that says what they are hold nothing yet.
    if not create:
        state.close()
        raise NoLedgerError(f"there is no gateway database at {place}: `kropotcli gateway serve` makes one")
    with state.explained():
        if file is not None:
            # Only now, when it is certain that the file is ours: this is written into it for good.
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
    """Return the absolute path of the file behind an SQLite URL, None for another database or one in memory.

    Raises: UsageError if it is no URL.
    """
    parsed = _parsed(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database or parsed.database == ":memory:":
        return None
    return Path(parsed.database).absolute()


def _parsed(url: str) -> sa.URL:
    """Return the URL as SQLAlchemy reads it, its password unseen where it cannot be read. Raises: UsageError."""
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        parsed = None
    if parsed is None or parsed.get_backend_name() not in {"sqlite", *_DRIVERS}:
        raise UsageError("--state names no database: it should look like sqlite:///gateway.db")
    return parsed


def _make_file(file: Path, *, create: bool) -> None:
    """Make the SQLite file readable for its owner alone before SQLite makes it readable for everyone."""
    if file.exists():
        return
    if not create:
        raise NoLedgerError(f"there is no gateway database at {file}: `kropotcli gateway serve` makes one")
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise StateError(f"the gateway's database {file} cannot be made: {error.strerror}") from error


def _engine(url: sa.URL) -> sa.Engine:
    """Return an engine whose SQLite transactions begin when they say so, and whose commits survive a power loss."""
    if url.get_backend_name() != "sqlite":
        return sa.create_engine(url, pool_pre_ping=True, isolation_level="READ COMMITTED")
    engine = sa.create_engine(url, connect_args={"timeout": _BUSY_S, "check_same_thread": False})

    @sa.event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        for pragma in ("synchronous=EXTRA", "cache_size=-8192", "recursive_triggers=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def _begun(connection: sa.Connection) -> None:
        # A reader that turns into a writer can be refused at once; a writer that says so first waits its turn.
        writes = connection.get_execution_options().get("gateway_writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _schema(state: State) -> bytes | None:
    """Return the schema that the database names; None where its making was cut short before it could."""
    with state.read() as at:
        return at.scalar(sa.select(tables.meta.c.value).where(tables.meta.c.name == "schema"))
