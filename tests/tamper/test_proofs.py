"""Proofs: checked with a public key alone, said in words, and no field of one can be changed."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from kropot.errors import IntegrityError, UsageError
from kropot.proofs import check_proof, prove_consistency, prove_event
from ledger.checkpoint import sign_checkpoint, unverified_checkpoint
from tests.tamper.world import KEY, OTHER_KEY, Places, World, build, proof_of

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.xdist_group("tampered proofs")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, Places, dict[str, Any]]:
    world, places = build(tmp_path_factory.mktemp("proofs"))
    return world, places, proof_of(world, places.current)


def notes(world: World) -> list[Any]:
    found = [path.read_bytes() for path in sorted(world.checkpoints.iterdir())]
    return [(unverified_checkpoint(note), note) for note in found]


def test_a_proof_says_element_object_time_and_ledger(made: tuple[World, Places, dict[str, Any]]) -> None:
    world, places, proof = made
    proved = check_proof(json.dumps(proof).encode(), KEY.verifier)
    assert proved.facts["id"] == places.current.id
    assert proved.facts["source"] == places.current.source.hex()
    assert proved.facts["sha256"] == places.objects["current"].hex()
    assert proved.facts["bytes"] == 700
    said = " ".join(proved.sentences)
    with world.opened() as ledger:
        last = list(ledger.history(places.current))[-1]
        assert proved.facts["position"] == last.position
        assert proved.facts["recorded_us"] == last.recorded_us
        origin = ledger.identity().ledger_id.hex()
    for part in (places.current.id, places.objects["current"].hex(), "700 bytes", origin, KEY.verifier.text):
        assert part in said


def test_a_past_state_is_proved_by_the_smallest_checkpoint_that_covers_it(
    made: tuple[World, Places, dict[str, Any]],
) -> None:
    world, places, proof = made
    with world.opened() as ledger:
        first = next(ledger.history(places.current))
        past = prove_event(ledger, places.current, until=first.position, checkpoints=notes(world))
    proved = check_proof(json.dumps(past).encode(), KEY.verifier)
    assert proved.facts["event"] == "RemoteObserved"
    assert proved.facts["sha256"] is None
    assert proved.facts["size"] == notes(world)[0][0].size
    assert past["checkpoint"] != proof["checkpoint"]


def _b64(change: Callable[[bytes], bytes]) -> Callable[[str], str]:
    return lambda text: base64.b64encode(change(base64.b64decode(text))).decode()


def _flip(held: bytes) -> bytes:
    return held[:-1] + bytes([held[-1] ^ 1])


def _flip_hex(text: str) -> str:
    return _flip(bytes.fromhex(text)).hex()


CHANGES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "another element": ("id", lambda text: text + "x"),
    "no element": ("id", lambda _: ""),
    "an element of broken text": ("id", lambda _: "\ud800"),
    "another kind": ("type", lambda _: "folder"),
    "another salt": ("salt", _flip_hex),
    "a short salt": ("salt", lambda text: text[:-2]),
    "another nonce": ("nonce", _flip_hex),
    "another payload": ("payload", _b64(_flip)),
    "a cut payload": ("payload", _b64(lambda held: held[:-1])),
    "another header": ("header", _b64(_flip)),
    "a cut header": ("header", _b64(lambda held: held[:-1])),
    "no base64": ("header", lambda _: "?"),
    "a number for a header": ("header", lambda _: 5),
    "a path cut": ("path", lambda path: path[:-1]),
    "a path extended": ("path", lambda path: [*path, path[0]]),
    "a path turned": ("path", lambda path: path[::-1]),
    "a path flipped": ("path", lambda path: [_flip_hex(path[0]), *path[1:]]),
    "base64 in lines": ("header", lambda text: text + "\n"),
    "base64 without its padding": ("payload", lambda text: text.rstrip("=")[:-1]),
    "digits with a space between": ("nonce", lambda text: text[:2] + " " + text[2:]),
    "a path with spaces": ("path", lambda path: [path[0] + " ", *path[1:]]),
    "a path of numbers": ("path", lambda path: [5, *path[1:]]),
    "a path of short hashes": ("path", lambda path: [node[:-2] for node in path]),
    "no path": ("path", lambda _: "path"),
    "an endless path": ("path", lambda path: path * 50),
    "another size": ("checkpoint", lambda text: text.replace("\n2", "\n3", 1)),
    "a cut signature": ("checkpoint", lambda text: text[:-9]),
    "no checkpoint": ("checkpoint", lambda _: ""),
    "another format": ("format", lambda _: "kropotcli-inclusion-proof-v9"),
    "no format": ("format", lambda _: None),
}


@pytest.mark.parametrize("name", CHANGES)
def test_no_changed_proof_is_believed(made: tuple[World, Places, dict[str, Any]], name: str) -> None:
    field, change = CHANGES[name]
    proof = {**made[2], field: change(made[2][field])}
    with pytest.raises(IntegrityError):
        check_proof(json.dumps(proof).encode(), KEY.verifier)


def test_digits_may_be_large_and_what_the_format_does_not_name_says_nothing(
    made: tuple[World, Places, dict[str, Any]],
) -> None:
    proof = made[2]
    again = {**proof, "salt": proof["salt"].upper(), "path": [node.upper() for node in proof["path"]], "note": "x"}
    facts = check_proof(json.dumps(proof).encode(), KEY.verifier).facts
    assert check_proof(json.dumps(again).encode(), KEY.verifier).facts == facts


@pytest.mark.parametrize("field", ["id", "type", "salt", "nonce", "payload", "header", "path", "checkpoint", "format"])
def test_a_proof_with_a_field_missing_is_refused(made: tuple[World, Places, dict[str, Any]], field: str) -> None:
    proof = {name: value for name, value in made[2].items() if name != field}
    with pytest.raises(IntegrityError):
        check_proof(json.dumps(proof).encode(), KEY.verifier)


@pytest.mark.parametrize("document", [b"", b"\xff", b"[]", b"5", b"{}", b"[" * 100_000, b'{"format": 1}'])
def test_what_is_no_proof_is_refused(document: bytes) -> None:
    with pytest.raises(IntegrityError):
        check_proof(document, KEY.verifier)


def test_a_proof_under_another_key_proves_nothing(made: tuple[World, Places, dict[str, Any]]) -> None:
    with pytest.raises(IntegrityError, match="not with the key"):
        check_proof(json.dumps(made[2]).encode(), OTHER_KEY.verifier)


def test_growth_is_proved_between_every_two_checkpoints(made: tuple[World, Places, dict[str, Any]]) -> None:
    world = made[0]
    kept = notes(world)
    with world.opened() as ledger:
        for number, old in enumerate(kept):
            for new in kept[number:]:
                proof = prove_consistency(ledger, old, new)
                proved = check_proof(json.dumps(proof).encode(), KEY.verifier)
                assert proved.facts["appended"] == new[0].size - old[0].size
                for path in ([*proof["path"], "00" * 32], [_flip_hex(node) for node in proof["path"]] or ["00" * 32]):
                    with pytest.raises(IntegrityError):
                        check_proof(json.dumps({**proof, "path": path}).encode(), KEY.verifier)


def test_growth_from_another_history_is_not_proved(made: tuple[World, Places, dict[str, Any]]) -> None:
    world = made[0]
    old, new = notes(world)[0], notes(world)[-1]
    forked = replace(old[0], root=bytes(32))
    other = replace(old[0], origin="another/ledger")
    longer = replace(new[0], size=10**6)
    with world.opened() as ledger:
        with pytest.raises(IntegrityError, match="a different history"):
            prove_consistency(ledger, (forked, sign_checkpoint(forked, KEY)), new)
        with pytest.raises(IntegrityError, match="different ledgers"):
            prove_consistency(ledger, (other, sign_checkpoint(other, KEY)), new)
        with pytest.raises(IntegrityError, match="not the one that was signed"):
            prove_consistency(ledger, old, (longer, sign_checkpoint(longer, KEY)))
        with pytest.raises(UsageError, match="newer than the second"):
            prove_consistency(ledger, new, old)


def test_what_no_checkpoint_covers_is_not_proved(made: tuple[World, Places, dict[str, Any]]) -> None:
    world, places, _ = made
    with world.opened() as ledger:
        head = ledger.head().position
        with pytest.raises(UsageError, match="no checkpoint covers"):
            prove_event(ledger, places.current, until=head, checkpoints=notes(world)[:1])
        with pytest.raises(UsageError, match="not known"):
            prove_event(ledger, places.current, until=1, checkpoints=notes(world))
        forked = unverified_checkpoint(sign_checkpoint(notes(world)[-1][0], KEY))
        wrong = replace(forked, root=bytes(32))
        with pytest.raises(IntegrityError, match="not the signed one"):
            prove_event(ledger, places.current, until=head, checkpoints=[(wrong, b"")])
