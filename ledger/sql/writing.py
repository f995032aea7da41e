"""One write transaction on a SQL database, with the head row locked from the beginning."""

from __future__ import annotations

from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from ledger.merkle import Frontier
from ledger.rows import CommitRow, EntryRow, SourceRow, StoredHead, StreamRow
from ledger.sql.statements import LARGE_PAGE, MANY

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from sqlalchemy import Connection

    from ledger.places import Placement
    from ledger.rows import Batch, Changes
    from ledger.sql.statements import Put, Statements

IN_LIMIT = 500
"""How many values one IN list can have."""

COPY_FROM = 16
"""From this many rows on, PostgreSQL's COPY is worth its extra round trips."""


def slices(values: Iterable[Any]) -> Iterator[list[Any]]:
    """Yield the values in lists that fit into one IN list."""
    rest = iter(values)
    while part := list(islice(rest, IN_LIMIT)):
        yield part


def put_rows(cursor: Any, put: Put, rows: Sequence[Sequence[Any]]) -> None:
    """Write the rows in the fastest way for this database."""
    if len(rows) == 1:
        cursor.execute(put.one, rows[0])
    elif len(rows) >= COPY_FROM and put.copy is not None and put.arrays is not None and "ON CONFLICT" not in put.one:
        with cursor.copy(put.copy) as stream:
            stream.set_types(put.types)
            for row in rows:
                stream.write_row(row)
    elif put.arrays is not None and rows:
        cursor.execute(put.arrays, [list(column) for column in zip(*rows, strict=True)])
    elif rows:
        whole = 0 if put.many is None else len(rows) - len(rows) % MANY
        for start in range(0, whole, MANY):
            cursor.execute(put.many, list(chain.from_iterable(rows[start : start + MANY])))
        cursor.executemany(put.one, rows[whole:])


