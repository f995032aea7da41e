"""Making proofs from a ledger: JSON documents, and each is checked before it is handed out (docs/format.md)."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from kropot.errors import IntegrityError, UsageError
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

_MENDING = "the ledger is not the one that was signed: run `kropotcli verify --against` with this checkpoint"


def prove_event(
    ledger: Ledger, key: StreamKey, *, until: int, checkpoints: Iterable[tuple[Checkpoint, bytes]]
) -> dict[str, Any]:
    """Return the proof of the event that holds the element's state after position `until`.

    `checkpoints` are signed ones with their notes; the smallest that covers the event is taken.

    Raises:
        UsageError: if the element was not known then, or no checkpoint covers its event.
        IntegrityError: if the ledger does not have the checkpoint's root.
    """
    record = _state_at(ledger, key, until)
    covering = [pair for pair in checkpoints if pair[0].size >= record.position]
    if not covering:
        raise UsageError(
            f"no checkpoint covers position {record.position}, where this state was recorded: "
            "`kropotcli checkpoint sign` makes one, or give one with --checkpoint"
        )
    checkpoint, note = min(covering, key=lambda pair: pair[0].size)
    _covers(ledger, checkpoint)
    event = ledger.log.events_at([record.position])[0]
    path = inclusion_path(event.seq - 1, checkpoint.size, ledger.log.leaves, ledger.frontier_at)
    if not verify_inclusion(event.leaf, event.seq - 1, checkpoint.size, path, checkpoint.root):
        raise IntegrityError(f"the event at position {event.seq} is not in the signed tree: {_MENDING}")
    if event.payload is None or event.nonce is None:
        raise UsageError("the element was erased: there is nothing left to be proved of it")
    return {
        "format": INCLUSION,
        "source": key.source.hex(),
        "type": key.kind,
        "id": key.id,
        "salt": ledger.sources()[key.source].source.salt.hex(),
        "header": _encode(event.header),
        "nonce": event.nonce.hex(),
        "payload": _encode(event.payload),
        "path": [node.hex() for node in path],
        "checkpoint": note.decode(),
    }


def prove_consistency(ledger: Ledger, old: tuple[Checkpoint, bytes], new: tuple[Checkpoint, bytes]) -> dict[str, Any]:
    """Return the proof that the checkpoint `new` only appended to `old`.

    Raises:
        UsageError: if the old one is the larger.
        IntegrityError: if they are of different ledgers, or this ledger does not have their roots.
    """
    before, after = old[0], new[0]
    if before.origin != after.origin:
        raise IntegrityError(f"the checkpoints are of different ledgers: {before.origin} and {after.origin}")
    if before.size > after.size:
        raise UsageError(f"the first checkpoint ({before.size} events) is newer than the second ({after.size})")
    _covers(ledger, after)
    path = consistency_path(before.size, after.size, ledger.log.leaves, ledger.frontier_at)
    if not verify_consistency(before.size, after.size, before.root, after.root, path):
        raise IntegrityError(
            f"the first {before.size} events of this history are not those that the older checkpoint vouches for: "
            "one of the two was signed over another history"
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
        raise UsageError(f"the element was not known at position {until}")
    return found


def _covers(ledger: Ledger, checkpoint: Checkpoint) -> None:
    """Raise IntegrityError unless the ledger has the tree that the checkpoint vouches for."""
    position = ledger.head().position
    if checkpoint.size > position:
        raise IntegrityError(
            f"the checkpoint vouches for {checkpoint.size} events, and there are {position}: {_MENDING}"
        )
    if ledger.frontier_at(checkpoint.size).root != checkpoint.root:
        raise IntegrityError(f"the root over {checkpoint.size} events is not the signed one: {_MENDING}")


def _encode(held: bytes) -> str:
    return base64.b64encode(held).decode()
