"""Whoever has the collector's user of the database can append, and can neither end the ledger nor rewrite it."""

from __future__ import annotations

import json
import re
import secrets
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import exc, make_url, text

from ledger.audit import LogAudit
from ledger.errors import LedgerError
from ledger.log import Ledger
from ledger.sql import open_store, parse_place
from ledger.sql.dialects import writer_engine
from ledger.sql.protection import Protection, protection
from ledger.transfer.copy import copy_ledger
from tests.ledger.databases import (
    Urls,
    fresh_url,
    fresh_user,
    is_mysql,
    run_mariadb,
    run_postgresql,
    separate_urls,
    server_url,
)
from tests.ledger.world import began, copied, key, observed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sqlalchemy import URL

    from tests.conftest import RunCli

pytestmark = pytest.mark.xdist_group("database roles")

SERVERS = ("postgresql", "mariadb")
FAR = 1 << 62
BYTES = {"postgresql": "decode('{}', 'hex')", "mariadb": "unhex('{}')", "mysql": "unhex('{}')", "sqlite": "x'{}'"}


def fill(url: str) -> None:
    """Append 1 LedgerBegan, 2 SourceBegan, 3-5 RemoteObserved in one batch, 6 and 7 CopyStored in another."""
    store = open_store(url, create=True)
    ledger = Ledger(store)
    ledger.append([began(), *(observed(n) for n in range(3))])
    ledger.append([copied(n) for n in range(2)])
    store.close()


@pytest.fixture(params=["sqlite", *SERVERS])
def urls(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Urls]:
    """Yield a ledger of seven events; on SQLite, which has no users, both are the same."""
    kind = str(request.param)
    with ExitStack() as stack:
        if kind == "sqlite":
            url = stack.enter_context(fresh_url(kind, tmp_path))
            made = Urls(url, url)
        else:
            made = stack.enter_context(separate_urls(kind, tmp_path))
        fill(made.user)
        yield made


def attempt(url: str, *statements: str) -> str | None:
    """Run the statements in one transaction; return why the database refused one of them, None if it did not."""
    place = parse_place(url)
    engine = writer_engine(place)
    try:
        with engine.connect() as connection:
            for statement in statements:
                quoted = statement.replace("`key`", connection.dialect.identifier_preparer.quote("key"))
                connection.execute(text(quoted))
            connection.commit()
    except exc.DBAPIError as error:
        return str(error.orig)
    finally:
        engine.dispose()
    return None


def octets(url: str, value: bytes) -> str:
    return BYTES[parse_place(url).kind].format(value.hex())


def invented(seq: int, *, after: int = 7) -> str:
    """Return the INSERT of an event that never was: what stands at `after`, with another number and version."""
    return (
        f"INSERT INTO event SELECT {seq}, stream, stream_version + {seq - after}, type, schema_version, flags,"
        f" recorded_us, observed_us, writer, header, nonce, payload, leaf FROM event WHERE seq = {after}"
    )


def goes_on(url: str, name: str = "after the attack") -> None:
    """Append to the ledger, to an old stream and a new one, and find every event in its place."""
    store = open_store(url)
    ledger = Ledger(store)
    last = ledger.head().position
    done = ledger.append([copied(2), observed(name)])
    assert done.first > last
    assert [event.seq for event in ledger.stored()] == list(range(1, done.last + 1))
    assert ledger.head().position == done.last
    store.close()


def test_the_head_cannot_be_pushed_away_from_the_last_batch(urls: Urls) -> None:
    zeros, many = octets(urls.user, bytes(32)), octets(urls.user, bytes(96))
    for change in (
        f"position = {FAR}, frontier = {zeros}",
        "position = position + 1",
        f"recorded_us = {2**63 - 1}",
        "recorded_us = recorded_us + 1",
        f"streams = {1 << 40}",
        "streams = streams + 1",
        f"frontier = {zeros}",
        f"frontier = {many}",
    ):
        refusal = attempt(urls.user, f"UPDATE head SET {change}")
        assert refusal is not None, change
        assert "ledger: the head stands where a batch ends" in refusal, change
    goes_on(urls.user)


def test_no_batch_is_inserted_into_history_or_beyond_its_end(urls: Urls) -> None:
    zeros = octets(urls.user, bytes(32 * 2))
    for first, last in ((6, 6), (3, 3), (1, 2), (8, FAR), (8, 8), (FAR, FAR), (9, 8), (-1, 0)):
        refusal = attempt(urls.user, f"INSERT INTO batch VALUES ({last}, {first}, {FAR}, NULL, {zeros})")
        assert refusal is not None, (first, last)
        assert "ledger: a batch follows the last one" in refusal, (first, last)
    goes_on(urls.user)


