"""The settings that each session at a database server begins with, so that no server setting changes what it does.

The gateway's database uses the same `driver_arguments`, `let_locks_wait` and `tables_without_transactions`.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import event, text
from sqlalchemy.exc import DisconnectionError

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection, Engine

CONNECT_S: Final = 10
IDLE_S = 1.0
"""A connection that was idle for longer is tested before use, because servers and firewalls end idle connections."""

_POSTGRESQL: Final = {
    "connect_timeout": CONNECT_S,
    # In a database of the encoding SQL_ASCII, text would arrive as bytes.
    "client_encoding": "utf8",
    # Keep a firewall from silently forgetting idle connections, or notice after a minute that it did.
    "keepalives_idle": 60,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}
_MYSQL_SESSION: Final = (
    "time_zone = '+00:00'",
    "sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'",
    # After a crash, tables of an engine without transactions contradict each other.
    "default_storage_engine = 'InnoDB'",
    # A server, or its `init_connect`, can refuse statements, or silently cut their answers short.
    "sql_safe_updates = 0",
    "sql_select_limit = 18446744073709551615",
    "sql_big_selects = 1",
    "unique_checks = 1",
)
_NO_SUCH_VARIABLE: Final = 1193
"""The error of MySQL, and of MariaDB before 10.6.18."""

# Every statement of the ledger reads a page or a few rows along an index. The planner has no statistics for a growing
# ledger. Without these settings it would sort or hash whole tables for one page.
_PLANNER: Final = (
    *(f"enable_{way} = off" for way in ("sort", "hashjoin", "mergejoin", "bitmapscan", "seqscan")),
    "max_parallel_workers_per_gather = 0",
    "jit = off",
)
_SESSION: Final = "; ".join(f"SET {setting}" for setting in _PLANNER)
_TRANSACTION: Final = "; ".join(f"SET LOCAL {setting}" for setting in _PLANNER)
_POOLED: Final = "kropot_pooled"
_IDLE_SINCE: Final = "kropot_idle_since"


def driver_arguments(url: URL) -> dict[str, Any]:
    """Return the arguments with which the driver of a database server connects."""
    if url.get_backend_name() == "postgresql":
        chosen = url.query.keys() - {"client_encoding"}
        return {name: value for name, value in _POSTGRESQL.items() if name not in chosen}
    return {
        "charset": "utf8mb4",
        "connect_timeout": CONNECT_S,
        "init_command": f"SET {', '.join(_MYSQL_SESSION)}",
        "max_allowed_packet": 1 << 30,
    }


def prepare_sessions(engine: Engine, *, reads_only: bool) -> None:
    """Prepare each connection of a server's engine before its first use, and test it after it was idle."""

    @event.listens_for(engine, "checkin")
    def rest(_connection: Any, record: Any) -> None:
        record.info[_IDLE_SINCE] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def wake(connection: Any, record: Any, _proxy: Any) -> None:
        if not is_alive(engine, connection, record.info.get(_IDLE_SINCE)):
            raise DisconnectionError  # the pool makes another connection

    if engine.dialect.name == "postgresql":
        _guide_planner(engine, reads_only=reads_only)
    let_locks_wait(engine)


def let_locks_wait(engine: Engine) -> None:
    """Let a statement that waited for a locked row continue with the row as it is then. MySQL and MariaDB only.

    MariaDB from 11.6 on fails the statement instead (error 1020), even with READ COMMITTED, if it also reads rows
    without a lock. Older versions do so if they are configured to.
    """
    if engine.dialect.name not in {"mysql", "mariadb"}:
        return

    @event.listens_for(engine, "connect")
    def connected(connection: Any, _record: Any) -> None:
        with connection.cursor() as cursor:
            try:
                cursor.execute("SET SESSION innodb_snapshot_isolation = OFF")
            except engine.dialect.loaded_dbapi.Error as error:
                if error.args[0] != _NO_SUCH_VARIABLE:
                    raise


def is_alive(engine: Engine, connection: Any, idle_since: float | None) -> bool:
    """Return whether the driver's `connection` still answers. One that was used a moment ago is not tested.

    `idle_since` is in seconds of the monotonic clock, or None if it was never used.
    """
    if idle_since is None or time.monotonic() - idle_since < IDLE_S:
        return True
    try:
        engine.dialect.do_ping(connection)
    except engine.dialect.loaded_dbapi.Error:
        return False
    return True


def is_pooled(connection: Any) -> bool:
    """Return whether a pooler, such as pgbouncer, is in front of the server: it reports its own process id.

    In its transaction mode, each transaction can use another session of the server.
    """
    (pid,) = connection.execute("SELECT pg_backend_pid()").fetchone()
    return bool(pid != connection.info.backend_pid)


def tables_without_transactions(connection: Connection) -> dict[str, str]:
    """Return the tables in this database whose engine has no transactions, and these engines, on MySQL and MariaDB."""
    if connection.dialect.name not in {"mysql", "mariadb"}:
        return {}
    found = connection.execute(
        text(
            "SELECT t.table_name, t.engine FROM information_schema.tables t"
            " LEFT JOIN information_schema.engines e ON e.engine = t.engine"
            " WHERE t.table_schema = database() AND t.table_type = 'BASE TABLE'"
            " AND coalesce(e.transactions, 'NO') <> 'YES' ORDER BY t.table_name"
        )
    )
    return {str(name): str(engine) for name, engine in found}


# --- helpers ---------------------------------------------------------------------------------------------------------


def _guide_planner(engine: Engine, *, reads_only: bool) -> None:
    """Set the planner's options per session, or per transaction if a pooler spreads them over different sessions."""

    @event.listens_for(engine, "connect")
    def look(connection: Any, record: Any) -> None:
        record.info[_POOLED] = is_pooled(connection)
        if record.info[_POOLED]:
            # It might meet prepared statements of others, and miss its own.
            connection.prepare_threshold = None
        else:
            connection.execute(_SESSION)
        connection.commit()

    if not reads_only:

        @event.listens_for(engine, "begin")
        def begin(connection: Connection) -> None:
            if connection.info.get(_POOLED):
                driver: Any = connection.connection.driver_connection
                driver.execute(_TRANSACTION)

        return

    # A reading connection commits each statement by itself. Behind a pooler, it is one transaction until returned.
    @event.listens_for(engine, "checkout")
    def open_(connection: Any, record: Any, _proxy: Any) -> None:
        if record.info.get(_POOLED):
            connection.execute(f"BEGIN; {_TRANSACTION}")

    @event.listens_for(engine, "checkin")
    def close(connection: Any, record: Any) -> None:
        if record.info.get(_POOLED) and connection is not None:
            with suppress(engine.dialect.loaded_dbapi.Error):  # a lost connection is noticed when it is used again
                connection.rollback()
