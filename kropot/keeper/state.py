"""The keeper's own database: one small SQLite file with the tokens, which are looked up by their keyed hashes."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from kropot.errors import KropotError, NoLedgerError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SCHEMA: Final = b"1"
_BUSY_S: Final = 10.0
_TABLES: Final = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL);
CREATE TABLE token (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    mac BLOB NOT NULL UNIQUE,
    role TEXT NOT NULL,
    label TEXT,
    sources TEXT,
    created_s INTEGER NOT NULL,
    expires_s INTEGER,
    revoked_s INTEGER
);
"""
_COLUMNS: Final = "number, mac, role, label, sources, created_s, expires_s, revoked_s"


class KeeperStateError(KropotError):
    """The keeper's database cannot be used. The message says why."""


class KeeperTokenRow(Struct, frozen=True, kw_only=True):
    """A stored token: its keyed hash (32 bytes), and what it allows. Times are seconds since 1970.

    `sources` are the ids (16 bytes each) of the sources that it is bound to, None for all.
    """

    number: int
    mac: bytes
    role: str
    label: str | None
    sources: tuple[bytes, ...] | None
    created_s: int
    expires_s: int | None
    revoked_s: int | None


class KeeperState:
    """The database. Each method opens it, so any thread or process can call it, and sees the changes of others."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        """Open the file. With `create`, make it (mode 0600) if there is none.

        Raises: NoLedgerError if there is none; KeeperStateError if it belongs to another program, or cannot be used.
        """
        self.path = path
        if not path.exists():
            if not create:
                raise NoLedgerError(
                    f"there are no keeper's tokens at {path}: make one with `kropotcli keeper token create`"
                )
            self._make()
        self._check()

    def key_check(self) -> bytes:
        """Return 32 bytes that identify the key of the hashes, b"" if none were stored."""
        with self._reading() as at:
            row = at.execute("SELECT value FROM meta WHERE name = 'key_check'").fetchone()
        return b"" if row is None else bytes(row[0])

    def keep_key_check(self, check: bytes) -> None:
        """Store the bytes that identify the key of the hashes. Only the first call counts."""
        with self._writing() as at:
            at.execute("INSERT OR IGNORE INTO meta VALUES ('key_check', ?)", (check,))

    def add(
        self,
        mac: bytes,
        *,
        role: str,
        label: str | None,
        sources: tuple[bytes, ...] | None,
        now_s: int,
        expires_s: int | None,
    ) -> int:
        """Store a token, and return its number."""
        bound = None if sources is None else json.dumps([source.hex() for source in sources])
        with self._writing() as at:
            made = at.execute(
                "INSERT INTO token (mac, role, label, sources, created_s, expires_s) VALUES (?, ?, ?, ?, ?, ?)",
                (mac, role, label, bound, now_s, expires_s),
            )
            return int(made.lastrowid or 0)

    def find(self, mac: bytes) -> KeeperTokenRow | None:
        """Return the token with this keyed hash, None if there is none."""
        with self._reading() as at:
            row = at.execute(f"SELECT {_COLUMNS} FROM token WHERE mac = ?", (mac,)).fetchone()
        return None if row is None else _row(row)

    def all(self) -> list[KeeperTokenRow]:
        """Return all tokens, the oldest first."""
        with self._reading() as at:
            return [_row(row) for row in at.execute(f"SELECT {_COLUMNS} FROM token ORDER BY number")]

    def revoke(self, number: int, now_s: int) -> bool:
        """Revoke a token for good. A second call does not change the time. Return whether there is such a token."""
        with self._writing() as at:
            at.execute("UPDATE token SET revoked_s = ? WHERE number = ? AND revoked_s IS NULL", (now_s, number))
            return at.execute("SELECT 1 FROM token WHERE number = ?", (number,)).fetchone() is not None

    # --- helpers ------------------------------------------------------------------------------------------------------

    def _make(self) -> None:
        try:
            # SQLite would create a file that everybody can read.
            os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise KeeperStateError(
                f"the keeper's database {self.path} cannot be created ({error.strerror}): name another file with "
                f"--state"
            ) from error

    def _check(self) -> None:
        with self._writing() as at:
            tables = {name for (name,) in at.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if not tables:
                for statement in filter(str.strip, _TABLES.split(";")):
                    at.execute(statement)
                at.execute("INSERT INTO meta VALUES ('schema', ?)", (SCHEMA,))
                return
            if not tables >= {"meta", "token"}:
                raise KeeperStateError(
                    f"{self.path} holds tables of another program, and nothing was written: give the keeper its own "
                    "file with --state"
                )
            schema = at.execute("SELECT value FROM meta WHERE name = 'schema'").fetchone()
        if schema is None or schema[0] != SCHEMA:
            raise KeeperStateError(
                f"another version of kropotcli made the keeper's database {self.path}: install that version"
            )

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._explained(), closing(self._connected()) as at:
            yield at

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._explained(), closing(self._connected()) as at:
            at.execute("PRAGMA synchronous=EXTRA")
            at.execute("BEGIN IMMEDIATE")
            try:
                yield at
            except BaseException:
                at.execute("ROLLBACK")
                raise
            at.execute("COMMIT")

    def _connected(self) -> sqlite3.Connection:
        # A URI allows mode=rw, so that SQLite does not create the file again under a running server.
        return sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode=rw", uri=True, timeout=_BUSY_S, isolation_level=None
        )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise KeeperStateError(
                f"the keeper's database {self.path} cannot be used ({error}): check the file, then try again"
            ) from error


def _row(row: tuple[object, ...]) -> KeeperTokenRow:
    number, mac, role, label, sources, created_s, expires_s, revoked_s = row
    bound = None if sources is None else tuple(bytes.fromhex(each) for each in json.loads(str(sources)))
    return KeeperTokenRow(
        number=int(str(number)),
        mac=mac if isinstance(mac, bytes) else b"",
        role=str(role),
        label=None if label is None else str(label),
        sources=bound,
        created_s=int(str(created_s)),
        expires_s=None if expires_s is None else int(str(expires_s)),
        revoked_s=None if revoked_s is None else int(str(revoked_s)),
    )
