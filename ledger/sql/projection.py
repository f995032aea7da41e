"""The projection of a ledger in a SQL database: entries, copies, sources and sums."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import Select, func, literal_column, or_, select

from ledger.rows import FEW_EVENTS, CopyState, Image, SourceRow, TallyRow, VolumeRow
from ledger.sql import schema as t
from ledger.sql.statements import FEW, LARGE_PAGE, PAGE
from ledger.sql.writing import slices

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from ledger.sql.connections import Connections
    from ledger.sql.statements import Statements

DUE_PAGE = 1000
"""How many wanted entries to read at once."""

_BELOW, _ABOVE = -1, b"\xff" * 64
"""A number below every stream number, and bytes above every SHA-256."""

IMAGE = (
    select(
        t.stream.c.key,
        t.entry.c.stream,
        t.entry.c.version,
        t.entry.c.seq,
        t.event.c.type,
        t.event.c.schema_version,
        t.event.c.flags,
        t.event.c.payload,
    )
    .select_from(t.stream)
    .join(t.entry, t.entry.c.stream == t.stream.c.id)
    .join(t.event, t.event.c.seq == t.entry.c.seq)
)
"""The columns of an `Image`."""


def source_numbers(connections: Connections, source: bytes | None) -> list[int]:
    """Return the number of the source with this id, or of all sources."""
    c = t.source.c
    wanted = select(c.no).order_by(c.no)
    rows = connections.rows(wanted if source is None else wanted.where(c.id == source))
    return [row[0] for row in rows]


class SqlProjection:
    """The tables `entry`, `copy`, `source` and `tally`."""

    def __init__(self, connections: Connections, statements: Statements) -> None:
        """Share the store's connections."""
        self._connections = connections
        self._statements = statements

    def images(self, keys: Collection[bytes]) -> list[Image]:
        """Return the entries that exist among these stored keys, in any order."""
        return [
            Image._make(row)
            for part in slices(keys)
            for row in self._connections.raw_rows(self._statements.select_images_by_key(len(part)), part)
        ]

    def scan(
        self, *, source: bytes | None, states: Collection[str] | None, after: bytes | None, wanted: bool | None
    ) -> Iterator[Image]:
        """Yield the entries after `after` that match every given filter, in the order of their stored keys."""
        # Walk the index of the keys. Sorting the whole projection for each page would be far too slow.
        chosen: Select[Any] = IMAGE
        for name in ("mysql", "mariadb"):
            chosen = chosen.prefix_with("STRAIGHT_JOIN", dialect=name)
        if source is not None:
            chosen = chosen.where(t.stream.c.key >= source, t.stream.c.key < source + b"\xff")
        if states is not None:
            chosen = chosen.where(t.entry.c.state.in_(sorted(states)))
        if wanted is not None:
            chosen = chosen.where(t.entry.c.due_us.is_not(None) if wanted else t.entry.c.due_us.is_(None))
        while True:
            here = chosen if after is None else chosen.where(t.stream.c.key > after)
            page = self._connections.rows(here.order_by(t.stream.c.key).limit(PAGE))
            yield from (Image(*row) for row in page)
            if len(page) < PAGE:
                return
            after = page[-1].key

    def due(self, source: bytes, *, last_first: bool) -> Iterator[Image]:
        """Yield the wanted entries of a source, in the order of their due times, or in the opposite order."""
        c = t.entry.c
        order = (c.due_us.desc(), c.stream.desc()) if last_first else (c.due_us, c.stream)
        for no in source_numbers(self._connections, source):
            wanted = select(c.due_us, c.stream).where(c.source == no, c.due_us.is_not(None)).order_by(*order)
            page = self._connections.rows(wanted.limit(DUE_PAGE))
            while page:
                yield from self._images([stream for _, stream in page])
                us, stream = page[-1]
                # The second condition implies the first, but all databases can look up the first in the index.
                if last_first:
                    beyond = (c.due_us <= us, or_(c.due_us < us, c.stream < stream))
                else:
                    beyond = (c.due_us >= us, or_(c.due_us > us, c.stream > stream))
                page = self._connections.rows(wanted.where(*beyond).limit(DUE_PAGE))

    def wanted_in(self, source: bytes, states: Collection[str]) -> int:
        """Return how many wanted entries of a source are in these states."""
        c = t.entry.c
        counted = select(func.count()).where(c.due_us.is_not(None), c.state.in_(sorted(states)))
        numbers = source_numbers(self._connections, source)
        return sum(self._connections.rows(counted.where(c.source == no))[0][0] for no in numbers)

    def _images(self, streams: Sequence[int]) -> Iterator[Image]:
        """Yield the entries of these streams, in this order. An entry that was removed meanwhile is left out."""
        found: dict[int, Image] = {}
        for part in slices(streams):
            rows = self._connections.raw_rows(self._statements.select_images(len(part)), part)
            found.update((row[1], Image._make(row)) for row in rows)
        yield from (found[stream] for stream in streams if stream in found)

    def sources(self) -> list[SourceRow]:
        """Return all sources, in the order in which they began."""
        return [SourceRow(*row) for row in self._connections.rows(select(t.source).order_by(t.source.c.no))]

    def tallies(self) -> list[TallyRow]:
        """Return the maintained sums, without empty ones, in the order of source and state."""
        c = t.tally.c
        rows = self._connections.rows(select(t.tally).where(c.elements != 0).order_by(c.source, c.state))
        return [TallyRow(*row) for row in rows]

    def copies(self, *, start: bytes = b"", end: bytes | None = None) -> Iterator[CopyState]:
        """Yield the copies with `start` <= SHA-256 <= `end`, in the order of SHA-256 and stream."""
        last, stream, count = start, _BELOW, FEW
        highest = _ABOVE if end is None else end
        while page := self._connections.raw_rows(self._statements.page_copies, (last, last, stream, highest, count)):
            yield from map(CopyState._make, page)
            if len(page) < count:
                return
            # A caller that wants only a few reads only the first page.
            (last, stream), count = page[-1][:2], LARGE_PAGE

    def named(self, sha256s: Collection[bytes]) -> list[CopyState]:
        """Return the copies with these SHA-256, in any order."""
        return [
            CopyState._make(row)
            for part in slices(sorted(set(sha256s)))
            for row in self._connections.raw_rows(self._statements.select_named(len(part)), part)
        ]

    def revisited(self, after: int, until: int) -> Iterator[tuple[int, int]]:
        """Yield (stream, its source's number) of each entry in (`after`, `until`] that can have an older version."""
        statement = self._statements.page_revisited
        while page := self._connections.raw_rows(statement, (after, until, FEW_EVENTS, LARGE_PAGE)):
            yield from page
            after = page[-1][0]

    def volumes(self, block: int) -> list[VolumeRow]:
        """Return the sums over all copies, by source and by the position where each was stored divided by `block`."""
        copy, entry = t.copy.c, t.entry.c
        first = copy.seq - copy.seq % literal_column(str(int(block)))
        sources = self.sources()
        sums = (func.count(), func.sum(copy.size))
        if len(sources) == 1:
            # With one source, there is no need to look up each copy's entry, which takes most of the time.
            erased = select(t.stream.c.id).where(t.stream.c.key.is_(None))
            wanted = select(literal_column(str(sources[0].no)), first, *sums).where(copy.stream.not_in(erased))
            wanted = wanted.group_by(first).order_by(first)
        else:
            both = t.copy.join(t.entry, entry.stream == copy.stream)
            wanted = select(entry.source, first, *sums).select_from(both)
            wanted = wanted.group_by(entry.source, first).order_by(entry.source, first)
        return [
            VolumeRow(no, int(start) // block, int(copies), int(size))
            for no, start, copies, size in self._connections.rows(wanted)
        ]

    def page(self, after: bytes, count: int) -> Sequence[tuple[Any, ...]]:
        """Return the first `count` entries with keys above `after`, each with the event that it points to."""
        return self._connections.raw_rows(self._statements.page_projection, (after, count))

    def next_due_us(self, source: bytes | None) -> int | None:
        """Return the earliest time at which an entry is due, or None if nothing is wanted."""
        c = t.entry.c
        wanted = select(func.min(c.due_us))
        numbers = source_numbers(self._connections, source)
        found = [self._connections.rows(wanted.where(c.source == no))[0][0] for no in numbers]
        return min((us for us in found if us is not None), default=None)
