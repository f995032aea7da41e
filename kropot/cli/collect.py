"""`kropotcli collect`: pull everything new from the server into the replica."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kropot.cli.base import Exit, Settings, collect_options, emit, emit_json, open_ledger, say, warn
from kropot.cli.base import command as define
from kropot.cli.sizes import SIZE, SPAN
from kropot.wording import amount, number

if TYPE_CHECKING:
    from kropot.collect.service import Outcome


@define("collect")
@click.option(
    "--once",
    is_flag=True,
    help="Try everything that is wanted, then end; 3 if something could not be had or was not believed. While another"
    " collector lists the server, this one waits for the end of that; what another living one is fetching is left to"
    " it.",
)
@click.option("--full", is_flag=True, help="Begin with a listing of everything, which also finds what is gone.")
@click.option("--new-source", is_flag=True, help="The token is known from another server, and this is a different one.")
@click.option(
    "--min-free",
    type=SIZE,
    default="1GiB",
    show_default=True,
    metavar="SIZE",
    help="Rest from fetching while less than this is free in the storage or where the ledger's SQLite file is; there,"
    " nothing new of a listing is recorded either.",
)
@click.option(
    "--full-every",
    type=SPAN,
    default="24h",
    show_default=True,
    metavar="SPAN",
    help="List everything at least this often.",
)
@click.option(
    "--missing-percent",
    type=click.FloatRange(min=0, max=100),
    default=10,
    show_default=True,
    help="Believe no vanishing of more than this share of the elements and of more than --missing-count.",
)
@click.option(
    "--missing-count",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    help="This many may always vanish at once, whatever share of the elements they are.",
)
@click.option(
    "--surge-percent",
    type=click.FloatRange(min=0, max=100),
    default=30,
    show_default=True,
    help="Raise an alarm when more than this share of the elements and more than --surge-count change within 24 hours.",
)
@click.option(
    "--surge-count",
    type=click.IntRange(min=0),
    default=5,
    show_default=True,
    help="This many may always change within 24 hours, whatever share of the elements they are.",
)
@click.option(
    "--listing-entries",
    type=click.IntRange(min=1),
    default=20_000_000,
    show_default=True,
    help="Hold a listing back that shows more entries than this, until `source accept`.",
)
@click.option(
    "--listing-growth",
    type=SIZE,
    default="24GiB",
    show_default=True,
    metavar="SIZE",
    help="Hold a listing back that would add more than this to the ledger, until `source accept`.",
)
@click.option(
    "--segments/--no-segments",
    default=True,
    help="Write the ledger's events into the storage path, too, so that it alone is a whole backup; on by default.",
)
@click.option(
    "--checkpoint-key",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Sign checkpoints with this key; by default with the one that `checkpoint init` made, if there is one.",
)
@click.option(
    "--checkpoint-to",
    type=click.Path(file_okay=False, path_type=Path),
    multiple=True,
    help="Write the checkpoints here too; may be repeated.",
)
@click.option(
    "--checkpoint-every",
    type=SPAN,
    default="1h",
    show_default=True,
    metavar="SPAN",
    help="Sign a checkpoint this often while there are new events.",
)
@click.option(
    "--checkpoint-events",
    type=click.IntRange(min=1),
    default=100_000,
    show_default=True,
    help="Sign a checkpoint after so many new events at the latest.",
)
def command(settings: Settings, **options: Any) -> Exit:
    """Pull everything new from the server into the replica, again and again until it is stopped.

    Contents come as the server encrypts them and are stored under their SHA-256; what happened is recorded in the
    ledger. SIGTERM and Ctrl-C end it within seconds; nothing that was acknowledged is ever lost.
    """
    from kropot.cli.progress import progress_display
    from kropot.collect.run.signals import ended_by_sigterm
    from kropot.collect.service import collect

    began = time.monotonic()
    wanted = collect_options(settings, **options)
    with (
        ended_by_sigterm(Exit.PARTIAL if wanted.once else Exit.DONE),
        open_ledger(settings, create=True) as ledger,
    ):
        outcome = collect(ledger, wanted, show=lambda: progress_display(settings), say=say, warn=warn)
    _summarise(settings, outcome, took=time.monotonic() - began)
    return outcome.code


def _summarise(settings: Settings, outcome: Outcome, *, took: float) -> None:
    """Say what the run came to: one JSON object, or a sentence."""
    progress, source = outcome.progress, outcome.source
    if settings.json:
        emit_json(
            {
                "source": outcome.source_id.hex(),
                "exit": int(outcome.code),
                "listings": progress.listings,
                "seen": progress.seen,
                "new": progress.new,
                "changed": progress.changed,
                "reappeared": progress.reappeared,
                "vanished": progress.vanished,
                "rejected": progress.rejected,
                "unlistable": len(source.unlistable),
                "copied": progress.copied,
                "bytes": progress.bytes,
                "failed": outcome.failing,
                "pending": outcome.pending,
                "reasons": progress.reasons,
                "zero_knowledge": source.opaque,
                "held": source.held is not None and not source.held.is_accepted,
                "surge": source.surge is not None,
                "seconds": round(took, 3),
            }
        )
        return
    text = f"copied {number(progress.copied, 'file')} ({amount(progress.bytes)}) in {took:.1f} s"
    text += f"; {progress.new} new, {progress.changed} changed, {progress.vanished} gone"
    if outcome.pending > outcome.failing:
        text += f"; {outcome.pending - outcome.failing} still to be copied"
    if outcome.failing:
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(progress.reasons.items()))
        text += f"; {outcome.failing} failing, which `kropotcli ls --failing` names"
        text += f"; {number(progress.failed, 'failed attempt')}: {reasons}"
    emit(text)
