"""Reads an SQLite file for a user who cannot make the files that SQLite's locks need, and notices every writer.

Such a user can read the ledger but not write to its folder, as in monitoring or on a read-only mount. While a writer is
at work, its files exist, and SQLite reads with its locks. Otherwise SQLite can read the file only by treating it as
immutable, and a writer might come at any time. So each read compares what the file looked like before and after, and
its answer counts only if nobody wrote.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ledger.errors import LedgerUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Connection, Engine

Look = tuple[int, int, int, int, int]
"""What a file looks like: device, inode, size, time of the last write, time of the last change."""


class SqliteConnection(sqlite3.Connection):
    """A connection that knows whether it reads without locks."""

    unlocked: Unlocked | None = None


class Unlocked:
    """A file as it was when it was opened without locks."""

    def __init__(self, path: Path) -> None:
        """Look at the file. This MUST be done before it is opened."""
        self._path = path
        self._look = _look_at(path)

    @property
    def is_disturbed(self) -> bool:
        """Whether a writer is at work or has been since, so that what was read meanwhile can be of two moments."""
        return has_writer(self._path) or _look_at(self._path) != self._look


def needs_no_locks(path: Path) -> bool:
    """Whether SQLite must do without locks, because this user cannot create their files, and no writer has."""
    return not os.access(path.parent, os.W_OK) and not has_writer(path)


def has_writer(path: Path) -> bool:
    """Whether a writer's files are next to the database. They exist before it changes the file itself."""
    return any(path.with_name(path.name + end).exists() for end in ("-wal", "-journal"))


@contextmanager
def undisturbed(connection: Connection, engine: Engine) -> Iterator[None]:
    """Let the block's answer count only if nobody wrote meanwhile. A connection with locks needs no such check.

    Raises: LedgerUnavailableError, whatever the block found or raised. The same call succeeds on a new connection.
    """
    driver = connection.connection.driver_connection
    unlocked = driver.unlocked if isinstance(driver, SqliteConnection) else None
    try:
        yield
    finally:
        if unlocked is not None and unlocked.is_disturbed:
            connection.invalidate()
            engine.dispose()  # the other connections' caches are just as old
            raise LedgerUnavailableError("another process writes to the ledger, and this user cannot lock its files")


def _look_at(path: Path) -> Look:
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
