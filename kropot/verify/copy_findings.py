"""Turn a bad object into a finding, with a hint, and a fact to record, for each element that names the object."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from ledger.audit import Finding, Severity
from ledger.events import CopyDamaged, CopyLost, CopyStored, StreamKey
from ledger.replica import damaged
from ledger.rows import DAMAGED, LOST, RELEASED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kropot.verify.copies import ObjectReport
    from ledger.events import Element
    from ledger.log import Ledger
    from ledger.rows import CopyRow

AGAIN = "the next `kropotcli collect` fetches it again; `kropotcli verify --repair` does so now"
GONE = (
    "the source no longer has this element, so it cannot be fetched again: look for the object in another backup, and "
    "put it back under its name"
)
OLD = (
    "this is an older revision, which the source no longer offers, so it cannot be fetched again: look for the object "
    "in another backup, and put it back under its name"
)
REPLACED = "the same revision was fetched again and is sound: you need to do nothing"

NewState = Literal["damaged", "lost", "sound"]
"""The new state to record for a copy."""


def copy_findings(ledger: Ledger, report: ObjectReport) -> Iterator[tuple[Finding, StreamKey, NewState | None]]:
    """Yield (finding, key, new state to record or None) for each element that names the object.

    Several elements can name one object, and each of them can need a different action.
    """
    for copy, key, element in _elements(ledger, report):
        if report.state == "recovered":
            yield _recovered(copy, key), key, "sound"
        elif report.state in ("damaged", "lost", "unreadable"):
            is_known = copy.state in (DAMAGED, LOST)
            new: NewState | None = None if is_known or report.state == "unreadable" else report.state
            yield _finding(ledger, copy, key, element, report), key, new


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


# --- helpers ---------------------------------------------------------------------------------------------------------


def _elements(ledger: Ledger, report: ObjectReport) -> Iterator[tuple[CopyRow, StreamKey, Element]]:
    """Yield the elements that still use this object, as they are now."""
    keys = {copy.key: StreamKey.parse(copy.key) for copy in report.copies if copy.state != RELEASED}
    entries = ledger.entries(list(keys.values()))
    for copy in report.copies:
        key = keys.get(copy.key)
        entry = None if key is None else entries.get(key)
        if key is not None and entry is not None and entry.element is not None:
            yield copy, key, entry.element


def _recovered(copy: CopyRow, key: StreamKey) -> Finding:
    return Finding(
        kind="recovered_object",
        severity="note",
        detail=f"the object was recorded as {copy.state}, and it is sound now",
        source=key.source.hex(),
        element=key.id,
        object=copy.sha256.hex(),
        position=copy.position,
    )


def _finding(ledger: Ledger, copy: CopyRow, key: StreamKey, element: Element, report: ObjectReport) -> Finding:
    known = "" if copy.state not in (DAMAGED, LOST) else " (already recorded)"
    severity, hint = _severity_and_hint(ledger, copy, key, element)
    return Finding(
        kind=f"{report.state}_object" if severity == "error" else "replaced_object",
        severity=severity,
        detail=f"{report.detail}{known}",
        hint=hint if report.state != "unreadable" else "fix what keeps it from being read, then verify again",
        source=key.source.hex(),
        element=key.id,
        object=copy.sha256.hex(),
        position=copy.position,
    )


def _severity_and_hint(ledger: Ledger, copy: CopyRow, key: StreamKey, element: Element) -> tuple[Severity, str]:
    """Return severity and hint. A bad older object is an error only if its revision has no sound copy."""
    newest = element.copy
    if newest is not None and newest.sha256 == copy.sha256:
        return "error", AGAIN if element.present else GONE
    revision = _revision(ledger, copy, key)
    if newest is not None and element.damage is None and newest.revision == revision:
        return "note", REPLACED
    return "error", OLD


def _revision(ledger: Ledger, copy: CopyRow, key: StreamKey) -> int | None:
    """Return the revision that this copy holds, None if its event can no longer be read."""
    for record in ledger.history(key):
        if record.position == copy.position and isinstance(record.fact, CopyStored):
            return None if record.fact.element.copy is None else record.fact.element.copy.revision
    return None
