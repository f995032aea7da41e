"""A byte flipped in one of SQLite's own indexes: the tables are whole, and what is read through the index is not."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from kropot.objects.directory import DirectoryObjects
from kropot.verify import Scope, Verification
from ledger.log import Ledger
from ledger.sql import open_store
from tests.tamper.world import World, build

if TYPE_CHECKING:
    from pathlib import Path

INDEXES = {"stream": "key", "source": "id", "checkpoint": "digest"}


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> World:
    return build(tmp_path_factory.mktemp("pristine"))[0]


def flip_in_index(database: Path, table: str, column: str) -> None:
    """Flip a bit of a value where it stands in an index of its table, and not in the table itself."""
    with closing(sqlite3.connect(database)) as sql:
        sql.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        sql.execute("PRAGMA journal_mode = DELETE")
        (value,) = sql.execute(f"SELECT {column} FROM {table} NOT INDEXED WHERE {column} IS NOT NULL").fetchone()
    sound = database.read_bytes()
    at = sound.find(value)
    while at >= 0:
        changed = bytearray(sound)
        changed[at + len(value) - 1] ^= 1
        database.write_bytes(changed)
        with closing(sqlite3.connect(database)) as sql:
            whole = sql.execute(f"SELECT count(*) FROM {table} NOT INDEXED WHERE {column} = ?", (value,)).fetchone()
            (broken,) = sql.execute("PRAGMA integrity_check(1)").fetchone()
        if whole == (1,) and broken != "ok":
            return
        at = sound.find(value, at + 1)
    raise AssertionError(f"{value!r} stands in no index")


@pytest.mark.parametrize("quick", [False, True], ids=["all", "quick"])
@pytest.mark.parametrize(("table", "column"), INDEXES.items())
def test_a_flipped_byte_in_an_index_is_a_finding(
    tmp_path: Path, pristine: World, table: str, column: str, *, quick: bool
) -> None:
    world = pristine.copy_to(tmp_path / "world")
    flip_in_index(world.database, table, column)
    store = open_store(f"sqlite:///{world.database}", read_only=True)
    try:
        objects = DirectoryObjects(world.storage, "verify")
        run = Verification(Ledger(store), objects, Scope(record=False, quick=quick))
        found = list(run.findings())
    finally:
        store.close()
    assert not run.summary.sound
    assert "damaged_database" in {finding.kind for finding in found}
    assert all("db recover" in finding.hint for finding in found if finding.kind == "damaged_database")
