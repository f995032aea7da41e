"""The triggers of the newest schema: what the database refuses to anyone who has not dropped them first.

An event can only be appended after the last one. Only an erasure can change it, if a later PayloadErased announces it.
Nothing can remove it. The same applies to streams, batches and checkpoints. A batch ends at an event that exists, and
the head is where a batch ends (docs/decisions/0008-guards-of-the-ledger.md). On SQLite, REPLACE removes rows without
running the DELETE triggers (unless `recursive_triggers` is on), so the INSERT triggers refuse rows that exist already.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

AHEAD_US = 24 * 3600 * 1_000_000
"""On a server, a batch's time may be at most this far ahead of the server's clock, unless the owner writes it."""


def _sqlite_refusal(table: str, operation: str, sentence: str) -> str:
    return f"""
    CREATE TRIGGER {table}_{operation.lower()} BEFORE {operation} ON {table}
    BEGIN SELECT RAISE(ABORT, 'ledger: {sentence}'); END
    """


SQLITE = (
    """
    CREATE TRIGGER event_insert BEFORE INSERT ON event
    WHEN NEW.seq <> (SELECT coalesce(max(seq), 0) + 1 FROM event)
      OR NEW.stream_version <> (SELECT coalesce(max(stream_version), 0) + 1 FROM event WHERE stream = NEW.stream)
    BEGIN SELECT RAISE(ABORT, 'ledger: an event is appended after the last one'); END
    """,
    """
    CREATE TRIGGER event_update BEFORE UPDATE ON event
    WHEN NOT (
      NEW.payload IS NULL AND NEW.nonce IS NULL
      AND NEW.seq = OLD.seq AND NEW.stream = OLD.stream AND NEW.stream_version = OLD.stream_version
      AND NEW.type = OLD.type AND NEW.schema_version = OLD.schema_version AND NEW.flags = OLD.flags
      AND NEW.recorded_us = OLD.recorded_us AND NEW.observed_us = OLD.observed_us AND NEW.writer = OLD.writer
      AND NEW.header = OLD.header AND NEW.leaf = OLD.leaf
      AND EXISTS (
        SELECT 1 FROM event e WHERE e.stream = OLD.stream AND e.seq > OLD.seq AND e.type = 'PayloadErased'
      )
    )
    BEGIN SELECT RAISE(ABORT, 'ledger: an event is never changed'); END
    """,
    _sqlite_refusal("event", "DELETE", "an event is never removed"),
    """
    CREATE TRIGGER stream_insert BEFORE INSERT ON stream
    WHEN NEW.id <> (SELECT coalesce(max(id), 0) + 1 FROM stream) OR EXISTS (SELECT 1 FROM stream WHERE key = NEW.key)
    BEGIN SELECT RAISE(ABORT, 'ledger: a stream is numbered after the last one'); END
    """,
    """
    CREATE TRIGGER stream_update BEFORE UPDATE ON stream
    WHEN NOT (
      NEW.id = OLD.id AND NEW.key IS NULL
      AND EXISTS (SELECT 1 FROM event e WHERE e.stream = OLD.id AND e.type = 'PayloadErased')
    )
    BEGIN SELECT RAISE(ABORT, 'ledger: a stream is never changed'); END
    """,
    _sqlite_refusal("stream", "DELETE", "a stream is never removed"),
    """
    CREATE TRIGGER batch_insert BEFORE INSERT ON batch
    WHEN NEW.first <> (SELECT coalesce(max(last), 0) + 1 FROM batch) OR NEW.last < NEW.first
      OR NEW.last > (SELECT coalesce(max(seq), 0) FROM event)
      OR NEW.recorded_us < coalesce((SELECT recorded_us FROM batch ORDER BY last DESC LIMIT 1), 0)
      OR EXISTS (SELECT 1 FROM batch WHERE batch_key = NEW.batch_key)
    BEGIN SELECT RAISE(ABORT, 'ledger: a batch follows the last one'); END
    """,
    _sqlite_refusal("batch", "UPDATE", "a batch is never changed"),
    _sqlite_refusal("batch", "DELETE", "a batch is never removed"),
    """
    CREATE TRIGGER checkpoint_insert BEFORE INSERT ON checkpoint
    WHEN NEW.id <> (SELECT coalesce(max(id), 0) + 1 FROM checkpoint)
      OR EXISTS (SELECT 1 FROM checkpoint WHERE digest = NEW.digest)
    BEGIN SELECT RAISE(ABORT, 'ledger: a checkpoint is kept once, after the last one'); END
    """,
    _sqlite_refusal("checkpoint", "UPDATE", "a checkpoint is never changed"),
    _sqlite_refusal("checkpoint", "DELETE", "a checkpoint is never removed"),
    """
    CREATE TRIGGER head_insert BEFORE INSERT ON head WHEN EXISTS (SELECT 1 FROM head)
    BEGIN SELECT RAISE(ABORT, 'ledger: there is one head'); END
    """,
    """
    CREATE TRIGGER head_update BEFORE UPDATE ON head
    WHEN NEW.position < OLD.position OR NEW.recorded_us < OLD.recorded_us OR NEW.streams < OLD.streams
    BEGIN SELECT RAISE(ABORT, 'ledger: the head never goes back'); END
    """,
    """
    CREATE TRIGGER head_tied BEFORE UPDATE ON head
    WHEN NOT EXISTS (
      SELECT 1 FROM batch b WHERE b.last = NEW.position AND b.recorded_us = NEW.recorded_us
        AND coalesce(b.frontier, NEW.frontier) = NEW.frontier
    )
      OR NEW.streams > (SELECT coalesce(max(id), 0) FROM stream)
    BEGIN SELECT RAISE(ABORT, 'ledger: the head stands where a batch ends'); END
    """,
    _sqlite_refusal("head", "DELETE", "the head is never removed"),
)


def _postgresql_function(name: str, body: str, declare: str = "") -> str:
    """Return a trigger's function. `@` is the ledger's schema, so no session's search path decides what it reads."""
    return f"""
    CREATE OR REPLACE FUNCTION @.{name}() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
    {declare}
    BEGIN
    {body}
    END $$
    """