@pytest.mark.parametrize("urls", SERVERS, indirect=True)
@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ"])
def test_a_session_that_does_not_see_the_newest_events_inserts_no_batch_among_them(urls: Urls, isolation: str) -> None:
    engine = writer_engine(parse_place(urls.user)).execution_options(isolation_level=isolation)
    with ExitStack() as stack:
        connections = [stack.enter_context(engine.connect()) for _ in range(2)]
        for connection in connections:
            assert connection.execute(text("SELECT max(seq) FROM event")).scalar_one() == 7
        goes_on(urls.user)
        # MariaDB 11.8 by itself refuses to read what changed since a session's snapshot.
        refusal = "ledger: a batch follows the last one|Record has changed since last read"
        for last, connection in zip((8, 9), connections, strict=True):
            with pytest.raises(exc.DBAPIError, match=refusal):
                connection.execute(text(f"INSERT INTO batch SELECT {last}, 8, recorded_us, NULL, NULL FROM head"))
            connection.rollback()
    engine.dispose()
    goes_on(urls.user, "and again")


@pytest.mark.parametrize("urls", SERVERS, indirect=True)
def test_streams_and_checkpoints_are_numbered_without_a_gap(urls: Urls) -> None:
    stream = attempt(urls.user, f"INSERT INTO stream VALUES ({FAR}, NULL)")
    note = attempt(urls.user, f"INSERT INTO checkpoint VALUES ({FAR}, 1, {octets(urls.user, bytes(32))}, 'x')")
    assert "ledger: a stream is numbered after the last one" in str(stream)
    assert "ledger: a checkpoint is kept after the last one" in str(note)
    goes_on(urls.user)


