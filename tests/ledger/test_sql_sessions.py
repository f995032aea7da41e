"""Servers, and what stands before them, as their administrators set them up: the ledger works, or says what to do."""

from __future__ import annotations

import secrets
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pymysql
import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import OperationalError

from kropot.gateway.state import StateError, open_state
from ledger.audit import IndexAudit, LogAudit
from ledger.errors import LedgerError
from ledger.log import Ledger
from ledger.sql import migrate, open_store, parse_place
from ledger.sql.dialects import reader_engine, writer_engine
from ledger.sql.protection import protection
from ledger.sql.schema import TABLES
from tests.ledger.databases import fresh_url, fresh_user, run_mariadb, run_postgresql, server_url
from tests.ledger.test_sql_outages import SERVERS, through_proxy
from tests.ledger.world import began, observed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def use(url: str) -> None:
    """Make a ledger, work with it as a collector does, and expect it sound."""
    store = open_store(url, create=True)
    ledger = Ledger(store, writer="main")
    ledger.append([began(), *(observed(number) for number in range(30))])
    ledger.work.enroll("main", place="here", lease_us=1_000_000)
    for number in range(6):  # often enough to have a statement prepared
        ledger.append([observed(f"again {number}")])
        assert len(ledger.work.take(instance="main", lease_us=1_000_000, limit=2)) == 2
        assert len(list(ledger.events())) == 33 + number
    ledger.work.retire("main")
    log = LogAudit(ledger.log)
    assert [*log.findings(), *IndexAudit(store, log).findings()] == []
    store.close()


def rows(url: str, statement: str, *, reads: bool = False) -> list[tuple[Any, ...]]:
    engine = (reader_engine if reads else writer_engine)(parse_place(url))
    with engine.connect() as connection:
        found = [tuple(row) for row in connection.execute(text(statement))]
    engine.dispose()
    return found


# --- PostgreSQL ------------------------------------------------------------------------------------------------------


@contextmanager
def fresh_database(options: str) -> Iterator[str]:
    server, name = server_url("postgresql"), f"kropot_{secrets.token_hex(6)}"
    run_postgresql(server, f"CREATE DATABASE {name} {options}")
    try:
        yield server.set(database=name).render_as_string(hide_password=False)
    finally:
        run_postgresql(server, f"DROP DATABASE {name} WITH (FORCE)")


def test_a_database_without_an_encoding_holds_a_ledger_and_a_gateways_state() -> None:
    with fresh_database("ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0") as url:
        use(url)
        run_postgresql(make_url(url), "CREATE SCHEMA gateway")
        state = open_state(f"{url}?options=-csearch_path%3Dgateway", create=True)
        state.keep_root("ä".encode())
        assert state.source().root == "ä".encode()
        state.close()


def test_behind_a_pooler_each_transaction_brings_its_own_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = "SELECT current_setting('enable_sort'), count(*) FROM pg_prepared_statements"
    with fresh_url("postgresql", tmp_path) as url:
        assert rows(url, settings) == [("off", 0)]
        monkeypatch.setattr("ledger.sql.sessions.is_pooled", lambda _: True)
        for reads in (False, True):
            assert rows(url, settings, reads=reads) == [("off", 0)]
            engine = (reader_engine if reads else writer_engine)(parse_place(url))
            driver = engine.raw_connection()
            driver.rollback()  # the session itself, which others will get
            assert driver.driver_connection is not None
            assert driver.driver_connection.execute("SHOW enable_sort").fetchone() == ("on",)
            driver.close()
            engine.dispose()
        use(url)


def test_a_ledger_is_used_through_pgbouncer_in_transaction_mode(tmp_path: Path, free_port: int) -> None:
    program = shutil.which("pgbouncer")
    if program is None:
        pytest.skip("pgbouncer is not installed")
    with fresh_database("") as url:
        server = make_url(url)
        file = tmp_path / "pgbouncer.ini"
        file.write_text(
            f"[databases]\n{server.database} = host={server.host} port={server.port or 5432} user={server.username}\n"
            f"[pgbouncer]\nlisten_addr=127.0.0.1\nlisten_port={free_port}\nauth_type=any\npool_mode=transaction\n"
            f"default_pool_size=2\nunix_socket_dir=\nuser=nobody\nlogfile=\n"
        )
        with subprocess.Popen([program, "-q", file], stderr=subprocess.DEVNULL) as pooler:
            try:
                pooled = server.set(port=free_port).render_as_string(hide_password=False)
                run_when_it_answers(pooled)
                use(pooled)
            finally:
                pooler.terminate()


def run_when_it_answers(url: str) -> None:
    for attempt in range(100):
        try:
            rows(url, "SELECT 1")
        except OperationalError:
            if attempt == 99:
                raise
        else:
            return


# --- MySQL and MariaDB -----------------------------------------------------------------------------------------------


@pytest.fixture
def mariadb(tmp_path: Path) -> Iterator[str]:
    with fresh_url("mariadb", tmp_path) as url:
        yield url


@contextmanager
def told_first(url: str, statement: str) -> Iterator[str]:
    """Have the server begin each session with this statement. Yield the URL of a user to whom it does so."""
    server = server_url("mariadb")
    # Only users without SUPER get it.
    with fresh_user("mariadb") as name:
        database = make_url(url).database
        run_mariadb(server, f"GRANT ALL ON {database}.* TO {name}@'%'", f'SET GLOBAL init_connect = "{statement}"')
        try:
            yield make_url(url).set(username=name, password=None).render_as_string(hide_password=False)
        finally:
            run_mariadb(server, "SET GLOBAL init_connect = ''")


