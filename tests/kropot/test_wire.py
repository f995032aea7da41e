"""List pages and entries: the real server's own, hostile ones, and the properties of reading and writing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kropot.securecopy.sealing import Kit, open_form
from kropot.securecopy.wire import (
    MAX_ID_BYTES,
    MAX_SIZE,
    BadPageError,
    Listed,
    Page,
    Rejected,
    canonical_json,
    encode_entry,
    encode_page,
    is_sealed_form,
    parse_entry,
    parse_page,
    parse_submitdata,
)
from kropot.securecopy.zones import MAX_DATE, MIN_DATE
from ledger.events import Unserved
from tests.vectors.load import Exchange, exchange, exchanges, forms

TEXT = "text/plain; charset=UTF-8"
KINDS = list(Unserved.__struct_fields__)
HEADER = b'{"remainingSince":1}\n\n'
lists = [found for found in (*exchanges("list"), *exchanges("errors"), *exchanges("delete")) if "/list" in found.path]
elements = [found for found in exchanges("submitdata") if found.status == 200]
words = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=64)
ids = words.filter(lambda text: text not in {"", ".", ".."} and len(text.encode()) <= MAX_ID_BYTES)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), inner, max_size=3)
    ),
    max_leaves=10,
)
listed = st.builds(
    Listed,
    type=words.filter(lambda text: text != "" and not text.startswith("@")),
    id=ids,
    date=st.integers(MIN_DATE, MAX_DATE),
    tz=words,
    form=st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), json_values, max_size=4).map(
        canonical_json
    ),
    size=st.none() | st.integers(0, MAX_SIZE),
    etag=st.none() | st.from_regex(r'"[\x21\x23-\x7e]{0,40}"', fullmatch=True),
)


def entry(**fields: Any) -> bytes:
    whole = {"type": "file", "id": "a", "date": 1795414108, "tz": "UTC", "form": {}, **fields}
    return json.dumps({key: value for key, value in whole.items() if value is not ...}).encode()


# --- the real server's answers ---


@pytest.mark.parametrize("found", lists, ids=lambda found: found.name)
def test_lists_of_the_real_server_are_read(found: Exchange) -> None:
    assert found.body is not None
    if found.status != 200:
        with pytest.raises(BadPageError) as caught:
            parse_page(found.status, found.content_type, found.body)
        assert caught.value.reason == f"http_{found.status}"
        return
    page = parse_page(found.status, found.content_type, found.body)
    header, _, rest = found.body.partition(b"\n\n")
    raw = [json.loads(line) for line in rest.splitlines()]
    assert page.rejected == ()
    assert page.remaining == json.loads(header)["remainingSince"]
    assert page.closed is None
    assert [(e.type, e.id, e.date, e.tz, json.loads(e.form)) for e in page.entries] == [
        (r["type"], r["id"], r["date"], r["tz"], r["form"]) for r in raw
    ]
    assert all(e.size is None and e.etag is None for e in page.entries)


def test_the_lists_that_were_read_are_many() -> None:
    assert len(lists) > 50
    assert sum(found.status == 200 for found in lists) > 30


def test_an_encrypted_list_opens_to_the_plain_one() -> None:
    plain, sealed = exchange("list", "plain-all"), exchange("list", "encrypted-all")
    assert plain.body is not None
    assert sealed.body is not None
    kit = Kit(forms()[0]["passphrase"])
    plain_page = parse_page(200, plain.content_type, plain.body)
    sealed_page = parse_page(200, sealed.content_type, sealed.body)
    assert all(is_sealed_form(e.form) for e in sealed_page.entries)
    assert not any(is_sealed_form(e.form) for e in plain_page.entries)
    opened = {json.loads(open_form(json.loads(e.form)["encrypted"], kit))["fileName"] for e in sealed_page.entries}
    assert opened == {e.id for e in plain_page.entries}


@pytest.mark.parametrize("found", elements, ids=lambda found: found.name)
def test_elements_of_the_real_server_are_read(found: Exchange) -> None:
    assert found.body is not None
    element = parse_submitdata(found.status, found.content_type, found.body)
    raw = json.loads(found.body)
    assert element is not None
    assert element.id == raw.get("object", raw)["id"]


@pytest.mark.parametrize(
    "name",
    ["submitdata-unknown-id-plain", "submitdata-unknown-id-encrypted", "submitdata-plain-id-with-encrypted-token"],
)
def test_the_real_server_says_gone(name: str) -> None:
    found = exchange("errors", name)
    assert found.body is not None
    assert parse_submitdata(found.status, found.content_type, found.body) is None
    raw = exchange("submitdata", "raw-unknown")
    assert parse_submitdata(raw.status, raw.content_type, raw.body or b"") is None
    deleted = exchange("delete", "submitdata-after")
    assert parse_submitdata(deleted.status, deleted.content_type, deleted.body or b"") is None


@pytest.mark.parametrize(
    "name", ["submitdata-missing-role", "submitdata-no-token", "no-route", "submitdata-unknown-token"]
)
def test_other_errors_do_not_say_gone(name: str) -> None:
    found = exchange("errors", name)
    with pytest.raises(BadPageError, match=f"http_{found.status}"):
        parse_submitdata(found.status, found.content_type, found.body or b"")


@pytest.mark.parametrize(
    ("body", "reason"),
    [(b"gone", "not_json"), (b"[]", "not_an_object"), (b'{"object":{"id":"a"}}', "http_404")],
)
def test_a_404_that_contradicts_itself_does_not_say_gone(body: bytes, reason: str) -> None:
    with pytest.raises(BadPageError) as caught:
        parse_submitdata(404, "application/json", body)
    assert caught.value.reason == reason


# --- pages ---


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "no_header"),
        (b'{"remainingSince":1}', "no_header"),
        (b'{"remainingSince":1}\n', "no_header"),
        (b"<!DOCTYPE html>\n\n<html>", "bad_header"),
        (b"[]\n\n", "bad_header"),
        (b"{}\n\n", "bad_header"),
        (b'{"remainingSince":-1}\n\n', "bad_header"),
        (b'{"remainingSince":true}\n\n', "bad_header"),
        (b'{"remainingSince":1.5}\n\n', "bad_header"),
        (b'{"remainingSince":1,"closed":"x"}\n\n', "bad_header"),
        (b'{"remainingSince":1,"unscannedSince":"x"}\n\n', "bad_header"),
        (b'{"remainingSince":1,"unserved":3}\n\n', "bad_header"),
        (b'{"remainingSince":1,"unserved":{"links":-1}}\n\n', "bad_header"),
        (b'{"remainingSince":1,"unserved":{"links":true}}\n\n', "bad_header"),
        (b'{"remainingSince":1,"unserved":{"links":null}}\n\n', "bad_header"),
        (HEADER + entry(), "truncated"),
        (HEADER + entry() + b"\n" + entry()[:-5], "truncated"),
    ],
)
def test_what_is_no_page_is_refused(body: bytes, reason: str) -> None:
    with pytest.raises(BadPageError) as caught:
        parse_page(200, TEXT, body)
    assert caught.value.reason == reason


@pytest.mark.parametrize("content_type", [None, "", "text/html; charset=UTF-8", "application/json"])
def test_only_plain_text_is_a_list(content_type: str | None) -> None:
    with pytest.raises(BadPageError, match="not_a_list"):
        parse_page(200, content_type, HEADER)


def test_one_bad_line_hides_no_other() -> None:
    body = (
        HEADER
        + b"\n".join(
            [entry(id="a"), b"\xff\xfe", entry(id="b", date="x"), b"", entry(id="c", form=...), b"[]", entry(id="d")]
        )
        + b"\n"
    )
    page = parse_page(200, TEXT, body)
    assert [e.id for e in page.entries] == ["a", "d"]
    assert page.rejected == (
        Rejected(line=2, why="not_json"),
        Rejected(line=3, why="bad_date"),
        Rejected(line=4, why="not_json"),
        Rejected(line=5, why="bad_form", date=1795414108),
        Rejected(line=6, why="not_an_object"),
    )


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (entry(id=...), "bad_id"),
        (entry(id=""), "bad_id"),
        (entry(id="."), "bad_id"),
        (entry(id=".."), "bad_id"),
        (entry(id=7), "bad_id"),
        (entry(id="a\0b"), "bad_id"),
        (entry(id="a" * 513), "bad_id"),
        (entry(id="a" * 10_000), "bad_id"),
        (entry(id="ż" * 257), "bad_id"),
        (entry().replace(b'"a"', b'"\\ud800"'), "not_json"),
        (entry(type=...), "bad_type"),
        (entry(type=""), "bad_type"),
        (entry(type="@source"), "bad_type"),
        (entry(type="t" * 65), "bad_type"),
        (entry(tz=...), "bad_tz"),
        (entry(tz="t" * 65), "bad_tz"),
        (entry(tz="a\0"), "bad_tz"),
        (entry(date=...), "bad_date"),
        (entry(date=None), "bad_date"),
        (entry(date="1795414108"), "bad_date"),
        (entry(date=1.0), "bad_date"),
        (entry(date=True), "bad_date"),
        (entry(date=1 << 62), "bad_date"),
        (entry(form=...), "bad_form"),
        (entry(form=None), "bad_form"),
        (entry(form={"encrypted": "A" * 70_000}), "bad_form"),
        (entry(form={"tags": ["a" * 70_000]}), "bad_form"),
        (entry(size=-1), "bad_size"),
        (entry(size=True), "bad_size"),
        (entry(size="16"), "bad_size"),
        (entry(size=1 << 63), "bad_size"),
        (entry(etag="no quotes"), "bad_etag"),
        (entry(etag='"' + "a" * 300 + '"'), "bad_etag"),
        (entry(etag='"a\r\nX: y"'), "bad_etag"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "not_json"),
        (b"NaN", "not_json"),
        (entry().replace(b"{}", b"[" * 1010 + b"]" * 1010), "bad_form"),
    ],
)
def test_what_is_no_entry_is_rejected(line: bytes, why: str) -> None:
    found = parse_entry(line)
    assert isinstance(found, Rejected)
    assert found.why == why


@pytest.mark.parametrize(
    "id_", ["../../etc/passwd", "a/b", "a b", "\uff41", "\u202egnp.exe", "a\nb", "%2e%2e", "ż" * 256, "0" * 512]
)
def test_odd_ids_are_data(id_: str) -> None:
    found = parse_entry(entry(id=id_))
    assert isinstance(found, Listed)
    assert found.id == id_


@pytest.mark.parametrize(
    ("form", "canonical"),
    [
        ([], b"[]"),
        ("x", b'"x"'),
        (0, b"0"),
        ({"b": 1, "a": {"d": "ż", "c": [1.5, None]}}, b'{"a":{"c":[1.5,null],"d":"\\u017c"},"b":1}'),
        ({"encrypted": "QUJD"}, b'{"encrypted":"QUJD"}'),
        ({"encrypted": 'a"b'}, b'{"encrypted":"a\\"b"}'),
        ({"encrypted": ["QUJD"]}, b'{"encrypted":["QUJD"]}'),
    ],
)
def test_forms_of_any_shape_are_kept_in_one_spelling(form: Any, canonical: bytes) -> None:
    found = parse_entry(entry(form=form))
    assert isinstance(found, Listed)
    assert found.form == canonical


def test_only_an_envelope_and_nothing_beside_it_is_a_sealed_form() -> None:
    assert is_sealed_form(b'{"encrypted":"QUJD"}')
    assert not is_sealed_form(b'{"encrypted":"QUJD","fileName":"a"}')
    assert not is_sealed_form(b'{"encrypted":"a b"}')
    assert not is_sealed_form(b'{"fileName":"encrypted"}')


@given(body=st.binary(max_size=300))
def test_any_bytes_are_a_page_or_a_bad_one(body: bytes) -> None:
    try:
        page = parse_page(200, TEXT, body)
    except BadPageError:
        return
    assert page.remaining >= 0


@given(lines=st.lists(st.binary(max_size=80) | json_values.map(lambda value: json.dumps(value).encode()), max_size=6))
def test_every_line_is_an_entry_or_is_rejected(lines: list[bytes]) -> None:
    body = HEADER + b"".join(line.replace(b"\n", b" ") + b"\n" for line in lines)
    page = parse_page(200, TEXT, body)
    assert len(page.entries) + len(page.rejected) == len(lines)


@given(value=json_values)
def test_any_json_is_an_entry_or_is_rejected(value: Any) -> None:
    assert isinstance(parse_entry(json.dumps(value).encode()), Rejected)
    for key in ("type", "id", "date", "tz", "form", "size", "etag"):
        found = parse_entry(entry(**{key: value}))
        if isinstance(found, Listed):
            assert parse_entry(encode_entry(found)) == found


@given(
    status=st.integers(100, 599),
    kind=st.sampled_from([None, "application/json", "text/html"]),
    body=st.binary(max_size=60) | json_values.map(lambda value: json.dumps(value).encode()),
)
def test_any_answer_to_submitdata_is_an_element_or_gone_or_bad(status: int, kind: str | None, body: bytes) -> None:
    try:
        found = parse_submitdata(status, kind, body)
    except BadPageError:
        return
    assert kind == "application/json"
    assert (found is None) == (status == 404)


@given(
    entries=st.lists(listed, max_size=5),
    remaining=st.integers(0, 10**9),
    closed=st.none() | st.integers(MIN_DATE, MAX_DATE),
    unserved=st.none() | st.builds(Unserved, **dict.fromkeys(KINDS, st.integers(0, MAX_SIZE))),
    since=st.none() | st.integers(MIN_DATE, MAX_DATE),
)
def test_reading_undoes_writing(
    entries: list[Listed], remaining: int, closed: int | None, unserved: Unserved | None, since: int | None
) -> None:
    said: dict[str, Any] = {"closed": closed, "unserved": unserved, "unscanned_since": since}
    body = encode_page(
        map(encode_entry, entries), remaining=remaining, metadata_url="/m/%file_id%", fetch_url="/f/%file_id%", **said
    )
    assert body.isascii()
    assert parse_page(200, TEXT, body) == Page(entries=tuple(entries), rejected=(), remaining=remaining, **said)


def test_what_is_not_served_may_be_said_in_kinds_of_later_versions() -> None:
    page = parse_page(200, TEXT, b'{"remainingSince":0,"unserved":{"sockets":2,"wormholes":"x"}}\n\n')
    assert page.unserved == Unserved(**{**dict.fromkeys(KINDS, 0), "sockets": 2})


@given(value=json_values)
def test_canonical_json_is_ascii_and_says_the_same(value: Any) -> None:
    spelt = canonical_json(value)
    assert spelt.isascii()
    assert json.loads(spelt) == value
    assert canonical_json(json.loads(spelt)) == spelt
