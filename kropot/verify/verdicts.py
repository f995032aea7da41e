"""What a bad object means for each element that names it: a finding with what can be done, and the fact to record."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from ledger.audit import Finding
from ledger.events import CopyDamaged, CopyLost, CopyStored, StreamKey
from ledger.replica import damaged
from ledger.rows import DAMAGED, LOST, RELEASED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kropot.verify.copies import BadCopy, Orphan, Recovered
    from kropot.verify.inventory import Named
    from kropot.verify.reading import Fault
    from ledger.events import Element
    from ledger.log import Ledger
    from ledger.rows import CopyRow

AGAIN = "the next `kropotcli collect` fetches it again (now: `kropotcli verify --repair`)"
GONE = (
    "the source no longer has this element, so it cannot be fetched again: look for the object in another backup and "
    "put it back under its name"
)
OLD = (
    "this is an older version, which the source no longer offers, so it cannot be fetched again: look for the object "
    "in another backup and put it back under its name"
)
REPLACED = "the same version was fetched again and is sound; nothing is to be done"


Judgement = Literal["damaged", "lost", "sound"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A finding about one element's copy, and what is to be recorded of the copy (None: nothing new)."""

    finding: Finding
    key: StreamKey
    sha256: bytes
    judgement: Judgement | None


def verdicts(ledger: Ledger, bad: BadCopy) -> Iterator[Verdict]:
    """Yield a verdict for each element that names the object; several may, and each has its own way out."""
    fault = bad.fault
    for copy, key, element in _elements(ledger, bad.named):
        finding = _finding(ledger, copy, key, element, fault)
        is_known = copy.state in (DAMAGED, LOST)
        judgement: Judgement | None = None if is_known or fault.kind == "unreadable" else fault.kind
        yield Verdict(finding=finding, key=key, sha256=copy.sha256, judgement=judgement)


def recoveries(ledger: Ledger, found: Recovered) -> Iterator[Verdict]:
    """Yield a verdict for each element whose object was recorded as bad and was now read and is sound."""
    for copy, key, _ in _elements(ledger, found.named):
        finding = Finding(
            kind="recovered_object",
            severity="note",
            detail=f"the object was recorded as {copy.state}, and is sound now",
            source=key.source.hex(),
            element=key.id,
            object=copy.sha256.hex(),
            position=copy.position,
        )
        yield Verdict(finding=finding, key=key, sha256=copy.sha256, judgement="sound")


def fact_of(verdict: Verdict, element: Element) -> CopyDamaged | CopyLost | CopyStored | None:
    """Return the fact that records the verdict on the element as it is now; None if there is nothing to record.

    A sound object is recorded only where it is the newest copy: a CopyStored says that it is there after all, and the
    element need not be fetched again.
    """
    match verdict.judgement:
        case "damaged":
            return CopyDamaged(element=damaged(element, verdict.sha256, lost=False), sha256=verdict.sha256)
        case "lost":
            return CopyLost(element=damaged(element, verdict.sha256, lost=True), sha256=verdict.sha256)
        case "sound" if element.damage is not None and element.copy is not None:
            if element.copy.sha256 == verdict.sha256:
                return CopyStored(element=replace(element, damage=None, failure=None))
    return None


def of_orphan(orphan: Orphan) -> Finding:
    """Return the note about an object that no event names."""
    return Finding(
        kind="orphan_object",
        severity="note",
        detail=f"no event names this object of {orphan.size} bytes",
        hint="left by a run that was cut short, or of another ledger; it does no harm",
        object=orphan.sha256.hex(),
    )


# --- helpers ---------------------------------------------------------------------------------------------------------


def _elements(ledger: Ledger, named: Named) -> Iterator[tuple[CopyRow, StreamKey, Element]]:
    """Yield the elements that still count on this object, as they are now."""
    keys = {copy.key: StreamKey.parse(copy.key) for copy in named.copies if copy.state != RELEASED}
    entries = ledger.entries(list(keys.values()))
    for copy in named.copies:
        key = keys.get(copy.key)
        entry = None if key is None else entries.get(key)
        if key is not None and entry is not None and entry.element is not None:
            yield copy, key, entry.element


def _finding(ledger: Ledger, copy: CopyRow, key: StreamKey, element: Element, fault: Fault) -> Finding:
    known = "" if copy.state not in (DAMAGED, LOST) else " (known, and recorded before)"
    severity, hint = _way_out(ledger, copy, key, element)
    return Finding(
        kind=f"{fault.kind}_object" if severity == "error" else "replaced_object",
        severity="note" if severity == "note" else "error",
        detail=f"{fault.detail}{known}",
        hint=hint if fault.kind != "unreadable" else "mend what keeps it from being read, then verify again",
        source=key.source.hex(),
        element=key.id,
        object=copy.sha256.hex(),
        position=copy.position,
    )


def _way_out(ledger: Ledger, copy: CopyRow, key: StreamKey, element: Element) -> tuple[str, str]:
    """Return severity and hint: what became of an older version is told by whether its revision has a sound copy."""
    newest = element.copy
    if newest is not None and newest.sha256 == copy.sha256:
        return "error", AGAIN if element.present else GONE
    revision = _revision(ledger, copy, key)
    if newest is not None and element.damage is None and newest.revision == revision:
        return "note", REPLACED
    return "error", OLD


def _revision(ledger: Ledger, copy: CopyRow, key: StreamKey) -> int | None:
    """Return the revision of the element that this copy is of; None if its event is no longer readable."""
    for record in ledger.history(key):
        if record.position == copy.position and isinstance(record.fact, CopyStored):
            return None if record.fact.element.copy is None else record.fact.element.copy.revision
    return None
