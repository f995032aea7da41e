"""The triggers of the newest schema. They protect history from accidents of people who have the password.

An event can only be appended after the last one. Only an erasure can change it, if a later PayloadErased announces it.
Nothing can remove it. The same holds for streams, batches and checkpoints. On SQLite, REPLACE removes rows without
running the DELETE triggers (unless `recursive_triggers` is on), so the INSERT triggers refuse rows that exist already.
"""

from __future__ import annotations

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
    """
    CREATE TRIGGER event_delete BEFORE DELETE ON event
    BEGIN SELECT RAISE(ABORT, 'ledger: an event is never removed'); END
    """,
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
    """
    CREATE TRIGGER stream_delete BEFORE DELETE ON stream
    BEGIN SELECT RAISE(ABORT, 'ledger: a stream is never removed'); END
    """,
    """
    CREATE TRIGGER batch_insert BEFORE INSERT ON batch
    WHEN NEW.first <> (SELECT coalesce(max(last), 0) + 1 FROM batch) OR NEW.last < NEW.first
      OR EXISTS (SELECT 1 FROM batch WHERE batch_key = NEW.batch_key)
    BEGIN SELECT RAISE(ABORT, 'ledger: a batch follows the last one'); END
    """,
    """
    CREATE TRIGGER batch_update BEFORE UPDATE ON batch
    BEGIN SELECT RAISE(ABORT, 'ledger: a batch is never changed'); END
    """,
    """
    CREATE TRIGGER batch_delete BEFORE DELETE ON batch
    BEGIN SELECT RAISE(ABORT, 'ledger: a batch is never removed'); END
    """,
    """
    CREATE TRIGGER checkpoint_insert BEFORE INSERT ON checkpoint
    WHEN NEW.id <> (SELECT coalesce(max(id), 0) + 1 FROM checkpoint)
      OR EXISTS (SELECT 1 FROM checkpoint WHERE digest = NEW.digest)
    BEGIN SELECT RAISE(ABORT, 'ledger: a checkpoint is kept once, after the last one'); END
    """,
    """
    CREATE TRIGGER checkpoint_update BEFORE UPDATE ON checkpoint
    BEGIN SELECT RAISE(ABORT, 'ledger: a checkpoint is never changed'); END
    """,
    """
    CREATE TRIGGER checkpoint_delete BEFORE DELETE ON checkpoint
    BEGIN SELECT RAISE(ABORT, 'ledger: a checkpoint is never removed'); END
    """,
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
    CREATE TRIGGER head_delete BEFORE DELETE ON head
    BEGIN SELECT RAISE(ABORT, 'ledger: the head is never removed'); END
    """,
)


def _postgresql_refusal(table: str, sentence: str, operations: str) -> tuple[str, ...]:
    return (
        f"""
        CREATE OR REPLACE FUNCTION {table}_refuse() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'ledger: {sentence}'; END $$
        """,
        f"""
        CREATE TRIGGER {table}_refuse BEFORE {operations} OR TRUNCATE ON {table}
        FOR EACH STATEMENT EXECUTE FUNCTION {table}_refuse()
        """,
    )


POSTGRESQL = (
    # This runs once per statement and not once per row, so a batch of a thousand events pays for one check.
    """
    CREATE OR REPLACE FUNCTION event_insert() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE low bigint; high bigint; rows bigint;
    BEGIN
      SELECT min(seq), max(seq), count(*) INTO low, high, rows FROM fresh;
      IF rows > 0 AND (
        high - low + 1 <> rows
        OR low - 1 <> coalesce((SELECT seq FROM event WHERE seq < low ORDER BY seq DESC LIMIT 1), 0)
        OR EXISTS (SELECT 1 FROM event WHERE seq > high)
      ) THEN RAISE EXCEPTION 'ledger: an event is appended after the last one';
      END IF;
      RETURN NULL;
    END $$
    """,
    """
    CREATE TRIGGER event_insert AFTER INSERT ON event REFERENCING NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION event_insert()
    """,
    """
    CREATE OR REPLACE FUNCTION event_update() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
      IF NEW.payload IS NULL AND NEW.nonce IS NULL
        AND (NEW.seq, NEW.stream, NEW.stream_version, NEW.type, NEW.schema_version, NEW.flags, NEW.recorded_us,
             NEW.observed_us, NEW.writer, NEW.header, NEW.leaf)
          = (OLD.seq, OLD.stream, OLD.stream_version, OLD.type, OLD.schema_version, OLD.flags, OLD.recorded_us,
             OLD.observed_us, OLD.writer, OLD.header, OLD.leaf)
        AND EXISTS (
          SELECT 1 FROM event e WHERE e.stream = OLD.stream AND e.seq > OLD.seq AND e.type = 'PayloadErased'
        )
      THEN RETURN NEW;
      END IF;
      RAISE EXCEPTION 'ledger: an event is never changed';
    END $$
    """,
    "CREATE TRIGGER event_update BEFORE UPDATE ON event FOR EACH ROW EXECUTE FUNCTION event_update()",
    *_postgresql_refusal("event", "an event is never removed", "DELETE"),
    """
    CREATE OR REPLACE FUNCTION stream_update() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
      IF NEW.id = OLD.id AND NEW.key IS NULL
        AND EXISTS (SELECT 1 FROM event e WHERE e.stream = OLD.id AND e.type = 'PayloadErased')
      THEN RETURN NEW;
      END IF;
      RAISE EXCEPTION 'ledger: a stream is never changed';
    END $$
    """,
    "CREATE TRIGGER stream_update BEFORE UPDATE ON stream FOR EACH ROW EXECUTE FUNCTION stream_update()",
    *_postgresql_refusal("stream", "a stream is never removed", "DELETE"),
    *_postgresql_refusal("batch", "a batch is never changed or removed", "UPDATE OR DELETE"),
    *_postgresql_refusal("checkpoint", "a checkpoint is never changed or removed", "UPDATE OR DELETE"),
    """
    CREATE OR REPLACE FUNCTION head_update() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
      IF NEW.position < OLD.position OR NEW.recorded_us < OLD.recorded_us OR NEW.streams < OLD.streams
      THEN RAISE EXCEPTION 'ledger: the head never goes back';
      END IF;
      RETURN NEW;
    END $$
    """,
    "CREATE TRIGGER head_update BEFORE UPDATE ON head FOR EACH ROW EXECUTE FUNCTION head_update()",
    *_postgresql_refusal("head", "the head is never removed", "DELETE"),
)


def _mysql_refusal(table: str, operation: str, sentence: str) -> str:
    return (
        f"CREATE TRIGGER {table}_{operation.lower()} BEFORE {operation} ON {table} FOR EACH ROW"
        f" SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'ledger: {sentence}'"
    )


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
    CREATE TRIGGER stream_update BEFORE UPDATE ON stream FOR EACH ROW
    IF NOT (
      NEW.id = OLD.id AND NEW.`key` IS NULL
      AND EXISTS (SELECT 1 FROM event e WHERE e.stream = OLD.id AND e.type = 'PayloadErased')
    ) THEN
      SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'ledger: a stream is never changed';
    END IF
    """,
    _mysql_refusal("stream", "DELETE", "a stream is never removed"),
    _mysql_refusal("batch", "UPDATE", "a batch is never changed"),
    _mysql_refusal("batch", "DELETE", "a batch is never removed"),
    _mysql_refusal("checkpoint", "UPDATE", "a checkpoint is never changed"),
    _mysql_refusal("checkpoint", "DELETE", "a checkpoint is never removed"),
    """
    CREATE TRIGGER head_update BEFORE UPDATE ON head FOR EACH ROW
    IF NEW.position < OLD.position OR NEW.recorded_us < OLD.recorded_us OR NEW.streams < OLD.streams THEN
      SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'ledger: the head never goes back';
    END IF
    """,
    _mysql_refusal("head", "DELETE", "the head is never removed"),
)

GUARDS = {"sqlite": SQLITE, "postgresql": POSTGRESQL, "mysql": MYSQL, "mariadb": MYSQL}
