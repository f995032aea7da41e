"""The frequent statements as text, compiled once per process, so that the driver can take plain tuples."""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from sqlalchemy import bindparam, insert

from ledger.rows import StoredFact
from ledger.sql import schema
from ledger.sql.dialects import upsert

if TYPE_CHECKING:
    from sqlalchemy import Engine, Table

FEW = 32
"""How many rows to read first if a caller often needs no more."""

PAGE = 1000
"""How many rows are read at a time."""

LARGE_PAGE = 10 * PAGE
"""How many rows of two small columns are read at a time."""

EVENT_COLUMNS = ", ".join(f"event.{column.name}" for column in schema.event.columns)
FACT_COLUMNS = ", ".join(f"event.{name}" for name in StoredFact._fields)
ENTRY_COLUMNS = ", ".join(f"entry.{column.name}" for column in schema.entry.columns)
COPY_COLUMNS = ", ".join(column.name for column in schema.copy.columns)


MANY = 250
"""How many rows SQLite takes in one statement.

The driver releases the interpreter's lock for each statement and then takes it again. With one statement per row,
a collector's threads would spend their time passing the lock around.
"""


class Put(Struct, frozen=True):
    """The statements that write rows into a table. Each takes the columns in their order.

    `one` takes a row, and is repeated for many rows if there is nothing better. `many` takes `MANY` rows, one after
    another. `arrays` takes one array per column, with all rows. `copy` takes a stream of rows with these `types`.
    """

    one: str
    many: str | None = None
    arrays: str | None = None
    copy: str | None = None
    types: tuple[str, ...] = ()


