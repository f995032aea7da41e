"""The database itself refuses what an accident, or a second program with the same password, would do to history."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import exc, text

from ledger.log import Ledger
from ledger.sql import open_store
from ledger.sql.dialects import parse_place, writer_engine
from tests.ledger.databases import SQL_KINDS, fresh_url
from tests.ledger.world import began, copied, observed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Connection

REFUSED = [
    "UPDATE event SET payload = NULL, nonce = NULL WHERE seq = 4",
    "UPDATE event SET recorded_us = recorded_us + 1 WHERE seq = 4",
    "UPDATE event SET header = leaf WHERE seq = 3",
    "UPDATE event SET seq = 99 WHERE seq = 6",
    "DELETE FROM event WHERE seq = 6",
    "DELETE FROM event",
    (
        "INSERT INTO event SELECT seq + 2, stream, stream_version + 2, type, schema_version, flags, recorded_us,"
        " observed_us, writer, header, nonce, payload, leaf FROM event WHERE seq = 6"
    ),
    (
        "INSERT INTO event SELECT -1, stream, stream_version + 2, type, schema_version, flags, recorded_us,"
        " observed_us, writer, header, nonce, payload, leaf FROM event WHERE seq = 6"
    ),
    (
        "INSERT INTO event SELECT 7, stream, stream_version, type, schema_version, flags, recorded_us,"
        " observed_us, writer, header, nonce, payload, leaf FROM event WHERE seq = 6"
    ),
    "UPDATE stream SET key = NULL WHERE id = 4",
    "UPDATE stream SET id = 99 WHERE id = 4",
    "DELETE FROM stream WHERE id = 4",
    "UPDATE batch SET recorded_us = 0 WHERE last = 6",
    "DELETE FROM batch WHERE last = 6",
    "UPDATE checkpoint SET note = 'forged'",
    "DELETE FROM checkpoint",
    "UPDATE head SET position = position - 1",
    "UPDATE head SET recorded_us = recorded_us - 1",
    "DELETE FROM head",
]
REPLACES = [
    "REPLACE INTO event SELECT * FROM event WHERE seq = 4",
    (
        "REPLACE INTO event SELECT seq + 2, stream, stream_version, type, schema_version, flags, recorded_us,"
        " observed_us, writer, header, nonce, payload, leaf FROM event WHERE seq = 5"
    ),
    "REPLACE INTO stream SELECT * FROM stream WHERE id = 4",
    "REPLACE INTO batch SELECT * FROM batch WHERE last = 6",
    "REPLACE INTO checkpoint SELECT * FROM checkpoint",
    "REPLACE INTO head SELECT * FROM head",
]
TRUNCATES = [f"TRUNCATE {table}" for table in ("event", "stream", "batch", "checkpoint", "head")]


@pytest.fixture(params=SQL_KINDS)
def connection(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Connection]:
    """Another program's connection to a ledger of six events: 1 began, 2 source, 3-5 observed, 6 copied."""
    with fresh_url(request.param, tmp_path) as url:
        store = open_store(url, create=True)
        ledger = Ledger(store)
        ledger.append([began(), *(observed(n) for n in range(3))])
        ledger.append([copied(0)])
        store.blobs.save_checkpoint(6, "a note\n")
        engine = writer_engine(parse_place(url))
        with engine.connect() as connection:
            if request.param == "sqlite":
                # What protects must not be a setting of our own connections.
                connection.connection.cursor().execute("PRAGMA recursive_triggers = OFF")
            yield connection
        engine.dispose()
        store.close()


def rows(connection: Connection) -> list[tuple[object, ...]]:
    tables = ("event", "stream", "batch", "checkpoint", "head")
    found = [tuple(row) for table in tables for row in connection.execute(text(f"SELECT * FROM {table} ORDER BY 1"))]
    connection.rollback()
    return found


def refuse(connection: Connection, statement: str) -> None:
    statement = statement.replace("key", connection.dialect.identifier_preparer.quote("key"))
    before = rows(connection)
    with pytest.raises(exc.DBAPIError, match=r"ledger|UNIQUE|unique|Duplicate|constraint"):
        connection.execute(text(statement))
    connection.rollback()
    assert rows(connection) == before


def test_history_is_not_changed_or_removed(connection: Connection) -> None:
    for statement in REFUSED:
        refuse(connection, statement)


def test_history_is_not_replaced(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        statement = (
            "INSERT INTO event SELECT * FROM event WHERE seq = 4"
            " ON CONFLICT (seq) DO UPDATE SET recorded_us = excluded.recorded_us + 1"
        )
        refuse(connection, statement)
        return
    for statement in REPLACES:
        refuse(connection, statement)


@pytest.mark.parametrize("connection", ["postgresql"], indirect=True)
def test_history_is_not_truncated_where_a_trigger_can_see_it(connection: Connection) -> None:
    for statement in TRUNCATES:
        refuse(connection, statement)


def test_an_erasure_is_let_through_once_it_was_announced(connection: Connection) -> None:
    announce = (
        "INSERT INTO event SELECT 7, stream, stream_version + 1, 'PayloadErased', schema_version, flags, recorded_us,"
        " observed_us, writer, header, nonce, payload, leaf FROM event WHERE seq = 4"
    )
    connection.execute(text(announce))
    connection.execute(text("UPDATE event SET payload = NULL, nonce = NULL WHERE seq = 4"))
    quoted = connection.dialect.identifier_preparer.quote("key")
    connection.execute(text(f"UPDATE stream SET {quoted} = NULL WHERE id = 4"))
    connection.commit()
    refuse(connection, "UPDATE event SET payload = NULL, nonce = NULL WHERE seq = 7")
    refuse(connection, "UPDATE event SET payload = header WHERE seq = 4")
    refuse(connection, "UPDATE event SET payload = NULL, nonce = NULL WHERE seq = 5")
