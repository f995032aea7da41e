"""What a PostgreSQL holds, writes and takes: rows and bytes by table, bytes of WAL, CPU seconds of its processes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import psycopg

_SIZES = """
SELECT c.relname, pg_table_size(c.oid), pg_total_relation_size(c.oid)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'public' AND c.relkind = 'r' ORDER BY 3 DESC
"""
_MANY = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table: its rows, its bytes, and those with its indexes."""

    name: str
    rows: int
    bytes: int
    all_bytes: int


class CpuTime:
    """The CPU seconds of a process and its children so far, also of those that have ended."""

    def __init__(self, pid: int) -> None:
        """Look now."""
        self.seconds = _ticks(pid, ended=True) / os.sysconf("SC_CLK_TCK")
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            self.seconds += _ticks(int(child), ended=False) / os.sysconf("SC_CLK_TCK")

    def since(self, before: CpuTime) -> float:
        """Return the seconds between two looks."""
        return self.seconds - before.seconds


def tables(url: str) -> list[Table]:
    """Return the tables with more than a handful of rows, the largest first."""
    found = []
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")
        for name, octets, all_octets in connection.execute(_SIZES).fetchall():
            row = connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()  # type: ignore[arg-type]
            rows = 0 if row is None else int(row[0])
            if rows >= _MANY or all_octets > 1 << 20:
                found.append(Table(name=name, rows=rows, bytes=int(octets), all_bytes=int(all_octets)))
    return found


def wal_bytes(url: str) -> int:
    """Return how many bytes the server has written ahead since it was made."""
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn").fetchone()
    return 0 if row is None else int(row[0])


def _ticks(pid: int, *, ended: bool) -> int:
    """Return user and system time, with that of children that have ended if asked for; 0 where the process is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return sum(map(int, fields[11:15] if ended else fields[11:13]))
