"""Kits: written in one spelling, strictly read, behind a passphrase, on paper; and those of before."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from kropot.errors import IntegrityError, UsageError, WrongKeyError
from kropot.sc2.kit import MAX_KIT, CbcKey, OwnerKit
from kropot.sc2.kits import STORED_SALT, parse_kit
from kropot.sc2.paper import from_paper, to_paper, to_qr
from kropot.sc2.passphrase import LockedKit, Stretch, lock
from kropot.secret import redact
from kropot.securecopy.sealing import Kit
from ledger.note import SigningKey
from tests.kropot.sc2_world import VAULT, made_vault

VERIFIER = SigningKey(name="gateway", seed=bytes(32)).verifier.text
CBC = CbcKey(kit=Kit("a long passphrase", digest="sha256", rounds=4), stored_salt="c2FsdA==")
KIT = OwnerKit(vault=VAULT, cbc=(CBC, CbcKey(kit=Kit("zażółć gęślą"))), verifier=VERIFIER)
PASSPHRASE = "a passphrase of some words"


def quick(salt: bytes) -> Stretch:
    return Stretch(salt=salt, memory_kib=8, passes=1, lanes=1)


def locked(kit: OwnerKit = KIT, passphrase: str = PASSPHRASE) -> LockedKit:
    return lock(kit, passphrase, stretch=quick)


def read(fields: Any) -> OwnerKit | LockedKit:
    return parse_kit(json.dumps(fields).encode(), name="k.json")


@pytest.mark.parametrize("kit", [KIT, OwnerKit(vault=VAULT), OwnerKit(cbc=(CBC,))])
def test_a_kit_is_read_as_it_was_written(kit: OwnerKit) -> None:
    assert parse_kit(kit.encode(), name="k.json") == kit
    assert read(json.loads(kit.encode())) == kit, "another spelling of the same JSON is no reason to lose a backup"
    assert kit.encode() == kit.encode()


def test_no_text_of_a_kit_shows_a_key() -> None:
    shown = repr(KIT) + repr(locked())
    for secret in (*VAULT.masters, VAULT.id_key, VAULT.etag_key):
        assert secret.hex() not in shown
        assert repr(secret) not in shown
    assert "long passphrase" not in shown


def test_no_output_shows_a_key_of_a_kit_that_was_made_or_read() -> None:
    made = OwnerKit(vault=made_vault("guarded"))
    assert made.vault is not None
    for secret in (*made.vault.masters, made.vault.id_key, made.vault.etag_key):
        assert redact(f"a log line with {secret.hex()}") == "a log line with [hidden]"


def _without(name: str) -> dict[str, Any]:
    return {key: value for key, value in json.loads(KIT.encode()).items() if key != name}


CBC_FIELDS = json.loads(KIT.encode())["cbc"][0]


@pytest.mark.parametrize(
    "fields",
    [
        [],
        {},
        {"format": "kropotcli-kit-v3"},
        {"format": "kropotcli-kit-v2"},
        {"format": "kropotcli-kit-v2", "cbc": []},
        *(_without(name) for name in ("vault", "id_key", "etag_key", "masters")),
        *(_without("x") | change for change in (
            {"vault": "00"},
            {"vault": 7},
            {"id_key": "zz" * 32},
            {"id_key": " " + "0" * 63},
            {"masters": []},
            {"masters": "00" * 32},
            {"masters": ["00" * 31]},
            {"masters": [VAULT.id_key.hex()]},
            {"masters": [f"{number:064x}" for number in range(300)]},
            {"verifier": "x"},
            {"verifier": 7},
            {"more": 1},
            {"cbc": {}},
            {"cbc": [7]},
            {"cbc": [{}]},
            {"cbc": [CBC_FIELDS] * 300},
            {"cbc": [CBC_FIELDS | {"rounds": True}]},
            {"cbc": [CBC_FIELDS | {"rounds": 0}]},
            {"cbc": [CBC_FIELDS | {"passphrase": ""}]},
            {"cbc": [CBC_FIELDS | {"passphrase": "\ud800"}]},
            {"cbc": [CBC_FIELDS | {"method": "aes-128-cbc"}]},
            {"cbc": [CBC_FIELDS | {"more": "x"}]},
        )),
    ],
)  # fmt: skip
def test_what_is_no_kit_is_refused(fields: Any) -> None:
    with pytest.raises(UsageError) as caught:
        read(fields)
    assert VAULT.id_key.hex() not in str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"vault": None, "cbc": ()},
        {"cbc": (CBC,) * 300},
        {"verifier": "x"},
        {"cbc": (CbcKey(kit=Kit("")),)},
        {"cbc": (CbcKey(kit=Kit("x" * 5000)),)},
        {"cbc": (CbcKey(kit=Kit("x"), stored_salt=""),)},
        {"cbc": (CbcKey(kit=Kit("\ud800")),)},
    ],
)
def test_no_kit_is_made_that_could_not_be_read_again(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        replace(KIT, **wrong)


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[" * 100_000, b'{"format":1,"format":1}', b" " * (MAX_KIT + 1), b"\xff", b"9" * 5000]
)
def test_what_is_no_json_is_refused(text: bytes) -> None:
    with pytest.raises(UsageError):
        parse_kit(text, name="k.json")


OLD = {
    "data": {
        "secureCopyEncryptionKey": " a key ",
        "secureCopyEncryptionMethod": "aes-256-cbc",
        "secureCopyDigestMethod": "sha256",
        "secureCopyDigestRounds": 4,
    }
}


def test_kits_of_before_are_read_with_every_reading_of_their_passphrase() -> None:
    kit = read(OLD)
    assert isinstance(kit, OwnerKit)
    assert kit.vault is None
    assert [(each.kit.passphrase, each.stored_salt) for each in kit.cbc] == [("a key", None), (" a key ", None)]
    for fields in (OLD | {STORED_SALT: "c2FsdA=="}, {"data": OLD["data"] | {STORED_SALT: "c2FsdA=="}}):
        salted = read(fields)
        assert isinstance(salted, OwnerKit)
        assert {each.stored_salt for each in salted.cbc} == {"c2FsdA=="}
    with pytest.raises(UsageError, match=STORED_SALT):
        read(OLD | {STORED_SALT: 7})


def test_only_the_passphrase_opens_a_locked_kit() -> None:
    made = locked()
    back = parse_kit(made.encode(), name="k.json")
    assert isinstance(back, LockedKit)
    assert back.vault == VAULT.id
    assert back.open(PASSPHRASE) == KIT
    with pytest.raises(WrongKeyError, match=r"k\.json"):
        back.open(PASSPHRASE + "!")
    assert VAULT.masters[0].hex().encode() not in made.encode()
    assert locked().encode() != made.encode()
    assert locked(OwnerKit(cbc=(CBC,))).open(PASSPHRASE) == OwnerKit(cbc=(CBC,))


def test_a_passphrase_is_the_same_however_its_letters_are_composed() -> None:
    made = locked(passphrase="za\u017c\u00f3\u0142\u0107 g\u0119\u015bl\u0105 ja\u017a\u0144")
    assert made.open("zaz\u0307o\u0301\u0142c\u0301 ge\u0328s\u0301la\u0328 jaz\u0301n\u0301") == KIT


def test_a_changed_passphrase_leaves_the_keys_as_they_are() -> None:
    again = lock(locked().open(PASSPHRASE), "quite another passphrase", stretch=quick)
    assert again.open("quite another passphrase") == KIT
    with pytest.raises(WrongKeyError):
        again.open(PASSPHRASE)


@pytest.mark.parametrize("passphrase", ["", "too short", "x" * 1025])
def test_a_passphrase_of_a_wrong_length_is_refused(passphrase: str) -> None:
    with pytest.raises(UsageError, match="characters"):
        lock(KIT, passphrase, stretch=quick)


def test_a_locked_kit_that_was_altered_is_refused() -> None:
    made = locked()
    with pytest.raises(IntegrityError, match="altered"):
        replace(made, vault=bytes(16)).open(PASSPHRASE)
    for at in range(0, len(made.wrapped), 7):
        damaged = bytearray(made.wrapped)
        damaged[at] ^= 1
        with pytest.raises(IntegrityError, match="altered"):
            replace(made, wrapped=bytes(damaged)).open(PASSPHRASE)


LOCKED: dict[str, Any] = json.loads(locked().encode())


@pytest.mark.parametrize(
    "change",
    [
        {"argon2id": 1},
        {"argon2id": {}},
        {"argon2id": LOCKED["argon2id"] | {"memory_kib": 1 << 21}},
        {"argon2id": LOCKED["argon2id"] | {"memory_kib": 7}},
        {"argon2id": LOCKED["argon2id"] | {"passes": 65}},
        {"argon2id": LOCKED["argon2id"] | {"passes": 0}},
        {"argon2id": LOCKED["argon2id"] | {"lanes": 65}},
        {"argon2id": LOCKED["argon2id"] | {"lanes": 1.0}},
        {"argon2id": LOCKED["argon2id"] | {"lanes": True}},
        {"argon2id": LOCKED["argon2id"] | {"salt": "00"}},
        {"argon2id": LOCKED["argon2id"] | {"more": 1}},
        {"check": "00"},
        {"wrapped": "?"},
        {"wrapped": 1},
        {"wrapped": b64encode(bytes(12)).decode()},
        {"vault": "00"},
        {"masters": []},
    ],
)
def test_a_locked_kit_asks_for_nothing_impossible(change: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        read(LOCKED | change)


def test_the_stretching_is_what_rfc_9106_recommends() -> None:
    stretch = Stretch(salt=bytes(16))
    assert (stretch.memory_kib, stretch.passes, stretch.lanes) == (65_536, 3, 4)


@given(st.binary(min_size=1, max_size=200))
def test_what_is_typed_from_paper_is_the_kit(kit: bytes) -> None:
    text = to_paper(kit)
    assert from_paper(text) == kit
    typed = text.lower().replace("o", "0").replace("i", "1").replace("b", "8").replace("  ", " ").replace("end", "END")
    assert from_paper("A title\n\n" + typed) == kit


def test_a_typing_error_is_found_in_its_line() -> None:
    lines = to_paper(KIT.encode()).splitlines(keepends=True)
    assert len(lines) > 20
    for number, line in enumerate(lines[:-1], 1):
        at = 5 + number % 40
        if line[at] == " ":
            at += 1
        wrong = "".join(
            [*lines[: number - 1], line[:at] + ("A" if line[at] != "A" else "C") + line[at + 1 :], *lines[number:]]
        )
        with pytest.raises(UsageError, match=f"line {number} .* typing error"):
            from_paper(wrong)
        with pytest.raises(UsageError, match=f"line {number} .* missing|lines are missing"):
            from_paper("".join([*lines[: number - 1], *lines[number:]]))
    with pytest.raises(UsageError, match="`end`"):
        from_paper("".join(lines[:-1]))
    with pytest.raises(UsageError, match="too long"):
        from_paper("x" * (MAX_KIT * 4 + 1))


def test_a_kit_is_drawn_as_a_qr_code() -> None:
    import segno

    drawn = to_qr(OwnerKit(vault=VAULT).encode())
    code = segno.make_qr(OwnerKit(vault=VAULT).encode().rstrip().decode(), error="m", boost_error=False)
    assert len(drawn.splitlines()) >= code.symbol_size()[1] // 2
    assert to_qr(KIT.encode(), svg=True).startswith("<svg")
    with pytest.raises(UsageError, match="too many"):
        to_qr(b"x" * 3000)
