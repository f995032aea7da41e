"""`kropotcli collect` from a server that seals by `sc2`: what it keeps, what it believes, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from kropot.sc2.seal import seal_list_form
from ledger.events import CopyStored, FetchFailed, RemoteChanged, SourceBegan, VaultNamed
from tests.kropot.replicas import Folder
from tests.kropot.sc2_server import TOKENS, SealedServer
from tests.kropot.sc2_world import SOURCE, VAULT, form_of, made_vault, opened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kropot.securecopy.wire import Listed

CONTENTS = {b"docs/%d" % number: Random(number).randbytes(number * 7919) for number in range(12)}


@pytest.fixture
def server() -> Iterator[SealedServer]:
    with SealedServer() as running:
        for path, plain in CONTENTS.items():
            running.put(path, plain)
        yield running


@pytest.fixture
def folder(tmp_path: Path, server: SealedServer) -> Folder:
    made: Any = server
    return Folder(tmp_path, made)


def failing(folder: Folder) -> dict[str, str]:
    return {id_: one.failure.reason for id_, one in folder.elements().items() if one.failure is not None}


def contents(folder: Folder) -> dict[bytes, bytes]:
    """Return the plain content of every current copy by its path, as the kit opens it."""
    found = {}
    for element in folder.elements().values():
        if element.is_current:
            assert element.copy is not None
            assert element.copy.iv is None
            one = opened(folder.object(element.copy.sha256))
            found[one.form.path] = b"".join(one.chunks)
    return found


def named(folder: Folder) -> list[VaultNamed]:
    return [record.fact for record in folder.facts(VaultNamed)]  # type: ignore[misc]


# --- an honest server ------------------------------------------------------------------------------------------------


def test_objects_are_kept_as_they_are_sealed_and_open_with_the_kit_alone(folder: Folder, server: SealedServer) -> None:
    ran = folder.collect()
    assert (ran.code, ran.summary["copied"], ran.summary["zero_knowledge"]) == (0, len(CONTENTS), True)
    assert contents(folder) == CONTENTS
    assert [fact.vault for fact in named(folder)] == [VAULT.id]
    again = folder.collect("--full")
    assert (again.code, again.summary["copied"], again.summary["changed"]) == (0, 0, 0)
    assert len(server.fetched) == len(CONTENTS)


def test_a_change_of_metadata_alone_fetches_nothing_and_raises_no_alarm(folder: Folder, server: SealedServer) -> None:
    folder.collect()
    for path in CONTENTS:
        server.touch(path, 0o600)
    ran = folder.collect()
    assert (ran.code, ran.summary["changed"], ran.summary["copied"]) == (0, len(CONTENTS), 0)
    assert len(server.fetched) == len(CONTENTS)
    forms = {server.id_of(path): server.listed(path).form for path in CONTENTS}
    assert {id_: one.form for id_, one in folder.elements().items()} == forms
    assert contents(folder) == CONTENTS


def test_a_new_version_is_fetched_and_the_earlier_copy_stays(folder: Folder, server: SealedServer) -> None:
    folder.collect()
    path = b"docs/3"
    before = server.object(path)
    server.put(path, b"bread and roses")
    ran = folder.collect()
    assert (ran.code, ran.summary["changed"], ran.summary["copied"]) == (0, 1, 1)
    assert contents(folder)[path] == b"bread and roses"
    copies = [record.fact.element for record in folder.facts(CopyStored)]
    mine = [one.copy.sha256 for one in copies if one.form in {server.listed(path).form} or one.revision == 1]
    assert before in [folder.object(sha256) for sha256 in mine]


# --- the vault -------------------------------------------------------------------------------------------------------


def test_a_new_token_of_the_same_vault_continues_the_source(folder: Folder, server: SealedServer) -> None:
    folder.collect()
    server.put(b"later", b"later")
    folder.use_token(TOKENS[1])
    ran = folder.collect()
    assert (ran.code, ran.summary["new"], ran.summary["copied"]) == (0, 1, 1)
    assert "continues this source" in ran.err
    assert len(folder.facts(SourceBegan)) == 1
    # Both tokens are known from now on: neither asks the server again, nor records anything about the vault.
    for token in (*TOKENS, TOKENS[1]):
        folder.use_token(token)
        assert folder.collect().code == 0
    assert [len(fact.token_macs) for fact in named(folder)] == [0, 1]
    assert not [fact for fact in named(folder) if TOKENS[1].encode() in fact.token_macs]


def test_a_vault_is_remembered_before_its_list_shows_anything(tmp_path: Path) -> None:
    with SealedServer() as server:
        made: Any = server
        folder = Folder(tmp_path, made)
        assert folder.collect().code == 0
        server.put(b"a", b"a")
        folder.use_token(TOKENS[1])
        assert folder.collect().summary["copied"] == 1
        assert len(folder.facts(SourceBegan)) == 1


def test_a_list_that_names_another_vault_or_none_is_refused_as_a_whole(folder: Folder, server: SealedServer) -> None:
    folder.collect()
    before = folder.elements()
    for lie in ({"vault": made_vault("other")}, {"names_vault": False}, {"vault_named": made_vault("other").id}):
        for name, value in lie.items():
            setattr(server, name, value)
        for token in TOKENS[:1]:
            folder.use_token(token)
            ran = folder.collect("--full")
            assert ran.code == 4
            assert "names another vault than this source has, or none" in ran.err
        server.vault, server.names_vault, server.vault_named = VAULT, True, None
    assert folder.elements() == before
    assert folder.collect("--full").code == 0


def test_a_source_that_was_listed_without_a_vault_is_never_given_one(folder: Folder, server: SealedServer) -> None:
    server.names_vault = False
    server.row = lambda row: replace(row, form=b'{"encrypted":"AAAA"}')
    assert folder.collect().summary["new"] == len(CONTENTS)
    server.names_vault, server.row = True, lambda row: row
    ran = folder.collect("--full")
    assert ran.code == 4
    assert named(folder) == []


def test_rows_of_another_vault_are_no_entries(folder: Folder, server: SealedServer) -> None:
    other = SealedServer(vault=made_vault("other"))
    other.files = server.files
    foreign = other.listed(b"docs/2")
    server.row = lambda row: foreign if row.id == server.id_of(b"docs/2") else row
    ran = folder.collect()
    assert (ran.code, ran.summary["rejected"], ran.summary["copied"]) == (3, 1, len(CONTENTS) - 1)
    assert foreign.id not in folder.elements()


def test_the_vault_of_a_source_at_another_address_is_not_continued_unasked(folder: Folder) -> None:
    folder.collect()
    with SealedServer(token=TOKENS[1]) as elsewhere:
        elsewhere.put(b"docs/0", b"")
        made: Any = elsewhere
        moved = Folder(folder.path, made)
        ran = moved.collect()
        assert ran.code == 2
        assert "source alias" in ran.err
        assert moved.collect("--new-source").code == 0
    assert len(folder.facts(SourceBegan)) == 2


def test_a_new_token_waits_for_a_server_that_cannot_say_its_vault(folder: Folder, server: SealedServer) -> None:
    folder.collect()
    server.list_status = 503
    folder.use_token(TOKENS[1])
    ran = folder.collect()
    assert ran.code == 1
    assert "only it can say whether the new token continues a source" in ran.err
    assert len(folder.facts(SourceBegan)) == 1


def test_the_vault_of_a_retired_source_is_not_woken_by_a_new_token(folder: Folder) -> None:
    folder.collect()
    source = folder.facts(SourceBegan)[0].key
    assert source is not None
    assert folder.run("source", "retire", source.source.hex()).code == 0
    folder.use_token(TOKENS[1])
    ran = folder.collect()
    assert (ran.code, "was retired at" in ran.err) == (2, True)


# --- a server that lies about what it lists and sends ------------------------------------------------------------------


def other_row(server: SealedServer, **changes: Any) -> Callable[[Listed], Listed]:
    return lambda row: replace(row, **changes) if row.id == server.id_of(b"docs/5") else row


def test_a_row_that_contradicts_its_form_is_no_entry(folder: Folder, server: SealedServer) -> None:
    true = server.listed(b"docs/5")
    lies = [
        {"id": "00" * 32},
        {"id": server.id_of(b"docs/5").upper()},
        {"etag": '"other"'},
        {"etag": f"W/{true.etag}"},
        {"form": server.listed(b"docs/6").form},
        {"form": true.form[:-6] + b'"}'},
        {"form": true.form.replace(b"a3Itc2My", b"a3Itc2My" + b"AAAA")},
    ]
    for lie in lies:
        server.row = other_row(server, **lie)
        ran = folder.collect("--full")
        assert (ran.summary["rejected"], len(folder.elements())) == (1, len(CONTENTS) - 1), lie
    server.row = lambda row: row
    assert folder.collect("--full").code == 0
    assert contents(folder) == CONTENTS


def bodies(server: SealedServer) -> dict[str, tuple[Callable[[bytes], bytes], str]]:
    """Return what a server can send in place of the object of one file, and why it is refused."""
    vault = made_vault("other")
    foreign = SealedServer(vault=vault, files=server.files)
    elsewhere = SealedServer(source=b"t" * 16, files=server.files)
    newer = SealedServer(files={b"docs/5": replace(server.files[b"docs/5"], version=VAULT.version(b"newer"))})
    return {
        "another element": (lambda _: server.object(b"docs/6"), "other_object"),
        "another vault": (lambda _: foreign.object(b"docs/5"), "other_object"),
        "another source": (lambda _: elsewhere.object(b"docs/5"), "other_object"),
        "another version": (lambda _: newer.object(b"docs/5"), "other_version"),
        "an altered commitment": (lambda data: data[:143] + bytes([data[143] ^ 1]) + data[144:], "other_object"),
        "an altered key id": (lambda data: data[:75] + bytes([data[75] ^ 1]) + data[76:], "other_object"),
        "no object": (lambda data: bytes(len(data)), "not_sc2"),
        "the beginning of one": (lambda data: data[:100], "cut_object"),
        "nothing": (lambda _: b"", "empty"),
    }


@pytest.mark.parametrize(
    "lie",
    [
        "another element",
        "another vault",
        "another source",
        "another version",
        "an altered commitment",
        "an altered key id",
        "no object",
        "the beginning of one",
        "nothing",
    ],
)
def test_what_is_not_the_listed_object_is_refused(folder: Folder, server: SealedServer, lie: str) -> None:
    body, reason = bodies(server)[lie]
    id_ = server.id_of(b"docs/5")
    # Nothing else gives it away: neither size nor etag are claimed.
    server.row = lambda row: replace(row, size=None, etag=None)
    server.body = lambda data, asked: body(data) if id_ in asked.path else data
    server.answer = lambda _data, _etag: {"ETag": None}
    ran = folder.collect()
    assert (ran.code, failing(folder)) == (3, {id_: reason})
    assert len(contents(folder)) == len(CONTENTS) - 1
    server.body = lambda data, _: data
    assert folder.collect().code == 0
    assert contents(folder) == CONTENTS


@pytest.mark.parametrize(
    "fields",
    [
        {"Content_Type": "application/octet-stream"},
        {"Content_Type": "text/html"},
        {"Encryption_Initialization_Vector": "00112233445566778899aabbccddeeff"},
    ],
)
def test_an_answer_that_is_not_sc2_is_refused(
    folder: Folder, server: SealedServer, fields: dict[str, str | None]
) -> None:
    server.answer = lambda _data, _etag: fields
    ran = folder.collect()
    assert (ran.code, set(failing(folder).values())) == (3, {"not_sc2"})
    assert contents(folder) == {}


def test_a_406_says_what_stands_between(folder: Folder, server: SealedServer) -> None:
    server.status = 406
    ran = folder.collect()
    assert (ran.code, set(failing(folder).values())) == (3, {"not_sc2"})
    assert "a proxy" in ran.err


def test_a_file_that_changes_between_list_and_content_comes_with_the_next_list(
    folder: Folder, server: SealedServer
) -> None:
    row, path = server.listed(b"docs/5"), b"docs/5"
    server.put(path, b"changed meanwhile")
    server.row = lambda now: row if now.id == row.id else now
    ran = folder.collect()
    assert (ran.code, failing(folder)) == (3, {row.id: "etag_differs"})
    server.row = lambda now: now
    assert folder.collect().code == 0
    assert contents(folder)[path] == b"changed meanwhile"


def test_a_form_that_names_a_version_without_any_change_of_it_makes_no_revision(
    folder: Folder, server: SealedServer
) -> None:
    """A server can claim that a new content is the old version: then the old copy stays, and nothing else is harmed."""
    folder.collect()
    path = b"docs/4"
    text = seal_list_form(VAULT, form_of(b"x", path), source=SOURCE, version=server.files[path].version)
    server.row = lambda row: (
        replace(row, form=b'{"encrypted":"' + text.encode() + b'"}', date=row.date + 7)
        if row.id == server.id_of(path)
        else row
    )
    ran = folder.collect("--full")
    assert (ran.code, ran.summary["changed"], ran.summary["copied"]) == (0, 1, 0)
    assert len(folder.facts(RemoteChanged)) == 1
    assert contents(folder) == CONTENTS
    assert folder.facts(FetchFailed) == []
