"""Make proofs from a ledger. Each is a JSON document (docs/format.md) and is checked before it is returned."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from kropot.errors import IntegrityError, UsageError
from kropot.wording import quoted
from ledger.codec import source_id_of
from ledger.events import ElementFact, ErasedFact
from ledger.merkle import consistency_path, inclusion_path, verify_consistency, verify_inclusion

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ledger.checkpoint import Checkpoint
    from ledger.events import StreamKey
    from ledger.log import Ledger
    from ledger.replica import Event

INCLUSION = "kropotcli-inclusion-proof-v1"
CONSISTENCY = "kropotcli-consistency-proof-v1"

_HINT = "the ledger is not the one that was signed; run `kropotcli verify --against` with this checkpoint"


def prove_event(
    ledger: Ledger, key: StreamKey, *, until: int, checkpoints: Iterable[tuple[Checkpoint, bytes]]
) -> dict[str, Any]:
    """Return the proof of the event that holds the element's state after position `until`.

    `checkpoints` are (checkpoint, signed note) pairs. The proof uses the smallest one that covers the event.

    Raises:
        UsageError: if the element was not known then or was erased, or if no checkpoint covers its event.
        IntegrityError: if the ledger does not have the checkpoint's root.
    """
    record = _state_at(ledger, key, until)
    covering = [pair for pair in checkpoints if pair[0].size >= record.position]
    if not covering:
        raise UsageError(
            f"no checkpoint covers position {record.position}, where this state was recorded: "
            "make one with `kropotcli checkpoint sign`, or give one with --checkpoint"
        )
    checkpoint, note = min(covering, key=lambda pair: pair[0].size)
    _covers(ledger, checkpoint)
    event = ledger.log.events_at([record.position])[0]
    path = inclusion_path(event.seq - 1, checkpoint.size, ledger.log.leaves, ledger.frontier_at)
    if not verify_inclusion(event.leaf, event.seq - 1, checkpoint.size, path, checkpoint.root):
        raise IntegrityError(f"the event at position {event.seq} is not in the signed tree: {_HINT}")
    if event.payload is None or event.nonce is None:
        raise UsageError(
            f"the element {quoted(key.id)} was erased, so nothing about it can be proved: choose another element"
        )
    salt = ledger.sources()[key.source].source.salt
    return {
        "format": INCLUSION,
        # Early versions gave a source a random id. Nothing signed commits to it, so no proof can name that source.
        "source": key.source.hex() if key.source == source_id_of(salt) else None,
        "type": key.kind,
        "id": key.id,
        "salt": salt.hex(),
        "header": _encode(event.header),
        "nonce": event.nonce.hex(),
        "payload": _encode(event.payload),
        "path": [node.hex() for node in path],
        "checkpoint": note.decode(),
    }


def prove_consistency(ledger: Ledger, old: tuple[Checkpoint, bytes], new: tuple[Checkpoint, bytes]) -> dict[str, Any]:
    """Return the proof that the history of checkpoint `new` begins with the whole history of `old`.

    Raises:
        UsageError: if `old` is larger than `new`.
        IntegrityError: if they belong to different ledgers, or this ledger does not have their roots.
    """
    before, after = old[0], new[0]
    if before.origin != after.origin:
        raise IntegrityError(
            f"the checkpoints belong to different ledgers, {before.origin} and {after.origin}: give two of one ledger"
        )
    if before.size > after.size:
        raise UsageError(
            f"the first checkpoint ({before.size} events) is newer than the second ({after.size} events): swap them"
        )
    _covers(ledger, after)
    path = consistency_path(before.size, after.size, ledger.log.leaves, ledger.frontier_at)
    if not verify_consistency(before.size, after.size, before.root, after.root, path):
        raise IntegrityError(
            f"the first {before.size} events of this ledger are not those that the older checkpoint covers: one of the "
            "two was signed over a different history; run `kropotcli verify --against` with both"
        )
    return {
        "format": CONSISTENCY,
        "old": old[1].decode(),
        "new": new[1].decode(),
        "path": [node.hex() for node in path],
    }


# --- helpers ---------------------------------------------------------------------------------------------------------


def _state_at(ledger: Ledger, key: StreamKey, until: int) -> Event:
    found: Event | None = None
    for record in ledger.history(key):
        if record.position > until:
            break
        if isinstance(record.fact, ElementFact | ErasedFact):
            found = record
    if found is None:
        raise UsageError(f"the element {quoted(key.id)} was not known at position {until}: choose a later moment")
    return found


def _covers(ledger: Ledger, checkpoint: Checkpoint) -> None:
    """Check that the ledger has the tree that the checkpoint covers. Raises: IntegrityError."""
    position = ledger.head().position
    if checkpoint.size > position:
        raise IntegrityError(
            f"the checkpoint covers {checkpoint.size} events, but the ledger has only {position}: {_HINT}"
        )
    if ledger.frontier_at(checkpoint.size).root != checkpoint.root:
        raise IntegrityError(f"the root over {checkpoint.size} events is not the signed one: {_HINT}")


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()
