"""What a verification says: findings, each with what to do, and a summary of what was and was not looked at."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ledger.audit import Finding

RESTORE_LEDGER = (
    "keep this database as it is, compare it with an older backup and with signed checkpoints kept elsewhere; "
    "do not collect into it meanwhile"
)
REBUILD = "the events are sound: `kropotcli rebuild` derives the index from them anew"

_INDEX = frozenset({"index_mismatch", "index_missing", "tally_mismatch", "copies_mismatch", "source_mismatch"})
_HINTS = {
    "unknown_critical": "install the version of this program that wrote it",
    "not_erased": (
        "the log says that this was erased, but the database still holds it: the database was changed since; "
        "compare it with a backup made after the erasure"
    ),
}


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


def with_hint(finding: Finding) -> Finding:
    """Return the finding of a ledger's audit with a hint: what to do now with this program."""
    return replace(finding, hint=REBUILD if finding.kind in _INDEX else _HINTS.get(finding.kind, RESTORE_LEDGER))
