"""Fresh, empty databases of every kind for tests, each dropped when its block ends."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import sqlite3
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import psycopg
import pymysql
import pytest
from sqlalchemy import URL, NullPool, create_engine, make_url
from sqlalchemy.exc import DBAPIError

from ledger.sql import migrate, open_store, parse_place
from ledger.sql.rights import grant
from ledger.sql.schema import metadata

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SQL_KINDS = ("sqlite", "postgresql", "mariadb")
KINDS = ("memory", *SQL_KINDS)

FIRST_VERSION = Path(__file__).parents[1] / "vectors" / "replicas" / "0001"
"""A whole replica that the first version of the program made."""

_SERVERS = {
    "postgresql": ("KROPOT_TEST_POSTGRES_URL", "postgresql://root@127.0.0.1/test"),
    "mariadb": ("KROPOT_TEST_MYSQL_URL", "mariadb://root@127.0.0.1/test"),
}

_ALONE = {
    # A superuser's session in which no trigger refuses.
    "postgresql": ("SET lock_timeout = '5s'", "SET session_replication_role = replica"),
    # There, triggers do not see a TRUNCATE.
    "mariadb": ("SET lock_wait_timeout = 5",),
}
"""What a session needs to empty a ledger, and not to wait for one that is in use."""

_NEW_HEAD = "INSERT INTO head (id, position, recorded_us, streams, frontier) VALUES (1, 0, 0, 0, '')"


def _read_certificates_once() -> None:
    """Share one TLS context: PyMySQL reads every authority's certificate anew for each connection, even without TLS."""
    make, made = pymysql.connections.Connection._create_ssl_ctx, dict[str, Any]()

    def shared(connection: Any, options: Any) -> Any:
        if repr(options) not in made:
            made[repr(options)] = make(connection, options)
        return made[repr(options)]

    pymysql.connections.Connection._create_ssl_ctx = shared


_read_certificates_once()


@contextmanager
def fresh_url(kind: str, folder: Path) -> Iterator[str]:
    """Yield the URL of an empty database of this kind, and drop it in the end; skip where there is no such server.

    On PostgreSQL it is a schema of its own, which the URL makes the only one in sight.
    """
    name = f"kropot_{secrets.token_hex(6)}"
    if kind == "sqlite":
        yield f"sqlite:///{folder / f'{name}.db'}"
        return
    url = server_url(kind)
    if kind == "postgresql":
        run_postgresql(url, f"CREATE SCHEMA {name}")
        try:
            yield _shown(url.update_query_dict({"options": f"-csearch_path={name}"}))
        finally:
            run_postgresql(url, f"DROP SCHEMA {name} CASCADE")
    else:
        run_mariadb(url, f"CREATE DATABASE {name}")
        try:
            yield _shown(url.set(database=name))
        finally:
            run_mariadb(url, f"DROP DATABASE {name}")


class Urls(NamedTuple):
    """One ledger as its owner sees it, and as its collector does."""

    owner: str
    user: str

    @property
    def name(self) -> str:
        """The collector's name at the server."""
        return str(make_url(self.user).username)


@contextmanager
def fresh_user(kind: str, attributes: str = "") -> Iterator[str]:
    """Yield a new user of the server without any right, who may log in, and drop it in the end."""
    name, server = f"kropot_{secrets.token_hex(6)}", server_url(kind)
    if kind == "postgresql":
        run_postgresql(server, f"CREATE ROLE {name} LOGIN {attributes}")
    else:
        run_mariadb(server, f"CREATE USER {name}@'%'")
    try:
        yield name
    finally:
        if kind == "postgresql":
            run_postgresql(server, f"DROP OWNED BY {name}", f"DROP ROLE {name}")
        else:
            run_mariadb(server, f"DROP USER {name}@'%'")


@contextmanager
def separate_urls(kind: str, folder: Path) -> Iterator[Urls]:
    """Yield a new ledger whose collector has only what `db init --db-owner-url` gives."""
    with fresh_url(kind, folder) as owner, fresh_user(kind) as name:
        user = _shown(make_url(owner).set(username=name, password=None))
        migrate(parse_place(owner))
        grant(parse_place(owner), parse_place(user))
        yield Urls(owner, user)


