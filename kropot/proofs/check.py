"""Check proofs with only a public key. This needs no database, no storage and no content key."""

from __future__ import annotations

import base64
import binascii
import json
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from kropot.errors import IntegrityError
from kropot.proofs.make import CONSISTENCY, INCLUSION
from kropot.wording import quoted
from ledger.checkpoint import open_checkpoint
from ledger.codec import (
    SOURCE_BYTES,
    decode_header,
    decode_payload,
    leaf_hash,
    payload_digest,
    source_id_of,
    stream_digest,
)
from ledger.errors import BadCheckpointError, MalformedEventError
from ledger.events import NO_SOURCE, ElementFact, StreamKey
from ledger.merkle import verify_consistency, verify_inclusion

if TYPE_CHECKING:
    from ledger.checkpoint import Checkpoint
    from ledger.note import VerifierKey

MAX_BYTES = 4 << 20

_ADVICE = "do not rely on this proof, and ask for a new one"


class Proved(Struct, frozen=True, kw_only=True):
    """What a proof proves: facts by name, and the same facts as sentences."""

    facts: dict[str, Any]
    sentences: tuple[str, ...]


def check_proof(document: bytes, key: VerifierKey) -> Proved:
    """Return what the proof proves, if we trust that `key` never signs two different histories.

    Raises:
        IntegrityError: if it proves nothing. The message says why.
    """
    try:
        proof = json.loads(document)
    except (ValueError, RecursionError):
        raise IntegrityError("this is not a proof, because it is not valid JSON: give another file") from None
    kind = proof.get("format") if isinstance(proof, dict) else None
    try:
        if kind == INCLUSION:
            return _inclusion(proof, key)
        if kind == CONSISTENCY:
            return _consistency(proof, key)
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise IntegrityError(
            f"this is not a proof, because a field is missing or malformed ({error}): {_ADVICE}"
        ) from None
    except BadCheckpointError as error:
        raise IntegrityError(f"the checkpoint in the proof cannot be trusted ({error.why}): {_ADVICE}") from None
    except MalformedEventError as error:
        raise IntegrityError(f"the event in the proof cannot be read ({error.why}): {_ADVICE}") from None
    shown = quoted(kind) if isinstance(kind, str) else "none"
    raise IntegrityError(
        f"this version does not know this kind of proof (format {shown}): install the version that made it"
    )


def _inclusion(proof: dict[str, Any], key: VerifierKey) -> Proved:
    checkpoint = open_checkpoint(_text(proof, "checkpoint").encode(), key)
    stored = base64.b64decode(_text(proof, "header"), validate=True)
    payload = base64.b64decode(_text(proof, "payload"), validate=True)
    header = decode_header(stored)
    salt = _hex(proof, "salt", 32)
    source = None if proof["source"] is None else _hex(proof, "source", SOURCE_BYTES)
    name = StreamKey(source=source or NO_SOURCE, kind=_text(proof, "type"), id=_text(proof, "id"))
    if not verify_inclusion(leaf_hash(stored), header.seq - 1, checkpoint.size, _path(proof), checkpoint.root):
        raise IntegrityError(f"the event is not at position {header.seq} of the signed history: {_ADVICE}")
    if payload_digest(_hex(proof, "nonce", 16), payload) != header.payload_digest:
        raise IntegrityError(f"the payload is not the one that was signed: {_ADVICE}")
    if StreamKey.parse(name.stored) != name or stream_digest(salt, name) != header.stream_digest:
        raise IntegrityError(f"the event is about another element than the proof says: {_ADVICE}")
    # The header commits to the salt, and the salt to the source's id.
    if source not in (None, source_id_of(salt)):
        raise IntegrityError(f"nothing that was signed names the source in the proof: {_ADVICE}")
    fact = decode_payload(header.type, header.schema_version, header.flags, payload)
    if not isinstance(fact, ElementFact) or not hasattr(fact, "element"):
        raise IntegrityError(f"the event ({quoted(header.type)}) says nothing about an element: {_ADVICE}")
    element = fact.element
    copy = element.copy
    facts = {
        "proved": "inclusion",
        "ledger": checkpoint.origin,
        "signer": key.text,
        "size": checkpoint.size,
        "position": header.seq,
        "recorded_us": header.recorded_us,
        "source": None if source is None else source.hex(),
        "type": name.kind,
        "id": name.id,
        "event": header.type,
        "state": element.state,
        "revision": element.revision,
        "date": element.date,
        "sha256": None if copy is None else copy.sha256.hex(),
        "bytes": None if copy is None else copy.size,
        "copy_revision": None if copy is None else copy.revision,
    }
    return Proved(facts=facts, sentences=tuple(_sentences(facts)))