def _postgresql_refusal(table: str, sentence: str, operations: str) -> tuple[str, ...]:
    return (
        _postgresql_function(f"{table}_refuse", f"RAISE EXCEPTION 'ledger: {sentence}';"),
        f"""
        CREATE TRIGGER {table}_refuse BEFORE {operations} OR TRUNCATE ON @.{table}
        FOR EACH STATEMENT EXECUTE FUNCTION @.{table}_refuse()
        """,
    )


def _postgresql_row(name: str, operation: str, table: str, body: str, declare: str = "") -> tuple[str, ...]:
    return (
        _postgresql_function(name, f"{body}\n      RETURN NEW;", declare),
        f"CREATE TRIGGER {name} BEFORE {operation} ON @.{table} FOR EACH ROW EXECUTE FUNCTION @.{name}()",
    )


def _postgresql_numbered(table: str, number: str, sentence: str) -> tuple[str, ...]:
    """Return a trigger against gaps in the rows' numbers. It runs once per statement: 1,000 events cost one look."""
    return (
        _postgresql_function(
            f"{table}_insert",
            f"""
      SELECT min({number}), max({number}), count(*) INTO low, high, rows FROM fresh;
      IF rows > 0 AND (
        high - low + 1 <> rows
        OR low - 1 <> coalesce((SELECT {number} FROM @.{table} WHERE {number} < low ORDER BY {number} DESC LIMIT 1), 0)
        OR EXISTS (SELECT 1 FROM @.{table} WHERE {number} > high)
      ) THEN RAISE EXCEPTION 'ledger: {sentence}';
      END IF;
      RETURN NULL;
            """,
            "DECLARE low bigint; high bigint; rows bigint;",
        ),
        f"""
        CREATE TRIGGER {table}_insert AFTER INSERT ON @.{table} REFERENCING NEW TABLE AS fresh
        FOR EACH STATEMENT EXECUTE FUNCTION @.{table}_insert()
        """,
    )


