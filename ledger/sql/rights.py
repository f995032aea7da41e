"""Database rights for a user who can collect but cannot rewrite history (docs/operations.md)."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from sqlalchemy import text

from ledger.errors import LedgerError, ReadOnlyLedgerError
from ledger.sql.dialects import server_place, writer_engine
from ledger.sql.errors import translated
from ledger.sql.schema import VERSION_TABLE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from ledger.sql.dialects import Place

HISTORY = ("event", "stream", "batch", "checkpoint")
"""Tables that only grow. An erasure changes `event` and `stream`, so it needs the owner."""

STATE = (
    *("source", "entry", "copy", "tally", "snapshot", "snapshot_chunk"),
    *("instance", "lease", "claim", "pack", "placement", "further_storage"),
)
"""The tables of the projection, which can be rebuilt, and of working state."""

RIGHTS = {
    **dict.fromkeys(HISTORY, ("SELECT", "INSERT")),
    **dict.fromkeys(STATE, ("SELECT", "INSERT", "UPDATE", "DELETE")),
    "head": ("SELECT", "UPDATE"),
    VERSION_TABLE: ("SELECT",),
}
"""The rights that collecting needs, by table. Triggers limit them further."""


def grant(owner: Place, user: Place) -> str:
    """Give `user` the rights that collecting needs in the ledger of `owner`. Return the user's name.

    The user can then read everything, append to history, move the head, and change projection and working state.

    Raises:
        LedgerError: if the two URLs name different databases or the same user, or if the owner may not grant rights.
    """
    if owner.kind == "sqlite" or user.kind == "sqlite":
        raise LedgerError(
            "SQLite has no users, so it cannot limit rights: use PostgreSQL, MySQL or MariaDB, or protect the file"
        )
    where = [(place.kind, place.url.host, place.url.port, place.url.database) for place in (owner, user)]
    if where[0] != where[1]:
        raise LedgerError(f"{owner} and {user} are not the same database: give two URLs of one database")
    grantee = _ask(server_place(user), _WHO[user.kind])
    if grantee == _ask(server_place(owner), _WHO[owner.kind]):
        raise LedgerError(f"both URLs name the same user {grantee}: give the collector another user")
    engine = writer_engine(owner)
    try:
        with translated(engine.dialect), engine.connect() as connection:
            for statement in grants(connection, grantee):
                connection.exec_driver_sql(statement.replace("%", "%%"))
            connection.commit()
    except ReadOnlyLedgerError as error:
        # On PostgreSQL it is enough to own the tables.
        need = "" if owner.kind == "postgresql" else ", on MySQL and MariaDB WITH GRANT OPTION"
        raise LedgerError(
            f"the owner {owner.url.username} may not give {grantee} the rights that collecting needs ({error}); the "
            f"ledger's tables exist now: give the owner all rights on this database{need}, and run this again"
        ) from None
    finally:
        engine.dispose()
    return grantee


def grants(connection: Connection, grantee: str) -> Sequence[str]:
    """Return the statements that give a user what collecting needs (docs/operations.md lists them)."""
    given = [f"GRANT {', '.join(rights)} ON {table} TO {grantee}" for table, rights in RIGHTS.items()]
    if connection.dialect.name == "postgresql":
        schema = connection.execute(text("SELECT quote_ident(current_schema())")).scalar_one()
        given.append(f"GRANT USAGE ON SCHEMA {schema} TO {grantee}")
    return given


def describe_server(place: Place) -> tuple[str, int]:
    """Return the database's version as it reports it, and the size of the ledger's tables and indexes in bytes."""
    engine = writer_engine(place) if place.path is None else None
    if engine is None:
        import sqlite3

        with closing(sqlite3.connect(":memory:")) as connection:
            version = connection.execute("SELECT sqlite_version()").fetchone()[0]
        files = (place.path.with_name(place.path.name + end) for end in ("", "-wal")) if place.path else ()
        return f"SQLite {version}", sum(file.stat().st_size for file in files if file.exists())
    try:
        with translated(engine.dialect), engine.connect() as connection:
            version = str(connection.execute(text("SELECT version()")).scalar_one())
            size = int(connection.execute(text(_SIZE[place.kind])).scalar_one() or 0)
            return version.partition(" on ")[0], size
    finally:
        engine.dispose()


# --- helpers ---------------------------------------------------------------------------------------------------------

_POSTGRESQL_SIZE = (
    "SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE n.nspname = current_schema() AND c.relkind = 'r'"
)
_MYSQL_SIZE = "SELECT sum(data_length + index_length) FROM information_schema.tables WHERE table_schema = database()"
_SIZE = {"postgresql": _POSTGRESQL_SIZE, "mysql": _MYSQL_SIZE, "mariadb": _MYSQL_SIZE}
_MYSQL_WHO = "SELECT concat('`', replace(current_user(), '@', '`@`'), '`')"
_WHO = {"postgresql": "SELECT quote_ident(current_user)", "mysql": _MYSQL_WHO, "mariadb": _MYSQL_WHO}


def _ask(place: Place, question: str) -> str:
    engine = writer_engine(place)
    try:
        with translated(engine.dialect), engine.connect() as connection:
            return str(connection.execute(text(question)).scalar_one())
    finally:
        engine.dispose()
