"""Checkpoints and signed notes: the published example to the byte, and nothing else is believed."""

from __future__ import annotations

import base64
import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from ledger.checkpoint import (
    Checkpoint,
    SigningKey,
    VerifierKey,
    open_checkpoint,
    origin_of,
    sign_checkpoint,
)
from ledger.errors import BadCheckpointError
from ledger.note import open_note, sign_note

# The example key pair and note of the signed-note format's reference implementation.
PETER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PETER_PRIVATE = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
PETER_TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
PETER_NOTE = (
    PETER_TEXT + "\n\u2014 PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpR"
    "Zb6KE6RyyBwJnAM=\n"
).encode()
ENOCH = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"

KEY = SigningKey(name="kropotcli/ledger/00", seed=bytes(range(32)))
CHECKPOINT = Checkpoint(origin=origin_of(bytes(16)), size=20852163, root=bytes(range(32)))


def test_the_published_note_is_opened() -> None:
    assert open_note(PETER_NOTE, VerifierKey.parse(PETER)) == PETER_TEXT


def test_the_published_note_is_made_again_to_the_byte() -> None:
    assert sign_note(PETER_TEXT, SigningKey.parse(PETER_PRIVATE)) == PETER_NOTE


@pytest.mark.parametrize("text", [PETER, ENOCH])
def test_published_verifier_keys_read_and_write_alike(text: str) -> None:
    key = VerifierKey.parse(f" {text}\n")
    assert key.text == text
    name, key_id, encoded = text.split("+", 2)
    assert hashlib.sha256(name.encode() + b"\n" + base64.b64decode(encoded)).hexdigest()[:8] == key_id


def test_keys_read_back_and_match() -> None:
    key = SigningKey.parse(PETER_PRIVATE)
    assert key.text == PETER_PRIVATE
    assert key.verifier.text == PETER
    assert SigningKey.parse(KEY.text) == KEY
    assert "seed" not in repr(KEY)
    assert base64.b64encode(KEY.seed).decode() not in repr(KEY)


@pytest.mark.parametrize("cut", range(1, len(PETER)))
def test_no_part_of_a_verifier_key_is_one(cut: int) -> None:
    for part in (PETER[:cut], PETER[cut:]):
        with pytest.raises(BadCheckpointError) as caught:
            VerifierKey.parse(part)
        assert caught.value.kind == "key"


@pytest.mark.parametrize("at", range(len(PETER)))
def test_no_mistyped_verifier_key_is_taken(at: int) -> None:
    with pytest.raises(BadCheckpointError):
        VerifierKey.parse(PETER[:at] + chr(ord(PETER[at]) + 1) + PETER[at + 1 :])


@pytest.mark.parametrize(
    "text",
    [
        "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==",  # a longer key
        "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",  # another algorithm
        "",
        "+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
    ],
)
def test_published_wrong_verifier_keys_are_refused(text: str) -> None:
    with pytest.raises(BadCheckpointError):
        VerifierKey.parse(text)


def test_wrong_signing_keys_are_refused_without_being_shown() -> None:
    for text in (PETER, PETER_PRIVATE[:-4], PETER_PRIVATE.replace("c74f20a3", "c74f20a4"), "PRIVATE+KEY+", ""):
        with pytest.raises(BadCheckpointError) as caught:
            SigningKey.parse(text)
        assert "AYEK" not in str(caught.value)
    for name in ("", "a b", "a+b", "a\u2003b"):
        with pytest.raises(BadCheckpointError):
            SigningKey.generate(name, bytes)


@pytest.mark.parametrize("at", range(len(PETER_NOTE)))
def test_no_changed_byte_of_a_note_is_believed(at: int) -> None:
    for flip in (1, 0x20, 0x80):
        changed = PETER_NOTE[:at] + bytes([PETER_NOTE[at] ^ flip]) + PETER_NOTE[at + 1 :]
        with pytest.raises(BadCheckpointError):
            open_note(changed, VerifierKey.parse(PETER))


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_in_one_way_only(note: bytes) -> None:
    with pytest.raises(BadCheckpointError):
        open_note(note, KEY.verifier)


def test_each_kind_of_refusal_has_its_name() -> None:
    note = sign_checkpoint(CHECKPOINT, KEY)
    other = SigningKey(name=KEY.name, seed=bytes(32))
    for wrong, key, kind in (
        (note, other.verifier, "key"),
        (note, VerifierKey.parse(PETER), "key"),
        (note.replace(b"20852163", b"20852164"), KEY.verifier, "signature"),
        (note[:-10], KEY.verifier, "malformed"),
        (b"x" * (1 << 20) + note, KEY.verifier, "malformed"),
        (note + note.splitlines(keepends=True)[-1] * 100, KEY.verifier, "malformed"),
        (sign_note("one line\n", KEY), KEY.verifier, "malformed"),
    ):
        with pytest.raises(BadCheckpointError) as caught:
            open_checkpoint(wrong, key)
        assert caught.value.kind == kind


def test_a_checkpoint_reads_back_whoever_else_signed_it() -> None:
    note = sign_checkpoint(CHECKPOINT, KEY)
    assert open_checkpoint(note, KEY.verifier) == CHECKPOINT
    peter = SigningKey.parse(PETER_PRIVATE)
    witness = sign_checkpoint(CHECKPOINT, peter).splitlines(keepends=True)[-1]
    assert open_checkpoint(note + witness, KEY.verifier) == CHECKPOINT
    assert open_checkpoint(note + witness, peter.verifier) == CHECKPOINT


def test_a_checkpoint_is_what_the_naive_reader_expects() -> None:
    text, _, signature = sign_checkpoint(CHECKPOINT, KEY).decode().rpartition("\n\n")
    assert text.split("\n") == [
        "kropotcli/ledger/" + "00" * 16,
        "20852163",
        base64.b64encode(bytes(range(32))).decode(),
    ]
    dash, name, encoded = signature.rstrip("\n").split(" ")
    assert (dash, name) == ("\u2014", KEY.name)
    Ed25519PublicKey.from_public_bytes(KEY.verifier.public).verify(base64.b64decode(encoded)[4:], text.encode() + b"\n")


def test_the_published_checkpoint_text_is_read() -> None:
    text = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    read = Checkpoint.parse(text)
    assert (read.origin, read.size) == ("example.com/behind-the-sofa", 20852163)
    assert read.text == text
    assert Checkpoint.parse(text + "an extension\n") == read


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n\n",
        "origin\n1\n",
        "origin\n01\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n",
        "origin\n-1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n",
        "origin\n1e3\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n",
        "origin\n\u0661\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n",
        "origin\n99999999999999999999\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n",
        "origin\n1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I\n",
        "origin\n1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2J=\n",
        "origin\n1\nAAAA\n",
        "origin\n1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=",
        "origin\n1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\nx\n",
    ],
)
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(BadCheckpointError):
        Checkpoint.parse(text)


def test_a_text_that_could_hide_lines_is_not_signed() -> None:
    for text in ("no newline", "a\rb\n", "a\x00b\n", "\x1b[2Jx\n"):
        with pytest.raises(BadCheckpointError):
            sign_note(text, KEY)
