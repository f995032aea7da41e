"""Turn a bad object into a case for each element that names it, and each case into a finding and a fact to record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from msgspec import Struct
from msgspec.structs import replace

from kropot.verify.ways_out import BadCopy, explain
from ledger.audit import Finding
from ledger.events import CopyDamaged, CopyLost, CopyStored, RemoteCopied, StreamKey
from ledger.replica import damaged
from ledger.rows import DAMAGED, LOST, RELEASED

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from kropot.verify.copies import ObjectReport
    from kropot.verify.ways_out import Found, Reach, Role, Unrecorded, Way
    from ledger.events import Element
    from ledger.log import Ledger
    from ledger.replica import Entry
    from ledger.rows import CopyRow
    from ledger.states import Damage

NewState = Literal["damaged", "lost", "sound"]
"""The new state to record for a copy."""


class Case(Struct, frozen=True, kw_only=True):
    """One element that names a bad object: its copy's row, and everything that decides the finding."""

    key: StreamKey
    row: CopyRow
    copy: BadCopy

    @property
    def new_state(self) -> NewState | None:
        """The state to record, None if the ledger knows it already or nothing is proved."""
        match self.copy.found:
            case "sound":
                return "sound"
            case "damaged" | "lost" as found if self.copy.is_new:
                return found
        return None

    def finding(self, unrecorded: Unrecorded | None) -> tuple[Finding, Way]:
        """Return the finding and the way out. `unrecorded` is why the new state was not recorded, None if it was."""
        words = explain(replace(self.copy, unrecorded=unrecorded))
        finding = Finding(
            kind=words.kind,
            severity=words.severity,
            detail=words.detail,
            hint=words.way.value,
            source=self.key.source.hex(),
            element=self.key.id,
            object=self.row.sha256.hex(),
            position=self.row.position,
        )
        return finding, words.way


def cases(
    ledger: Ledger, report: ObjectReport, *, reach: Mapping[bytes, Reach] | None = None, repairs: bool = False
) -> Iterator[Case]:
    """Yield a case for each element that names the object. Each of them can need a different action.

    `reach` says which sources (16 bytes) cannot be asked any more. `repairs`: this run fetches again what it can.
    """
    if report.state == "orphan":
        return
    found: Found = "sound" if report.state == "recovered" else report.state
    for row, key, entry, element in _elements(ledger, report):
        if report.state in {"recovered", "not_read"} and _recorded(row) is None:
            continue  # another element's copy of the same object was recorded as bad, and this one never was
        copy = BadCopy(
            found=found,
            detail=report.detail,
            recorded=_recorded(row),
            role=_role(ledger, row, key, element),
            is_present=element.present,
            reach="open" if reach is None else reach.get(key.source, "open"),
            failure=None if element.failure is None else element.failure.reason,
            is_dismissed=entry.is_dismissed,
            repairs=repairs,
        )
        yield Case(key=key, row=row, copy=copy)


def fact_of(element: Element, sha256: bytes, state: NewState) -> CopyDamaged | CopyLost | CopyStored | None:
    """Return the fact that records the copy's new state on the element as it is now, None if there is none to record.

    A sound object is recorded only if it is the newest copy. The fact is then a CopyStored: the copy is there after
    all, and the element need not be fetched again.
    """
    match state:
        case "damaged":
            return CopyDamaged(element=damaged(element, sha256, lost=False), sha256=sha256)
        case "lost":
            return CopyLost(element=damaged(element, sha256, lost=True), sha256=sha256)
        case "sound" if element.damage is not None and element.copy is not None:
            if element.copy.sha256 == sha256:
                return CopyStored(element=replace(element, damage=None, failure=None))
    return None


def orphan_finding(report: ObjectReport) -> Finding:
    """Return the note about an object that no event names."""
    return Finding(
        kind="orphan_object",
        severity="note",
        detail=f"no event names this object of {report.size} bytes",
        hint="an interrupted run left it, or it belongs to another ledger; it does no harm",
        object=report.sha256.hex(),
    )


def older_findings(ledger: Ledger, report: ObjectReport, key: str) -> Iterator[Finding]:
    """Yield a finding for each element whose copy is sound only in an older version of the file `key`."""
    state = "was written over" if report.state == "damaged" else "was removed"
    for row, stream, _, _ in _elements(ledger, report):
        yield Finding(
            kind="older_version",
            severity="error",
            detail=f"{key} {state} in the storage; an older version of it has this copy and is sound",
            hint="if this program did not do it, somebody else can write there: change the keys; `kropotcli verify "
            "--repair` restores the older version, and until then readers use it",
            source=stream.source.hex(),
            element=stream.id,
            object=report.sha256.hex(),
            position=row.position,
        )


# --- helpers ---------------------------------------------------------------------------------------------------------


def _elements(ledger: Ledger, report: ObjectReport) -> Iterator[tuple[CopyRow, StreamKey, Entry, Element]]:
    """Yield the elements that still use this object, as they are now."""
    keys = {copy.key: StreamKey.parse(copy.key) for copy in report.copies if copy.state != RELEASED}
    entries = ledger.entries(list(keys.values()))
    for copy in report.copies:
        key = keys.get(copy.key)
        entry = None if key is None else entries.get(key)
        if key is not None and entry is not None and entry.element is not None:
            yield copy, key, entry, entry.element


def _recorded(row: CopyRow) -> Damage | None:
    """Return the damage that the ledger knows of this copy."""
    if row.state == DAMAGED:
        return "damaged"
    return "lost" if row.state == LOST else None


def _role(ledger: Ledger, row: CopyRow, key: StreamKey, element: Element) -> Role:
    """Return what the copy is to its element."""
    newest = element.copy
    if newest is not None and newest.sha256 == row.sha256:
        return "newest" if newest.revision == element.revision else "outdated"
    if newest is not None and element.damage is None and newest.revision == _revision(ledger, row, key):
        return "replaced"
    return "older"


def _revision(ledger: Ledger, row: CopyRow, key: StreamKey) -> int | None:
    """Return the revision that this copy holds, None if its event can no longer be read."""
    for record in ledger.history(key):
        if record.position == row.position and isinstance(record.fact, CopyStored | RemoteCopied):
            return None if record.fact.element.copy is None else record.fact.element.copy.revision
    return None
