"""The ledger on SQL databases, through SQLAlchemy 2 Core: SQLite, PostgreSQL, MySQL and MariaDB."""

from ledger.sql.dialects import parse_place
from ledger.sql.opening import migrate, open_store, schema_of
from ledger.sql.store import SqlStore

__all__ = ["SqlStore", "migrate", "open_store", "parse_place", "schema_of"]
