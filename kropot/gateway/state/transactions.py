"""One database and its transactions: how they begin, wait for each other, and fail."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import sqlalchemy as sa

from kropot.gateway.state import tables
from kropot.gateway.state.rows import StateError

if TYPE_CHECKING:
    from collections.abc import Iterator


class Transactions:
    """A database; every method of those that build on this is one transaction, from any thread."""

    def __init__(self, engine: sa.Engine, place: str) -> None:
        """Use `open_state`, which checks what is there first."""
        self._engine = engine
        self.place = place

    def close(self) -> None:
        """Let go of all connections."""
        self._engine.dispose()

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """One reading transaction."""
        with self.explained(), self._engine.begin() as at:
            yield at

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """One writing transaction; writers take turns: SQLite has one lock, elsewhere the source's row is it."""
        with (
            self.explained(),
            self._engine.connect().execution_options(gateway_writes=True) as at,
            at.begin(),
        ):
            at.execute(sa.select(tables.source.c.number).with_for_update())
            yield at

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn a database's failures into a sentence; a broken uniqueness is the caller's business."""
        try:
            yield
        except sa.exc.IntegrityError:
            raise
        except sa.exc.SQLAlchemyError as error:
            raise StateError(sentence(self.place, error)) from error


def sentence(place: str, error: Exception) -> str:
    """Say what is wrong with the database, without the values of the statement that failed."""
    cause = getattr(error, "orig", None) or error
    return f"the gateway's database {place} cannot be used: {str(cause).splitlines()[0]}"
