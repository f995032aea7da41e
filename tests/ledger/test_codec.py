"""The bytes of events: frozen vectors, decode undoes encode, and nothing but canonical bytes is read."""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from ledger.bounds import MAX_INT
from ledger.codec import (
    FLAG_CRITICAL,
    FORMAT,
    MAX_LEVELS,
    Header,
    decode_header,
    decode_payload,
    encode_header,
    encode_payload,
    flags_of,
    is_canonical,
    leaf_hash,
    payload_digest,
    read_payload,
    stream_digest,
)
from ledger.errors import MalformedEventError
from ledger.events import (
    FACTS,
    AuditAdvanced,
    CopyStored,
    Fact,
    InstanceBegan,
    ListingCompleted,
    ListingHeldBack,
    PayloadErased,
    RemoteObserved,
    StreamKey,
    UnknownFact,
    Unserved,
)
from ledger.retention import CopyReleased
from tests.ledger.facts import COPY, ELEMENT, SAMPLES, STORED, facts

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors" / "events.json").read_text())
HEADER = Header(
    format=FORMAT,
    seq=1,
    stream_digest=bytes(32),
    stream_version=1,
    type="CopyStored",
    schema_version=1,
    flags=0,
    recorded_us=1_795_414_108_000_001,
    observed_us=-1,
    writer="main",
    payload_digest=bytes(32),
)


def header_of(name: str, number: int, payload: bytes) -> Header:
    """The header that each frozen vector has."""
    key = StreamKey.parse(bytes.fromhex(VECTORS["key"]))
    fact = SAMPLES[name]
    return Header(
        format=FORMAT,
        seq=number,
        stream_digest=stream_digest(bytes.fromhex(VECTORS["salt"]), key),
        stream_version=number,
        type=fact.TYPE,
        schema_version=fact.VERSION,
        flags=flags_of(fact.TYPE),
        recorded_us=1_795_414_108_000_000 + number,
        observed_us=1_795_414_107_000_000,
        writer="main",
        payload_digest=payload_digest(bytes.fromhex(VECTORS["nonce"]), payload),
    )


# --- frozen bytes ----------------------------------------------------------------------------------------------------


def test_every_fact_has_a_frozen_vector() -> None:
    assert {fact.TYPE for fact in SAMPLES.values()} == set(FACTS)
    assert list(VECTORS["events"]) == list(SAMPLES)


@pytest.mark.parametrize("name", SAMPLES)
def test_the_bytes_of_every_fact_are_the_frozen_ones(name: str) -> None:
    vector = VECTORS["events"][name]
    payload = encode_payload(SAMPLES[name])
    assert payload.hex() == vector["payload"]
    header = encode_header(header_of(name, vector["seq"], payload))
    assert header.hex() == vector["header"]
    assert leaf_hash(header).hex() == vector["leaf"]
    version = SAMPLES[name].VERSION
    assert decode_payload(SAMPLES[name].TYPE, version, 0, bytes.fromhex(vector["payload"])) == SAMPLES[name]
    assert decode_header(bytes.fromhex(vector["header"])) == header_of(name, vector["seq"], payload)


@pytest.mark.parametrize("name", SAMPLES)
def test_a_naive_reader_of_the_format_document_agrees(name: str) -> None:
    vector = VECTORS["events"][name]
    header, payload = bytes.fromhex(vector["header"]), bytes.fromhex(vector["payload"])
    fields = msgpack.unpackb(header)
    salt, nonce, key = (bytes.fromhex(VECTORS[part]) for part in ("salt", "nonce", "key"))
    assert len(fields) == 11
    assert fields[2] == hmac.new(salt, key[16:], hashlib.sha256).digest()
    assert fields[10] == hashlib.sha256(nonce + payload).digest()
    assert bytes.fromhex(vector["leaf"]) == hashlib.sha256(b"\x00" + header).digest()
    held = msgpack.unpackb(payload)
    assert list(held) == sorted(held)


@pytest.mark.parametrize("name", VECTORS["earlier"])
def test_an_earlier_schema_is_read_as_the_newest(name: str) -> None:
    type_name, _, version = name.partition(" ")
    payload = bytes.fromhex(VECTORS["earlier"][name]["payload"])
    sample = SAMPLES[type_name]
    if isinstance(sample, CopyReleased):
        none = replace(sample, policy=0, decided=0, at_us=0, reason="", by="")
        assert read_payload(type_name, int(version), 1, payload) == (none, True)
        return
    if isinstance(sample, PayloadErased):
        assert read_payload(type_name, int(version), 1, payload) == (PayloadErased(reason=sample.reason), True)
        return
    if isinstance(sample, AuditAdvanced):
        assert read_payload(type_name, int(version), 0, payload) == (sample, True)
        return
    assert isinstance(sample, ListingCompleted | ListingHeldBack)
    fact, is_canonical = read_payload(type_name, int(version), 0, payload)
    none = Unserved(sockets=0, pipes=0, devices=0, links=0, unreadable=4, unsettled=0, excluded=0)
    since = replace(sample.listing, closed=None)
    if version != "3":
        since = replace(since, unserved=None if version == "1" else none, unscanned_since=None)
    assert fact == replace(sample, listing=since)
    assert is_canonical
    assert encode_payload(fact) != payload, "it is written as the newest"
    with pytest.raises(MalformedEventError):
        decode_payload(type_name, int(version), 0, msgpack.packb({"listing": 1}))


