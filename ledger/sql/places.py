"""Placements in a SQL database: the tables `pack` and `placement`. This is working state, not history."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select

from ledger.places import PackRow, PackTotals, Placement
from ledger.sql import schema as t
from ledger.sql.statements import LARGE_PAGE, PAGE
from ledger.sql.writing import SqlWriting, slices

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from sqlalchemy import Connection

    from ledger.sql.connections import Connections
    from ledger.sql.statements import Statements

_END = b"\xff" * 33
"""Greater than every SHA-256."""


class SqlPlaces:
    """A PlaceStore in the ledger's database."""

    def __init__(self, connections: Connections, statements: Statements) -> None:
        """Share the store's connections."""
        self._connections = connections
        self._statements = statements

    def find(self, sha256s: Collection[bytes], *, place: str = "") -> dict[bytes, list[Placement]]:
        """Return the placements of these objects, by SHA-256. Objects without one are left out."""
        found: dict[bytes, list[Placement]] = {}
        for sha256, name, start, length in self._rows_of(sha256s, place):
            if start >= 0:
                one = Placement(sha256=bytes(sha256), pack=bytes(name), offset=start, length=length)
                found.setdefault(one.sha256, []).append(one)
        return found

    def dropped(self, sha256s: Collection[bytes], *, place: str = "") -> set[tuple[bytes, bytes]]:
        """Return, as (SHA-256, pack), these objects' placements that were dropped since the pack was added."""
        return {(bytes(sha256), bytes(name)) for sha256, name, start, _ in self._rows_of(sha256s, place) if start < 0}

    def walk(self, *, start: bytes = b"", end: bytes | None = None, place: str = "") -> Iterator[Placement]:
        """Yield the placements with `start` <= SHA-256 < `end`, in the order of SHA-256, page by page."""
        for page, names in self._pages(start, end, place):
            for sha256, no, begin, length in page:
                name = names[no]
                if name is not None and begin >= 0:
                    yield Placement(sha256=bytes(sha256), pack=name, offset=begin, length=length)

    def ranges(self, start: bytes, end: bytes | None, *, place: str = "") -> list[tuple[bytes, bytes, int, int]]:
        """Return what `walk` yields, as tuples."""
        found: list[tuple[bytes, bytes, int, int]] = []
        for page, names in self._pages(start, end, place):
            found += [
                (bytes(sha256), name, begin, length)
                for sha256, no, begin, length in page
                if (name := names[no]) is not None and begin >= 0
            ]
        return found

    def _pages(
        self, start: bytes, end: bytes | None, place: str
    ) -> Iterator[tuple[Sequence[tuple[Any, ...]], dict[int, bytes | None]]]:
        """Yield pages of placements in the order of SHA-256, and the names of their packs by number."""
        last, number = start, -1
        names: dict[int, bytes | None] = {}
        stop = _END if end is None else end
        while page := self._connections.raw_rows(
            self._statements.page_placements, (last, last, number, stop, LARGE_PAGE)
        ):
            self._learn(names, {row[1] for row in page}, place)
            yield page, names
            if len(page) < LARGE_PAGE:
                return
            last, number = bytes(page[-1][0]), page[-1][1]

    def packs(self, *, place: str = "") -> Iterator[PackRow]:
        """Yield the packs that placements name, in the order of their names, page by page."""
        c, after = t.pack.c, b""
        wanted = select(c.name, c.objects, c.bytes).where(c.place == place).order_by(c.name).limit(PAGE)
        while page := self._connections.rows(wanted.where(c.name > after)):
            yield from (PackRow(bytes(name), objects, size) for name, objects, size in page)
            after = bytes(page[-1][0])

    def totals(self, *, place: str = "") -> PackTotals:
        """Return the sums over all packs. This reads one row per pack."""
        c = t.pack.c
        sums = select(func.count(), func.coalesce(func.sum(c.objects), 0), func.coalesce(func.sum(c.bytes), 0)).where(
            c.place == place, c.name.is_not(None)
        )
        packs, objects, size = self._connections.rows(sums)[0]
        return PackTotals(int(packs), int(objects), int(size))

    def add(self, places: Sequence[Placement], *, place: str = "") -> None:
        """Add placements. A dropped one counts again, because its pack was written again."""
        with self._changing() as (_, writing):
            writing.place(places, place=place)

    def replace(self, pack: bytes, places: Sequence[Placement], *, place: str = "") -> None:
        """Forget the pack, and add it again under another number."""
        with self._changing() as (connection, writing):
            _forget(connection, pack, place)
            writing.place(places, place=place)

    def drop(self, sha256: bytes, pack: bytes, *, place: str = "") -> None:
        """Remove an object's placement in a pack, and remember that."""
        c, its = t.placement.c, t.pack.c
        with self._changing() as (connection, _):
            number = connection.execute(select(its.number).where(its.place == place, its.name == pack)).scalar()
            if number is not None:
                mine = t.placement.update().where(c.sha256 == sha256, c.pack == number, c.start >= 0)
                connection.execute(mine.values(start=-1 - c.start))

    def forget(self, pack: bytes, *, place: str = "") -> None:
        """Remove the pack's name, so that no read finds its placements. `sweep` removes them later."""
        with self._changing() as (connection, _):
            _forget(connection, pack, place)

    def sweep(self) -> int:
        """Remove the rows of forgotten packs, going through a 256th of the placements per transaction."""
        c = t.pack.c
        gone = [row[0] for row in self._connections.rows(select(c.number).where(c.name.is_(None)))]
        if not gone:
            return 0
        removed = 0
        for first in range(256):
            for part in slices(gone):
                its = t.placement.c
                rows = t.placement.delete().where(its.sha256 >= bytes([first]), its.pack.in_(part))
                if first < 255:  # noqa: PLR2004  # the last part has no upper end
                    rows = rows.where(its.sha256 < bytes([first + 1]))
                with self._connections.transaction(fleeting=True) as connection:
                    removed += connection.execute(rows).rowcount
        for part in slices(gone):
            with self._connections.transaction() as connection:
                connection.execute(t.pack.delete().where(c.number.in_(part), c.name.is_(None)))
        return removed

    # --- helpers ---

    def _rows_of(self, sha256s: Collection[bytes], place: str) -> Iterator[tuple[Any, ...]]:
        """Yield sha256, the pack's name, start and length of every placement of these objects."""
        names: dict[int, bytes | None] = {}
        for part in slices(sha256s):
            rows = self._connections.raw_rows(self._statements.select_placements(len(part)), part)
            self._learn(names, {row[1] for row in rows}, place)
            for sha256, number, start, length in rows:
                name = names[number]
                if name is not None:
                    yield sha256, name, start, length

    @contextmanager
    def _changing(self) -> Iterator[tuple[Connection, SqlWriting]]:
        with self._connections.head_locked() as (connection, locked):
            yield connection, SqlWriting(connection, self._statements, locked)

    def _learn(self, names: dict[int, bytes | None], numbers: set[int], place: str) -> None:
        """Read the names of packs by their numbers. Forgotten packs and those of another storage get None."""
        fresh = numbers - names.keys()
        names |= dict.fromkeys(fresh)
        c = t.pack.c
        for part in slices(fresh):
            rows: Any = self._connections.rows(select(c.number, c.name).where(c.number.in_(part), c.place == place))
            names |= {number: None if name is None else bytes(name) for number, name in rows}


def _forget(connection: Connection, pack: bytes, place: str) -> None:
    c = t.pack.c
    mine = t.pack.update().where(c.place == place, c.name == pack)
    connection.execute(mine.values(name=None, objects=0, bytes=0))
