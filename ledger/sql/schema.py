"""The tables of the newest schema (docs/format.md, "Tables"); the triggers are in `guards.py`.

Only this module describes the schema. It creates new ledgers, which get the revision `REVISION`. The migrations only
ALTER older ledgers, and a test compares the two. Every database compares text byte by byte.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import (
    VARBINARY,
    BigInteger,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.event import listens_for

if TYPE_CHECKING:
    from sqlalchemy import Connection

REVISION = "0004"
"""The newest migration."""

VERSION_TABLE = "ledger_version"
"""The table of the schema's revision. It is not Alembic's default, which another program's migrations might use."""

metadata = MetaData()


class _LongBlob(LargeBinary):
    """MySQL's LONGBLOB. SQLAlchemy's class for it is in a dialect that is slow to import and seldom needed."""

    __visit_name__ = "LONGBLOB"


class _LongText(Text):
    """MySQL's LONGTEXT, for the same reason."""

    __visit_name__ = "LONGTEXT"


_BYTEWISE = "utf8mb4_bin"
"""The collation of MySQL and MariaDB that compares byte by byte. It implies the character set."""


def number() -> BigInteger:
    """Return the type of 64-bit numbers. On SQLite it is INTEGER, because only that type can be the rowid."""
    return BigInteger().with_variant(Integer, "sqlite")


def octets(longest: int) -> LargeBinary:
    """Return the type of at most `longest` bytes."""
    return LargeBinary().with_variant(VARBINARY(longest), "mysql", "mariadb")


def blob() -> LargeBinary:
    """Return the type of bytes without a practical limit."""
    return LargeBinary().with_variant(_LongBlob(), "mysql", "mariadb")


def text(longest: int) -> String:
    """Return the type of text of at most `longest` characters, compared byte by byte."""
    return (
        String(longest)
        .with_variant(String(longest, collation=_BYTEWISE), "mysql", "mariadb")
        .with_variant(String(longest, collation="C"), "postgresql")
    )


stream = Table(
    "stream",
    metadata,
    Column("id", number(), primary_key=True, autoincrement=False),
    Column("key", octets(600), nullable=True, unique=True),
)

event = Table(
    "event",
    metadata,
    Column("seq", number(), primary_key=True, autoincrement=False),
    Column("stream", number(), nullable=False),
    Column("stream_version", number(), nullable=False),
    Column("type", text(64), nullable=False),
    Column("schema_version", Integer, nullable=False),
    Column("flags", Integer, nullable=False),
    Column("recorded_us", number(), nullable=False),
    Column("observed_us", number(), nullable=False),
    Column("writer", text(255), nullable=False),
    Column("header", octets(2048), nullable=False),
    Column("nonce", octets(16), nullable=True),
    Column("payload", blob(), nullable=True),
    Column("leaf", octets(32), nullable=False),
    UniqueConstraint("stream", "stream_version", name="event_stream_version"),
)

head = Table(
    "head",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
    Column("position", number(), nullable=False),
    Column("recorded_us", number(), nullable=False),
    Column("streams", number(), nullable=False),
    Column("frontier", octets(2048), nullable=False),
)

batch = Table(
    "batch",
    metadata,
    Column("last", number(), primary_key=True, autoincrement=False),
    Column("first", number(), nullable=False),
    Column("recorded_us", number(), nullable=False, index=True),
    Column("batch_key", octets(64), nullable=True, unique=True),
    Column("frontier", octets(2048), nullable=True),
)

source = Table(
    "source",
    metadata,
    Column("no", Integer, primary_key=True, autoincrement=False),
    Column("id", octets(16), nullable=False, unique=True),
    Column("stream", number(), nullable=False),
    Column("version", number(), nullable=False),
    Column("seq", number(), nullable=False),
)

entry = Table(
    "entry",
    metadata,
    Column("stream", number(), primary_key=True, autoincrement=False),
    Column("source", Integer, nullable=False),
    Column("version", number(), nullable=False),
    Column("seq", number(), nullable=False),
    Column("state", text(16), nullable=False),
    Column("due_us", number(), nullable=True),
    Column("date", number(), nullable=False),
    Column("claimed", number(), nullable=True),
    Column("size", number(), nullable=True),
    Column("sha256", octets(32), nullable=True),
)

# It holds only wanted entries, if the database supports that. So it costs nothing while no copy is wanted.
entry_due = Index(
    "entry_due",
    entry.c.source,
    entry.c.due_us,
    entry.c.stream,
    sqlite_where=entry.c.due_us.is_not(None),
)


