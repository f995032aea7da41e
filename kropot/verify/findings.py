"""What a verification says: findings, each with what to do, and a summary of what was and was not looked at."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ledger.events import StreamKey

if TYPE_CHECKING:
    from ledger.audit import Flaw

Severity = Literal["error", "note"]

RESTORE_LEDGER = (
    "keep this database as it is, compare it with an older backup and with signed checkpoints kept elsewhere; "
    "do not collect into it meanwhile"
)
REBUILD = "the events are sound: `kropotcli rebuild` derives the index from them anew"

_INDEX = frozenset({"index_mismatch", "index_missing", "tally_mismatch", "copies_mismatch", "source_mismatch"})
_HINTS = {
    "unknown_critical": "install the version of this program that wrote it",
    "not_erased": "run the erasure again: what should be gone still stands in the database",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was found: an "error" is not as it should be, a "note" is worth knowing.

    `kind` is a stable word. `element` is an element's id and `source` its source (hexadecimal), `object` the SHA-256
    of an object (hexadecimal), `position` the first bad position of the log; each None where it does not apply.
    """

    kind: str
    severity: Severity
    detail: str
    hint: str = ""
    source: str | None = None
    element: str | None = None
    object: str | None = None
    position: int | None = None


@dataclass(slots=True, kw_only=True)
class Summary:
    """What a verification covered, part by part, with counts; and in words what it did not cover, and why.

    `complete` is whether everything that was asked for was looked at, `repaired` how many errors were mended since they
    were found, `sound` whether nothing is left that is wrong.
    """

    covered: dict[str, dict[str, Any]] = field(default_factory=dict)
    not_covered: list[str] = field(default_factory=list)
    errors: int = 0
    notes: int = 0
    repaired: int = 0
    complete: bool = True

    @property
    def sound(self) -> bool:
        """Whether nothing that was looked at is wrong, or still wrong."""
        return self.errors == self.repaired

    def miss(self, what: str) -> None:
        """Say that something which was asked for was not looked at."""
        self.not_covered.append(what)
        self.complete = False

    def count(self, finding: Finding) -> Finding:
        """Take a finding into account, and return it."""
        if finding.severity == "error":
            self.errors += 1
        else:
            self.notes += 1
        return finding


def of_flaw(flaw: Flaw) -> Finding:
    """Return the finding for a flaw of the ledger or its index."""
    key = _readable(flaw.key)
    return Finding(
        kind=flaw.kind,
        severity="error",
        detail=flaw.detail,
        hint=REBUILD if flaw.kind in _INDEX else _HINTS.get(flaw.kind, RESTORE_LEDGER),
        source=None if key is None or not key.is_element else key.source.hex(),
        element=None if key is None or not key.is_element else key.id,
        position=flaw.position,
    )


def _readable(stored: bytes | None) -> StreamKey | None:
    try:
        return None if stored is None else StreamKey.parse(stored)
    except UnicodeDecodeError:
        return None  # the key itself was tampered with; the position says where
