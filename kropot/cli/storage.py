"""`kropotcli storage`: gathers small objects into packs, and records again which object is in which pack."""

from __future__ import annotations

import click

from kropot.cli.base import Exit, Settings, emit_json, emit_summary, group, open_ledger, say, storage_of
from kropot.cli.sizes import SIZE
from kropot.cli.storage_clean import clean
from kropot.cli.storage_copy import copy
from kropot.cli.storage_further import catch_up, forget
from kropot.cli.work_progress import now_and_then
from kropot.errors import UsageError
from kropot.wording import amount, number


@group("storage")
def command() -> None:
    """Look after the storage: pack, index, clean and copy it, and keep others in step with it."""


command.add_command(clean)
command.add_command(copy)
command.add_command(catch_up)
command.add_command(forget)


@command.command("pack")
@click.option(
    "--pack-below",
    type=SIZE,
    default="1MiB",
    show_default=True,
    metavar="SIZE",
    help="Put objects smaller than this into packs.",
)
@click.option(
    "--all", "everything", is_flag=True, help="Also make a pack from few objects: less than 8 MiB and fewer than 2,000."
)
def pack(settings: Settings, *, pack_below: int, everything: bool) -> Exit:
    """Gather small objects that are separate files into packs.

    Collectors do this by themselves when there is enough for a pack. It is safe while collectors work: an object's file
    is removed only after the pack is durable, the ledger knows it, and the object was read from it again.
    """
    from kropot.collect.packing import gather
    from kropot.objects.packs.packing import PackRule
    from kropot.storage_away import demand_objects

    if pack_below == 0:
        raise UsageError("--pack-below 0 makes no packs, so there is nothing to do: leave it out, or name a size")
    storage = storage_of(settings)
    rule = PackRule(below=pack_below, worth=0) if everything else PackRule(below=pack_below)
    with open_ledger(settings) as ledger:
        demand_objects(storage, ledger)
        report = gather(ledger, storage, rule)
    if report is None:
        say("another process is packing this storage; nothing was done")
        return Exit.PARTIAL
    if settings.json:
        emit_json(
            "storage_packed",
            {
                "packs": report.packs,
                "objects": report.objects,
                "bytes": report.bytes,
                "removed": report.removed,
                "adopted": report.adopted,
                "damaged": report.damaged,
                "left": report.left,
            },
        )
    else:
        text = f"put {number(report.objects, 'object')} ({amount(report.bytes)}) into {number(report.packs, 'pack')}"
        text += f"; removed {number(report.removed, 'file')} of objects that packs hold"
        if report.left:
            text += f"; left {number(report.left, 'object')}, too few for a pack"
        emit_summary(text)
    if report.damaged:
        say(f"{number(report.damaged, 'damaged object')} stayed as they are: run `kropotcli verify`")
        return Exit.PARTIAL
    return Exit.DONE


@command.command("index")
def index(settings: Settings) -> Exit:
    """Record again which object is in which pack, from the indexes of the packs.

    Run this after you restored a storage or copied packs into it. The objects themselves are not read: `kropotcli
    verify` does that.
    """
    from kropot.objects.packs.reindex import reindex
    from kropot.storage_away import demand_objects

    storage = storage_of(settings)
    with open_ledger(settings) as ledger:
        demand_objects(storage, ledger)
        report = reindex(storage.packs(), ledger.places, progress=now_and_then("storage_indexing", "packs", "of"))
    if settings.json:
        emit_json(
            "storage_indexed",
            {
                "packs": report.packs,
                "objects": report.objects,
                "bytes": report.bytes,
                "damaged": report.damaged,
                "forgotten": report.forgotten,
            },
        )
    else:
        text = f"indexed {number(report.objects, 'object')} ({amount(report.bytes)}) in {number(report.packs, 'pack')}"
        text += f"; forgot {number(report.forgotten, 'pack')} that are gone" if report.forgotten else ""
        emit_summary(text)
    for line in report.told:
        say(line, level="error")
    if report.damaged:
        say(
            f"{number(report.damaged, 'damaged pack')}: the ledger keeps what it knew of their objects; put the packs "
            "back from another copy of the storage, or run `kropotcli verify --repair`",
            level="error",
        )
        return Exit.FINDINGS
    return Exit.DONE