# --- properties ------------------------------------------------------------------------------------------------------


@given(facts())
def test_decode_undoes_encode(fact: Fact) -> None:
    payload = encode_payload(fact)
    assert decode_payload(fact.TYPE, fact.VERSION, 0, payload) == fact
    assert read_payload(fact.TYPE, fact.VERSION, 0, payload) == (fact, True)
    assert is_canonical(payload)


@given(facts(), st.data())
def test_changed_bytes_are_another_fact_or_none(fact: Fact, data: st.DataObject) -> None:
    payload = bytearray(encode_payload(fact))
    at = data.draw(st.integers(0, len(payload) - 1))
    payload[at] ^= data.draw(st.integers(1, 255))
    try:
        found, canonical = read_payload(fact.TYPE, fact.VERSION, 0, bytes(payload))
    except MalformedEventError:
        return
    assert found != fact or not canonical


@given(st.binary(max_size=60))
def test_arbitrary_bytes_are_refused_in_one_way_only(stored: bytes) -> None:
    for read in (decode_header, lambda held: decode_payload("CopyStored", 1, 0, held)):
        with pytest.raises(MalformedEventError):
            read(stored)


@given(
    st.integers(1, 2**63 - 1),
    st.binary(min_size=32, max_size=32),
    st.integers(-(2**63), 2**63 - 1),
    st.text(st.characters(exclude_categories=("Cs",)), max_size=300),
)
def test_a_header_reads_back(number: int, digest: bytes, moment: int, writer: str) -> None:
    header = HEADER._replace(seq=number, stream_digest=digest, observed_us=moment, writer=writer)
    assert decode_header(encode_header(header)) == header


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"seq": 0},
        {"seq": 2**63},
        {"seq": True},
        {"stream_digest": bytes(31)},
        {"payload_digest": bytes(33)},
        {"payload_digest": "x" * 32},
        {"stream_version": 0},
        {"schema_version": 0},
        {"flags": 2},
        {"recorded_us": 2**64 - 1},
        {"recorded_us": 1.5},
        {"writer": b"main"},
        {"writer": None},
    ],
)
def test_a_header_of_other_fields_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(MalformedEventError):
        decode_header(encode_header(HEADER._replace(**change)))


def test_a_header_in_a_longer_form_is_refused() -> None:
    stored = encode_header(HEADER)
    assert stored[1] == 1
    with pytest.raises(MalformedEventError, match="shortest"):
        decode_header(stored[:1] + b"\xcc\x01" + stored[2:])
    with pytest.raises(MalformedEventError):
        decode_header(stored + b"\x00")
    with pytest.raises(MalformedEventError):
        decode_header(stored[:-1])


@pytest.mark.parametrize(
    "wrong",
    [
        replace(STORED, date=2**63),
        replace(STORED, date=10**30),
        replace(STORED, size=-1),
        replace(STORED, revision=0),
        replace(STORED, present=1),
        replace(STORED, tz=None),
        replace(STORED, tz="\ud800"),
        replace(STORED, form="{}"),
        replace(STORED, form=bytearray(b"{}")),
        replace(STORED, date=1.0),
        replace(STORED, damage="eaten"),
        replace(STORED, copy=replace(COPY, sha256=bytes(31))),
        replace(STORED, copy=replace(COPY, iv=bytes(15))),
        replace(STORED, copy="copy"),
        replace(STORED, copy=ELEMENT),
        replace(STORED, failure=replace(STORED.failure, attempts=0)),
    ],
)
def test_a_fact_that_could_not_be_read_back_is_not_written(wrong: Any) -> None:
    with pytest.raises(MalformedEventError):
        encode_payload(CopyStored(element=wrong))


def test_what_is_no_fact_is_not_written() -> None:
    with pytest.raises(MalformedEventError, match="is not a fact"):
        encode_payload(object())  # type: ignore[arg-type]


def test_a_refused_fact_leaves_the_next_one_whole() -> None:
    with pytest.raises(MalformedEventError):
        encode_payload(CopyStored(element=replace(STORED, copy=replace(COPY, size=-1))))
    assert encode_payload(SAMPLES["CopyStored"]).hex() == VECTORS["events"]["CopyStored"]["payload"]


def test_missing_foreign_and_unsorted_fields_are_refused() -> None:
    held = msgpack.unpackb(encode_payload(InstanceBegan(program="1", host="h")))
    for wrong in (
        {"host": "h"},
        {**held, "more": 1},
        dict(reversed(held.items())),
        [1],
        {"host": "h", "program": b"1"},
        {"host": "h", "program": 1.5},
        {"host": "h", "program": msgpack.Timestamp(1)},
        {"host": "h", "program": {}},
    ):
        with pytest.raises(MalformedEventError):
            decode_payload("InstanceBegan", 1, 0, msgpack.packb(wrong))


