"""Opening a database: what is there is looked at first, and said in one sentence with the way out."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
import stat
import struct
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from msgspec.structs import replace
from sqlalchemy import inspect, text

import ledger.sql
from ledger.errors import (
    BadPlaceError,
    ForeignDatabaseError,
    LedgerError,
    LedgerMissingError,
    LedgerUnavailableError,
    NewerLedgerError,
    ReadOnlyLedgerError,
)
from ledger.events import PayloadErased, RemoteObserved
from ledger.log import Ledger, NewFact, program
from ledger.sql import open_store, opening
from ledger.sql.dialects import parse_place, reader_engine, writer_engine
from ledger.sql.opening import REVISIONS, migrate
from ledger.sql.schema import REVISION, VERSION_TABLE, metadata
from ledger.sql.unlocked import undisturbed
from tests.ledger.databases import SQL_KINDS, fresh_url, is_mysql, load_first_version
from tests.ledger.world import began, element, key, observed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.engine.interfaces import ReflectedIndex


@pytest.fixture(params=SQL_KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with fresh_url(request.param, tmp_path) as fresh:
        yield fresh


def run(url: str, *statements: str) -> None:
    place = parse_place(url)
    if place.path is not None:
        place.path.touch()
    engine = writer_engine(place)
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(text(statement))
        connection.commit()
    engine.dispose()


def test_a_missing_ledger_is_not_made_by_looking(url: str) -> None:
    for read_only in (False, True):
        with pytest.raises(LedgerMissingError) as caught:
            open_store(url, read_only=read_only)
        assert caught.value.place == str(parse_place(url))
    with pytest.raises(LedgerMissingError):
        open_store(url, create=True, read_only=True)


def test_a_relative_file_is_named_by_its_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LedgerMissingError, match=str(tmp_path / "database.db")):
        open_store("sqlite:///database.db")
    assert list(tmp_path.iterdir()) == []
    open_store("sqlite:///database.db", create=True).close()
    assert (tmp_path / "database.db").exists()


def test_a_ledger_is_opened_again_as_it_was_left(url: str) -> None:
    store = open_store(url, create=True)
    Ledger(store).append([began(), observed("x")])
    store.close()
    for read_only in (False, True):
        again = open_store(url, read_only=read_only)
        assert Ledger(again).head().position == 3
        again.close()
    again = open_store(url, create=True)
    assert Ledger(again).append([observed("y")]).first == 4
    again.close()


def test_a_ledger_opened_for_reading_is_not_written(url: str) -> None:
    store = open_store(url, create=True)
    Ledger(store).append([began()])
    store.close()
    reading = open_store(url, read_only=True)
    with pytest.raises(ReadOnlyLedgerError):
        Ledger(reading).append([observed("x")])
    assert len(list(Ledger(reading).events())) == 2
    reading.close()


def test_another_programs_database_is_refused_and_left_alone(url: str) -> None:
    run(url, "CREATE TABLE processed_elements_log (id INTEGER PRIMARY KEY)", "CREATE TABLE event (id INTEGER)")
    path = parse_place(url).path
    before = path.read_bytes() if path is not None else b""
    for create in (False, True):
        with pytest.raises(ForeignDatabaseError, match="processed_elements_log"):
            open_store(url, create=create)
    with pytest.raises(ForeignDatabaseError, match="processed_elements_log"):
        migrate(parse_place(url))
    assert path is None or path.read_bytes() == before
    run(url, "INSERT INTO event VALUES (1)")


def test_a_ledger_with_a_strangers_table_beside_it_is_still_a_ledger(url: str) -> None:
    open_store(url, create=True).close()
    run(url, "CREATE TABLE reports (id INTEGER PRIMARY KEY)")
    open_store(url).close()


def test_a_newer_ledger_is_refused_with_its_schema(url: str) -> None:
    open_store(url, create=True).close()
    run(url, f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    for create in (False, True):
        with pytest.raises(NewerLedgerError) as caught:
            open_store(url, create=create)
        assert (caught.value.needs, caught.value.program) == ("9999", program())


@pytest.mark.parametrize("told", [None, "kropotcli 7.0.0", "rm -rf /", "kropotcli 7\n\x1b[31m"])
def test_a_newer_ledger_says_which_version_made_it_where_that_can_be_believed(tmp_path: Path, told: str | None) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    open_store(url, create=True).close()
    with contextlib.closing(sqlite3.connect(tmp_path / "ledger.db")) as connection:
        connection.execute(f"UPDATE {VERSION_TABLE} SET version_num = '0700', program = ?", (told,))
        connection.commit()
    with pytest.raises(NewerLedgerError) as caught:
        open_store(url)
    assert caught.value.program == (told if told == "kropotcli 7.0.0" else None)


def test_a_newer_ledger_that_says_nothing_of_its_version_is_still_refused(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "ledger.db")) as connection:
        connection.execute(f"CREATE TABLE {VERSION_TABLE} (version_num TEXT)")
        connection.execute(f"INSERT INTO {VERSION_TABLE} VALUES ('0700')")
        connection.commit()
    with pytest.raises(NewerLedgerError, match="schema 0700"):
        open_store(f"sqlite:///{tmp_path / 'ledger.db'}")


def test_a_new_ledger_has_the_tables_that_the_statements_expect(url: str) -> None:
    open_store(url, create=True).close()
    engine = writer_engine(parse_place(url))
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": VERSION_TABLE, "compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def tables_in(url: str) -> dict[str, object]:
    """Return everything that a database says of its tables, keys, indexes and triggers."""
    place = parse_place(url)
    triggers = {
        "sqlite": "SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'",
        "postgresql": "SELECT tgname, replace(pg_get_triggerdef(t.oid) || pg_get_functiondef(p.oid),"
        " current_schema() || '.', '')"
        " FROM pg_trigger t JOIN pg_proc p ON p.oid = tgfoid JOIN pg_class c ON c.oid = tgrelid"
        " WHERE NOT tgisinternal AND c.relnamespace = current_schema()::regnamespace",
    }
    told = "SELECT trigger_name, concat(event_manipulation, action_timing, action_statement) FROM"
    told += " information_schema.triggers WHERE trigger_schema = database()"
    engine = writer_engine(place)
    with engine.connect() as connection:
        looked = inspect(connection)
        schema: dict[str, object] = {
            table: (
                [{**column, "type": repr(column["type"])} for column in looked.get_columns(table)],
                looked.get_pk_constraint(table),
                sorted(str({**index, "dialect_options": str_of(index)}) for index in looked.get_indexes(table)),
                sorted(map(repr, looked.get_unique_constraints(table))),
            )
            for table in looked.get_table_names()
        }
        found = connection.execute(text(triggers.get(place.kind, told)))
        schema["triggers"] = sorted(map(tuple, found))
        schema["revision"] = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()
    engine.dispose()
    return schema


def str_of(index: ReflectedIndex) -> dict[str, str]:
    return {name: str(value) for name, value in index.get("dialect_options", {}).items()}


def test_an_upgraded_ledger_of_the_first_version_has_the_schema_of_a_new_one(
    url: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    open_store(url, create=True).close()
    kind = request.node.callspec.params["url"]
    if kind == "mariadb" and is_mysql():
        pytest.skip("that ledger is a dump of MariaDB's, which gives one table a collation of its own")
    (tmp_path / "old").mkdir()
    with fresh_url(kind, tmp_path / "old") as old:
        load_first_version(kind, old)
        migrate(parse_place(old))
        assert tables_in(url) == tables_in(old)


def test_a_ledger_whose_first_page_a_power_cut_tore_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(bytes(4096))
    # A journal of SQLite's, whose header says that the file was empty before: https://sqlite.org/fileformat.html
    header = bytes.fromhex("d9d505f920a163d7") + struct.pack(">IIIII", 0, 1, 0, 512, 4096)
    path.with_name("ledger.db-journal").write_bytes(header.ljust(512, b"\0"))
    with pytest.raises(LedgerMissingError):
        open_store(f"sqlite:///{path}")
    open_store(f"sqlite:///{path}", create=True).close()
    assert path.read_bytes()[:15] == b"SQLite format 3"


def test_a_journal_without_its_ledger_makes_none(tmp_path: Path) -> None:
    tmp_path.joinpath("ledger.db-journal").write_bytes(b"x" * 600)
    with pytest.raises(LedgerMissingError):
        open_store(f"sqlite:///{tmp_path / 'ledger.db'}")
    assert not (tmp_path / "ledger.db").exists()


def test_every_table_and_column_is_in_the_format_document() -> None:
    page = (Path(__file__).parents[2] / "docs" / "format.md").read_text().partition("## Tables")[2]
    page = page.partition("\n## ")[0]
    for table in metadata.tables.values():
        told = next((line for line in page.split("\n") if line.startswith(f"| `{table.name}` |")), page)
        missing = [name for name in (table.name, *table.columns.keys()) if f"`{name}`" not in told]
        assert missing == [], f"docs/format.md does not name {table.name}: {', '.join(missing)}"


def test_every_migration_is_known_and_the_last_one_is_the_schema() -> None:
    script = ScriptDirectory(os.path.join(os.path.dirname(ledger.sql.__file__), "migrations"))  # noqa: PTH118, PTH120  # as alembic takes it
    assert tuple(reversed([migration.revision for migration in script.walk_revisions()])) == REVISIONS
    assert REVISIONS[-1] == REVISION


def test_many_processes_may_make_the_same_ledger_at_once(url: str) -> None:
    failures: list[BaseException] = []
    gate = threading.Barrier(4)

    def make() -> None:
        gate.wait()
        try:
            store = open_store(url, create=True)
            Ledger(store).begin()
            store.close()
        except BaseException as error:  # noqa: BLE001  # it is raised again below, in the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    store = open_store(url)
    assert Ledger(store).head().position == 1
    store.close()


def test_a_creation_that_was_cut_short_is_done_again(url: str) -> None:
    open_store(url, create=True).close()
    run(url, f"DROP TABLE {VERSION_TABLE}", "DROP TABLE tally")
    with pytest.raises(LedgerMissingError):
        open_store(url)
    store = open_store(url, create=True)
    assert Ledger(store).append([began()]).last == 2
    store.close()


def test_events_without_a_schema_version_are_not_swept_away(url: str) -> None:
    store = open_store(url, create=True)
    Ledger(store).append([began()])
    store.close()
    run(url, f"CREATE TABLE kept AS SELECT * FROM {VERSION_TABLE}", f"DROP TABLE {VERSION_TABLE}")
    with pytest.raises(ForeignDatabaseError):
        open_store(url, create=True)
    run(url, f"CREATE TABLE {VERSION_TABLE} AS SELECT * FROM kept", "DROP TABLE kept")
    store = open_store(url)
    assert Ledger(store).head().position == 2
    store.close()


def test_a_strangers_table_of_the_same_name_is_not_swept_away(url: str) -> None:
    run(url, "CREATE TABLE snapshot (taken INTEGER)")
    with pytest.raises(ForeignDatabaseError, match="snapshot"):
        open_store(url, create=True)
    run(url, "INSERT INTO snapshot VALUES (1)")


def test_the_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "odd name %20 ?#&.db"
    store = open_store(f"sqlite:///{str(path).replace('%', '%25').replace('?', '%3F')}", create=True)
    Ledger(store).append([began()])
    made = [file for file in tmp_path.iterdir() if file.is_file()]
    assert len(made) >= 2  # the write-ahead log is beside it
    assert {stat.S_IMODE(file.stat().st_mode) for file in made} == {0o600}
    store.close()


def test_erased_bytes_are_not_left_in_the_file(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path / 'ledger.db'}", create=True)
    ledger = Ledger(store)
    form = b'{"fileName":"a secret of somebody"}'
    seen = RemoteObserved(element=replace(element(), form=form))
    ledger.append([began(), *(NewFact(key=key(n), fact=seen, observed_us=1) for n in range(9))])
    store.close()
    assert form in (tmp_path / "ledger.db").read_bytes()
    ledger.append([NewFact(key=key(n), fact=PayloadErased(reason="request 17"), observed_us=1) for n in range(9)])
    store.close()
    assert form not in (tmp_path / "ledger.db").read_bytes()
    assert not (tmp_path / "ledger.db-wal").exists()


def test_a_ledger_on_a_read_only_medium_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    store = open_store(url, create=True)
    Ledger(store).append([began()])
    store.close()
    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(os, "access", lambda _path, _mode: False)
    reading = open_store(url, read_only=True)
    assert len(list(Ledger(reading).events())) == 2
    assert sorted(tmp_path.iterdir()) == before  # nothing was made beside it
    reading.close()


def test_a_reader_without_rights_never_mistakes_a_writer_for_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has pages of before in its cache when a writer comes, changes the file, and goes."""
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    seen = RemoteObserved(element=element())
    store = open_store(url, create=True)
    ledger = Ledger(store)
    ledger.append([began(), *(NewFact(key=key(n), fact=seen, observed_us=1) for n in range(900))])
    store.close()
    monkeypatch.setattr(os, "access", lambda path, _mode: path != tmp_path)
    reading = open_store(url, read_only=True)
    reader = Ledger(reading)
    assert len(list(reader.events())) == 902
    for start in (900, 1800):
        ledger.append([NewFact(key=key(n), fact=seen, observed_us=1) for n in range(start, start + 900)])
        assert not next(reading.damage(), None)  # while the writer is at work
        store.close()
        assert not next(reading.damage(), None)  # after it has folded its log into the file
    assert len(list(reader.scan())) == 2700
    assert len(list(reader.events())) == 2702
    reading.close()


