"""Sign the head of a ledger, but only if the ledger extends its earlier checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kropot.errors import IntegrityError
from ledger.checkpoint import Checkpoint, open_checkpoint, origin_of, sign_checkpoint, unverified_checkpoint
from ledger.errors import BadCheckpointError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from kropot.checkpoints.folder import CheckpointFolder
    from ledger.log import Ledger
    from ledger.note import SigningKey, VerifierKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """A signed head: the checkpoint, its note, and the files that were written (none if all folders had it)."""

    checkpoint: Checkpoint
    note: bytes
    paths: tuple[Path, ...]


def sign_head(ledger: Ledger, key: SigningKey, folders: Sequence[CheckpointFolder]) -> Signed:
    """Sign the ledger's head, keep the note in the database, and write it to every folder that lacks it.

    Raises:
        IntegrityError: if the ledger does not extend the newest checkpoint in a folder or in the database. It was then
            restored from an old copy, or altered, and nothing is signed.
        KropotError: if a folder cannot be read or written.
    """
    head = ledger.head()
    checkpoint = Checkpoint(origin=origin_of(ledger.identity().ledger_id), size=head.position, root=head.frontier.root)
    stored = list(ledger.blobs.checkpoints())[-1:]
    for _, kept in stored:
        _extends(ledger, checkpoint, kept.encode(), None, "the newest checkpoint in the database")
    lacking = []
    for folder in folders:
        newest = folder.newest()
        before = None if newest is None else _extends(ledger, checkpoint, newest.note, key.verifier, str(newest.path))
        if before is None or before.size < checkpoint.size:
            lacking.append(folder)
    note = sign_checkpoint(checkpoint, key)
    for folder in folders:
        if folder not in lacking:
            folder.settle()
    paths = tuple(folder.write(note) for folder in lacking)
    if not stored or stored[0][0] < checkpoint.size:
        ledger.blobs.save_checkpoint(checkpoint.size, note.decode())
    return Signed(checkpoint=checkpoint, note=note, paths=paths)


def _extends(ledger: Ledger, head: Checkpoint, note: bytes, key: VerifierKey | None, where: str) -> Checkpoint:
    """Return the older checkpoint. Raises: IntegrityError if the ledger does not extend it.

    Without `key`, the signature is not checked. A signature that is kept in the database adds no trust to it.
    """
    try:
        before = unverified_checkpoint(note) if key is None else open_checkpoint(note, key)
    except BadCheckpointError as error:
        raise IntegrityError(
            f"{where} cannot be trusted ({error.why}), so nothing was signed: check the key, or use a new folder for a "
            "new key"
        ) from None
    if before.origin != head.origin:
        raise IntegrityError(
            f"{where} belongs to another ledger ({before.origin}), so nothing was signed: check that this is the right "
            "database, and give each replica its own folder"
        )
    if before.size > head.size:
        raise IntegrityError(
            f"{where} covers {before.size} events, and the ledger has only {head.size}, so nothing was signed: it was "
            "truncated or rolled back to an older copy; restore the newest backup of the database"
        )
    if ledger.frontier_at(before.size).root != before.root:
        raise IntegrityError(
            f"the ledger's first {before.size} events are not those that {where} covers, so nothing was signed: "
            "the history was altered; run `kropotcli verify`"
        )
    return before
