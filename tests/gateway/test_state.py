"""The gateway's database is the same on every kind of server."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from msgspec.structs import replace

from kropot.errors import NoLedgerError
from kropot.gateway.state import NewFile, State, StateError, Telling, TokenExistsError, VaultRow, open_state, tables
from tests.ledger.databases import SQL_KINDS, fresh_url

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOW = 1_800_000_000


@pytest.fixture(params=SQL_KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with fresh_url(request.param, tmp_path) as fresh:
        yield fresh


@pytest.fixture
def state(url: str) -> Iterator[State]:
    opened = open_state(url, create=True)
    yield opened
    opened.close()


def version(number: int, *, row: int | None = None, old: int | None = None, nonce: int = 0) -> NewFile:
    return NewFile(
        id=row,
        key=number.to_bytes(32, "big"),
        path=b"\xff\0/%d" % number,
        identity=b"\0" * 48,
        mode=0o644,
        nonce=bytes([nonce]) * 16,
        sha256=None,
        old_date=old,
    )


def test_missing_database_is_not_made_by_looking(url: str) -> None:
    with pytest.raises(NoLedgerError):
        open_state(url, create=False)
    open_state(url, create=True).close()
    open_state(url, create=False).close()


def test_making_that_was_cut_short_is_finished(url: str) -> None:
    made = open_state(url, create=True)
    with made.write() as at:
        for table in (tables.meta, tables.source):
            at.execute(table.delete())
    made.close()
    with pytest.raises(NoLedgerError):
        open_state(url, create=False)
    open_state(url, create=True).close()
    open_state(url, create=False).close()


def test_catalogue_is_dated_paged_counted_and_forgotten(state: State) -> None:
    assert state.page(None, 256) == ([], 0, 0, {})
    state.add_undated([version(number) for number in range(600)])
    state.date_undated(NOW)
    rows, remaining, closed, _ = state.page(None, 300)
    assert (len(rows), remaining, closed) == (512, 600, NOW)
    assert Counter(row.date for row in rows) == {NOW - 2: 256, NOW - 1: 256}
    first = rows[0]
    assert first.path == b"\xff\0/0"
    assert state.known([bytes(32), b"x" * 32]) == {bytes(32): first}
    date = state.announce([version(0, row=first.id, old=first.date, nonce=1), version(1000)], NOW)
    assert date == NOW + 1
    assert {row.path for row in state.page(NOW, 256)[0]} == {b"\xff\0/0", b"\xff\0/1000"}
    assert state.page(None, 1)[1] == 601
    for since, count in {NOW - 2: 601, NOW - 1: 346, NOW: 90, NOW + 1: 2, NOW + 2: 0}.items():
        assert state.page(since, 1)[1] == count
    ids = [row.id for row in state.page(None, 8191)[0]][:500]
    state.forget(ids)
    rows, remaining, _, _ = state.page(None, 8191)
    assert len(rows) == remaining == 101
    assert state.count_until(state.last_id()) == 101
    assert [row[0] for row in state.paths_after(0, 50)] == sorted(row.id for row in rows)[:50]


def test_ids_lead_to_files_of_their_token(state: State) -> None:
    state.add_undated([version(number) for number in range(3)])
    state.date_undated(NOW)
    rows = state.page(None, 3)[0]
    state.give_ids(1, [(bytes([row.id]) * 16, row.id) for row in rows])
    state.give_ids(1, [(bytes([row.id]) * 16, row.id) for row in rows])
    assert state.find(1, bytes([rows[0].id]) * 16) == rows[0]
    assert state.find(2, bytes([rows[0].id]) * 16) is None
    state.give_ids(1, [(bytes([rows[0].id]) * 16, rows[1].id)])
    assert state.find(1, bytes([rows[0].id]) * 16) == rows[1]
    state.forget([rows[1].id])
    assert state.find(1, bytes([rows[1].id]) * 16) is None


def test_only_one_renewal_of_a_nonce_wins(state: State) -> None:
    state.add_undated([version(1)])
    state.date_undated(NOW)
    [row] = state.page(None, 1)[0]
    assert state.renew(row, row._replace(identity=b"\1" * 48, nonce=b"\1" * 16, is_due=True))
    assert not state.renew(row, row._replace(identity=b"\2" * 48, nonce=b"\2" * 16, is_due=True))
    fresh = state.file(row.id)
    assert fresh is not None
    assert (fresh.nonce, fresh.is_due, fresh.date) == (b"\1" * 16, True, row.date)


def test_racing_announcements_never_share_a_second(state: State) -> None:
    state.date_undated(NOW)

    def announce(start: int) -> None:
        state.announce([version(start + number) for number in range(100)], NOW)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(announce, range(0, 1200, 100)))
    dates = Counter(row.date for row in state.page(None, 8191)[0])
    assert sorted(dates.values()) == [100] * 12
    assert state.page(None, 1)[1:3] == (1200, max(date or 0 for date in dates))


def test_racing_lists_give_the_same_ids(state: State) -> None:
    state.add_undated([version(number) for number in range(50)])
    state.date_undated(NOW)
    marks = [(row.id.to_bytes(16, "big"), row.id) for row in state.page(None, 50)[0]]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda _: state.give_ids(1, marks), range(12)))
    assert all(state.find(1, mark) is not None for mark, _ in marks)


def test_tokens_are_kept_once_and_revoked_for_good(state: State) -> None:
    number = state.add_token(b"l" * 32, b"sealed", NOW)
    with pytest.raises(TokenExistsError):
        state.add_token(b"l" * 32, b"other", NOW)
    state.revoke(number, NOW + 5)
    state.revoke(number, NOW + 9)
    row = state.token(b"l" * 32)
    assert row is not None
    assert (row.sealed, row.created_s, row.revoked_s) == (b"sealed", NOW, NOW + 5)
    assert state.tokens() == [row]


def test_births_are_kept_until_another_version_and_only_by_the_first(state: State) -> None:
    state.add_undated([version(number) for number in range(2)])
    state.date_undated(NOW)
    rows = state.page(None, 2)[0]
    marks = [bytes([row.id]) * 16 for row in rows]
    state.give_ids(-2, list(zip(marks, [row.id for row in rows], strict=True)))
    assert state.births(-2, [*marks, bytes(16)]) == dict.fromkeys(marks)
    assert state.keep_births(-2, [(marks[0], None, b"one"), (bytes(16), None, b"lost")]) == {marks[0]: b"one"}
    assert state.keep_births(-2, [(marks[0], None, b"late"), (marks[1], None, b"two")]) == {
        marks[0]: b"one",
        marks[1]: b"two",
    }
    assert state.keep_births(-2, [(marks[0], b"one", b"next")]) == {marks[0]: b"next"}
    found = state.find(-2, marks[0])
    assert found is not None
    assert found.birth == b"next"
    assert state.births(-4, marks) == {}
    state.give_ids(-2, [(marks[0], rows[1].id)])
    assert state.births(-2, marks) == {marks[0]: None, marks[1]: b"two"}, "another file is another version"


def test_what_is_listed_is_kept_beside_its_birth_only(state: State) -> None:
    state.add_undated([version(1), version(2)])
    state.date_undated(NOW)
    one, two = state.page(None, 2)[0]
    first = {b"1" * 16: Telling(one.id, b"birth", b"form"), b"2" * 16: Telling(two.id)}
    assert state.add_tellings(-2, first) == set()
    late = {b"1" * 16: Telling(one.id, b"other", b"other"), b"3" * 16: Telling(two.id, None, b"third")}
    assert state.add_tellings(-2, late) == {b"1" * 16}, "who was faster stays"
    asked = [b"1" * 16, b"2" * 16, b"3" * 16, b"4" * 16]
    assert state.tellings(-2, asked) == first | {b"3" * 16: late[b"3" * 16]}
    state.keep_listed(
        -2,
        {
            b"1" * 16: Telling(one.id, b"another birth", b"lost"),
            b"2" * 16: Telling(two.id, None, b"new"),
            b"3" * 16: Telling(one.id, None, b"another file"),
        },
    )
    assert [each.listed for each in state.tellings(-2, asked).values()] == [b"form", b"new", b"third"]
    assert state.tellings(-4, asked) == {}
    found = dict(state.find_all(-2, asked))
    assert (found[b"1" * 16].birth, found[b"2" * 16].path) == (b"birth", two.path)
    assert found.keys() == set(asked[:3])


@pytest.mark.parametrize("schema", [b"1", b"2", b"3"])
def test_a_database_of_before_gets_what_it_lacks(url: str, schema: bytes) -> None:
    made = open_state(url, create=True)
    made.add_undated([version(1)])
    made.date_undated(NOW)
    [row] = made.page(None, 1)[0]
    made.give_ids(1, [(b"m" * 16, row.id)])
    with made.write() as at:
        lacking = [tables.element.c.listed]
        if schema != b"3":
            tables.vault.drop(at)
            lacking += [tables.element.c.birth, *(tables.ADDED[:3] if schema == b"1" else ())]
        for column in lacking:
            at.execute(sa.text(f"ALTER TABLE {column.table.name} DROP COLUMN {column.name}"))
        at.execute(tables.meta.update().where(tables.meta.c.name == "schema").values(value=schema))
    made.close()
    for _ in range(2):
        again = open_state(url, create=False)
        assert again.find(1, b"m" * 16) == row
        assert again.vaults() == []
        again.close()
    again = open_state(url, create=False)
    again.add_token(b"l" * 32, b"token", NOW, VaultRow(number=0, uid=b"v" * 16, sealed=b"s" * 20_000, created_s=NOW))
    assert [len(each.sealed) for each in again.vaults()] == [20_000], "256 masters have their room"
    assert again.keep_births(1, [(b"m" * 16, None, b"b" * 70_000)]) == {b"m" * 16: b"b" * 70_000}
    again.keep_listed(1, {b"m" * 16: Telling(row.id, b"b" * 70_000, b"form")})
    assert again.tellings(1, [b"m" * 16, b"n" * 16]) == {b"m" * 16: Telling(row.id, b"b" * 70_000, b"form")}
    again.close()


def test_vaults_are_kept_with_their_token_and_exchanged_only_once(state: State) -> None:
    row = VaultRow(number=0, uid=b"v" * 16, sealed=b"sealed", created_s=NOW)
    state.add_token(b"l" * 32, b"token", NOW, row)
    with pytest.raises(TokenExistsError):
        state.add_token(b"l" * 32, b"token", NOW, replace(row, uid=b"w" * 16))
    [kept] = state.vaults()
    assert kept == replace(row, number=kept.number) == state.vault(b"v" * 16)
    assert kept.number > 0
    assert state.vault(b"w" * 16) is None, "a token that was refused leaves no vault"
    assert state.exchange_vault(kept, b"other")
    assert not state.exchange_vault(kept, b"late")
    assert [each.sealed for each in state.vaults()] == [b"other"]


def test_facts_about_the_folder_are_kept(state: State) -> None:
    assert (state.key_check(), state.mark(), state.source().root) == (None, None, None)
    state.keep_key_check(b"check")
    state.keep_key_check(b"other")
    state.keep_mark(b"1")
    state.keep_mark(b"2")
    state.keep_root(b"/\xff")
    assert (state.key_check(), state.mark(), state.source().root) == (b"check", b"2", b"/\xff")
    assert len(state.source().uid) == 16


def test_database_that_is_away_is_a_sentence_without_a_password() -> None:
    with pytest.raises(StateError) as caught:
        open_state("postgresql://me:sesame@127.0.0.1:1/none?connect_timeout=2", create=True)
    assert "sesame" not in str(caught.value)
