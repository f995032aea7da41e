"""The key for checkpoints, if there is one: it signs the policy, and what it signed may be freed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kropot.checkpoints.keys import read_signing_key
from kropot.checkpoints.paths import default_key_path
from ledger.checkpoint import open_checkpoint, origin_of, unverified_checkpoint
from ledger.errors import BadCheckpointError

if TYPE_CHECKING:
    from pathlib import Path

    from ledger.log import Ledger
    from ledger.note import SigningKey, VerifierKey


def key_for(ledger: Ledger, given: Path | None) -> SigningKey | None:
    """Return the key in the file `given`, or in the ledger's default file if there is one. Raises: UsageError."""
    file = given or default_key_path(ledger.identity().ledger_id)
    if file is None or (given is None and not file.exists()):
        return None
    return read_signing_key(file)


def covered_by(ledger: Ledger, key: VerifierKey | None) -> int | None:
    """Return the position up to which checkpoints cover the ledger, None without a key and without checkpoints.

    Without the key, notes count as is, because they are signed on another machine.
    """
    origin = origin_of(ledger.identity().ledger_id)
    covered = None if key is None else 0
    for _, note in ledger.blobs.checkpoints():
        try:
            found = unverified_checkpoint(note.encode()) if key is None else open_checkpoint(note.encode(), key)
        except BadCheckpointError:
            continue
        if found.origin == origin:
            covered = max(covered or 0, found.size)
    return covered