def test_longer_encodings_are_read_but_not_canonical() -> None:
    payload = encode_payload(InstanceBegan(program="1", host="h"))
    longer = payload.replace(b"\xa1h", b"\xd9\x01h")
    assert read_payload("InstanceBegan", 1, 0, longer) == (InstanceBegan(program="1", host="h"), False)
    twice = b"\x83" + payload[1:] + payload[-10:]
    assert not is_canonical(longer)
    assert not is_canonical(twice)
    for not_plain in ({"a": 1.5}, {"b": 1, "a": 1}, {"a": {"c": 1, "b": 1}}, [1], {1: 2}, {"a": msgpack.Timestamp(1)}):
        assert not is_canonical(msgpack.packb(not_plain))
    assert not is_canonical(b"\xc1")


@pytest.mark.parametrize(
    ("levels", "is_allowed"), [(2, True), (MAX_LEVELS, True), (MAX_LEVELS + 1, False), (600, False), (100_000, False)]
)
def test_a_payload_may_nest_so_deep_and_no_deeper(levels: int, *, is_allowed: bool) -> None:
    payload = b"\x81\xa1a" + b"\x91" * (levels - 1) + b"\xc0"
    assert is_canonical(payload) is is_allowed
    assert read_payload("NotYetInvented", 1, 0, payload).canonical is is_allowed
    with pytest.raises(MalformedEventError):
        read_payload("InstanceBegan", 1, 0, payload)


@pytest.mark.parametrize(
    ("number", "stored"),
    [(127, "7f"), (128, "cc80"), (65535, "cdffff"), (MAX_INT, "cf7fffffffffffffff"), (-1, "ff"), (-33, "d0df")],
)
def test_a_number_that_is_not_negative_is_unsigned(number: int, stored: str) -> None:
    assert is_canonical(b"\x81\xa1a" + bytes.fromhex(stored))
    if 0 <= number <= MAX_INT:
        assert not is_canonical(b"\x81\xa1a\xd3" + number.to_bytes(8, "big", signed=True))
    assert not is_canonical(b"\x81\xa1a" + bytes.fromhex("cf8000000000000000"))


# --- types and schemas that come and go ------------------------------------------------------------------------------


def test_an_unknown_type_or_schema_is_kept_and_not_understood() -> None:
    payload = msgpack.packb({"a": 1})
    for name, version in (("NotYetInvented", 1), ("CopyStored", 2)):
        for flags in (0, FLAG_CRITICAL):
            unknown = UnknownFact(type_name=name, schema_version=version, critical=bool(flags))
            assert decode_payload(name, version, flags, payload) == unknown
            assert read_payload(name, version, flags, payload) == (unknown, True)
    assert read_payload("NotYetInvented", 1, 0, msgpack.packb({"b": 1, "a": 1})).canonical is False


def test_an_old_schema_is_raised_step_by_step() -> None:
    # No schema has an older version yet: version 0 of a type plays it, in which `program` was called `version`.
    def rename(held: dict[str, Any]) -> dict[str, Any]:
        return {"host": held["host"], "program": held["version"]}

    old = msgpack.packb({"host": "vault", "version": "0.1.0"})
    table = {("InstanceBegan", 0): rename}
    assert decode_payload("InstanceBegan", 0, 0, old, upcasters=table) == SAMPLES["InstanceBegan"]
    below = {**table, ("InstanceBegan", -1): lambda held: {**held, "host": "vault"}}
    oldest = msgpack.packb({"version": "0.1.0"})
    assert decode_payload("InstanceBegan", -1, 0, oldest, upcasters=below) == SAMPLES["InstanceBegan"]
    with pytest.raises(MalformedEventError, match="cannot be converted"):
        decode_payload("InstanceBegan", -1, 0, oldest, upcasters={("InstanceBegan", -1): lambda held: held})
    with pytest.raises(MalformedEventError, match="different fields"):
        decode_payload("InstanceBegan", 0, 0, old, upcasters={("InstanceBegan", 0): lambda held: held})


def test_critical_types_carry_the_flag() -> None:
    critical = {"ZoneChanged", "CopyReleased", "LastCopyReleased", "ReleaseWithdrawn", "PayloadErased"}
    for name in FACTS:
        assert flags_of(name) == (FLAG_CRITICAL if name in critical else 0)


def test_streams_of_one_id_differ_by_kind_and_salt() -> None:
    key = StreamKey(source=bytes(16), kind="file", id="x")
    digests = {
        stream_digest(bytes(32), key),
        stream_digest(b"\x01" + bytes(31), key),
        stream_digest(bytes(32), replace(key, kind="fil", id="ex")),
        stream_digest(bytes(32), replace(key, id="y")),
    }
    assert len(digests) == 4
    assert all(len(digest) == 32 for digest in digests)


def test_facts_are_encoded_alike_in_all_threads() -> None:
    from concurrent.futures import ThreadPoolExecutor

    fact = RemoteObserved(element=ELEMENT)
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: encode_payload(fact), range(200))) == {encode_payload(fact)}