@pytest.mark.parametrize("urls", SERVERS, indirect=True)
def test_a_batch_of_the_restricted_user_is_not_ahead_of_time(urls: Urls) -> None:
    frontier, day_us = octets(urls.user, bytes(32)), 24 * 3600 * 1_000_000
    clock = "(SELECT recorded_us FROM head) + {}"
    for ahead in (FAR // 2, 2 * day_us):
        batch = f"INSERT INTO batch SELECT 8, 8, {clock.format(ahead)}, NULL, {frontier}"
        refusal = attempt(urls.user, invented(8), batch)
        assert "ahead of the server's clock" in str(refusal)
    assert attempt(urls.user, invented(8), f"INSERT INTO batch SELECT 8, 8, {clock.format(1)}, NULL, NULL") is None
    goes_on(urls.user)


@pytest.mark.parametrize("kind", SERVERS)
def test_only_the_owner_copies_a_ledger_whose_time_is_far_ahead(kind: str, tmp_path: Path) -> None:
    with separate_urls(kind, tmp_path) as urls, fresh_url("sqlite", tmp_path) as ahead:
        source = open_store(ahead, create=True)
        Ledger(source, clock=lambda: 4_000_000_000_000_000).append([began(), observed("x")])
        target = open_store(urls.user)
        with pytest.raises(LedgerError, match="only the owner may write it"):
            copy_ledger(source, target)
        target.close()
        target = open_store(urls.owner)
        assert copy_ledger(source, target).position == 3
        target.close()
        source.close()
        goes_on(urls.user)


@pytest.mark.parametrize("urls", SERVERS, indirect=True)
@pytest.mark.parametrize("with_batch", [False, True])
def test_events_behind_the_head_do_not_end_the_ledger(urls: Urls, run_cli: RunCli, with_batch: bool) -> None:  # noqa: FBT001
    rubbish = [invented(8), invented(9)]
    if with_batch:
        rubbish.append(
            f"INSERT INTO batch SELECT 8, 8, recorded_us, NULL, {octets(urls.user, bytes(32))} FROM head WHERE id = 1"
        )
    squatted = octets(urls.user, key("after the attack").stored)
    rubbish.append(f"INSERT INTO stream SELECT streams + 1, {squatted} FROM head")
    assert attempt(urls.user, *rubbish) is None
    goes_on(urls.user)
    store = open_store(urls.user, read_only=True)
    assert Ledger(store).head().position == 11
    findings = [finding.position for finding in LogAudit(store.log).findings()]
    assert findings[:1] == [8]
    assert set(findings) <= {8, 9, 11}
    store.close()
    shown = run_cli("status", "--json", "--db-string", urls.user)
    assert (shown.returncode, "Traceback" in shown.stderr) == (0, False)


@pytest.mark.parametrize("urls", ["postgresql"], indirect=True)
def test_a_temporary_table_does_not_get_past_the_triggers(urls: Urls) -> None:
    schema = str(make_url(urls.user).query["options"]).removeprefix("-csearch_path=")
    far = invented(1000).replace("event", f"{schema}.event")
    for table, column in (("event", "seq"), ("batch", "last"), ("head", "position"), ("fresh", "seq")):
        shadow = f"CREATE TEMPORARY TABLE {table} AS SELECT CAST(999 AS bigint) AS {column}"
        assert "ledger: an event is appended after the last one" in str(attempt(urls.user, shadow, far))
    batch = f"INSERT INTO {schema}.batch VALUES (1000, 1000, {FAR // 1024}, NULL, NULL)"
    shadows = [
        "CREATE TEMPORARY TABLE event AS SELECT CAST(1000 AS bigint) AS seq",
        "CREATE TEMPORARY TABLE batch AS SELECT CAST(999 AS bigint) AS last, CAST(0 AS bigint) AS recorded_us",
    ]
    assert "ledger: a batch follows the last one" in str(attempt(urls.user, *shadows, batch))
    goes_on(urls.user)


@pytest.mark.parametrize("urls", ["postgresql"], indirect=True)
def test_a_search_path_of_the_users_own_does_not_get_past_the_triggers(urls: Urls) -> None:
    schema = str(make_url(urls.user).query["options"]).removeprefix("-csearch_path=")
    own, server = f"kropot_{secrets.token_hex(6)}", server_url("postgresql")
    run_postgresql(server, f"CREATE SCHEMA {own} AUTHORIZATION {urls.name}")
    try:
        equal = f"CREATE FUNCTION {own}.never(bigint, bigint) RETURNS boolean LANGUAGE sql AS 'SELECT false'"
        operator = f"CREATE OPERATOR {own}.<> (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = {own}.never)"
        above = operator.replace(".<>", ".>")
        first = f"SET LOCAL search_path = {own}, pg_catalog, {schema}"
        refusal = attempt(urls.user, equal, operator, above, first, invented(1000))
        assert "ledger: an event is appended after the last one" in str(refusal)
    finally:
        run_postgresql(server, f"DROP SCHEMA {own} CASCADE")


# --- `db info` -------------------------------------------------------------------------------------------------------


@contextmanager
def own_database(owner_of_it: str | None = None) -> Iterator[tuple[Urls, str]]:
    """Yield a ledger in a database of its own on PostgreSQL, in the schema public, and the owner's name there."""
    server, name = server_url("postgresql"), f"kropot_{secrets.token_hex(6)}"
    with fresh_user("postgresql") as owner, fresh_user("postgresql") as user:
        run_postgresql(server, f"CREATE DATABASE {name} OWNER {user if owner_of_it == 'user' else owner}")
        try:
            inside = server.set(database=name)
            run_postgresql(inside, f"GRANT ALL ON SCHEMA public TO {owner}")
            yield Urls(*(inside.set(username=each).render_as_string() for each in (owner, user))), owner
        finally:
            run_postgresql(server, f"DROP DATABASE {name} WITH (FORCE)")


def init(run_cli: RunCli, urls: Urls) -> None:
    made = run_cli("db", "init", "--db-string", urls.user, "--db-owner-url", urls.owner)
    assert made.returncode == 0, made.stderr


def test_info_names_the_owner_of_the_database(run_cli: RunCli) -> None:
    with own_database("user") as (urls, _):
        init(run_cli, urls)
        fill(urls.user)
        told = run_cli("db", "info", "--db-string", urls.user)
        database = make_url(urls.user).database
        assert f"protection  triggers only, because this user owns the database {database}" in told.stdout
        said = json.loads(run_cli("db", "info", "--json", "--db-string", urls.user).stdout)
        assert said["protection"] == "triggers"
        assert "can become the role pg_database_owner, which owns the schema public" in said["ways_round"]


def test_info_knows_a_member_who_does_not_inherit_and_one_who_makes_roles(run_cli: RunCli) -> None:
    server = server_url("postgresql")
    with own_database() as (urls, owner):
        init(run_cli, urls)
        place = parse_place(urls.user)
        assert protection(place) == Protection(kind="rights")
        told = run_cli("db", "info", "--db-string", urls.user)
        assert "protection  the database does not allow this user to change or delete events" in told.stdout
        run_postgresql(server, f"ALTER ROLE {urls.name} NOINHERIT", f"GRANT {owner} TO {urls.name}")
        assert f"can become the role {owner}, which owns the table event" in protection(place).ways
        run_postgresql(server, f"REVOKE {owner} FROM {urls.name}", f"ALTER ROLE {urls.name} CREATEROLE")
        version = _postgresql_version()
        expected = ("has CREATEROLE, and can join the owner's role",) if version < 160_000 else ()
        assert protection(place).ways == expected
        run_postgresql(server, f"ALTER ROLE {urls.name} NOCREATEROLE SUPERUSER")
        assert protection(place) == Protection(kind="triggers", ways=("is a superuser",))
        run_postgresql(server, f"ALTER ROLE {urls.name} NOSUPERUSER")


@contextmanager
def rights(run: Callable[..., None], server: URL, given: str, taken: str = "") -> Iterator[None]:
    """Give the user a right, and take it away again: with `taken`, or with the GRANT turned round."""
    run(server, given)
    try:
        yield
    finally:
        run(server, *(taken or re.sub("^GRANT (.+) TO ", r"REVOKE \1 FROM ", given)).split("; "))


@pytest.fixture(scope="module")
def ledger_on_postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Urls]:
    with separate_urls("postgresql", tmp_path_factory.mktemp("postgresql")) as urls:
        yield urls


