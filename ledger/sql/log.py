"""The events of a ledger in a SQL database. They are read page by page, each page in its own short transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from ledger.errors import DamagedRowError
from ledger.rows import CommitRow, StoredEvent, StoredHead
from ledger.sql import schema as t
from ledger.sql.statements import FEW, LARGE_PAGE, PAGE
from ledger.sql.writing import slices

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from sqlalchemy import Column, Select

    from ledger.sql.connections import Connections
    from ledger.sql.statements import Statements

_END = 1 << 62


class SqlLog:
    """The tables `head`, `event`, `stream` and `batch`."""

    def __init__(self, connections: Connections, statements: Statements) -> None:
        """Share the store's connections."""
        self._connections = connections
        self._statements = statements

    def head(self) -> StoredHead:
        """Return the head; position 0 before the first event. Raises: DamagedRowError if its row is missing."""
        rows = self._connections.raw_rows("SELECT position, recorded_us, streams, frontier FROM head WHERE id = 1", ())
        if not rows:
            raise DamagedRowError("the table `head` is empty, so nothing can be read or recorded")
        return StoredHead(*rows[0])

    def page(self, after: int, until: int | None, count: int) -> Sequence[tuple[Any, ...]]:
        """Return the first `count` events in (`after`, `until`] with the columns of a StoredEvent, in order."""
        last = _END if until is None else until
        return self._connections.raw_rows(self._statements.page_events, (after, last, count))

    def bodies(self, after: int, until: int | None, count: int) -> Sequence[tuple[Any, ...]]:
        """Return (position, stored key, header, nonce, payload) of the same events."""
        last = _END if until is None else until
        return self._connections.raw_rows(self._statements.page_bodies, (after, last, count))

    def pointers(self, *, after: int = 0, until: int | None = None) -> Iterator[tuple[int, int]]:
        """Yield (position, stream) of the events in (`after`, `until`], in order."""
        last = _END if until is None else until
        while after < last:
            page = self._connections.raw_rows(self._statements.page_pointers, (after, last, LARGE_PAGE))
            yield from page
            if len(page) < LARGE_PAGE:
                return
            after = page[-1][0]

    def leaves(self, after: int, until: int) -> list[bytes]:
        """Return the leaf hashes of the events in (`after`, `until`], in order."""
        return [row[0] for row in self._connections.raw_rows(self._statements.page_leaves, (after, until))]

    def events_at(self, positions: Sequence[int]) -> list[StoredEvent]:
        """Return the events at these positions, in order."""
        found: list[StoredEvent] = []
        for part in slices(sorted(set(positions))):
            rows = self._connections.raw_rows(self._statements.select_events(len(part)), part)
            found.extend(map(StoredEvent._make, rows))
        return found

    def facts_at(self, positions: Sequence[int]) -> list[tuple[Any, ...]]:
        """Return the columns of a StoredFact for the events at these positions, for folds over millions of events."""
        found: list[tuple[Any, ...]] = []
        for part in slices(sorted(set(positions))):
            found += self._connections.raw_rows(self._statements.select_facts(len(part)), part)
        return found

    def histories(self, streams: Collection[int], until: int) -> Iterator[tuple[Any, ...]]:
        """Yield the columns of a StoredFact for every event of these streams up to `until`, stream by stream."""
        for part in slices(sorted(set(streams))):
            yield from self._connections.raw_rows(self._statements.select_histories(len(part)), [*part, until])

    def of_types(self, types: Collection[str], after: int, until: int, count: int) -> list[tuple[Any, ...]]:
        """Return the columns of a StoredFact for the first `count` events of these types in (`after`, `until`]."""
        statement = self._statements.page_of_types(len(types))
        return list(self._connections.raw_rows(statement, [after, until, *sorted(types), count]))

    def stream_events(self, key: bytes, *, newest_first: bool = False) -> Iterator[StoredEvent]:
        """Yield the events of the stream with this stored key, in order or in reverse order."""
        wanted = select(t.event).join(t.stream, t.stream.c.id == t.event.c.stream).where(t.stream.c.key == key)
        return map(StoredEvent._make, self._rows(wanted, t.event.c.stream_version, newest_first=newest_first))

    def streams(
        self, numbers: Collection[int] | None = None, *, after: int = 0, erased: bool = False
    ) -> Iterator[tuple[int, bytes | None]]:
        """Yield (number, stored key) of every stream numbered above `after`, or of those among `numbers`."""
        if erased:
            return self._erased(after)
        if numbers is None:
            return map(tuple, self._rows(select(t.stream).where(t.stream.c.id > after), t.stream.c.id))
        return iter(self._numbered(numbers))

    def _erased(self, after: int) -> Iterator[tuple[int, None]]:
        while page := self._connections.raw_rows(self._statements.page_erased, (after, PAGE)):
            yield from ((number, None) for (number,) in page)
            after = page[-1][0]

    def streams_by_key(self, *, after: bytes = b"") -> Iterator[tuple[bytes, int]]:
        """Yield (stored key, number) of every stream that has a key above `after`, in bytewise order of the keys."""
        while page := self._connections.raw_rows(self._statements.page_keys, (after, LARGE_PAGE)):
            yield from page
            after = page[-1][0]

    def last_positions(self, until: int, streams: Collection[int] | None = None) -> Iterator[tuple[int, int]]:
        """Yield (position, stream) of the last event up to `until` of every stream, or of those among `streams`."""
        return self._all_last(until) if streams is None else self._last_of(streams, until)

    def commits(self, *, after: int = 0, until: int | None = None, newest_first: bool = False) -> Iterator[CommitRow]:
        """Yield the commit rows of the batches that end in (`after`, `until`], in order or in reverse order."""
        c = t.batch.c
        wanted = select(t.batch).where(c.last > after, c.last <= (_END if until is None else until))
        return map(CommitRow._make, self._rows(wanted, c.last, newest_first=newest_first))

    def position_before(self, us: int) -> int:
        """Return the last position whose recorded time is before `us`; 0 if there is none."""
        c = t.batch.c
        wanted = select(c.last).where(c.recorded_us < us).order_by(c.recorded_us.desc(), c.last.desc()).limit(1)
        rows = self._connections.rows(wanted)
        return int(rows[0][0]) if rows else 0

    # --- helpers ---

    def _rows(self, wanted: Select[Any], column: Column[Any], *, newest_first: bool = False) -> Iterator[Any]:
        """Yield the rows page by page, in the order of `column`. Its values MUST be unique."""
        wanted = wanted.order_by(column.desc() if newest_first else column)
        # A caller that asks for the newest first usually needs only that one, or a few.
        size = 1 if newest_first else PAGE
        page = self._connections.rows(wanted.limit(size))
        while page:
            yield from page
            size = min(size * FEW, PAGE)
            last = getattr(page[-1], column.name)
            rest = wanted.where(column < last if newest_first else column > last)
            page = self._connections.rows(rest.limit(size))

    def _numbered(self, numbers: Collection[int]) -> list[tuple[int, bytes | None]]:
        if not numbers:
            return []
        first, last = min(numbers), max(numbers)
        if last - first < 2 * len(numbers):  # close together, like new streams: one range is faster than single probes
            wanted = set(numbers)
            rows = self._connections.raw_rows(self._statements.page_numbered, (first, last))
            return [row for row in rows if row[0] in wanted]
        found: list[tuple[int, bytes | None]] = []
        for part in slices(numbers):
            found += self._connections.raw_rows(self._statements.select_keys(len(part)), part)
        return found

    def _all_last(self, until: int) -> Iterator[tuple[int, int]]:
        first = 1
        # Streams are numbered in the order in which they begin. So an empty page means that no later stream had begun.
        while page := self._connections.raw_rows(self._statements.page_last, (first, first + LARGE_PAGE - 1, until)):
            yield from page
            first += LARGE_PAGE

    def _last_of(self, streams: Collection[int], until: int) -> Iterator[tuple[int, int]]:
        c = t.event.c
        # Probe the index once per stream, newest first. With max(seq), a planner might read all positions instead.
        last = select(c.seq).where(c.stream == t.stream.c.id, c.seq <= until).order_by(c.stream_version.desc())
        for part in slices(streams):
            wanted = select(last.limit(1).scalar_subquery(), t.stream.c.id).where(t.stream.c.id.in_(part))
            yield from ((row[0], row[1]) for row in self._connections.rows(wanted) if row[0] is not None)
