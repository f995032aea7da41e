"""With a separate owner, the collector's user has all it needs, and no right to rewrite what was recorded."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import exc, make_url, text

from ledger.errors import LedgerError, ReadOnlyLedgerError
from ledger.events import PayloadErased
from ledger.log import Ledger, NewFact
from ledger.sql import migrate, open_store, parse_place
from ledger.sql.dialects import writer_engine
from ledger.sql.protection import protection
from ledger.sql.rights import HISTORY, describe_server, grant, grants
from tests.ledger.databases import Urls, fresh_url, fresh_user, run_mariadb, separate_urls, server_url
from tests.ledger.world import began, copied, key, observed

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(params=["postgresql", "mariadb"])
def urls(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Urls]:
    with separate_urls(request.param, tmp_path) as made:
        yield made


def test_the_collectors_user_can_do_everything_a_collector_does(urls: Urls) -> None:
    store = open_store(urls.user, create=True)
    ledger = Ledger(store)
    ledger.work.enroll("main", place="here", lease_us=1_000_000)
    ledger.append([began(), *(observed(n) for n in range(30))], batch_key=b"one")
    assert len(ledger.work.take(instance="main", lease_us=1_000_000)) == 30
    ledger.append([copied(n) for n in range(30)])
    ledger.work.release("main")
    ledger.work.beat("main", lease_us=1)
    assert ledger.work.reserve("list", lease_us=1)
    store.blobs.save_checkpoint(3, "note\n")
    store.blobs.save_snapshot("pointers", 3, [b"x"])
    store.blobs.drop_snapshots("pointers")
    assert ledger.rebuild().entries == 30
    ledger.work.retire("main")
    assert [row.state for row in ledger.tallies()] == ["current"]
    store.close()


def test_the_collectors_user_cannot_rewrite_history(urls: Urls) -> None:
    store = open_store(urls.user)
    Ledger(store).append([began(), observed("x")])
    store.blobs.save_checkpoint(1, "note\n")
    store.close()
    column = {"event": "payload", "stream": "id", "batch": "recorded_us", "checkpoint": "size"}
    statements = [
        *(f"UPDATE {table} SET {column[table]} = NULL" for table in HISTORY),
        *(f"DELETE FROM {table}" for table in (*HISTORY, "head")),
        *(f"TRUNCATE TABLE {table}" for table in (*HISTORY, "head", "entry")),
        *(f"DROP TABLE {table}" for table in HISTORY),
        "ALTER TABLE event DROP COLUMN leaf",
    ]
    if not urls.user.startswith("postgresql"):
        statements += [f"REPLACE INTO {table} SELECT * FROM {table}" for table in HISTORY]
        statements += ["DROP TRIGGER event_insert"]
    else:
        statements += ["ALTER TABLE event DISABLE TRIGGER ALL", "DROP TRIGGER event_insert ON event"]
    engine = writer_engine(parse_place(urls.user))
    with engine.connect() as connection:
        for statement in statements:
            with pytest.raises(exc.DBAPIError, match=r"(?i)denied|must be owner"):
                connection.execute(text(statement))
            connection.rollback()
        # The rows that it may insert are still refused anywhere but at the end.
        with pytest.raises(exc.DBAPIError, match=r"(?i)ledger|duplicate|unique"):
            connection.execute(text("INSERT INTO event SELECT * FROM event WHERE seq = 2"))
    engine.dispose()


def test_an_erasure_needs_the_owner(urls: Urls) -> None:
    erasure = NewFact(key=key("x"), fact=PayloadErased(reason="request 17"), observed_us=1)
    store = open_store(urls.user)
    ledger = Ledger(store)
    ledger.append([began(), observed("x")])
    with pytest.raises(ReadOnlyLedgerError):
        ledger.append([erasure])
    assert ledger.head().position == 3
    owning = open_store(urls.owner)
    Ledger(owning).append([erasure])
    assert [event.payload is None for event in ledger.stored(after=2)] == [True, False]
    owning.close()
    store.close()


def test_it_is_told_what_protects_history(urls: Urls) -> None:
    assert protection(parse_place(urls.user)).kind == "rights"
    assert protection(parse_place(urls.owner)).kind == "triggers"
    version, size = describe_server(parse_place(urls.user))
    assert version
    assert size > 0


def test_one_grant_too_many_is_noticed(urls: Urls) -> None:
    user = make_url(urls.user)
    engine = writer_engine(parse_place(urls.owner))
    with engine.connect() as connection:
        grantee = user.username if user.get_backend_name() == "postgresql" else f"{user.username}@'%'"
        connection.execute(text(f"GRANT DELETE ON batch TO {grantee}"))
        connection.commit()
    engine.dispose()
    assert protection(parse_place(urls.user)).kind == "triggers"


def test_owner_and_user_are_told_apart(urls: Urls, tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="the same user"):
        grant(parse_place(urls.owner), parse_place(urls.owner))
    elsewhere = make_url(urls.user).set(database="elsewhere").render_as_string()
    with pytest.raises(LedgerError, match="not the same database"):
        grant(parse_place(urls.owner), parse_place(elsewhere))
    file = f"sqlite:///{tmp_path / 'x.db'}"
    with pytest.raises(LedgerError, match="has no users"):
        grant(parse_place(file), parse_place(file))


_GRANT = re.compile(r"^GRANT ([A-Z, ]+) ON ([a-z_, ]+) TO collector;$", re.MULTILINE)


def test_an_owner_who_may_not_grant_is_told_what_is_missing(tmp_path: Path) -> None:
    with fresh_url("mariadb", tmp_path) as url, fresh_user("mariadb") as owner, fresh_user("mariadb") as user:
        place, server = make_url(url), server_url("mariadb")
        run_mariadb(server, f"GRANT ALL ON {place.database}.* TO {owner}@'%'")
        mine, theirs = (parse_place(place.set(username=name).render_as_string()) for name in (owner, user))
        migrate(mine)
        with pytest.raises(LedgerError, match="WITH GRANT OPTION, and run this again"):
            grant(mine, theirs)
        run_mariadb(server, f"GRANT ALL ON {place.database}.* TO {owner}@'%' WITH GRANT OPTION")
        grant(mine, theirs)
        assert protection(theirs).kind == "rights"


def test_the_grants_that_are_given_are_the_documented_ones(urls: Urls) -> None:
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    engine = writer_engine(parse_place(urls.owner))
    with engine.connect() as connection:
        given = "\n".join(f"{statement};" for statement in grants(connection, "collector"))
    engine.dispose()
    documented, made = (
        {
            (right, table)
            for rights, tables in _GRANT.findall(text)
            for right in rights.split(", ")
            for table in tables.split(", ")
        }
        for text in (page, given)
    )
    assert made == documented
    assert ("USAGE ON SCHEMA" in given) == ("postgresql" in urls.owner)