@contextmanager
def unchanged(urls: Urls) -> Iterator[Urls]:
    """Yield the module's ledger, whose user has only the rights of a collector before and after the test."""
    place = parse_place(urls.user)
    assert protection(place) == Protection(kind="rights")
    yield urls
    assert protection(place) == Protection(kind="rights")


@pytest.fixture
def on_postgresql(ledger_on_postgresql: Urls) -> Iterator[Urls]:
    with unchanged(ledger_on_postgresql) as urls:
        yield urls


@pytest.mark.parametrize(
    ("given", "taken", "way"),
    [
        ("GRANT UPDATE (payload) ON event TO {user}", "", "has the right UPDATE on the table event"),
        ("GRANT TRIGGER ON entry TO {user}", "", "has the right TRIGGER on the table entry"),
        ("GRANT TRUNCATE ON batch TO PUBLIC", "", "has the right TRUNCATE on the table batch"),
        ("GRANT CREATE ON SCHEMA {schema} TO {user}", "", "has the right CREATE on the schema {schema}"),
        (
            "ALTER SCHEMA {schema} OWNER TO {user}",
            "ALTER SCHEMA {schema} OWNER TO {me}; GRANT USAGE ON SCHEMA {schema} TO {user}",
            "owns the schema {schema}",
        ),
        (
            "GRANT SET ON PARAMETER session_replication_role TO {user}",
            "REVOKE SET ON PARAMETER session_replication_role FROM {user}",
            "can switch triggers off with session_replication_role",
        ),
        ("GRANT pg_write_all_data TO {user}", "", "has the right UPDATE on the table event"),
        ("GRANT pg_execute_server_program TO {user}", "", "can become the role pg_execute_server_program"),
    ],
)
def test_info_knows_every_right_too_many_on_postgresql(given: str, taken: str, way: str, on_postgresql: Urls) -> None:
    urls = on_postgresql
    schema = str(make_url(urls.user).query["options"]).removeprefix("-csearch_path=")
    names = {"user": urls.name, "schema": schema, "me": server_url("postgresql").username}
    inside = make_url(urls.owner)
    if "PARAMETER" in given and _postgresql_version() < 150_000:
        pytest.skip("GRANT ... ON PARAMETER needs PostgreSQL 15")
    with rights(run_postgresql, inside, given.format(**names), taken.format(**names)):
        found = protection(parse_place(urls.user))
    assert found.kind == "triggers"
    assert way.format(**names) in found.ways


def test_info_cannot_tell_what_a_function_with_the_owners_rights_does(on_postgresql: Urls, run_cli: RunCli) -> None:
    urls = on_postgresql
    body = "CREATE FUNCTION tidy() RETURNS void LANGUAGE sql SECURITY DEFINER AS 'DELETE FROM entry'"
    with rights(run_postgresql, make_url(urls.owner), body, "DROP FUNCTION tidy()"):
        found = protection(parse_place(urls.user))
        told = run_cli("db", "info", "--db-string", urls.user)
    assert found.kind == "unknown"
    assert ".tidy, which runs with the rights of" in found.ways[0]
    assert "protection  cannot tell, because this user can call the function" in told.stdout


