"""`kropotcli storage copy`: copies a whole storage to another place of any kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from kropot.cli.base import Exit, Settings, emit_json, emit_summary, say
from kropot.cli.base import command as define
from kropot.cli.paths import STORAGE
from kropot.cli.work_progress import now_and_then
from kropot.errors import UsageError
from kropot.wording import amount, number

if TYPE_CHECKING:
    from kropot.objects.stores.address import StorageAddress


@define("copy")
@click.argument("source", metavar="FROM", type=STORAGE)
@click.argument("target", metavar="TO", type=STORAGE)
@click.option("--verify", is_flag=True, help="Read everything back from TO and compare it.")
def copy(settings: Settings, *, source: StorageAddress, target: StorageAddress, verify: bool) -> Exit:
    """Copy a whole storage to another place: objects, packs and the history beside them.

    FROM and TO are folders, s3://BUCKET/PREFIX or sftp://USER@HOST/PATH. What is there already stays, so an interrupted
    run goes on where it was. Every object is compared with its SHA-256 on its way, and a damaged one is not copied. A
    collector may work on FROM; what it writes meanwhile is copied by the next run.
    """
    from kropot.objects.opening import open_files, open_store
    from kropot.objects.stores.copying import StorageCopy

    if str(source) == str(target):
        raise UsageError("FROM and TO are the same: name two different storages")
    if not open_store(source, settings.instance_name, ca_file=settings.ca_file).has_objects:
        raise UsageError(f"there is no storage at {source}, so there is nothing to copy: correct FROM")
    progress = now_and_then("storage_copying", "files", "bytes")
    here, there = (open_files(place, ca_file=settings.ca_file) for place in (source, target))
    try:
        report = StorageCopy(here, there, verify=verify, progress=progress).run()
    finally:
        here.close()
        there.close()
    if settings.json:
        emit_json(
            "storage_copied",
            {
                "files": report.files,
                "bytes": report.bytes,
                "there": report.there,
                "checked": report.checked,
                "replaced": report.replaced,
                "damaged": report.damaged,
            },
        )
    else:
        text = f"copied {number(report.files, 'file')} ({amount(report.bytes)}); {report.there:,} were there already"
        text += f"; read {number(report.checked, 'file')} back" if verify else ""
        text += f"; replaced {number(report.replaced, 'file')} that were damaged there" if report.replaced else ""
        emit_summary(text)
    for line in report.told:
        say(line, level="error")
    if report.damaged:
        say(
            f"{number(report.damaged, 'file')} in {source} are damaged: run `kropotcli verify --repair`, then copy "
            "again",
            level="error",
        )
        return Exit.FINDINGS
    return Exit.DONE
