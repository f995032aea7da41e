"""`kropotcli collect` from a server that seals by `sc2`: what it keeps, what it believes, and what it refuses."""

from __future__ import annotations

import hashlib
import json
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from kropot.collect.decide.plan import stored
from kropot.sc2.layout import parse_header
from kropot.sc2.seal import seal_list_form
from kropot.securecopy.sealed_form import sealed_header
from kropot.securecopy.wire import canonical_json
from ledger.events import FetchFailed, RemoteChanged, SourceBegan, VaultNamed
from ledger.log import Ledger, NewFact
from ledger.sql import open_store
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
    assert folder.object(hashlib.sha256(before).digest()) == before


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
            assert "names a different vault than this source has, or none" in ran.err
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
    assert "only the server can say whether the new token continues a source" in ran.err
    assert len(folder.facts(SourceBegan)) == 1


def test_the_vault_of_a_retired_source_is_not_woken_by_a_new_token(folder: Folder) -> None:
    folder.collect()
    source = folder.facts(SourceBegan)[0].key
    assert source is not None
    assert folder.run("source", "retire", source.source.hex()).code == 0
    folder.use_token(TOKENS[1])
    ran = folder.collect()
    assert (ran.code, "was retired at" in ran.err) == (2, True)


# --- a server that lies about what it lists and sends ----------------------------------------------------------------


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


def test_another_elements_object_is_refused_and_fetched_again(folder: Folder, server: SealedServer) -> None:
    id_ = server.id_of(b"docs/5")
    server.body = lambda data, asked: server.object(b"docs/6") if id_ in asked.path else data
    # Nothing else gives it away: neither size nor etag are claimed.
    server.row = lambda row: replace(row, size=None, etag=None)
    server.answer = lambda _data, _etag: {"ETag": None}
    ran = folder.collect()
    assert (ran.code, failing(folder)) == (3, {id_: "other_object"})
    assert "swaps contents" in ran.err
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


# --- what is known of the copies afterwards --------------------------------------------------------------------------


def test_source_list_and_status_show_the_vault(folder: Folder) -> None:
    folder.collect()
    for command in (["source", "list"], ["status"]):
        assert VAULT.id.hex() in folder.run(*command).out
        assert VAULT.id.hex() in folder.run(*command, "--json").out


def test_verify_finds_a_copy_that_is_the_object_of_another_element_or_version(
    folder: Folder, server: SealedServer
) -> None:
    folder.collect()
    assert folder.run("verify").code == 0
    old, other = (hashlib.sha256(server.object(path)).digest() for path in (b"docs/3", b"docs/6"))
    server.put(b"docs/3", b"bread and roses")
    server.touch(b"docs/6", 0o600)
    assert folder.collect().code == 0
    verified = folder.run("verify", "--json")
    assert (verified.code, verified.summary["covered"]["copies"]["headers"]) == (0, len(CONTENTS) + 1)
    lies = {server.id_of(b"docs/3"): old, server.id_of(b"docs/5"): other}
    for id_, sha256 in lies.items():
        claim(folder, id_, sha256)
    verified = folder.run("verify", "--json")
    found = [json.loads(line) for line in verified.out.splitlines()[:-1]]
    assert verified.code == 4
    assert {one["element"]: one["object"] for one in found if one["kind"] == "wrong_object"} == {
        id_: sha256.hex() for id_, sha256 in lies.items()
    }
    assert folder.run("verify", "--quick").code == 0


def test_verify_compares_the_source_by_versions_and_not_with_another_vault(
    folder: Folder, server: SealedServer
) -> None:
    folder.collect()
    agreeing = folder.run("verify", "--source", "--json")
    assert agreeing.code == 0
    counts = agreeing.summary["covered"]["source"]
    assert (counts["listed"], counts["agreeing"], counts["proved"]) == (len(CONTENTS),) * 3
    server.vault = made_vault("other")
    other = folder.run("verify", "--source", "--json")
    assert (other.code, other.summary["notes"]) == (4, 0)
    assert "names a different vault than this source has, or none" in other.err


def claim(folder: Folder, id_: str, sha256: bytes) -> None:
    """Record that this object is the element's copy, as a keeper could do it."""
    store = open_store(f"sqlite:///{folder.path / 'ledger.db'}")
    ledger = Ledger(store)
    entry = next(entry for entry in ledger.scan() if entry.key.id == id_)
    assert entry.element is not None
    size = len(folder.object(sha256))
    fact = stored(entry.element, sha256=sha256, size=size, iv=None, instance="main")
    ledger.append([NewFact(key=entry.key, fact=fact, observed_us=1, expected=entry.version)])
    store.close()


def test_an_export_says_of_each_copy_what_its_header_has_to_be(folder: Folder, server: SealedServer) -> None:
    folder.collect()
    server.put(b"docs/3", b"bread and roses")
    server.touch(b"docs/6", 0o600)
    folder.collect()
    exported = folder.path / "export"
    assert folder.run("replay", "--export", str(exported)).code == 0
    lines = [json.loads(line) for line in (exported / "manifest.jsonl").read_text().splitlines()]
    assert len(lines) == len(CONTENTS)
    for line in lines:
        data = (exported / line["file"]).read_bytes()
        header = sealed_header(canonical_json(line["form"]))
        assert header == parse_header(data)
        assert (line["iv"], line["id"], line["sc2"]) == (
            None,
            parse_header(data).element_id,
            {"vault": VAULT.id.hex(), "version": parse_header(data).version.hex()},
        )