def test_an_answer_that_was_read_beside_a_writer_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger.db"
    url = f"sqlite:///{path}"
    store = open_store(url, create=True)
    Ledger(store).append([began()])
    store.close()
    monkeypatch.setattr(os, "access", lambda _path, _mode: False)
    engine = reader_engine(parse_place(url))

    def read_beside_a_writer() -> None:
        with engine.connect() as connection, undisturbed(connection, engine):
            os.utime(path, ns=(1, 1))
            raise LedgerError("the database disk image is malformed")

    with pytest.raises(LedgerUnavailableError, match="another process writes to the ledger"):
        read_beside_a_writer()
    with engine.connect() as connection, undisturbed(connection, engine):
        assert connection.exec_driver_sql("SELECT position FROM head").scalar() == 2
    engine.dispose()


def test_a_ledger_is_opened_though_its_mount_is_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot, taken while the collector worked: what nobody can write through this mount, nobody has to sync."""
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    store = open_store(url, create=True)
    Ledger(store).append([began()])

    def refuse(_path: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(opening, "sync", refuse)
    snapshot = open_store(url)
    assert len(list(Ledger(snapshot).events())) == 2
    snapshot.close()
    store.close()


@pytest.mark.parametrize("read_only", [True, False])
def test_what_a_crash_left_half_written_is_undone_before_the_ledger_is_read(tmp_path: Path, read_only: bool) -> None:  # noqa: FBT001
    source, left = tmp_path / "ledger.db", tmp_path / "left.db"
    store = open_store(f"sqlite:///{source}", create=True)
    Ledger(store).append([began()])
    store.close()
    with closing(sqlite3.connect(source, isolation_level=None)) as writing:
        writing.execute("PRAGMA journal_mode = DELETE")
        writing.execute("PRAGMA cache_size = 1")  # what is changed reaches the file before the commit
        writing.execute("BEGIN IMMEDIATE")
        writing.execute("CREATE TABLE half AS SELECT zeroblob(200000) AS written")
        for suffix in ("", "-journal"):
            shutil.copyfile(f"{source}{suffix}", f"{left}{suffix}")
        writing.execute("ROLLBACK")
    assert left.stat().st_size > source.stat().st_size
    opened = open_store(f"sqlite:///{left}", read_only=read_only)
    assert len(list(Ledger(opened).events())) == 2
    opened.close()


def test_an_empty_file_becomes_a_ledger_and_another_file_does_not(tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()
    open_store(f"sqlite:///{tmp_path / 'empty.db'}", create=True).close()
    (tmp_path / "letter.txt").write_text("Dear reader, " * 100)
    with pytest.raises(LedgerError, match=f"{tmp_path / 'letter.txt'} is not an SQLite database"):
        open_store(f"sqlite:///{tmp_path / 'letter.txt'}", create=True)
    with pytest.raises(LedgerError, match=rf"cannot read the ledger {tmp_path} \(Is a directory\)"):
        open_store(f"sqlite:///{tmp_path}")
    assert (tmp_path / "letter.txt").read_text().startswith("Dear reader")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=str(tmp_path / "no" / "ledger.db")):
        open_store(f"sqlite:///{tmp_path / 'no' / 'ledger.db'}", create=True)


def test_a_locked_database_is_unavailable_and_not_waited_for_forever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.sql.dialects.BUSY_SECONDS", 0.05)
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    store = open_store(url, create=True)
    Ledger(store).append([began()])
    holder = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(LedgerUnavailableError, match="locked"):
        Ledger(store).append([observed("x")])
    assert Ledger(store).head().position == 2  # readers do not wait
    holder.execute("ROLLBACK")
    holder.close()
    assert Ledger(store).append([observed("x")]).first == 3
    store.close()


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("database.db", "does not name a database"),
        ("", "does not name a database"),
        ("sqlite://", "needs a file"),
        ("sqlite:///:memory:", "needs a file"),
        ("oracle://scott:tiger@host/db", "'oracle' cannot hold a ledger"),
        ("nonsense+thing://x/y", "'nonsense' cannot hold a ledger"),
        ("postgresql+asyncpg://u:secret@h/d", "postgresql://"),
        ("postgresql://u:secret@h", "does not name a database"),
    ],
)
def test_a_url_that_cannot_be_used_is_explained_without_its_password(url: str, sentence: str) -> None:
    with pytest.raises(BadPlaceError, match=sentence) as caught:
        open_store(url)
    assert "secret" not in str(caught.value)
    assert "tiger" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "module", "extra"),
    [
        ("postgresql://u:secret@127.0.0.1/d", "psycopg", "pip install '.[postgresql]'"),
        ("mysql://u:secret@127.0.0.1/d", "pymysql", "pip install '.[mysql]'"),
        ("mariadb://u:secret@127.0.0.1/d", "pymysql", "pip install '.[mysql]'"),
    ],
)
def test_a_missing_driver_is_named_with_its_extra(
    url: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(LedgerError) as caught:
        open_store(url)
    assert extra in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["postgresql", "mariadb"])
def test_a_server_that_does_not_answer_is_unavailable_and_its_password_unseen(scheme: str, free_port: int) -> None:
    with pytest.raises(LedgerUnavailableError) as caught:
        open_store(f"{scheme}://user:secret@127.0.0.1:{free_port}/ledger?password=secret", create=True)
    shown = f"{caught.value} {parse_place(f'{scheme}://user:secret@h/ledger?password=secret')!r}"
    assert "secret" not in shown
    assert f"{scheme}://user:***@h/ledger" in shown


def test_what_a_killed_process_was_about_to_sync_is_synced_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    living = open_store(url, create=True)
    Ledger(living).append([began()])
    synced: list[tuple[int, int]] = []

    def sync(fd: int) -> None:
        found = os.fstat(fd)
        synced.append((found.st_dev, found.st_ino))

    monkeypatch.setattr(os, "fsync", sync)
    open_store(url, read_only=True).close()
    assert synced == []
    open_store(url).close()
    there = [path.stat() for path in (tmp_path / "ledger.db-wal", tmp_path)]
    assert [(found.st_dev, found.st_ino) for found in there] == synced[:2]
    living.close()


def test_a_log_that_cannot_be_synced_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    open_store(url, create=True).close()

    def fail(_fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(LedgerUnavailableError, match="cannot sync the log"):
        open_store(url)


def test_a_ledger_on_sqlite_imports_no_dialect_of_a_server() -> None:
    """Naming a type or an option of PostgreSQL in the schema would: it costs every command 50 ms."""
    servers = {"sqlalchemy.dialects.postgresql", "sqlalchemy.dialects.mysql"}
    look = f"import sys, ledger.sql; print(sorted({servers} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_sqlite_keeps_what_it_needs_to_undo_a_statement_in_memory(tmp_path: Path) -> None:
    place = parse_place(f"sqlite:///{tmp_path / 'ledger.db'}")
    migrate(place)
    with writer_engine(place).connect() as connection:
        assert connection.exec_driver_sql("PRAGMA temp_store").scalar() == 2  # MEMORY
