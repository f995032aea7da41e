"""The clear header in a list's forms: entries, vaults and contents that do not fit to it are not what they say."""

from __future__ import annotations

import dataclasses
import json
from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from kropot.collect.decide import plan
from kropot.collect.decide.plan import Dates, is_only_moved, observe
from kropot.sc2.seal import Sealing, seal_list_form
from kropot.securecopy.sealed_form import is_same_content, sealed_header
from kropot.securecopy.wire import (
    BadPageError,
    Listed,
    Rejected,
    encode_entry,
    encode_page,
    parse_entry,
    parse_page,
    parse_submitdata,
)
from ledger.events import Element, RemoteChanged, RemoteObserved, RemoteReappeared
from tests.kropot.sc2_world import SOURCE, VAULT, form_of, made_vault, version_of
from tests.vectors.load import forms

TEXT = "text/plain; charset=UTF-8"
DATE = 1_795_414_108
DATES = Dates(by_epoch=(frozenset({0}),))
FORM = form_of(b"plain")
CBC = b'{"encrypted":"' + forms()[0]["sealed"].encode() + b'"}'


def form_text(form: Any = FORM, version: str = "1", **other: Any) -> bytes:
    text = seal_list_form(VAULT, form, source=SOURCE, version=version_of(version), **other)
    return b'{"encrypted":"' + text.encode() + b'"}'


def row(said: Any = FORM, version: str = "1", **other: Any) -> Listed:
    sealing = Sealing(VAULT, FORM, source=SOURCE, version=version_of(version))
    known = Listed(
        type="file",
        id=VAULT.element(said.path).hex(),
        date=DATE,
        tz="UTC",
        form=form_text(said, version),
        size=sealing.length,
        etag=sealing.header.etag,
        header=sealing.header.encode(),
    )
    return replace(known, **other)


def page(*rows: Listed, vault: bytes | None = VAULT.id) -> bytes:
    return encode_page(map(encode_entry, rows), remaining=len(rows), metadata_url="m", fetch_url="f", vault=vault)


# --- entries ---------------------------------------------------------------------------------------------------------


def test_a_page_of_a_vault_reads_back() -> None:
    found = parse_page(200, TEXT, page(row()))
    assert (found.vault, found.entries, found.rejected) == (VAULT.id, (row(),), ())
    assert [entry.header for entry in found.entries] == [sealed_header(row().form).encode()]
    assert parse_page(200, TEXT, page(row(size=None, etag=None))).entries == (row(size=None, etag=None),)
    assert parse_page(200, TEXT, page()).vault == VAULT.id


LIES = {
    "another key beside the envelope": (row(form=row().form[:-1] + b',"x":1}'), "bad_form"),
    "a character of no base64": (row(form=row().form.replace(b"a3Itc2MyAQ", b"a3Itc2MyAQ*")), "bad_form"),
    "another id": (row(id="00" * 32), "other_form"),
    "an id in capitals": (row(id=row().id.upper()), "other_form"),
    "another form": (row(form=form_text(form_of(b"plain", b"other"))), "other_form"),
    "another etag": (row(etag='"other"'), "other_form"),
    "a weak etag": (row(etag=f"W/{row().etag}"), "other_form"),
    "another version's form": (row(form=form_text(version="2")), "other_form"),
    "a form that ends": (row(form=row().form[:-6] + b'"}'), "bad_form"),
    "a header alone": (row(form=b'{"encrypted":"' + b64encode(VAULT.id * 9) + b'"}'), "other_vault"),
    "the beginning alone": (row(form=b'{"encrypted":"a3Itc2My"}'), "bad_form"),
    "another suite": (row(form=row().form.replace(b"a3Itc2MyAQ", b"a3Itc2MyAg")), "bad_form"),
    "AES-CBC": (row(form=CBC), "other_vault"),
    "plain": (row(form=b'{"fileName":"a"}'), "other_vault"),
}


@pytest.mark.parametrize("case", LIES)
def test_a_row_that_contradicts_itself_or_its_vault_is_a_bad_row(case: str) -> None:
    lie, why = LIES[case]
    found = parse_page(200, TEXT, page(lie, row()))
    assert found.entries == (row(),)
    assert [(bad.why, bad.date) for bad in found.rejected] == [(why, DATE)]


