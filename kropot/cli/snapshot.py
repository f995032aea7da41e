"""`kropotcli snapshot`: pin the state, so that later replays read only what came after."""

from __future__ import annotations

import click

from kropot.cli.base import Exit, Settings, emit, emit_json, open_ledger
from kropot.cli.base import command as define
from kropot.errors import UsageError
from kropot.wording import number


@define("snapshot")
@click.option("--drop", is_flag=True, help="Remove all snapshots instead; no answer of any command changes.")
@click.option("--check", is_flag=True, help="Fold everything again and compare each snapshot with it instead.")
def command(settings: Settings, *, drop: bool, check: bool) -> Exit:
    """Take the snapshots that are due along the history, and one of the state now.

    Snapshots are disposable: they make `replay` and `restore --until` fast and decide nothing.
    """
    from kropot.replay.snapshots import check_snapshots, drop_snapshots, maybe_snapshot, take_snapshot

    if drop and check:
        raise UsageError("--drop and --check exclude each other")
    with open_ledger(settings, read_only=check) as ledger:
        if drop:
            dropped = drop_snapshots(ledger)
            _tell(settings, f"{number(dropped, 'snapshot')} removed", {"dropped": dropped})
            return Exit.DONE
        if check:
            kept, unsound = len(ledger.blobs.list_snapshots()), 0
            for finding in check_snapshots(ledger):
                unsound += 1
                _tell(
                    settings,
                    f"the {finding.kind} at position {finding.position}: {finding.why}",
                    {"kind": finding.kind, "position": finding.position, "why": finding.why},
                )
            _tell(
                settings,
                f"{number(kept, 'snapshot')} checked, {unsound} unsound",
                {"checked": kept, "unsound": unsound},
            )
            return Exit.FINDINGS if unsound else Exit.DONE
        taken: list[tuple[str, int]] = []
        while step := maybe_snapshot(ledger):
            taken += step
        position = ledger.head().position
        taken += [(kind, position) for kind in take_snapshot(ledger, position)]
        _tell(
            settings,
            f"{number(len(taken), 'snapshot')} taken up to position {position}",
            {"position": position, "taken": [{"kind": kind, "position": at} for kind, at in taken]},
        )
    return Exit.DONE


def _tell(settings: Settings, text: str, value: dict[str, object]) -> None:
    if settings.json:
        emit_json(value)
    else:
        emit(text)
