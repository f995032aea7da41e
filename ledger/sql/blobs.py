"""Snapshots and checkpoint notes in a SQL database."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from sqlalchemy import delete, func, insert, select

from ledger.events import PayloadErased
from ledger.sql import schema as t
from ledger.sql.statements import PAGE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sqlalchemy import Connection, Delete

    from ledger.sql.connections import Connections


_END = (1 << 63) - 1


class SqlBlobs:
    """The tables `snapshot`, `snapshot_chunk` and `checkpoint`."""

    def __init__(self, connections: Connections) -> None:
        """Share the store's connections."""
        self._connections = connections

    def save_snapshot(self, kind: str, position: int, chunks: Iterable[bytes], *, as_of: int | None = None) -> bool:
        """Keep an opaque snapshot of `kind` at `position`, unless something was erased after `as_of`.

        Each chunk has its own transaction, so that a large snapshot does not block writers. The row that makes the
        snapshot complete is written last. Nothing waits for the disk, because a power cut may lose a snapshot.
        """
        self.drop_snapshots(kind, position=position)
        count = 0
        for count, data in enumerate(chunks, start=1):
            with self._connections.transaction(fleeting=True) as connection:
                values = {"kind": kind, "position": position, "no": count, "data": data}
                connection.execute(insert(t.snapshot_chunk).values(values))
        with self._connections.head_locked(fleeting=True) as (connection, _):
            if as_of is not None and self._has_erased(connection, as_of):
                connection.execute(_chunks_of(kind, position))
                return False
            connection.execute(insert(t.snapshot).values(kind=kind, position=position, chunks=count))
        return True

    def load_snapshot(self, kind: str, position: int) -> Iterator[bytes]:
        """Yield the chunks of a snapshot in order, or nothing if there is no such snapshot."""
        c, its = t.snapshot_chunk.c, t.snapshot.c
        if not self._connections.rows(select(its.chunks).where(its.kind == kind, its.position == position)):
            return
        wanted = select(c.data).where(c.kind == kind, c.position == position)
        no = 1
        while rows := self._connections.rows(wanted.where(c.no == no)):
            yield rows[0][0]
            no += 1

    def list_snapshots(self) -> list[tuple[str, int]]:
        """Return (kind, position) of every complete snapshot, in that order."""
        c = t.snapshot.c
        return [
            (row[0], row[1]) for row in self._connections.rows(select(c.kind, c.position).order_by(c.kind, c.position))
        ]

    def drop_snapshots(self, kind: str, *, position: int | None = None) -> None:
        """Remove all snapshots of a kind, or the one at `position`."""
        with self._connections.transaction(fleeting=True) as connection:
            for table in (t.snapshot, t.snapshot_chunk):
                gone = delete(table).where(table.c.kind == kind)
                connection.execute(gone if position is None else gone.where(table.c.position == position))

    def save_checkpoint(self, size: int, note: str) -> None:
        """Keep a signed note about the tree of this size. The same note is kept only once."""
        digest = hashlib.sha256(note.encode()).digest()
        c = t.checkpoint.c
        with self._connections.head_locked() as (connection, _):
            if connection.execute(select(c.id).where(c.digest == digest)).scalar() is None:
                last = connection.execute(select(func.coalesce(func.max(c.id), 0))).scalar_one()
                connection.execute(insert(t.checkpoint).values(id=last + 1, size=size, digest=digest, note=note))

    def checkpoint_faults(self) -> Iterator[str]:
        """Yield which rows break the numbering from 1 without gaps, or have a digest that is not their note's."""
        c, due = t.checkpoint.c, 1
        wanted = select(c.id, c.digest, c.note).order_by(c.id).limit(PAGE)
        after = -_END
        while page := self._connections.rows(wanted.where(c.id > after)):
            for id_, digest, note in page:
                if id_ != due:
                    yield f"the row {id_} of the table `checkpoint` is where row {due} is expected"
                if digest != hashlib.sha256(str(note).encode(errors="replace")).digest():
                    yield f"the row {id_} of the table `checkpoint` has another digest than its note"
                due = id_ + 1 if type(id_) is int else due + 1
            after = page[-1].id

    def checkpoints(self) -> Iterator[tuple[int, str]]:
        """Yield (size, note) in the order of size, then in the order in which the notes were kept."""
        c, at = t.checkpoint.c, (-1, 0)
        wanted = select(c.size, c.note, c.id).order_by(c.size, c.id).limit(PAGE)
        while page := self._connections.rows(wanted.where((c.size > at[0]) | ((c.size == at[0]) & (c.id > at[1])))):
            yield from ((row.size, row.note) for row in page)
            at = (page[-1].size, page[-1].id)

    @staticmethod
    def _has_erased(connection: Connection, after: int) -> bool:
        c = t.event.c
        wanted = select(c.seq).where(c.seq > after, c.type == PayloadErased.TYPE).limit(1)
        return connection.execute(wanted).scalar() is not None


def _chunks_of(kind: str, position: int) -> Delete:
    return delete(t.snapshot_chunk).where(t.snapshot_chunk.c.kind == kind, t.snapshot_chunk.c.position == position)
