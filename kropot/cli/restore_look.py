"""`kropotcli restore --dry-run` and `--list-names`: print what a restore would write, and write nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kropot.cli.base import Settings, emit, emit_json
from kropot.cli.restore_target import WOULD, Destination
from kropot.wording import instant, written
from kropot.wording import moment as clock

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kropot.cli.restore_report import RestoreReport
    from kropot.replay.copies import Copies
    from kropot.restore.plan import Planned, RestoreProblem


def dry_run(
    settings: Settings, plans: Iterable[Planned | RestoreProblem], destination: Destination, report: RestoreReport
) -> None:
    """Print what would happen to each planned entry."""
    from kropot.restore.plan import RestoreProblem

    for plan in plans:
        if isinstance(plan, RestoreProblem):
            report.finding(plan)
            continue
        would = destination.predict(plan)
        report.count(plan, existed=would not in {"restore", "replace", "overwrite"}, size=plan.held.size)
        if settings.json:
            emit_json("restore_plan", {"would": would, **_row(plan)}, flush=False)
        else:
            emit(f"{WOULD[would]}  {_marked(plan)}", flush=False)


def list_names(
    settings: Settings, plans: Iterable[Planned | RestoreProblem], copies: Copies, report: RestoreReport
) -> None:
    """Print the names, dates and sizes of the planned entries."""
    from kropot.durable.errors import StorageError
    from kropot.objects.store import ObjectMissingError
    from kropot.restore.opener import plain_size
    from kropot.restore.plan import RestoreProblem
    from kropot.sc2.form import Kind

    for plan in plans:
        if isinstance(plan, RestoreProblem):
            report.finding(plan)
            continue
        size = plan.opened.claim.size
        if plan.opened.claim.kind is not Kind.FILE:
            size = None
        elif size is None:
            try:
                with copies.open(plan.held) as source:
                    size = plain_size(source, held=plan.held, kit=plan.opened.kit)
            except (ObjectMissingError, StorageError):
                size = None
        report.count(plan, existed=False, size=size or 0)
        if settings.json:
            emit_json("restore_name", _row(plan) | {"size": size}, flush=False)
        else:
            shown = "-" if size is None else str(size)
            emit(f"{clock(_time_us(plan))}  {shown:>12}  {_marked(plan)}", flush=False)


def _marked(plan: Planned) -> str:
    """Return the name, with a slash after a folder, and an arrow and the target after a symlink."""
    from kropot.restore.entry import target_of
    from kropot.sc2.form import Kind

    match plan.opened.claim.kind:
        case Kind.FOLDER:
            return f"{plan.shown}/"
        case Kind.SYMLINK:
            return f"{plan.shown} -> {written(target_of(plan))}"
        case _:
            return plan.shown


def _row(plan: Planned) -> dict[str, Any]:
    held = plan.held
    return {
        "name": plan.shown,
        "true_name": plan.opened.claim.what,
        "kind": str(plan.opened.claim.kind),
        "date": instant(_time_us(plan)),
        "state": held.state,
        "is_older": held.is_older,
        "source": held.key.source.hex(),
        "type": held.key.kind,
        "id": held.key.id,
        "object": None if held.sha256 is None else held.sha256.hex(),
        "stored_size": held.size,
    }


def _time_us(plan: Planned) -> int:
    """Return the file's own time in microseconds, or else the server's date for it."""
    mtime_ns = plan.opened.claim.mtime_ns
    return plan.held.date * 1_000_000 if mtime_ns is None else mtime_ns // 1000
