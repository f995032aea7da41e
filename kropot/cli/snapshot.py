"""`kropotcli snapshot`: stores the state, so that later replays read only the events after it."""

from __future__ import annotations

import click

from kropot.cli.base import Exit, Settings, emit, emit_json, emit_summary, open_ledger
from kropot.cli.base import command as define
from kropot.errors import UsageError
from kropot.wording import number


@define("snapshot")
@click.option("--drop", is_flag=True, help="Remove all snapshots instead. The answers of other commands do not change.")
@click.option("--check", is_flag=True, help="Compare each snapshot with the events instead.")
def command(settings: Settings, *, drop: bool, check: bool) -> Exit:
    """Take all snapshots that are due, and one of the current state.

    Snapshots make `replay` and `restore --until` fast. Deleting one loses nothing.
    """
    from kropot.replay.check import SnapshotAudit
    from kropot.replay.snapshots import drop_snapshots, maybe_snapshot, take_snapshot

    if drop and check:
        raise UsageError("--drop and --check cannot be combined: give only one of them")
    with open_ledger(settings, read_only=check) as ledger:
        if drop:
            dropped = drop_snapshots(ledger)
            _print_result(settings, "snapshots_dropped", f"removed {number(dropped, 'snapshot')}", {"dropped": dropped})
            return Exit.DONE
        if check:
            audit, unsound = SnapshotAudit(ledger), 0
            for finding in audit.findings():
                unsound += 1
                _print_result(
                    settings,
                    "snapshot_finding",
                    f"the {finding.kind} at position {finding.position}: {finding.why}",
                    {"kind": finding.kind, "position": finding.position, "why": finding.why},
                )
            _print_result(
                settings,
                "snapshots_checked",
                f"checked {number(audit.compared, 'snapshot')}: {unsound} unsound",
                {"checked": audit.compared, "unsound": unsound},
            )
            return Exit.FINDINGS if unsound else Exit.DONE
        taken: list[tuple[str, int]] = []
        while step := maybe_snapshot(ledger):
            taken += step
        position = ledger.head().position
        taken += [(kind, position) for kind in take_snapshot(ledger, position)]
        _print_result(
            settings,
            "snapshots_taken",
            f"took {number(len(taken), 'snapshot')}, up to position {position}",
            {"position": position, "taken": [{"kind": kind, "position": at} for kind, at in taken]},
        )
    return Exit.DONE


def _print_result(settings: Settings, message_type: str, text: str, value: dict[str, object]) -> None:
    if settings.json:
        emit_json(message_type, value)
    elif message_type == "snapshot_finding":
        emit(text)
    else:
        emit_summary(text)
