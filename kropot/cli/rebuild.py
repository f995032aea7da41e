"""`kropotcli rebuild`: rebuilds the projection from the events."""

from __future__ import annotations

from msgspec.structs import asdict

from kropot.cli.base import Settings, emit, emit_json, emit_summary, open_ledger
from kropot.cli.base import command as define
from kropot.wording import number


@define("rebuild")
def command(settings: Settings) -> None:
    """Rebuild the projection from the events.

    `ls` and `status` read the projection, because it is fast. Everything in it comes from the events. This command does
    not change the events, so it cannot lose anything.
    """
    with open_ledger(settings) as ledger:
        report = ledger.rebuild()
    if settings.json:
        emit_json("rebuild", asdict(report))
        return
    emit_summary(
        f"rebuilt {number(report.entries, 'element')} from {number(report.events, 'event')} "
        f"up to position {report.position}"
    )
    if report.skipped:
        emit(f"skipped {number(report.skipped, 'event')} of types that this version does not know")