POSTGRESQL = (
    *_postgresql_numbered("event", "seq", "an event is appended after the last one"),
    *_postgresql_row(
        "event_update",
        "UPDATE",
        "event",
        """
      IF NEW.payload IS NOT NULL OR NEW.nonce IS NOT NULL
        OR (NEW.seq, NEW.stream, NEW.stream_version, NEW.type, NEW.schema_version, NEW.flags, NEW.recorded_us,
            NEW.observed_us, NEW.writer, NEW.header, NEW.leaf)
          IS DISTINCT FROM
           (OLD.seq, OLD.stream, OLD.stream_version, OLD.type, OLD.schema_version, OLD.flags, OLD.recorded_us,
            OLD.observed_us, OLD.writer, OLD.header, OLD.leaf)
        OR NOT EXISTS (
          SELECT 1 FROM @.event e WHERE e.stream = OLD.stream AND e.seq > OLD.seq AND e.type = 'PayloadErased'
        )
      THEN RAISE EXCEPTION 'ledger: an event is never changed';
      END IF;
        """,
    ),
    *_postgresql_refusal("event", "an event is never removed", "DELETE"),
    *_postgresql_numbered("stream", "id", "a stream is numbered after the last one"),
    *_postgresql_row(
        "stream_update",
        "UPDATE",
        "stream",
        """
      IF NEW.id <> OLD.id OR NEW.key IS NOT NULL
        OR NOT EXISTS (SELECT 1 FROM @.event e WHERE e.stream = OLD.id AND e.type = 'PayloadErased')
      THEN RAISE EXCEPTION 'ledger: a stream is never changed';
      END IF;
        """,
    ),
    *_postgresql_refusal("stream", "a stream is never removed", "DELETE"),
    # A session with an old snapshot sees neither the newest batches nor their events, so it cannot end a batch there.
    *_postgresql_row(
        "batch_insert",
        "INSERT",
        "batch",
        f"""
      SELECT b.last, b.recorded_us INTO latest FROM @.batch b ORDER BY b.last DESC LIMIT 1;
      IF NEW.first <> coalesce(latest.last, 0) + 1 OR NEW.last < NEW.first
        OR NEW.last > coalesce((SELECT seq FROM @.event ORDER BY seq DESC LIMIT 1), 0)
        OR NEW.recorded_us < coalesce(latest.recorded_us, 0)
        OR octet_length(NEW.frontier) <> 32 * length(replace(NEW.last::bit(64)::text, '0', ''))
      THEN RAISE EXCEPTION 'ledger: a batch follows the last one';
      END IF;
      IF NEW.recorded_us > extract(epoch FROM clock_timestamp()) * 1000000 + {AHEAD_US}
        AND NEW.recorded_us > coalesce(latest.recorded_us, 0)
        AND NOT pg_has_role((SELECT relowner FROM pg_class WHERE oid = TG_RELID), 'USAGE')
      THEN RAISE EXCEPTION 'ledger: a batch is ahead of the server''s clock; only the owner may write it';
      END IF;
        """,
        "DECLARE latest record;",
    ),
    *_postgresql_refusal("batch", "a batch is never changed or removed", "UPDATE OR DELETE"),
    *_postgresql_numbered("checkpoint", "id", "a checkpoint is kept after the last one"),
    *_postgresql_refusal("checkpoint", "a checkpoint is never changed or removed", "UPDATE OR DELETE"),
    *_postgresql_row(
        "head_update",
        "UPDATE",
        "head",
        """
      IF NEW.id <> OLD.id OR NEW.position < OLD.position OR NEW.recorded_us < OLD.recorded_us
        OR NEW.streams < OLD.streams
      THEN RAISE EXCEPTION 'ledger: the head never goes back';
      END IF;
      IF NOT EXISTS (
          SELECT 1 FROM @.batch b WHERE b.last = NEW.position AND b.recorded_us = NEW.recorded_us
            AND coalesce(b.frontier, NEW.frontier) = NEW.frontier
        )
        OR octet_length(NEW.frontier) <> 32 * length(replace(NEW.position::bit(64)::text, '0', ''))
        OR (NEW.streams > OLD.streams AND NEW.streams > (SELECT id FROM @.stream ORDER BY id DESC LIMIT 1))
      THEN RAISE EXCEPTION 'ledger: the head stands where a batch ends';
      END IF;
        """,
    ),
    *_postgresql_refusal("head", "the head is never removed", "DELETE"),
)


def _mysql_refusal(table: str, operation: str, sentence: str) -> str:
    return (
        f"CREATE TRIGGER {table}_{operation.lower()} BEFORE {operation} ON {table} FOR EACH ROW"
        f" SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'ledger: {sentence}'"
    )


# In a trigger, current_user() is who created it, and user() is who runs the statement, and from which host.
_MYSQL_OWNER = "substring_index(user(), '@', 1) = substring_index(current_user(), '@', 1)"