@pytest.fixture(scope="module")
def ledger_on_mariadb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Urls]:
    with separate_urls("mariadb", tmp_path_factory.mktemp("mariadb")) as urls:
        yield urls


@pytest.fixture
def restricted(ledger_on_mariadb: Urls) -> Iterator[Urls]:
    with unchanged(ledger_on_mariadb) as urls:
        yield urls


@pytest.mark.parametrize("is_default", [True, False])
def test_info_knows_rights_by_a_role_on_mariadb(restricted: Urls, is_default: bool) -> None:  # noqa: FBT001
    server, database = server_url("mariadb"), make_url(restricted.user).database
    inner, outer = (f"kropot_{secrets.token_hex(4)}" for _ in range(2))
    grantee = f"{restricted.name}@'%'"
    # MySQL has its own spelling.
    default = f"SET DEFAULT ROLE {{}} {'TO' if is_mysql() else 'FOR'} {grantee}"
    run_mariadb(server, f"CREATE ROLE {inner}", f"CREATE ROLE {outer}")
    try:
        run_mariadb(
            server,
            f"GRANT DROP, UPDATE ON `{database}`.* TO {inner}",
            f"GRANT {inner} TO {outer}",
            f"GRANT {outer} TO {grantee}",
            *([default.format(outer)] if is_default else []),
        )
        found = protection(parse_place(restricted.user))
    finally:
        run_mariadb(server, default.format("NONE"), f"DROP ROLE {inner}", f"DROP ROLE {outer}")
    if is_mysql() and not is_default:  # it does not show what a role would give that is not in force
        assert found.kind == "unknown"
        return
    assert found.kind == "triggers"
    assert found.ways == (f"has the right DROP on {database}.*", f"has the right UPDATE on {database}.*")


@pytest.mark.parametrize(
    ("right", "on", "way"),
    [
        ("CREATE TEMPORARY TABLES", "`{database}`.*", "has the right CREATE TEMPORARY TABLES on {database}.*"),
        ("UPDATE (payload)", "`{database}`.event", "has the right UPDATE on {database}.event"),
        ("INSERT", "`{database}`.head", "has the right INSERT on {database}.head"),
        ("TRIGGER", "`{pattern}`.*", "has the right TRIGGER on {pattern}.*"),
        ("CREATE USER", "*.*", "has the right CREATE USER on *.*"),
        ("INSERT", "*.*", "has the right INSERT on *.*"),
        ("UPDATE", "mysql.*", "has the right UPDATE on mysql.*"),
    ],
)
def test_info_knows_every_right_too_many_on_mariadb(restricted: Urls, right: str, on: str, way: str) -> None:
    database = str(make_url(restricted.user).database)
    names = {"database": database, "pattern": database.replace("_", r"\_")[:-3] + "%"}
    inside = server_url("mariadb")
    with rights(run_mariadb, inside, f"GRANT {right} ON {on.format(**names)} TO {restricted.name}@'%'"):
        found = protection(parse_place(restricted.user))
    assert (found.kind, found.ways) == ("triggers", (way.format(**names),))


def test_info_cannot_tell_what_a_routine_does_on_mariadb(restricted: Urls) -> None:
    database = str(make_url(restricted.user).database)
    with rights(run_mariadb, server_url("mariadb"), f"GRANT EXECUTE ON `{database}`.* TO {restricted.name}@'%'"):
        found = protection(parse_place(restricted.user))
    assert (found.kind, len(found.ways)) == ("unknown", 1)
    assert "EXECUTE" in found.ways[0]


def test_another_databases_rights_are_no_way_round(restricted: Urls) -> None:
    database = str(make_url(restricted.user).database)
    with rights(run_mariadb, server_url("mariadb"), f"GRANT ALL ON `{database}x`.* TO {restricted.name}@'%'"):
        assert protection(parse_place(restricted.user)) == Protection(kind="rights")


def _postgresql_version() -> int:
    engine = writer_engine(parse_place(server_url("postgresql").render_as_string(hide_password=False)))
    try:
        with engine.connect() as connection:
            return int(connection.execute(text("SHOW server_version_num")).scalar_one())
    finally:
        engine.dispose()
