"""The results of a verification: hints for findings, and a summary of what was and was not checked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

if TYPE_CHECKING:
    from ledger.audit import Finding

RESTORE_LEDGER = (
    "keep this database as it is, and do not collect into it; compare it with an older backup and with signed "
    "checkpoints that are kept elsewhere"
)
REBUILD = "the events are sound: run `kropotcli rebuild` to make the projection from them again"

RESTORE_DATABASE = (
    "the database file is damaged, so check its disk; keep the file, stop collecting into it, and make the ledger again"
    " from the storage path with `kropotcli db recover` and another --db-string"
)

_INDEX = frozenset({"index_mismatch", "index_missing", "tally_mismatch", "copies_mismatch", "source_mismatch"})
_HINTS = {
    "damaged_database": RESTORE_DATABASE,
    "unknown_critical": "install the version of this program that wrote it",
    "not_erased": (
        "the ledger says that this was erased, but the database still holds it, so someone changed the database: "
        "compare it with a backup made after the erasure"
    ),
}


@dataclass(slots=True, kw_only=True)
class Summary:
    """What a verification covered, with counts for each part, and what it did not cover, in words.

    `complete` is true if everything that was requested was checked. `repaired` counts the errors that were repaired
    after they were found. `sound` is true if no error is left.
    """

    covered: dict[str, dict[str, Any]] = field(default_factory=dict)
    not_covered: list[str] = field(default_factory=list)
    errors: int = 0
    notes: int = 0
    repaired: int = 0
    complete: bool = True

    @property
    def sound(self) -> bool:
        """Whether no error was found, or every error was repaired."""
        return self.errors == self.repaired

    def miss(self, what: str) -> None:
        """Record that something that was requested was not checked."""
        self.not_covered.append(what)
        self.complete = False

    def count(self, finding: Finding) -> Finding:
        """Count a finding, and return it."""
        if finding.severity == "error":
            self.errors += 1
        else:
            self.notes += 1
        return finding


def with_hint(finding: Finding) -> Finding:
    """Return a finding of the ledger's audit with a hint that says what to do now."""
    return replace(finding, hint=REBUILD if finding.kind in _INDEX else _HINTS.get(finding.kind, RESTORE_LEDGER))