class Statements:
    """Statements with the driver's own placeholders. Their values come in the order of the table's columns."""

    def __init__(self, engine: Engine) -> None:
        """Prepare. Nothing is compiled yet."""
        self._engine = engine
        self.mark = "?" if engine.dialect.paramstyle == "qmark" else "%s"

    @cached_property
    def insert_stream(self) -> Put:
        """Rows: id, key."""
        return self._put(insert(schema.stream), schema.stream)

    @cached_property
    def insert_event(self) -> Put:
        """Rows: StoredEvents."""
        return self._put(insert(schema.event), schema.event)

    @cached_property
    def insert_batch(self) -> Put:
        """Rows: CommitRows."""
        return self._put(insert(schema.batch), schema.batch)

    @cached_property
    def put_entry(self) -> Put:
        """Rows: EntryRows."""
        return self._put(upsert(self._engine, schema.entry), schema.entry)

    @cached_property
    def put_copy(self) -> Put:
        """Rows: CopyStates."""
        return self._put(upsert(self._engine, schema.copy), schema.copy)

    @cached_property
    def put_source(self) -> Put:
        """Rows: SourceRows."""
        return self._put(upsert(self._engine, schema.source), schema.source)

    @cached_property
    def put_lease(self) -> Put:
        """Rows: stream, session, instance, expires_us."""
        return self._put(upsert(self._engine, schema.lease), schema.lease)

    @cached_property
    def put_placement(self) -> Put:
        """Rows: sha256, the pack's number, start, length."""
        return self._put(upsert(self._engine, schema.placement), schema.placement)

    @cached_property
    def add_pack(self) -> Put:
        """Rows: number, place, name, and the objects and bytes that are added to an existing pack."""
        return self._put(upsert(self._engine, schema.pack, add=("objects", "bytes")), schema.pack)

    @lru_cache(maxsize=4096)  # noqa: B019  # as below
    def select_packs(self, count: int) -> str:
        """Values: place, `count` names of packs; rows: name, number."""
        return self.marked(f"SELECT name, number FROM pack WHERE place = ? AND name IN ({self._marks(count)})")

    @lru_cache(maxsize=4096)  # noqa: B019  # as below
    def select_placed(self, count: int) -> str:
        """Values: a pack's number, `count` SHA-256s; rows: those that are placed in it, and where."""
        return self.marked(f"SELECT sha256, start FROM placement WHERE pack = ? AND sha256 IN ({self._marks(count)})")

    @lru_cache(maxsize=4096)  # noqa: B019  # as below
    def select_placements(self, count: int) -> str:
        """Values: `count` SHA-256s; rows: sha256, the pack's number, start (negative: dropped), length."""
        # Do not join with `pack`: a planner could begin there, and look for each object in every pack.
        return self.marked(f"SELECT sha256, pack, start, length FROM placement WHERE sha256 IN ({self._marks(count)})")

    @cached_property
    def page_placements(self) -> str:
        """Values: SHA-256 and pack's number to continue after, end, limit; rows: sha256, number, start, length."""
        # The first condition lets every database start in the index at the end of the last page.
        return self.marked(
            "SELECT sha256, pack, start, length FROM placement"
            " WHERE sha256 >= ? AND (sha256 > ? OR pack > ?) AND sha256 < ? ORDER BY sha256, pack LIMIT ?"
        )

    @cached_property
    def add_tally(self) -> Put:
        """Rows: TallyRows, which are added to the existing sums."""
        return self._put(upsert(self._engine, schema.tally, add=("elements", "bytes")), schema.tally)

    @cached_property
    def judge_copy(self) -> str:
        """Values: state, sha256, stream."""
        return self.marked("UPDATE copy SET state = ? WHERE sha256 = ? AND stream = ?")

    @cached_property
    def move_head(self) -> str:
        """Values: a StoredHead."""
        return self.marked("UPDATE head SET position = ?, recorded_us = ?, streams = ?, frontier = ? WHERE id = 1")

    @lru_cache(maxsize=4096)  # noqa: B019  # a Statements object lives as long as its store
    def select_streams(self, count: int) -> str:
        """Values: `count` stored keys; rows: key, id, and the columns of the entry, or null if there is none."""
        return self.marked(
            f"SELECT stream.{self.key}, stream.id, {ENTRY_COLUMNS} FROM stream"
            f" LEFT JOIN entry ON entry.stream = stream.id WHERE stream.{self.key} IN ({self._marks(count)})"
        )

    @lru_cache(maxsize=4096)  # noqa: B019  # as above
    def select_versions(self, count: int) -> str:
        """Values: `count` streams; rows: stream and its newest version."""
        return self.marked(
            f"SELECT stream, max(stream_version) FROM event WHERE stream IN ({self._marks(count)}) GROUP BY stream"
        )

    @lru_cache(maxsize=4096)  # noqa: B019  # as above
    def select_entries(self, count: int) -> str:
        """Values: `count` streams; rows: the columns of their entries."""
        return self.marked(f"SELECT {ENTRY_COLUMNS} FROM entry WHERE stream IN ({self._marks(count)})")

    @lru_cache(maxsize=4096)  # noqa: B019  # as above
    def select_keys(self, count: int) -> str:
        """Values: `count` streams; rows: id and stored key."""
        return self.marked(f"SELECT id, {self.key} FROM stream WHERE id IN ({self._marks(count)})")

    @cached_property
    def page_numbered(self) -> str:
        """Values: first stream, last stream; rows: id and stored key."""
        return self.marked(f"SELECT id, {self.key} FROM stream WHERE id >= ? AND id <= ?")

    @lru_cache(maxsize=4096)  # noqa: B019  # as above
    def select_events(self, count: int) -> str:
        """Values: `count` positions; rows: StoredEvents."""
        return self.marked(f"SELECT {EVENT_COLUMNS} FROM event WHERE seq IN ({self._marks(count)}) ORDER BY seq")

    @lru_cache(maxsize=4096)  # noqa: B019  # as above
    def select_facts(self, count: int) -> str:
        """Values: `count` positions; rows: StoredFacts."""
        return self.marked(f"SELECT {FACT_COLUMNS} FROM event WHERE seq IN ({self._marks(count)}) ORDER BY seq")

    @lru_cache(maxsize=4096)  # noqa: B019  # as above
    def select_histories(self, count: int) -> str:
        """Values: `count` streams, until; rows: StoredFacts in the order of streams."""
        return self.marked(
            f"SELECT {FACT_COLUMNS} FROM event WHERE stream IN ({self._marks(count)}) AND seq <= ?"
            " ORDER BY stream, stream_version"
        )

    @lru_cache(maxsize=4096)  # noqa: B019  # as above
    def page_of_types(self, count: int) -> str:
        """Values: after, until, `count` types, limit; rows: StoredFacts."""
        return self.marked(
            f"SELECT {FACT_COLUMNS} FROM event WHERE seq > ? AND seq <= ? AND type IN ({self._marks(count)})"
            " ORDER BY seq LIMIT ?"
        )

    @lru_cache(maxsize=4096)  # noqa: B019  # as above
    def select_named(self, count: int) -> str:
        """Values: `count` SHA-256; rows: CopyStates."""
        return self.marked(f"SELECT {COPY_COLUMNS} FROM copy WHERE sha256 IN ({self._marks(count)})")

    @cached_property
    def page_revisited(self) -> str:
        """Values: after, until, an element's most events without an older version, limit; rows: stream, source."""
        return self.marked(
            "SELECT stream, source FROM entry WHERE stream > ? AND stream <= ? AND (version > ? OR state = 'vanished')"
            " ORDER BY stream LIMIT ?"
        )

    @lru_cache(maxsize=4096)  # noqa: B019  # as above
    def select_images(self, count: int) -> str:
        """Values: `count` streams; rows: Images."""
        return self.marked(f"{self._images} WHERE entry.stream IN ({self._marks(count)})")

    @lru_cache(maxsize=4096)  # noqa: B019  # as above
    def select_images_by_key(self, count: int) -> str:
        """Values: `count` stored keys; rows: Images."""
        return self.marked(f"{self._images} WHERE stream.{self.key} IN ({self._marks(count)})")

    @lru_cache(maxsize=4096)  # noqa: B019  # as above
    def delete_leases(self, count: int) -> str:
        """Values: session, instance, `count` streams."""
        return self.marked(f"DELETE FROM lease WHERE session = ? AND instance = ? AND stream IN ({self._marks(count)})")

    @cached_property
    def select_holder(self) -> str:
        """Values: an instance's name; rows: the session that has it."""
        return self.marked("SELECT session FROM instance WHERE name = ?")

    @cached_property
    def lock_due(self) -> str:
        """Values: source, latest due time, now, limit; rows: due_us, stream, and the expected size.

        On databases that lock rows, this skips rows that others have locked.
        """
        lock = {"sqlite": "", "postgresql": " FOR UPDATE OF entry SKIP LOCKED"}
        return self.marked(
            "SELECT entry.due_us, entry.stream, coalesce(entry.claimed, entry.size, 0) FROM entry"
            " LEFT JOIN lease ON lease.stream = entry.stream WHERE entry.source = ? AND entry.due_us <= ?"
            " AND (lease.stream IS NULL OR lease.expires_us <= ?) ORDER BY entry.due_us, entry.stream LIMIT ?"
            + lock.get(self._engine.dialect.name, " FOR UPDATE SKIP LOCKED")
        )

    @cached_property
    def page_events(self) -> str:
        """Values: after, until, limit; rows: StoredEvents."""
        return self.marked(f"SELECT {EVENT_COLUMNS} FROM event WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?")

    @cached_property
    def page_bodies(self) -> str:
        """Values: after, until, limit; rows: seq, stored key, header, nonce, payload."""
        return self.marked(
            f"SELECT event.seq, stream.{self.key}, event.header, event.nonce, event.payload FROM event"
            " LEFT JOIN stream ON stream.id = event.stream WHERE event.seq > ? AND event.seq <= ?"
            " ORDER BY event.seq LIMIT ?"
        )

    @cached_property
    def page_pointers(self) -> str:
        """Values: after, until, limit; rows: seq, stream."""
        return self.marked("SELECT seq, stream FROM event WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?")

    @cached_property
    def page_keys(self) -> str:
        """Values: after, limit; rows: stored key, stream."""
        return self.marked(
            f"SELECT stream.{self.key}, id FROM stream WHERE stream.{self.key} > ? ORDER BY stream.{self.key} LIMIT ?"
        )

    @cached_property
    def page_erased(self) -> str:
        """Values: after, limit; rows: the number of an erased stream. The index on `key` leads to them at once."""
        return self.marked(f"SELECT id FROM stream WHERE stream.{self.key} IS NULL AND id > ? ORDER BY id LIMIT ?")

    @cached_property
    def page_projection(self) -> str:
        """Values: after, limit; rows: stored key, EntryRow, and five columns of the event that it points to."""
        # With this join order, MySQL walks the index of the keys. Without it, MySQL would sort all entries.
        straight = "STRAIGHT_JOIN" if self._engine.dialect.name in {"mysql", "mariadb"} else "JOIN"
        return self.marked(
            f"SELECT stream.{self.key}, {ENTRY_COLUMNS}, event.stream, event.type, event.schema_version,"
            f" event.recorded_us, event.payload FROM stream {straight} entry ON entry.stream = stream.id"
            f" LEFT JOIN event ON event.seq = entry.seq WHERE stream.{self.key} > ?"
            f" ORDER BY stream.{self.key} LIMIT ?"
        )

    @cached_property
    def page_copies(self) -> str:
        """Values: SHA-256, the same again, the stream to continue after, last SHA-256, limit; rows: CopyStates."""
        # The first condition lets every database start in the index at the end of the last page.
        return self.marked(
            f"SELECT {COPY_COLUMNS} FROM copy WHERE sha256 >= ? AND (sha256 > ? OR stream > ?) AND sha256 <= ?"
            " ORDER BY sha256, stream LIMIT ?"
        )

    @cached_property
    def page_last(self) -> str:
        """Values: first stream, last stream, until; rows: seq of the stream's last event, stream."""
        return self.marked(
            "SELECT max(seq), stream FROM event WHERE stream >= ? AND stream <= ? AND seq <= ? GROUP BY stream"
            " ORDER BY stream"
        )

    @cached_property
    def page_leaves(self) -> str:
        """Values: after, until; rows: leaf."""
        return self.marked("SELECT leaf FROM event WHERE seq > ? AND seq <= ? ORDER BY seq")

    @cached_property
    def key(self) -> str:
        """The column `key`, quoted because MySQL reserves that word."""
        return self._engine.dialect.identifier_preparer.quote("key")

    @cached_property
    def _images(self) -> str:
        return (
            f"SELECT stream.{self.key}, entry.stream, entry.version, entry.seq, event.type, event.schema_version,"
            " event.flags, event.payload FROM stream JOIN entry ON entry.stream = stream.id"
            " JOIN event ON event.seq = entry.seq"
        )

    def marked(self, statement: str) -> str:
        """Return the statement with the driver's placeholders instead of question marks."""
        return statement.replace("?", self.mark)

    def _marks(self, count: int) -> str:
        return ", ".join("?" * count)

    def _put(self, statement: Any, table: Table) -> Put:
        names = [column.name for column in table.columns]
        dialect = self._engine.dialect
        compiled = statement.values({name: bindparam(name) for name in names}).compile(dialect=dialect)
        if list(compiled.positiontup or ()) != names:
            raise AssertionError(f"the values of {table.name} are not in the order of its columns")
        one = str(compiled)
        if dialect.name == "sqlite":
            into, values, tail = one.partition(" VALUES (")
            row, end, after = tail.partition(")")
            return Put(one, many=f"{into}{values}{row}{end}{f', ({row})' * (MANY - 1)}{after}")
        if dialect.name != "postgresql":
            return Put(one)
        # One binary statement for a thousand rows is three to ten times as fast here as psycopg's executemany.
        types = tuple(_bare(column.type.compile(dialect)) for column in table.columns)
        head, _, tail = one.partition(" VALUES (")
        arrays = ", ".join(f"%b::{name}[]" for name in types)
        rest = tail.partition(" ON CONFLICT")
        return Put(
            one,
            arrays=f"{head} SELECT * FROM unnest({arrays}){rest[1]}{rest[2]}",
            copy=f"COPY {head.removeprefix('INSERT INTO ')} FROM STDIN (FORMAT BINARY)",
            types=types,
        )


def _bare(type_name: str) -> str:
    """Return the name of a PostgreSQL type without its length and collation."""
    return type_name.partition("(")[0].partition(" ")[0].lower()