class SqlWriting:
    """Implements `ledger.stores.Writing` on one connection."""

    def __init__(self, connection: Connection, statements: Statements, locked: Sequence[Any]) -> None:
        """Take over a transaction that has locked the head, and the columns of `LOCK_HEAD`."""
        position, recorded_us, streams, frontier, now_us, last_event, last_stream = locked
        self.head = StoredHead(position, recorded_us, max(streams, last_stream), bytes(frontier))
        self.now_us: int | None = now_us
        self._statements = statements
        self._cursor: Any = connection.connection.cursor()
        if last_event > position:
            self._adopt(last_event)

    def commit_of(self, batch_key: bytes) -> CommitRow | None:
        """Return the commit with this idempotency key, or None."""
        rows = self._rows(
            "SELECT last, first, recorded_us, batch_key, frontier FROM batch WHERE batch_key = ?", batch_key
        )
        return CommitRow(*rows[0]) if rows else None

    def leaf(self, position: int) -> bytes | None:
        """Return the leaf hash stored at this position, or None."""
        rows = self._rows("SELECT leaf FROM event WHERE seq = ?", position)
        return rows[0][0] if rows else None

    def streams(self, keys: Collection[bytes]) -> dict[bytes, StreamRow]:
        """Return the streams that exist among these stored keys."""
        found: dict[bytes, StreamRow] = {}
        bare: dict[int, bytes] = {}
        for part in slices(keys):
            self._cursor.execute(self._statements.select_streams(len(part)), part)
            for key, stream, *columns in self._cursor.fetchall():
                if columns[0] is None:
                    bare[stream] = key
                    # Somebody might have inserted it without an event.
                    found[key] = StreamRow(stream, 0, None)
                else:
                    entry = EntryRow._make(columns)
                    found[key] = StreamRow(stream, entry.version, entry)
        for part in slices(bare):
            self._cursor.execute(self._statements.select_versions(len(part)), part)
            for stream, version in self._cursor.fetchall():
                found[bare[stream]] = StreamRow(stream, version, None)
        return found

    def sources(self) -> list[SourceRow]:
        """Return all sources, in the order in which they began."""
        return [SourceRow(*row) for row in self._rows("SELECT no, id, stream, version, seq FROM source ORDER BY no")]

    def entries(self, streams: Collection[int]) -> dict[int, EntryRow]:
        """Return the entries that exist among these streams."""
        found: dict[int, EntryRow] = {}
        for part in slices(streams):
            self._cursor.execute(self._statements.select_entries(len(part)), part)
            found.update((row[0], EntryRow._make(row)) for row in self._cursor.fetchall())
        return found

    def stored(self, copies: Collection[tuple[bytes, int]]) -> set[tuple[bytes, int]]:
        """Return which of these (SHA-256, stream) were ever stored as copies, whatever became of them."""
        probe = "SELECT 1 FROM copy WHERE sha256 = ? AND stream = ?"
        return {copy for copy in copies if self._rows(probe, *copy)}

    def write(self, batch: Batch) -> None:
        """Write the batch: events, erasures, projection, commit row and head."""
        put_rows(self._cursor, self._statements.insert_stream, batch.streams)
        put_rows(self._cursor, self._statements.insert_event, batch.events)
        if batch.erased and self._statements.mark == "?":
            # By default, SQLite leaves freed data in the file. This makes it overwrite the data.
            self._cursor.execute("PRAGMA secure_delete = ON")
        for stream, position in batch.erased:
            self._run("UPDATE event SET payload = NULL, nonce = NULL WHERE stream = ? AND seq < ?", stream, position)
            self._run(f"UPDATE stream SET {self._statements.key} = NULL WHERE id = ?", stream)
            # Snapshots from the stream's first event on were made from the erased data.
            begun = self._rows("SELECT seq FROM event WHERE stream = ? ORDER BY stream_version LIMIT 1", stream)
            for table in ("snapshot", "snapshot_chunk"):
                self._run(f"DELETE FROM {table} WHERE position >= ?", begun[0][0])
        self.change(batch.changes)
        put_rows(self._cursor, self._statements.insert_batch, batch.commits)
        self._cursor.execute(self._statements.move_head, batch.head)

    def place(self, places: Sequence[Placement], *, place: str = "") -> None:
        """Add placements in the same transaction. A dropped one counts again."""
        by_pack: dict[bytes, list[Placement]] = {name: [] for name in {one.pack for one in places}}
        for one in places:
            by_pack[one.pack].append(one)
        numbers = self._numbers(by_pack, place)
        rows: list[tuple[bytes, int, int, int]] = []
        packs: list[tuple[int, str, bytes, int, int]] = []
        last = self._rows("SELECT coalesce(max(number), 0) FROM pack")[0][0] if len(numbers) < len(by_pack) else 0
        for name, within in by_pack.items():
            number = numbers.get(name)
            there: dict[bytes, int] = {}
            if number is None:
                number = last = last + 1
            else:
                there = self._starts(number, within)
            fresh = [one for one in within if one.sha256 not in there] if there else within
            packs.append((number, place, name, len(fresh), sum([one.length for one in fresh])))
            moved = [one for one in within if there.get(one.sha256, -1) != one.offset] if there else within
            rows += [(sha256, number, offset, length) for sha256, _, offset, length in moved]
        # Sort by the table's key, so that neighbours go into one page.
        rows.sort()
        put_rows(self._cursor, self._statements.add_pack, packs)
        put_rows(self._cursor, self._statements.put_placement, rows)

    def release(self, name: str, session: bytes, streams: Collection[int]) -> None:
        """Give back the session's leases on these streams in the same transaction."""
        for part in slices(streams):
            self._cursor.execute(self._statements.delete_leases(len(part)), [session, name, *part])

    def clear_projection(self) -> None:
        """Remove every row of the projection. TRUNCATE would commit on some databases and needs further rights."""
        for table in ("entry", "copy", "tally", "source"):
            self._run(f"DELETE FROM {table}")

    def change(self, changes: Changes) -> None:
        """Write changes of the projection only."""
        put_rows(self._cursor, self._statements.put_source, changes.sources)
        put_rows(self._cursor, self._statements.put_entry, changes.entries)
        put_rows(self._cursor, self._statements.put_copy, changes.copies)
        if changes.judged:
            self._cursor.executemany(self._statements.judge_copy, changes.judged)
        for part in slices(changes.dropped):
            marks = ", ".join("?" * len(part))
            self._run(f"DELETE FROM entry WHERE stream IN ({marks})", *part)
            self._run(f"DELETE FROM copy WHERE stream IN ({marks})", *part)
        put_rows(self._cursor, self._statements.add_tally, changes.tallies)

    # --- helpers ---

    def _numbers(self, names: Collection[bytes], place: str) -> dict[bytes, int]:
        found: dict[bytes, int] = {}
        for part in slices(names):
            self._cursor.execute(self._statements.select_packs(len(part)), [place, *part])
            found.update((bytes(name), number) for name, number in self._cursor.fetchall())
        return found

    def _starts(self, number: int, places: Sequence[Placement]) -> dict[bytes, int]:
        """Return the offsets of the objects that are already placed in a pack."""
        there: dict[bytes, int] = {}
        for part in slices(one.sha256 for one in places):
            self._cursor.execute(self._statements.select_placed(len(part)), [number, *part])
            there.update((bytes(sha256), start) for sha256, start in self._cursor.fetchall())
        return there

    def _adopt(self, last: int) -> None:
        """Move the head past the events up to `last`, which come after it.

        An append moves it too. But anyone with the collector's rights could insert events and leave the head where it
        was, and then nobody could append any more. So the ledger continues, and `verify` judges the events.
        """
        _, recorded_us, streams, stored = self.head
        frontier = Frontier.parse(self.head.position, stored)
        rows = self._rows("SELECT last, recorded_us, frontier FROM batch ORDER BY last DESC LIMIT 1")
        ended = 0
        if rows:
            ended, recorded_us, stored = rows[0]
            if ended > frontier.size and stored is not None:
                frontier = Frontier.parse(ended, bytes(stored))
        while frontier.size < last:
            until = min(last, frontier.size + LARGE_PAGE)
            self._cursor.execute(self._statements.page_leaves, (frontier.size, until))
            frontier = frontier.extend(row[0] for row in self._cursor.fetchall())
        if ended < last:
            commit = CommitRow(last, ended + 1, recorded_us, None, frontier.stored)
            put_rows(self._cursor, self._statements.insert_batch, [commit])
        self.head = StoredHead(last, recorded_us, streams, frontier.stored)
        self._cursor.execute(self._statements.move_head, self.head)

    def _run(self, statement: str, *values: Any) -> None:
        self._cursor.execute(self._statements.marked(statement), values)

    def _rows(self, statement: str, *values: Any) -> Sequence[Sequence[Any]]:
        self._run(statement, *values)
        return self._cursor.fetchall()  # type: ignore[no-any-return]
