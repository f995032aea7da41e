"""Who is doing what just now: instances, leases and claims, and the queue they take from; none of it is history."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, func, or_, select, update

from ledger.rows import FORGOTTEN_US, LONGEST_US, Image, InstanceRow, is_held
from ledger.sql import schema as t
from ledger.sql.writing import put_rows, slices

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy import Connection

    from ledger.rows import LeaseRequest
    from ledger.sql.connections import Connections
    from ledger.sql.statements import Statements

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


class WorkTables:
    """The tables `instance`, `lease` and `claim`, and the entries that are due."""

    def __init__(self, connections: Connections, statements: Statements) -> None:
        """Share the store's connections."""
        self._connections = connections
        self._statements = statements

    def due(self, *, now_us: int, limit: int, source: bytes | None) -> list[Image]:
        """Return entries due at `now_us`, the longest due first, at most `limit`."""
        c = t.entry.c
        found: list[Any] = []
        for no in self._numbers(source):
            wanted = IMAGE.add_columns(c.due_us).where(c.source == no, c.due_us <= now_us)
            wanted = wanted.order_by(c.due_us, c.stream).limit(limit)
            found.extend(self._connections.rows(wanted))
        found.sort(key=lambda row: (row.due_us, row.stream))
        return [Image(*row[:-1]) for row in found[:limit]]

    def next_due_us(self, source: bytes | None) -> int | None:
        """Return the earliest moment at which an entry is due, None when nothing is wanted."""
        c = t.entry.c
        wanted = select(func.min(c.due_us))
        found = [self._connections.rows(wanted.where(c.source == no))[0][0] for no in self._numbers(source)]
        return min((us for us in found if us is not None), default=None)

    def instances(self) -> list[InstanceRow]:
        """Return the instances at work, by name."""
        return [InstanceRow(*row) for row in self._connections.rows(select(t.instance).order_by(t.instance.c.name))]

    def enroll(self, row: InstanceRow, *, now_us: int, here: bool) -> InstanceRow | None:
        """Register an instance; return the living one that holds its name, or None when registered."""
        with self._connections.head_locked() as (connection, _):
            found = connection.execute(select(t.instance).where(t.instance.c.name == row.name)).first()
            holder = None if found is None else InstanceRow(*found)
            if holder is not None and holder.session != row.session:
                if is_held(holder.expires_us, now_us) and not (here and holder.place == row.place):
                    return holder
                _let_go(connection, holder.session)
            connection.execute(delete(t.instance).where(t.instance.c.name == row.name))
            connection.execute(t.instance.insert().values(row._asdict()))
            _sweep(connection, now_us)
            return None

    def beat(self, name: str, session: bytes, *, now_us: int, expires_us: int) -> bool:
        """Move the expiry of the instance and of its leases; False if the name is no longer this session's."""
        c = t.instance.c
        with self._connections.transaction() as connection:
            mine = update(t.instance).where(c.name == name, c.session == session)
            if connection.execute(mine.values(beat_us=now_us, expires_us=expires_us)).rowcount == 0:
                return False
            for table in (t.lease, t.claim):
                connection.execute(update(table).where(table.c.session == session).values(expires_us=expires_us))
            _sweep(connection, now_us)
            return True

    def retire(self, name: str, session: bytes) -> None:
        """Remove the instance with its leases and claims."""
        with self._connections.transaction() as connection:
            connection.execute(delete(t.instance).where(t.instance.c.name == name, t.instance.c.session == session))
            _let_go(connection, session)

    def take(self, lease: LeaseRequest) -> list[Image] | None:
        """Lease due entries that no living session leases; None if another session has the instance's name."""
        numbers = self._numbers(lease.source)
        with self._connections.transaction(fleeting=True) as connection:
            cursor: Any = connection.connection.cursor()
            cursor.execute(self._statements.select_holder, (lease.name,))
            holder = cursor.fetchone()
            if holder is not None and holder[0] != lease.session:
                return None
            free = self._free(connection, numbers, lease)
            taken: list[int] = []
            total = 0
            for _, stream, size in free[: lease.limit]:
                if taken and total + size > lease.max_bytes:
                    break
                total += size
                taken.append(stream)
            if not taken:
                return []
            rows = [(stream, lease.session, lease.name, lease.expires_us) for stream in taken]
            put_rows(cursor, self._statements.put_lease, rows)
            found: dict[int, Image] = {}
            for part in slices(taken):
                cursor.execute(self._statements.select_images(len(part)), part)
                found.update((row[1], Image._make(row)) for row in cursor.fetchall())
            cursor.close()
            return [found[stream] for stream in taken]

    def release(self, name: str, session: bytes, keys: Collection[bytes] | None) -> None:
        """Give back the session's leases on these stored keys, or all of them."""
        c = t.lease.c
        mine = delete(t.lease).where(c.session == session, c.instance == name)
        with self._connections.transaction(fleeting=True) as connection:
            if keys is None:
                connection.execute(mine)
                return
            for part in slices(keys):
                streams = select(t.stream.c.id).where(t.stream.c.key.in_(part))
                numbers = [row[0] for row in connection.execute(streams)]
                connection.execute(mine.where(c.stream.in_(numbers)))

    def claim(self, name: str, session: bytes, *, now_us: int, expires_us: int) -> bool:
        """Take or prolong the claim `name`; False while another session has it."""
        c = t.claim.c
        with self._connections.head_locked() as (connection, _):
            free = or_(c.session == session, c.expires_us <= now_us, c.expires_us > now_us + LONGEST_US)
            moved = update(t.claim).where(c.name == name, free).values(session=session, expires_us=expires_us)
            if connection.execute(moved).rowcount:
                return True
            if connection.execute(select(c.name).where(c.name == name)).first() is not None:
                return False
            connection.execute(t.claim.insert().values(name=name, session=session, expires_us=expires_us))
            return True

    def unclaim(self, name: str, session: bytes) -> None:
        """Give the claim back, if it is this session's."""
        with self._connections.transaction() as connection:
            connection.execute(delete(t.claim).where(t.claim.c.name == name, t.claim.c.session == session))

    # --- helpers ---

    def _numbers(self, source: bytes | None) -> list[int]:
        c = t.source.c
        wanted = select(c.no).order_by(c.no)
        rows = self._connections.rows(wanted if source is None else wanted.where(c.id == source))
        return [row[0] for row in rows]

    def _free(self, connection: Connection, numbers: list[int], lease: LeaseRequest) -> list[tuple[int, int, int]]:
        """Return (due, stream, size) of what is due and not leased, and lock it against other takers.

        A statement sees the leases of when it began, and a neighbour may have written some, committed and unlocked
        their entries while it ran: only what is still free once it is locked here is free. SQLite lets nobody write
        beside this transaction.
        """
        c = t.lease.c
        while True:
            locked = sorted(row for no in numbers for row in self._lock_due(connection, no, lease))
            if connection.dialect.name == "sqlite":
                return locked
            held: set[int] = set()
            for part in slices(stream for _, stream, _ in locked):
                living = select(c.stream).where(c.stream.in_(part), c.expires_us > lease.now_us)
                held.update(row[0] for row in connection.execute(living))
            free = [row for row in locked if row[1] not in held]
            if free or not locked:
                return free

    def _lock_due(self, connection: Connection, no: int, lease: LeaseRequest) -> list[tuple[int, int, int]]:
        """Lock what seems free; rows that another transaction has locked are passed by."""
        cursor: Any = connection.connection.cursor()
        cursor.execute(self._statements.lock_due, (no, lease.due_us, lease.now_us, lease.limit))
        found = [(due_us, stream, int(size)) for due_us, stream, size in cursor.fetchall()]
        cursor.close()
        return found


def _let_go(connection: Connection, session: bytes) -> None:
    for table in (t.lease, t.claim):
        connection.execute(delete(table).where(table.c.session == session))


def _sweep(connection: Connection, now_us: int) -> None:
    """Remove what nobody holds any more; what another transaction has locked is left to the next sweep."""
    for table, name in ((t.lease, t.lease.c.stream), (t.claim, t.claim.c.name)):
        over = or_(table.c.expires_us <= now_us, table.c.expires_us > now_us + LONGEST_US)
        found = connection.execute(select(name).where(over).with_for_update(skip_locked=True))
        for part in slices(found.scalars().all()):
            connection.execute(delete(table).where(name.in_(part)))
    connection.execute(delete(t.instance).where(t.instance.c.expires_us <= now_us - FORGOTTEN_US))