@listens_for(metadata, "before_create")
def _spare(_target: MetaData, connection: Connection, **_rest: object) -> None:
    """Set the same option for PostgreSQL, only when needed, because naming it above would import the dialect."""
    if connection.dialect.name == "postgresql":
        entry_due.dialect_options["postgresql"]["where"] = entry.c.due_us.is_not(None)


copy = Table(
    "copy",
    metadata,
    Column("sha256", octets(32), primary_key=True),
    Column("stream", number(), primary_key=True, autoincrement=False),
    Column("size", number(), nullable=False),
    Column("seq", number(), nullable=False),
    Column("state", text(16), nullable=False),
    sqlite_with_rowid=False,
)

tally = Table(
    "tally",
    metadata,
    Column("source", Integer, primary_key=True, autoincrement=False),
    Column("state", text(16), primary_key=True),
    Column("elements", number(), nullable=False),
    Column("bytes", number(), nullable=False),
    sqlite_with_rowid=False,
)

snapshot = Table(
    "snapshot",
    metadata,
    Column("kind", text(64), primary_key=True),
    Column("position", number(), primary_key=True, autoincrement=False),
    Column("chunks", number(), nullable=False),
    sqlite_with_rowid=False,
)

snapshot_chunk = Table(
    "snapshot_chunk",
    metadata,
    Column("kind", text(64), primary_key=True),
    Column("position", number(), primary_key=True, autoincrement=False),
    Column("no", number(), primary_key=True, autoincrement=False),
    Column("data", blob(), nullable=False),
)

checkpoint = Table(
    "checkpoint",
    metadata,
    Column("id", number(), primary_key=True, autoincrement=False),
    Column("size", number(), nullable=False),
    Column("digest", octets(32), nullable=False, unique=True),
    Column(
        "note",
        Text().with_variant(_LongText(collation=_BYTEWISE), "mysql", "mariadb"),
        nullable=False,
    ),
)

instance = Table(
    "instance",
    metadata,
    Column("name", text(255), primary_key=True),
    Column("session", octets(16), nullable=False),
    Column("place", text(4096), nullable=False),
    Column("started_us", number(), nullable=False),
    Column("beat_us", number(), nullable=False),
    Column("expires_us", number(), nullable=False),
)

lease = Table(
    "lease",
    metadata,
    Column("stream", number(), primary_key=True, autoincrement=False),
    Column("session", octets(16), nullable=False, index=True),
    Column("instance", text(255), nullable=False),
    Column("expires_us", number(), nullable=False),
)

claim = Table(
    "claim",
    metadata,
    Column("name", text(255), primary_key=True),
    Column("session", octets(16), nullable=False),
    Column("expires_us", number(), nullable=False),
)

# A pack without a name is forgotten: its placements no longer count. Its number is free again once they are removed.
pack = Table(
    "pack",
    metadata,
    Column("number", number(), primary_key=True, autoincrement=False),
    Column("place", text(255), nullable=False),
    Column("name", octets(32), nullable=True),
    Column("objects", number(), nullable=False),
    Column("bytes", number(), nullable=False),
    UniqueConstraint("place", "name", name="pack_place_name"),
)

# A dropped placement of an object at `start` stays, as -1 - `start`, because the pack's index still has the object.
placement = Table(
    "placement",
    metadata,
    Column("sha256", octets(32), primary_key=True),
    Column("pack", number(), primary_key=True, autoincrement=False),
    Column("start", number(), nullable=False),
    Column("length", number(), nullable=False),
    sqlite_with_rowid=False,
)

# `id` is what the storage calls itself. It has what events up to `position` name, and freed releases up to `freed`.
further_storage = Table(
    "further_storage",
    metadata,
    Column("id", octets(16), primary_key=True),
    Column("address", text(4096), nullable=False),
    Column("position", number(), nullable=False),
    Column("freed", number(), nullable=False),
    Column("kept_us", number(), nullable=False),
)

TABLES = frozenset(metadata.tables) | {VERSION_TABLE}


def version_table() -> Table:
    """Return the table of the schema's revision, as Alembic makes it, with a column for the program that made it.

    `metadata` does not contain it.
    """
    return Table(
        VERSION_TABLE,
        MetaData(),
        Column("version_num", String(32), nullable=False),
        Column("program", text(64), nullable=True),
        PrimaryKeyConstraint("version_num", name=f"{VERSION_TABLE}_pkc"),
    )
