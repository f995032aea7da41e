"""`kropotcli collect`: pulls everything new from the server into the replica."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kropot.cli.base import (
    Exit,
    Settings,
    collect_options,
    emit,
    emit_json,
    open_ledger,
    say,
    warn,
    warn_of_frozen_time,
)
from kropot.cli.base import command as define
from kropot.cli.sizes import SIZE, SPAN
from kropot.query.reasons import ways_out
from kropot.wording import amount, number

if TYPE_CHECKING:
    from kropot.collect.service import Outcome


@define("collect")
@click.option(
    "--once",
    is_flag=True,
    help="Collect once, then stop. The exit code is 3 if an element could not be fetched or a listing was held back. If"
    " another collector is listing the server, wait until it has finished. Leave elements that other collectors are"
    " fetching to them.",
)
@click.option("--full", is_flag=True, help="Begin with a full listing. Only a full listing finds vanished elements.")
@click.option(
    "--new-source",
    is_flag=True,
    help="Begin a new source, although this token already has a source at another address. Use it if the two addresses"
    " are different servers.",
)
@click.option(
    "--min-free",
    type=SIZE,
    default="1GiB",
    show_default=True,
    metavar="SIZE",
    help="Pause fetching while the storage, or the folder of an SQLite ledger, has less free space than this. Without"
    " space for the ledger, nothing new of a listing is recorded either.",
)
@click.option(
    "--full-every",
    type=SPAN,
    default="24h",
    show_default=True,
    metavar="SPAN",
    help="Make a full listing at least this often.",
)
@click.option(
    "--missing-percent",
    type=click.FloatRange(min=0, max=100),
    default=10,
    show_default=True,
    help="Hold back a full listing if more than this percentage of the elements, and more than --missing-count of them,"
    " are missing.",
)
@click.option(
    "--missing-count",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    help="Never hold back a listing if this many elements or fewer are missing.",
)
@click.option(
    "--surge-percent",
    type=click.FloatRange(min=0, max=100),
    default=30,
    show_default=True,
    help="Raise an alarm if more than this percentage of the elements, and more than --surge-count of them, change"
    " within 24 hours.",
)
@click.option(
    "--surge-count",
    type=click.IntRange(min=0),
    default=5,
    show_default=True,
    help="Never raise that alarm if this many elements or fewer change within 24 hours.",
)
@click.option(
    "--listing-entries",
    type=click.IntRange(min=1),
    default=20_000_000,
    show_default=True,
    help="Hold back a listing that shows more entries than this, until `source accept`.",
)
@click.option(
    "--listing-growth",
    type=SIZE,
    default="24GiB",
    show_default=True,
    metavar="SIZE",
    help="Hold back a listing that would add more than this to the ledger, until `source accept`.",
)
@click.option(
    "--segments/--no-segments",
    default=True,
    help="Also write the ledger's events to the storage, as segments. The storage alone is then a complete backup. On"
    " by default.",
)
@click.option(
    "--checkpoint-key",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Sign checkpoints with this key. Default: the key that `checkpoint init` made, if it exists.",
)
@click.option(
    "--checkpoint-to",
    type=click.Path(file_okay=False, path_type=Path),
    multiple=True,
    help="Also write the checkpoints to this folder. Can be repeated.",
)
@click.option(
    "--checkpoint-every",
    type=SPAN,
    default="1h",
    show_default=True,
    metavar="SPAN",
    help="Sign a checkpoint this often, if there are new events.",
)
@click.option(
    "--checkpoint-events",
    type=click.IntRange(min=1),
    default=100_000,
    show_default=True,
    help="Sign a checkpoint at the latest after this many new events.",
)
def command(settings: Settings, **options: Any) -> Exit:
    """Pull everything new from the server into the replica.

    The server encrypts each file. The collector stores the encrypted content under its SHA-256 and records every change
    in the ledger. Without --once, it then waits for --refresh-time and begins again, until you stop it. SIGTERM or
    Ctrl-C stops it within seconds, and nothing that the ledger recorded is lost.
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
        warn_of_frozen_time(ledger.head().recorded_us, ledger.clock_us())
        outcome = collect(ledger, wanted, show=lambda: progress_display(settings), say=say, warn=warn)
    _print_summary(settings, outcome, took=time.monotonic() - began)
    for sentence in ways_out(outcome.progress.reasons) if outcome.failing else ():
        warn(sentence)
    return outcome.code


def _print_summary(settings: Settings, outcome: Outcome, *, took: float) -> None:
    """Print the result of the run as one JSON object or one line of text."""
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
                "unreadable": progress.unreadable,
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
    text += f"; {progress.new} new, {progress.changed} changed, {progress.vanished} vanished"
    if outcome.pending > outcome.failing:
        text += f"; {outcome.pending - outcome.failing} still to copy"
    if outcome.failing:
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(progress.reasons.items()))
        text += f"; {outcome.failing} failing (`kropotcli ls --failing` lists them)"
        text += f"; {number(progress.failed, 'failed attempt')}: {reasons}"
    emit(text)
