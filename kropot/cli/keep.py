"""`kropotcli keep`: keeps a restore point against every policy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from msgspec.structs import replace

from kropot.cli.base import Settings, emit, emit_json, open_ledger, say
from kropot.cli.base import command as define
from kropot.cli.moments import moment_of
from kropot.errors import UsageError
from kropot.wording import one_line

if TYPE_CHECKING:
    from ledger.log import Ledger
    from ledger.retention import Pin

_FILE = click.Path(dir_okay=False, path_type=Path)
_MOST: Final = 1000
"""Every decision lists all restore points that are kept, so their number is limited."""
_LONGEST: Final = 200


@define("keep")
@click.argument("when", metavar="[WHEN]", required=False)
@click.option(
    "--label",
    metavar="TEXT",
    help="Why this restore point is kept. With --undo and without WHEN: which one to stop keeping.",
)
@click.option("--undo", is_flag=True, help="Stop keeping this restore point.")
@click.option(
    "--key",
    "key_file",
    type=_FILE,
    help="The key for checkpoints. Default: a file for this ledger in your configuration folder.",
)
def command(settings: Settings, *, when: str | None, label: str | None, undo: bool, key_file: Path | None) -> None:
    """Keep a restore point, whatever the policy says, or list those that are kept.

    WHEN is a position (@120411), a time, or anything else that --until takes. What was current then is not released.
    """
    from ledger.retaining import decided_of

    with open_ledger(settings) as ledger:
        before = decided_of(ledger).retention.pins
        if when is None and label is None:
            pins = before
        elif undo:
            pins = _let_go(ledger, before, when, label, key_file)
        else:
            pins = _keep(ledger, before, when, label, key_file)
    if settings.json:
        emit_json("kept_points", {"kept": [{"position": pin.position, "label": pin.label} for pin in pins]})
        return
    for pin in pins:
        emit(f"@{pin.position}  {one_line(pin.label)}")
    if not pins:
        emit("no restore point is kept")


def _keep(
    ledger: Ledger, before: tuple[Pin, ...], when: str | None, label: str | None, key_file: Path | None
) -> tuple[Pin, ...]:
    from kropot.retention.needed import releases_after
    from ledger.retention import Pin, PointKept

    if when is None or not label or len(label) > _LONGEST or not label.isprintable():
        raise UsageError("give WHEN, e.g. @120411, and say why it is kept with --label (up to 200 characters)")
    position = moment_of(ledger, when).position
    if position < 1:
        raise UsageError("nothing was recorded before that moment: give a later one")
    pins = tuple(sorted({*before, Pin(position=position, label=label)}, key=lambda pin: (pin.position, pin.label)))
    if len(pins) > _MOST:
        raise UsageError(f"{_MOST:,} restore points are already kept: remove some with --undo first")
    if pins != before:
        _decide(ledger, pins, PointKept, key_file, loosens=False)
        if next(releases_after(ledger, position, ledger.head().position), None) is not None:
            say(
                f"copies were released since @{position}, perhaps some that were current then: `kropotcli prune "
                f"--undo` takes back those whose bytes were not freed, and `kropotcli replay --until @{position} "
                "--list` shows which are gone"
            )
    return pins


def _let_go(
    ledger: Ledger, before: tuple[Pin, ...], when: str | None, label: str | None, key_file: Path | None
) -> tuple[Pin, ...]:
    from ledger.retention import PointLetGo

    position = None if when is None else moment_of(ledger, when).position
    gone = {pin for pin in before if position in {None, pin.position} and (label is None or pin.label == label)}
    if not gone:
        raise UsageError("this restore point is not kept: `kropotcli keep` lists those that are")
    pins = tuple(pin for pin in before if pin not in gone)
    _decide(ledger, pins, PointLetGo, key_file, loosens=True)
    return pins


def _decide(ledger: Ledger, pins: tuple[Pin, ...], kind: type, key_file: Path | None, *, loosens: bool) -> None:
    from kropot.retention.keys import covered_by, key_for
    from kropot.retention.signature import signed
    from ledger.retaining import decide, decided_of

    before = decided_of(ledger)
    key = key_for(ledger, key_file)
    retention = replace(before.retention, pins=pins, signature=None)
    if key is not None:
        retention = signed(retention, ledger.identity().ledger_id, key)
    elif loosens and covered_by(ledger, None) is not None:
        raise UsageError("a key signs the checkpoints of this ledger: name it with --key to let a restore point go")
    decide(ledger, kind(retention=retention), before)
