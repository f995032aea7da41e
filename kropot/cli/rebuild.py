"""`kropotcli rebuild`: derive the projection anew from the events."""

from __future__ import annotations

from dataclasses import asdict

from kropot.cli.base import Settings, emit, emit_json, open_ledger
from kropot.cli.base import command as define
from kropot.wording import number


@define("rebuild")
def command(settings: Settings) -> None:
    """Derive the projection (what `ls` and `status` show) anew from the events.

    The events are the truth and are not touched; the projection only makes answers fast, so nothing can be lost here.
    """
    with open_ledger(settings) as ledger:
        report = ledger.rebuild()
    if settings.json:
        emit_json(asdict(report))
        return
    emit(
        f"rebuilt {number(report.entries, 'element')} from {number(report.events, 'event')} "
        f"up to position {report.position}"
    )
    if report.skipped:
        emit(f"{number(report.skipped, 'event')} of types that this version does not know were skipped")
