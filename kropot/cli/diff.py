"""`kropotcli diff`: what changed between two moments; `replay --until BEFORE --diff AFTER` by its shorter name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from kropot.cli.base import Exit, Settings, open_ledger
from kropot.cli.base import command as define
from kropot.cli.moments import moment_of
from kropot.cli.naming import NAMED, Names, key_options
from kropot.cli.replay import show_differences

if TYPE_CHECKING:
    from pathlib import Path


@define("diff")
@click.argument("before", metavar="BEFORE")
@click.argument("after", metavar="[AFTER]", required=False)
@key_options(f"Show names instead of ids, sorted by name. {NAMED}")
def command(
    settings: Settings, *, before: str, after: str | None, kits: tuple[Path, ...], passphrase_files: tuple[Path, ...]
) -> Exit:
    """Show what changed between the moments BEFORE and AFTER, by default until now.

    A moment is anything that --until takes: a date (2026-05-01), a time, an age (36h, 7d, 2w), a position (@120411) or
    a checkpoint file. `kropotcli log` lists the moments at which rounds ended.
    """
    with open_ledger(settings, read_only=True) as ledger:
        names = Names.of_kits(ledger, kits, passphrase_files)
        return show_differences(settings, ledger, moment_of(ledger, before), moment_of(ledger, after), names)