def test_a_vault_seals_every_entry_or_none() -> None:
    for vault in (None, made_vault("other").id):
        found = parse_page(200, TEXT, page(row(), vault=vault))
        assert [bad.why for bad in found.rejected] == ["other_vault"]
    plain = row(form=b'{"fileName":"a"}', id="a", etag=None, header=None)
    assert parse_page(200, TEXT, page(plain, vault=None)).entries == (plain,)


@pytest.mark.parametrize("vault", ["", "00", VAULT.id.hex().upper(), VAULT.id.hex() + "\n", 5, [], {}, True])
def test_a_vault_in_another_spelling_is_no_header(vault: object) -> None:
    body = json.dumps({"remainingSince": 0, "vault": vault}).encode() + b"\n\n"
    with pytest.raises(BadPageError, match="bad_header"):
        parse_page(200, TEXT, body)


def test_an_element_alone_is_compared_with_its_form_too() -> None:
    answer = b'{"object":' + encode_entry(row()).strip() + b"}"
    assert parse_submitdata(200, "application/json", answer) == row()
    with pytest.raises(BadPageError, match="other_form"):
        parse_submitdata(200, "application/json", answer.replace(row().id.encode(), b"0" * 64))


@given(st.one_of(st.binary(max_size=300), st.binary(max_size=900).map(lambda data: b"kr-sc2" + data)))
def test_no_form_is_too_strange_to_be_judged(data: bytes) -> None:
    for form in (data, b'{"encrypted":"' + b64encode(data) + b'"}', b'{"encrypted":"' + data + b'"}'):
        assert is_same_content(form, form) is (None if sealed_header(form) is None else True)
    found = parse_entry(encode_entry(row(form=b'{"encrypted":"' + b64encode(data) + b'"}')))
    assert isinstance(found, Rejected) or (sealed_header(found.form), found.header) == (None, None)


@pytest.mark.parametrize("vector", forms(), ids=lambda vector: vector["file_name"])
def test_a_form_of_the_first_client_is_none_of_sc2(vector: dict[str, Any]) -> None:
    form = b'{"encrypted":"' + vector["sealed"].encode() + b'"}'
    found = parse_entry(encode_entry(row(form=form, id=vector["id"], etag='"any"')))
    assert isinstance(found, Listed)
    assert (sealed_header(form), found.form, found.header) == (None, form, None)


# --- what a look at the server means ---------------------------------------------------------------------------------


def element(listed: Listed) -> Element:
    """Return an element as its first sight left it, with a copy."""
    first = observe(None, listed, DATES)
    assert isinstance(first, RemoteObserved)
    return plan.stored(first.element, sha256=bytes(32), size=5, iv=None, instance="main").element


NEWER = dataclasses.replace(FORM, mode=0o600)


@pytest.mark.parametrize("claims", [{}, {"etag": None, "size": None}])
@pytest.mark.parametrize("later", [0, 1, 900])
def test_a_newer_form_of_the_same_version_is_news_and_no_revision(claims: dict[str, None], later: int) -> None:
    before = element(row(**claims))
    listed = row(NEWER, date=DATE + later, **claims)
    fact = observe(before, listed, DATES)
    assert isinstance(fact, RemoteChanged)
    assert (fact.element.form, fact.element.revision, fact.element.copy) == (listed.form, 1, before.copy)
    assert not fact.element.is_wanted
    assert not is_only_moved(before, listed)
    gone = plan.vanished(before).element
    again = observe(gone, listed, DATES)
    assert isinstance(again, RemoteReappeared)
    assert not again.element.is_wanted


@pytest.mark.parametrize("claims", [{}, {"etag": None, "size": None}])
def test_another_version_is_a_new_revision_whatever_else_is_claimed(claims: dict[str, None]) -> None:
    for later in (0, 1):
        fact = observe(element(row(**claims)), row(version="2", date=DATE + later, **claims), DATES)
        assert isinstance(fact, RemoteChanged)
        assert (fact.element.revision, fact.element.is_wanted) == (2, True)


def test_the_same_version_under_a_newer_key_needs_no_other_copy() -> None:
    old = VAULT.key_ids[0]
    sealing = Sealing(VAULT, FORM, source=SOURCE, version=version_of("1"), key_id=old)
    before = element(row(form=form_text(key_id=old), etag=sealing.header.etag))
    fact = observe(before, row(), DATES)
    assert isinstance(fact, RemoteChanged)
    assert not fact.element.is_wanted


def test_what_is_unchanged_is_no_news() -> None:
    assert observe(element(row()), row(), DATES) is None
    assert is_only_moved(element(row()), row(date=DATE + 900))
