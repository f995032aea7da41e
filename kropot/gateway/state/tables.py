"""The tables of the gateway's database. Indexed BLOBs have a fixed size, so that every database can index them."""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import mysql

SCHEMA: Final = b"4"

OLDER: Final = frozenset({b"1", b"2", b"3"})
"""Older schemas, without some tables or some columns in `ADDED`. Opening such a database adds them."""


class _Bytes(sa.LargeBinary):
    """Bytes that SQLite gets and returns unconverted."""

    cache_ok = True

    def bind_processor(self, dialect: sa.Dialect) -> Any:
        """Return a function that converts a value to a parameter, or None if none is needed."""
        return None if dialect.name == "sqlite" else super().bind_processor(dialect)  # type: ignore[no-untyped-call]

    def result_processor(self, dialect: sa.Dialect, coltype: Any) -> Any:
        """Return a function that converts a column's content to a value, or None if none is needed."""
        return None if dialect.name == "sqlite" else super().result_processor(dialect, coltype)  # type: ignore[no-untyped-call]


def _fixed(size: int) -> sa.types.TypeEngine[bytes]:
    """Return a column type of `size` bytes that every database can index."""
    return _Bytes(size).with_variant(mysql.VARBINARY(size), "mysql", "mariadb")


large = _Bytes().with_variant(mysql.LONGBLOB, "mysql", "mariadb")
_big = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
metadata = sa.MetaData()
meta = sa.Table(
    "gateway_meta",
    metadata,
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("value", sa.LargeBinary, nullable=False),
)
token = sa.Table(
    "gateway_token",
    metadata,
    sa.Column("number", _big, primary_key=True),
    sa.Column("lookup", _fixed(32), nullable=False, unique=True),
    sa.Column("sealed", sa.LargeBinary, nullable=False),
    sa.Column("created_s", sa.BigInteger, nullable=False),
    sa.Column("revoked_s", sa.BigInteger),
    sqlite_autoincrement=True,
)
vault = sa.Table(
    "gateway_vault",
    metadata,
    sa.Column("number", _big, primary_key=True),
    sa.Column("uid", _fixed(16), nullable=False, unique=True),
    sa.Column("sealed", sa.LargeBinary, nullable=False),
    sa.Column("created_s", sa.BigInteger, nullable=False),
    sqlite_autoincrement=True,
)
source = sa.Table(
    "gateway_source",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("uid", _fixed(16), nullable=False),
    sa.Column("root", sa.LargeBinary),
    sa.Column("last_date", sa.BigInteger),
    sa.Column("is_ready", sa.Boolean, nullable=False),
)
file = sa.Table(
    "gateway_file",
    metadata,
    sa.Column("id", _big, primary_key=True),
    sa.Column("key", _fixed(32), nullable=False, unique=True),
    sa.Column("path", _Bytes().with_variant(mysql.MEDIUMBLOB, "mysql", "mariadb"), nullable=False),
    sa.Column("identity", _fixed(64), nullable=False),
    sa.Column("mode", sa.Integer, nullable=False),
    sa.Column("nonce", _fixed(16), nullable=False),
    sa.Column("sha256", _fixed(32)),
    sa.Column("date", sa.BigInteger, index=True),
    sa.Column("is_due", sa.Boolean, nullable=False),
    sa.Column("origin", _fixed(64)),
    sa.Column("seal", _fixed(32)),
    sa.Column("restless_s", sa.BigInteger),
    sa.Column("audience", sa.Integer),
    sa.Column("facts", large),
    sqlite_autoincrement=True,
)
element = sa.Table(
    "gateway_element",
    metadata,
    sa.Column("token", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("mark", _fixed(16), primary_key=True),
    sa.Column("file", sa.BigInteger, nullable=False, index=True),
    sa.Column("birth", large),
    sa.Column("listed", large),
    sqlite_with_rowid=False,
)
ADDED: Final = (
    file.c.origin,
    file.c.seal,
    file.c.restless_s,
    file.c.audience,
    file.c.facts,
    element.c.birth,
    element.c.listed,
)
tally = sa.Table(
    "gateway_tally",
    metadata,
    sa.Column("span", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("bucket", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("versions", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
