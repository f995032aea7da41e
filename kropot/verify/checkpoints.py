"""Compare checkpoints with the recomputed tree. This finds bad signatures, rollbacks and forks."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from msgspec import Struct

from ledger.audit import Finding
from ledger.checkpoint import Checkpoint, open_checkpoint, origin_of, unverified_checkpoint
from ledger.errors import BadCheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ledger.audit import LogAudit
    from ledger.note import VerifierKey

ROLLED_BACK = (
    "the database is an older copy, or its end was cut off: restore its newest backup, and do not collect until then"
)
FORKED = (
    "someone rewrote the history, or two copies of the database both went on: run `kropotcli verify --against` with "
    "this checkpoint on every backup of the database, to find the one that was signed"
)
_KINDS = {"malformed": "bad_checkpoint", "key": "unknown_key", "signature": "bad_signature"}


class Note(NamedTuple):
    """A signed note, and where it was found. `size` is its size in the database, None if the user gave the note."""

    where: str
    note: bytes
    size: int | None = None


class Sealed(Struct, frozen=True, kw_only=True):
    """A checkpoint to compare. Its signature was verified if a key was given."""

    where: str
    checkpoint: Checkpoint


class CheckpointAudit:
    """Opens notes before the ledger is read, and compares them with its roots afterwards.

    `sealed_to` is the largest size at which a checkpoint with a verified signature agrees with the ledger, or None.
    """

    def __init__(self, notes: Iterable[Note], key: VerifierKey | None) -> None:
        """Open every note. A note that cannot be trusted becomes a finding at once."""
        self.key = key
        self.sealed: list[Sealed] = []
        self.findings: list[Finding] = []
        self.checked = 0
        self.sealed_to: int | None = None
        for note in notes:
            self._open(note)

    @property
    def sizes(self) -> set[int]:
        """The sizes at which the comparison needs the tree's root."""
        return {each.checkpoint.size for each in self.sealed}

    def compare(self, log: LogAudit, ledger_id: bytes | None) -> Iterator[Finding]:
        """Yield every disagreement with the ledger. `log` MUST have been read to its end with `sizes` marked."""
        yield from self.findings
        agreed = 0
        for each in sorted(self.sealed, key=lambda sealed: sealed.checkpoint.size):
            checkpoint = each.checkpoint
            self.checked += 1
            if ledger_id is not None and checkpoint.origin != origin_of(ledger_id):
                yield Finding(
                    kind="foreign_checkpoint",
                    severity="error",
                    detail=f"{each.where} belongs to another ledger: {checkpoint.origin}",
                    hint="check that this is the right database; if it is, remove the file from --against",
                )
            elif checkpoint.size > log.head.position:
                yield Finding(
                    kind="rolled_back",
                    severity="error",
                    detail=f"TRUNCATED OR ROLLED BACK: {each.where} covers {checkpoint.size} events, but the ledger "
                    f"has only {log.head.position}",
                    hint=ROLLED_BACK,
                    position=log.head.position + 1,
                )
            elif checkpoint.size not in log.roots:
                yield Finding(
                    kind="not_comparable",
                    severity="error",
                    detail=f"{each.where} cannot be compared: events before position {checkpoint.size} are missing",
                    hint="look at the findings about the ledger first",
                    position=log.first_bad,
                )
            elif log.roots[checkpoint.size] != checkpoint.root:
                # A finding about the ledger locates the fork more exactly than two checkpoints can.
                bad = log.first_bad
                first = bad if bad is not None and agreed < bad <= checkpoint.size else agreed + 1
                yield Finding(
                    kind="fork",
                    severity="error",
                    detail=f"FORK: {each.where} was signed over a different history of {checkpoint.size} events; the "
                    f"first difference is somewhere in positions {first} to {checkpoint.size}",
                    hint=FORKED,
                    position=first,
                )
            else:
                agreed = max(agreed, checkpoint.size)
                if self.key is not None:
                    self.sealed_to = agreed

    def _open(self, note: Note) -> None:
        try:
            key = self.key
            checkpoint = unverified_checkpoint(note.note) if key is None else open_checkpoint(note.note, key)
        except BadCheckpointError as error:
            self.findings.append(
                Finding(
                    kind=_KINDS[error.kind],
                    severity="error",
                    detail=f"{note.where}: {error.why}",
                    hint="the checkpoint proves nothing: check the public key, and find out who put this file there",
                )
            )
            return
        if note.size not in (None, checkpoint.size):
            detail = f"{note.where} is stored with size {note.size}, but its text says {checkpoint.size}"
            hint = "someone changed the database by hand: use --against with checkpoints that are kept elsewhere"
            self.findings.append(Finding(kind="bad_checkpoint", severity="error", detail=detail, hint=hint))
            return
        self.sealed.append(Sealed(where=note.where, checkpoint=checkpoint))