def test_no_setting_of_the_server_decides_about_engines_or_answers(mariadb: str) -> None:
    odd = "SET default_storage_engine = Aria, sql_safe_updates = 1, sql_select_limit = 1, unique_checks = 0"
    with told_first(mariadb, odd) as mine:
        use(mine)
        engines = "SELECT DISTINCT engine FROM information_schema.tables WHERE table_schema = database()"
        assert rows(mine, engines) == [("InnoDB",)]


def test_who_waits_for_the_head_goes_on_with_it_as_it_is_then(mariadb: str) -> None:
    """MariaDB from 11.6 on has `innodb_snapshot_isolation` on, and fails who waited. Here older ones are told to."""

    def work(name: str) -> None:
        store = open_store(mine)
        ledger = Ledger(store, writer=name)
        for number in range(60):
            ledger.append([observed(f"{name} {number}")])
        store.close()

    with told_first(mariadb, "SET innodb_snapshot_isolation = 1") as mine, ThreadPoolExecutor(3) as pool:
        use(mine)
        list(pool.map(work, ("one", "two", "three")))
        assert rows(mine, "SELECT count(*) FROM event") == [(38 + 180,)]


def test_a_gateway_that_waits_for_a_locked_row_goes_on_with_it(mariadb: str) -> None:
    with told_first(mariadb, "SET innodb_snapshot_isolation = 1") as mine:
        state = open_state(mine, create=True)
        with state.read() as connection:
            shown = connection.execute(text("SHOW VARIABLES LIKE 'innodb_snapshot_isolation'")).all()
        state.close()
    assert shown in ([], [("innodb_snapshot_isolation", "OFF")])


def test_a_ledger_of_an_engine_without_transactions_is_refused_and_left_as_it_is(mariadb: str) -> None:
    use(mariadb)
    rows_of = "SELECT count(*) FROM event"
    before = rows(mariadb, rows_of)
    address = make_url(mariadb)
    run_mariadb(address, f"USE {address.database}", "ALTER TABLE head ENGINE=Aria", "ALTER TABLE lease ENGINE=MyISAM")
    for create, read_only in ((True, False), (False, False), (False, True)):
        with pytest.raises(LedgerError, match=r"Aria, MyISAM.*ALTER TABLE head ENGINE=InnoDB; ALTER TABLE lease "):
            open_store(mariadb, create=create, read_only=read_only)
    with pytest.raises(LedgerError, match="without transactions"):
        migrate(parse_place(mariadb))
    assert rows(mariadb, rows_of) == before
    run_mariadb(address, f"USE {address.database}", "ALTER TABLE head ENGINE=InnoDB", "ALTER TABLE lease ENGINE=InnoDB")
    open_store(mariadb).close()


def test_a_gateways_state_of_an_engine_without_transactions_is_refused(mariadb: str) -> None:
    open_state(mariadb, create=True).close()
    address = make_url(mariadb)
    run_mariadb(address, f"USE {address.database}", "ALTER TABLE gateway_token ENGINE=Aria")
    with pytest.raises(StateError, match=r"without transactions \(gateway_token\).*ENGINE=InnoDB"):
        open_state(mariadb, create=True)


def refused(code: int) -> Any:
    """Return what makes the triggers where the server refuses them with this code."""

    def renew(_connection: object) -> None:
        raise OperationalError("CREATE TRIGGER", {}, pymysql.OperationalError(code, "You do not have the privilege"))

    return renew


def test_a_ledger_without_triggers_says_so_and_gets_them_later(mariadb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("ledger.sql.opening.renew", refused(1419))
        store = open_store(mariadb, create=True)
        assert not store.is_guarded
        store.close()
        assert protection(parse_place(mariadb)).kind == "none"
        assert not migrate(parse_place(mariadb))
    use(mariadb)
    assert migrate(parse_place(mariadb))
    assert protection(parse_place(mariadb)).kind == "triggers"
    with pytest.raises(OperationalError, match="never removed"):
        rows(mariadb, "DELETE FROM event")


@pytest.mark.parametrize(
    ("code", "demanded", "sentence"),
    [
        (1419, True, r"SUPER.*--db-owner-url.*log_bin_trust_function_creators.*docs/operations.md"),
        (1142, False, "priv"),
        (1665, False, "binlog_format = ROW"),
    ],
)
def test_of_a_ledger_that_cannot_be_made_nothing_stays(
    mariadb: str,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    demanded: bool,  # noqa: FBT001
    sentence: str,
) -> None:
    monkeypatch.setattr("ledger.sql.opening.renew", refused(code))
    with pytest.raises(LedgerError, match=sentence):
        migrate(parse_place(mariadb), demand_guards=demanded)
    assert {name for (name,) in rows(mariadb, "SHOW TABLES")} & TABLES == set()


# --- connections that were idle --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SERVERS)
def test_connections_that_were_cut_while_idle_are_made_anew_before_they_are_used(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.sql.sessions.IDLE_S", 0)
    with through_proxy(kind, tmp_path) as (url, proxy):
        store = open_store(url, create=True)
        ledger = Ledger(store)
        ledger.append([began(), observed("a")])
        ledger.work.enroll("main", place="here", lease_us=60_000_000)
        # Nothing of this is tried twice: a second try could do it twice, or come too late to stop.
        for act in (
            lambda: ledger.work.beat("main", lease_us=60_000_000),
            lambda: ledger.work.reserve("list", lease_us=60_000_000),
            lambda: ledger.work.take(instance="main", lease_us=60_000_000),
            lambda: ledger.append([observed("b")]),
            lambda: ledger.work.retire("main"),
        ):
            proxy.shut()
            proxy.let_in()
            act()
        assert ledger.work.instances() == []
        store.close()