def _consistency(proof: dict[str, Any], key: VerifierKey) -> Proved:
    old = open_checkpoint(_text(proof, "old").encode(), key)
    new = open_checkpoint(_text(proof, "new").encode(), key)
    return check_growth(old, new, _path(proof), key)


def check_growth(old: Checkpoint, new: Checkpoint, path: tuple[bytes, ...], key: VerifierKey) -> Proved:
    """Return what a consistency proof proves. Raises: IntegrityError if it proves nothing."""
    if old.origin != new.origin:
        raise IntegrityError(
            f"the checkpoints belong to different ledgers: {quoted(old.origin)} and {quoted(new.origin)}"
        )
    if not verify_consistency(old.size, new.size, old.root, new.root, path):
        raise IntegrityError(
            f"the proof does not show that the history of {new.size} events begins with that of {old.size} events: "
            f"{_ADVICE}"
        )
    facts = {
        "proved": "consistency",
        "ledger": old.origin,
        "signer": key.text,
        "old_size": old.size,
        "new_size": new.size,
        "appended": new.size - old.size,
    }
    sentence = (
        f"The ledger {quoted(old.origin)} had {old.size} events when the first checkpoint was signed and {new.size} "
        f"when the second was signed: {new.size - old.size} were appended. None of the first {old.size} events was "
        "changed or removed, and none was inserted among them."
    )
    return Proved(facts=facts, sentences=(sentence,))


# --- helpers ---------------------------------------------------------------------------------------------------------


def _sentences(facts: dict[str, Any]) -> list[str]:
    from kropot.wording import instant

    revision, recorded = facts["revision"], instant(facts["recorded_us"])
    of_source = "" if facts["source"] is None else f" of source {facts['source']}"
    lines = [f"Element {quoted(facts['id'])}{of_source} was recorded as {facts['state']} at {recorded}."]
    lines.append(f"This was its revision {revision}, with the server's date {facts['date']}.")
    if facts["sha256"] is not None:
        of = f"revision {facts['copy_revision']}"
        lines.append(f"Its copy (of {of}) has the SHA-256 {facts['sha256']} and {facts['bytes']} bytes.")
    lines.append(
        f"This is at position {facts['position']} of the ledger {quoted(facts['ledger'])}. The key "
        f"{quoted(facts['signer'])} signed the first {facts['size']} events of that ledger."
    )
    if facts["source"] is None:
        lines.append("The proof does not say to which source of that ledger the element belongs.")
    lines.append("The ledger's own clock gave the time. The signature proves the order of events, not their time.")
    return lines


def _text(proof: dict[str, Any], name: str) -> str:
    value = proof[name]
    if not isinstance(value, str):
        raise TypeError(f"{name} is not text")
    return value


def _hex(proof: dict[str, Any], name: str, length: int) -> bytes:
    return _bytes(_text(proof, name), name, length)


def _bytes(text: str, name: str, length: int) -> bytes:
    if len(text) != 2 * length:  # `fromhex` ignores spaces
        raise ValueError(f"{name} has {len(text)} hexadecimal digits instead of {2 * length}")
    value = bytes.fromhex(text)
    if len(value) != length:
        raise ValueError(f"{name} has {len(value)} bytes instead of {length}")
    return value


def _path(proof: dict[str, Any]) -> tuple[bytes, ...]:
    path = proof["path"]
    if not isinstance(path, list) or len(path) > 128:  # noqa: PLR2004 -- twice the depth of the largest possible tree
        raise TypeError("the path is not a list of hashes")
    return tuple(_bytes(node, "path", 32) for node in path)
