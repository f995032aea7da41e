"""Checkpoints against the tree that the audit recomputed: signatures, rollbacks, forks, and the unsealed tail."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ledger.audit import Finding
from ledger.checkpoint import Checkpoint, open_checkpoint, origin_of, unverified_checkpoint
from ledger.errors import BadCheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ledger.audit import LogAudit
    from ledger.note import VerifierKey

ROLLED_BACK = (
    "this database is an older copy, or its end was cut off: restore the newest backup of it, and collect again only "
    "after that"
)
FORKED = (
    "someone rewrote history, or two databases went on from one: compare with every backup of the database; the "
    "checkpoint tells which of them is the one that was signed"
)
_KINDS = {"malformed": "bad_checkpoint", "key": "unknown_key", "signature": "bad_signature"}


class Note(NamedTuple):
    """A signed note and where it was found; `size` is what the database keeps it as, None where the user brought it."""

    where: str
    note: bytes
    size: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """A checkpoint to be compared; its signature was verified unless there was no key to verify it with."""

    where: str
    checkpoint: Checkpoint


class CheckpointAudit:
    """Opens notes before the log is read, and compares them with its roots afterwards.

    `sealed_to` is the largest size that a checkpoint with a verified signature vouches for, and that the ledger has.
    """

    def __init__(self, notes: Iterable[Note], key: VerifierKey | None) -> None:
        """Open every note; whatever cannot be believed becomes a finding at once."""
        self.key = key
        self.sealed: list[Sealed] = []
        self.findings: list[Finding] = []
        self.checked = 0
        self.sealed_to: int | None = None
        for note in notes:
            self._open(note)

    @property
    def sizes(self) -> set[int]:
        """The sizes at which the tree's root is needed."""
        return {each.checkpoint.size for each in self.sealed}

    def compare(self, log: LogAudit, ledger_id: bytes | None) -> Iterator[Finding]:
        """Yield what does not fit the log, which MUST have been read to its end with `sizes` marked."""
        yield from self.findings
        agreed = 0
        for each in sorted(self.sealed, key=lambda sealed: sealed.checkpoint.size):
            checkpoint = each.checkpoint
            self.checked += 1
            if ledger_id is not None and checkpoint.origin != origin_of(ledger_id):
                yield Finding(
                    kind="foreign_checkpoint",
                    severity="error",
                    detail=f"{each.where} is of another ledger: {checkpoint.origin}",
                    hint="is this the database that was signed? if so, take the file out of --against",
                )
            elif checkpoint.size > log.head.position:
                yield Finding(
                    kind="rolled_back",
                    severity="error",
                    detail=f"TRUNCATED OR ROLLED BACK: {each.where} vouches for {checkpoint.size} events, "
                    f"and the ledger has {log.head.position}",
                    hint=ROLLED_BACK,
                    position=log.head.position + 1,
                )
            elif checkpoint.size not in log.roots:
                yield Finding(
                    kind="not_comparable",
                    severity="error",
                    detail=f"{each.where} cannot be compared: events before position {checkpoint.size} are missing",
                    hint="see the findings about the log",
                    position=log.first_bad,
                )
            elif log.roots[checkpoint.size] != checkpoint.root:
                # A finding about the log says more exactly where they part than two checkpoints can.
                bad = log.first_bad
                first = bad if bad is not None and agreed < bad <= checkpoint.size else agreed + 1
                yield Finding(
                    kind="fork",
                    severity="error",
                    detail=f"FORK: {each.where} vouches for another history of {checkpoint.size} events; "
                    f"they part somewhere in positions {first} to {checkpoint.size}",
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
                    hint="a checkpoint that is not signed by the given key vouches for nothing; find who put it there",
                )
            )
            return
        if note.size not in (None, checkpoint.size):
            detail = f"{note.where} is kept as one of size {note.size} and says {checkpoint.size}"
            hint = "the database was changed by hand; use checkpoints that are kept elsewhere"
            self.findings.append(Finding(kind="bad_checkpoint", severity="error", detail=detail, hint=hint))
            return
        self.sealed.append(Sealed(where=note.where, checkpoint=checkpoint))
