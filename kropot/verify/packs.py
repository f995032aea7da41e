"""Findings about packs as a whole and about what the ledger says about them, and their repair."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from kropot.errors import LockedError
from kropot.objects.packs.packing import PackRule
from ledger.audit import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kropot.objects.bulk.protocol import PackFlaw, PackFlawKind
    from kropot.objects.opening import Storage
    from kropot.objects.packs.mend import Mender
    from kropot.verify.copies import ObjectReport
    from ledger.log import Ledger

_INDEX = "its objects are still found, but slowly: run `kropotcli storage index`"

_HINTS: dict[PackFlawKind, str] = {
    "damaged_pack": "its objects are read from where the ledger places them: `kropotcli verify --repair` rewrites the "
    "pack's index from the ledger; check the disk",
    "lost_pack": "its objects are lost unless other findings say otherwise: put it back from a copy of the storage, or "
    "run `kropotcli verify --repair`, which fetches them again",
    "freed_pack": "what is needed of it is elsewhere, unless other findings say otherwise; if no process is freeing "
    "bytes now, one was interrupted: the next `kropotcli prune` finishes its work, or the same `kropotcli erase` "
    "again",
    "unknown_pack": "an interrupted run left it; `kropotcli storage pack` adopts it",
    "missing_placement": _INDEX,
    "wrong_placement": _INDEX,
    "orphan_pack": "an interrupted run left it, or it belongs to another ledger; it does no harm",
    "orphans_in_pack": "an interrupted run left them, or they belong to another ledger; they do no harm",
}


def finding_of(flaw: PackFlaw) -> Finding:
    """Return the finding about a flaw."""
    return Finding(
        kind=flaw.kind,
        severity=flaw.severity,
        detail=flaw.detail,
        hint=_HINTS[flaw.kind],
        object=None if flaw.object is None else flaw.object.hex(),
        pack=flaw.name.hex(),
    )


def elsewhere(report: ObjectReport, pack: bytes) -> Finding:
    """Return the note about an object that is damaged in a pack but sound in another place."""
    return Finding(
        kind="damaged_place",
        severity="note",
        detail=f"{report.detail}; another place has a sound copy of it",
        hint="check the disk; `kropotcli verify --repair` makes the ledger forget the damaged place",
        object=report.sha256.hex(),
        pack=pack.hex(),
    )


def mended(flaws: list[PackFlaw], storage: Storage, ledger: Ledger) -> Iterator[Finding]:
    """Mend what can be mended, and yield a note for each flaw: `repaired_pack`, or `not_repaired` with the reason.

    Raises: StorageError.
    """
    try:
        with storage.gatherer(ledger.places, PackRule()) as gatherer:
            mender = gatherer.mender()
            for flaw in flaws:
                yield _noted(flaw, _mend(mender, flaw))
    except LockedError as error:
        for flaw in flaws:
            yield _noted(flaw, str(error))


def _mend(mender: Mender, flaw: PackFlaw) -> str | None:
    return mender.rewrite(flaw.name) if flaw.kind == "damaged_pack" else mender.index(flaw.name)


def _noted(flaw: PackFlaw, why_not: str | None) -> Finding:
    if why_not is not None:
        hint = "see what is said of each of its objects; verify again when the reason is gone"
        return replace(finding_of(flaw), kind="not_repaired", severity="note", detail=why_not, hint=hint)
    detail = {
        "damaged_pack": "its index was rewritten from the ledger, and matches the pack's name",
        "lost_pack": "the ledger forgot it",
    }.get(flaw.kind, "the ledger now agrees with its index")
    return replace(finding_of(flaw), kind="repaired_pack", severity="note", detail=detail, hint="")
