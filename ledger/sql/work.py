"""The work queue in a SQL database: instances, leases and reservations. This is working state, not history."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, or_, select, update

from ledger.rows import FORGOTTEN_US, LONGEST_US, FurtherRow, Image, InstanceRow, is_held
from ledger.sql import schema as t
from ledger.sql.projection import source_numbers
from ledger.sql.writing import put_rows, slices

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy import Connection

    from ledger.rows import LeaseRequest
    from ledger.sql.connections import Connections
    from ledger.sql.statements import Statements


class SqlWorkQueue:
    """The tables `instance`, `lease` and `claim` (which holds reservations), and the entries that are due."""

    def __init__(self, connections: Connections, statements: Statements) -> None:
        """Share the store's connections."""
        self._connections = connections
        self._statements = statements

    def instances(self) -> list[InstanceRow]:
        """Return the registered instances, by name."""
        return [InstanceRow(*row) for row in self._connections.rows(select(t.instance).order_by(t.instance.c.name))]

    def enroll(self, row: InstanceRow, *, now_us: int, here: bool) -> InstanceRow | None:
        """Register an instance and return None, or return the active instance that holds its name."""
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
        """Extend the instance, its leases and its reservations. False if another session has the name."""
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
        """Remove the instance with its leases and reservations."""
        with self._connections.transaction() as connection:
            connection.execute(delete(t.instance).where(t.instance.c.name == name, t.instance.c.session == session))
            _let_go(connection, session)

    def take(self, lease: LeaseRequest) -> list[Image] | None:
        """Lease due entries that no active session leases. None if another session has the instance's name."""
        numbers = source_numbers(self._connections, lease.source)
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

    def reserve(self, name: str, session: bytes, *, now_us: int, expires_us: int) -> bool:
        """Reserve `name`, or extend its reservation. False while another session has it."""
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

    def unreserve(self, name: str, session: bytes) -> None:
        """Give back the reservation, if this session has it."""
        with self._connections.transaction() as connection:
            connection.execute(delete(t.claim).where(t.claim.c.name == name, t.claim.c.session == session))

    def further(self) -> list[FurtherRow]:
        """Return the further storages that are known, in any order."""
        return [FurtherRow(bytes(id_), *rest) for id_, *rest in self._connections.rows(select(t.further_storage))]

    def keep_further(self, row: FurtherRow) -> None:
        """Record this further storage, and replace what was known about it."""
        with self._connections.head_locked() as (connection, _):
            connection.execute(delete(t.further_storage).where(t.further_storage.c.id == row.id))
            connection.execute(t.further_storage.insert().values(row._asdict()))

    def forget_further(self, id_: bytes) -> None:
        """Forget a further storage."""
        with self._connections.transaction() as connection:
            connection.execute(delete(t.further_storage).where(t.further_storage.c.id == id_))

    # --- helpers ---

    def _free(self, connection: Connection, numbers: list[int], lease: LeaseRequest) -> list[tuple[int, int, int]]:
        """Return (due, stream, size) of entries that are due and not leased, and lock them against other collectors.

        A statement sees the leases that existed when it began. While it ran, another collector might have written
        leases, committed, and unlocked their entries. So this checks again after the entries are locked. On SQLite,
        nobody else can write during this transaction.
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
        """Lock entries that seem free, skipping rows that another transaction has locked."""
        cursor: Any = connection.connection.cursor()
        cursor.execute(self._statements.lock_due, (no, lease.due_us, lease.now_us, lease.limit))
        found = [(due_us, stream, int(size)) for due_us, stream, size in cursor.fetchall()]
        cursor.close()
        return found


def _let_go(connection: Connection, session: bytes) -> None:
    for table in (t.lease, t.claim):
        connection.execute(delete(table).where(table.c.session == session))


def _sweep(connection: Connection, now_us: int) -> None:
    """Remove expired leases and reservations. Rows that another transaction has locked wait for the next call."""
    for table, name in ((t.lease, t.lease.c.stream), (t.claim, t.claim.c.name)):
        over = or_(table.c.expires_us <= now_us, table.c.expires_us > now_us + LONGEST_US)
        found = connection.execute(select(name).where(over).with_for_update(skip_locked=True))
        for part in slices(found.scalars().all()):
            connection.execute(delete(table).where(name.in_(part)))
    connection.execute(delete(t.instance).where(t.instance.c.expires_us <= now_us - FORGOTTEN_US))