MYSQL = (
    """
    CREATE TRIGGER event_insert BEFORE INSERT ON event FOR EACH ROW
    IF NEW.seq <> (SELECT coalesce(max(seq), 0) + 1 FROM event) THEN
      SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'ledger: an event is appended after the last one';
    END IF
    """,
    """
    CREATE TRIGGER event_update BEFORE UPDATE ON event FOR EACH ROW
    IF NOT (
      NEW.payload IS NULL AND NEW.nonce IS NULL
      AND NEW.seq = OLD.seq AND NEW.stream = OLD.stream AND NEW.stream_version = OLD.stream_version
      AND NEW.type = OLD.type AND NEW.schema_version = OLD.schema_version AND NEW.flags = OLD.flags
      AND NEW.recorded_us = OLD.recorded_us AND NEW.observed_us = OLD.observed_us AND NEW.writer = OLD.writer
      AND NEW.header = OLD.header AND NEW.leaf = OLD.leaf
      AND EXISTS (
        SELECT 1 FROM event e WHERE e.stream = OLD.stream AND e.seq > OLD.seq AND e.type = 'PayloadErased'
      )
    ) THEN
      SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'ledger: an event is never changed';
    END IF
    """,
    _mysql_refusal("event", "DELETE", "an event is never removed"),
    """
    CREATE TRIGGER stream_insert BEFORE INSERT ON stream FOR EACH ROW
    IF NEW.id <> (SELECT coalesce(max(id), 0) + 1 FROM stream) THEN
      SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'ledger: a stream is numbered after the last one';
    END IF
    """,
    """
    CREATE TRIGGER stream_update BEFORE UPDATE ON stream FOR EACH ROW
    IF NOT (
      NEW.id = OLD.id AND NEW.`key` IS NULL
      AND EXISTS (SELECT 1 FROM event e WHERE e.stream = OLD.id AND e.type = 'PayloadErased')
    ) THEN
      SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'ledger: a stream is never changed';
    END IF
    """,
    _mysql_refusal("stream", "DELETE", "a stream is never removed"),
    # The locking read sees the newest batch, whatever the session's snapshot shows.
    f"""
    CREATE TRIGGER batch_insert BEFORE INSERT ON batch FOR EACH ROW
    BEGIN
      DECLARE latest, latest_us BIGINT DEFAULT 0;
      SELECT last, recorded_us INTO latest, latest_us FROM batch ORDER BY last DESC LIMIT 1 LOCK IN SHARE MODE;
      IF NEW.first <> latest + 1 OR NEW.last < NEW.first
        OR NEW.last > (SELECT coalesce(max(seq), 0) FROM event) OR NEW.recorded_us < latest_us
        OR octet_length(NEW.frontier) <> 32 * bit_count(NEW.last) THEN
        SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'ledger: a batch follows the last one';
      END IF;
      IF NEW.recorded_us > unix_timestamp(sysdate(6)) * 1000000 + {AHEAD_US} AND NEW.recorded_us > latest_us
        AND NOT {_MYSQL_OWNER} THEN
        SIGNAL SQLSTATE '45000'
          SET MESSAGE_TEXT = 'ledger: a batch is ahead of the server''s clock; only the owner may write it';
      END IF;
    END
    """,
    _mysql_refusal("batch", "UPDATE", "a batch is never changed"),
    _mysql_refusal("batch", "DELETE", "a batch is never removed"),
    """
    CREATE TRIGGER checkpoint_insert BEFORE INSERT ON checkpoint FOR EACH ROW
    IF NEW.id <> (SELECT coalesce(max(id), 0) + 1 FROM checkpoint) THEN
      SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'ledger: a checkpoint is kept after the last one';
    END IF
    """,
    _mysql_refusal("checkpoint", "UPDATE", "a checkpoint is never changed"),
    _mysql_refusal("checkpoint", "DELETE", "a checkpoint is never removed"),
    """
    CREATE TRIGGER head_update BEFORE UPDATE ON head FOR EACH ROW
    BEGIN
      IF NEW.id <> OLD.id OR NEW.position < OLD.position OR NEW.recorded_us < OLD.recorded_us
        OR NEW.streams < OLD.streams THEN
        SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'ledger: the head never goes back';
      END IF;
      IF NOT EXISTS (
          SELECT 1 FROM batch b WHERE b.last = NEW.position AND b.recorded_us = NEW.recorded_us
            AND coalesce(b.frontier, NEW.frontier) = NEW.frontier
        )
        OR octet_length(NEW.frontier) <> 32 * bit_count(NEW.position)
        OR (NEW.streams > OLD.streams AND NEW.streams > (SELECT coalesce(max(id), 0) FROM stream)) THEN
        SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'ledger: the head stands where a batch ends';
      END IF;
    END
    """,
    _mysql_refusal("head", "DELETE", "the head is never removed"),
)

GUARDED = ("event", "stream", "batch", "checkpoint", "head")

_GUARDS = {"sqlite": SQLITE, "postgresql": POSTGRESQL, "mysql": MYSQL, "mariadb": MYSQL}
_NAMES = ("insert", "update", "delete", "refuse", "tied")
"""Every trigger of any schema so far is named by its table and one of these."""


def renew(connection: Connection) -> None:
    """Replace the triggers of an older schema, if there are any, with those of the newest one."""
    for statement in (*_removals(connection), *_GUARDS[connection.dialect.name]):
        connection.exec_driver_sql(statement.replace("@.", _schema(connection)))


# --- helpers ---------------------------------------------------------------------------------------------------------


def _removals(connection: Connection) -> Sequence[str]:
    end = " ON @.{}" if connection.dialect.name == "postgresql" else ""
    return [f"DROP TRIGGER IF EXISTS {table}_{name}{end.format(table)}" for table in GUARDED for name in _NAMES]


def _schema(connection: Connection) -> str:
    if connection.dialect.name != "postgresql":
        return ""
    return f"{connection.execute(text('SELECT quote_ident(current_schema())')).scalar_one()}."
