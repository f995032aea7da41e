"""Record results in the ledger: new states of copies, and how far contents were read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kropot.coverage import advance
from kropot.errors import PartialError
from kropot.verify.copy_findings import fact_of
from ledger.errors import ConflictError, ReadOnlyLedgerError
from ledger.events import AuditAdvanced, AuditRange
from ledger.log import AUDIT_KEY, NewFact

if TYPE_CHECKING:
    from collections.abc import Callable

    from kropot.verify.copy_findings import NewState
    from kropot.verify.ways_out import Unrecorded
    from ledger.events import StreamKey
    from ledger.log import Ledger

    Change = tuple[StreamKey, bytes, NewState]
    """An element, the SHA-256 of one of its copies, and what to record of that copy."""

BATCH = 500
TRIES = 8
MASS_SHARE = 0.1
MASS_COUNT = 20
"""If newly bad objects exceed both this number and this share, the storage is probably not mounted."""


class Recorder:
    """Appends facts in batches. After `stop`, or after the database refused a write, it appends nothing more.

    `why_not` is the reason why nothing is recorded, None while everything is.
    """

    def __init__(self, ledger: Ledger, *, why_not: Unrecorded | None = None) -> None:
        """Take the ledger. With `why_not`, nothing is ever recorded."""
        self._ledger = ledger
        self._waiting: list[Change] = []
        self.why_not = why_not
        self.recorded = 0

    def stop(self, why: Unrecorded) -> None:
        """Record nothing more, and drop the waiting facts."""
        self.why_not = self.why_not or why
        self._waiting.clear()

    def add(self, key: StreamKey, sha256: bytes, state: NewState) -> None:
        """Add a copy's new state to the next batch."""
        if self.why_not is None:
            self._waiting.append((key, sha256, state))
            if len(self._waiting) >= BATCH:
                self.flush()

    def flush(self) -> None:
        """Append the waiting facts, each based on the current state of its element. Raises: PartialError."""
        waiting, self._waiting = self._waiting, []
        for _ in range(TRIES):
            if not waiting:
                return
            try:
                self._guarded(lambda: self._append(waiting))
            except ConflictError:
                continue
            return
        raise PartialError(
            "findings could not be recorded in the ledger, because other processes kept writing to it: run verify again"
        )

    def reached(self, read: AuditRange) -> None:
        """Record that a range was read. Raises: PartialError."""
        if self.why_not is None:
            self.flush()
            self._guarded(lambda: self._advance(read))

    # --- helpers ---

    def _advance(self, read: AuditRange) -> None:
        ranges = advance(self._ledger.audit(), read)
        now = self._ledger.clock_us()
        self._ledger.append([NewFact(key=AUDIT_KEY, fact=AuditAdvanced(ranges=ranges), observed_us=now)])

    def _append(self, batch: list[Change]) -> None:
        now = self._ledger.clock_us()
        entries = self._ledger.entries({key for key, _, _ in batch})
        elements = {key: entry.element for key, entry in entries.items()}
        versions = {key: entry.version for key, entry in entries.items()}
        facts = []
        for key, sha256, state in batch:
            element = elements.get(key)
            fact = None if element is None else fact_of(element, sha256, state)
            if fact is not None:
                facts.append(NewFact(key=key, fact=fact, observed_us=now, expected=versions[key]))
                elements[key] = fact.element
                versions[key] += 1
        if facts:
            self._ledger.append(facts)
            self.recorded += len(facts)

    def _guarded(self, act: Callable[[], object]) -> None:
        try:
            act()
        except ReadOnlyLedgerError:
            self.stop("read_only")