class MadeLedgers:
    """Ledgers in which nothing was recorded yet, each given out again once it was emptied: making one takes long.

    Only for tests that leave the schema as it is; what makes a ledger is tested where there is none.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._idle: dict[str, list[str]] = {kind: [] for kind in SQL_KINDS}
        self._made = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._made.close()

    @contextmanager
    def url(self, kind: str, folder: Path) -> Iterator[str]:
        """Yield the URL of an empty ledger of this kind; skip where there is no such server."""
        if kind == "sqlite":
            path = folder / f"kropot_{secrets.token_hex(6)}.db"
            shutil.copyfile(self._file(), path)
            path.chmod(0o600)
            yield f"sqlite:///{path}"
            return
        idle = self._idle[kind]
        url = idle.pop() if idle else self._make(kind)
        yield url
        # After a test that failed, nobody knows what is still at work in it.
        if _is_emptied(kind, url):
            idle.append(url)

    def _make(self, kind: str) -> str:
        url = self._made.enter_context(fresh_url(kind, self._folder))
        open_store(url, create=True).close()
        return url

    def _file(self) -> Path:
        """Return an SQLite file that is copied and never used itself."""
        idle = self._idle["sqlite"]
        if not idle:
            idle.append(self._make("sqlite"))
        return Path(idle[0].removeprefix("sqlite:///"))


def server_url(kind: str) -> URL:
    """Return the server's URL, from the environment or where it usually is; skip or fail when it does not answer."""
    reason = _unreachable(kind)
    if reason is not None:
        if os.environ.get("KROPOT_TEST_REQUIRE_DB"):
            pytest.fail(f"{reason}, and KROPOT_TEST_REQUIRE_DB says that it must be there")
        pytest.skip(reason)
    return _url(kind).set(drivername="mysql" if kind == "mariadb" and is_mysql() else kind)


def run_postgresql(url: URL, *statements: str) -> None:
    """Run statements on the server, each in a transaction of its own."""
    with psycopg.connect(_shown(url.set(drivername="postgresql")), autocommit=True, connect_timeout=5) as connection:
        for statement in statements:
            connection.execute(statement)


def load_first_version(kind: str, url: str) -> None:
    """Fill the empty database of this kind at `url` with the ledger that the first version made."""
    script = (FIRST_VERSION / f"ledger.{kind}.sql").read_text()
    if kind == "sqlite":
        with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            connection.executescript(script)
    elif kind == "postgresql":
        run_postgresql_script(url, script, schema="first_version")
    else:
        run_mariadb_script(url, script)


def run_postgresql_script(url: str, script: str, *, schema: str) -> None:
    """Run a dump's statements, in the schema that `url` names instead of `schema`."""
    name = make_url(url).query["options"]
    target = str(name).removeprefix("-csearch_path=")
    with psycopg.connect(_shown(make_url(url)), autocommit=True, connect_timeout=5) as connection:
        connection.execute(script.replace(f"{schema}.", f"{target}."))


def run_mariadb_script(url: str, script: str) -> None:
    """Run a dump's statements, which may change their delimiter to hold a trigger's body, in the database of `url`."""
    statements, delimiter, lines = [], ";", list[str]()
    for line in script.splitlines():
        if line.startswith("DELIMITER "):
            delimiter = line.removeprefix("DELIMITER ").strip()
            continue
        lines.append(line)
        if line.rstrip().endswith(delimiter):
            statements.append("\n".join(lines).rstrip().removesuffix(delimiter))
            lines = []
    address = make_url(url)
    run_mariadb(address, f"USE {address.database}", *statements)


def run_mariadb(url: URL, *statements: str) -> Sequence[tuple[Any, ...]]:
    """Run statements on the server, each in a transaction of its own. Return the rows of the last one."""
    connection = pymysql.connect(
        host=url.host,
        port=url.port or 3306,
        user=url.username,
        password=url.password or "",
        connect_timeout=5,
        autocommit=True,
    )
    with connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
        return cursor.fetchall()


# --- helpers ---------------------------------------------------------------------------------------------------------


def _url(kind: str) -> URL:
    """Return the server's URL under the name that the tests know its kind by, whichever synonym was given."""
    variable, local = _SERVERS[kind]
    return make_url(os.environ.get(variable) or local).set(drivername=kind)


def _is_emptied(kind: str, url: str) -> bool:
    """Remove every row but those of a new ledger; False where it cannot be had alone, or nobody may."""
    tables = sorted(metadata.tables)
    full = " UNION ALL ".join(f"SELECT '{table}' WHERE EXISTS (SELECT 1 FROM {table})" for table in tables)
    engine = create_engine(parse_place(url).url, poolclass=NullPool)
    try:
        with engine.begin() as connection:
            for statement in _ALONE[kind]:
                connection.exec_driver_sql(statement)
            for (table,) in connection.exec_driver_sql(full).fetchall():
                connection.exec_driver_sql(f"TRUNCATE TABLE {table}")
            connection.exec_driver_sql(_NEW_HEAD)
    except DBAPIError:
        return False
    return True


@cache
def _unreachable(kind: str) -> str | None:
    """Return why the server cannot be used, None if it can; it is asked once a test process."""
    run = run_postgresql if kind == "postgresql" else run_mariadb
    try:
        run(_url(kind), "SELECT 1")
    except (psycopg.Error, pymysql.Error) as error:
        return f"no {kind} server: set {_SERVERS[kind][0]} ({type(error).__name__})"
    return None


@cache
def is_mysql() -> bool:
    """Return whether the server of the tests for MariaDB is one of MySQL itself, which lacks some of its statements."""
    return not any("MariaDB" in str(row) for row in run_mariadb(_url("mariadb"), "SELECT version()"))


def _shown(url: URL) -> str:
    return url.render_as_string(hide_password=False)
