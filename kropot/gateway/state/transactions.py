"""One database and its transactions: how they begin, wait for each other and fail."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import sqlalchemy as sa

from kropot.gateway.state import tables
from kropot.gateway.state.rows import StateError

if TYPE_CHECKING:
    from collections.abc import Iterator


class Transactions:
    """A database. Each method of a subclass is one transaction, and any thread can call it."""

    def __init__(self, engine: sa.Engine, place: str) -> None:
        """Wrap an engine. Call `open_state` instead: it checks the database first."""
        self._engine = engine
        self.place = place

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Run one reading transaction."""
        with self.explained(), self._engine.begin() as at:
            yield at

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """Run one writing transaction. Writers take turns: SQLite has one lock; others lock the source row."""
        with (
            self.explained(),
            self._engine.connect().execution_options(gateway_writes=True) as at,
            at.begin(),
        ):
            at.execute(sa.select(tables.source.c.number).with_for_update())
            yield at

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn a database error into a StateError with a readable message. The caller handles IntegrityError."""
        try:
            yield
        except sa.exc.IntegrityError:
            raise
        except sa.exc.SQLAlchemyError as error:
            raise StateError(sentence(self.place, error)) from error


def sentence(place: str, error: Exception) -> str:
    """Return a message that says what is wrong with the database. It omits the values of the failed statement."""
    cause = getattr(error, "orig", None) or error
    reason = str(cause).splitlines()[0]
    return f"the gateway's database {place} cannot be used: {reason}; check the database, then try again"
