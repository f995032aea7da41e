"""`kropotcli storage clean`: removes objects that no event names, and objects in quarantine that are not needed."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from kropot.cli.base import Settings, emit, emit_json, emit_summary, open_ledger, say, storage_of, surroundings_of
from kropot.cli.base import command as define
from kropot.cli.sizes import SPAN
from kropot.errors import UsageError
from kropot.wording import SECOND_US, amount, number, span

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kropot.further.joining import Surroundings
    from kropot.objects.freeing import Freeable
    from kropot.objects.store import ObjectStore
    from kropot.retention.cleaning import Count
    from ledger.log import Ledger


@define("clean")
@click.option("--dry-run", is_flag=True, help="Show what would be removed, and change nothing.")
@click.option(
    "--grace",
    type=SPAN,
    default="7d",
    show_default=True,
    metavar="SPAN",
    help="Keep whatever is younger than this.",
)
@click.option(
    "--max-unused",
    type=click.IntRange(0, 100),
    metavar="PERCENT",
    help="Rewrite packs in which more than this percentage is unused. Default: 50.",
)
def clean(settings: Settings, *, dry_run: bool, grace: int, max_unused: int | None) -> None:
    """Remove orphans, and what was set aside and is not needed any more.

    An orphan is an object that no event names, e.g. because a collector was killed before it could record it. What a
    repair set aside is removed once every element that named it has a sound copy again. Collectors can go on working.
    """
    from kropot.cli.repacking import repacking
    from kropot.objects.freeing import CanFree
    from kropot.retention.cleaning import Count, old_unnamed
    from kropot.retention.conditions import demand_quiet
    from kropot.retention.freeing import FreeingRun
    from kropot.storage_away import demand_objects
    from ledger.retaining import freeing_of

    storage = storage_of(settings)
    orphans, young, aside, needed, packed = Count(), Count(), Count(), Count(), Count()
    locked = 0
    with open_ledger(settings, read_only=dry_run) as ledger:
        demand_objects(storage, ledger)
        demand_quiet(ledger)
        objects = storage.objects(places=ledger.places)
        if not isinstance(objects, CanFree):
            raise UsageError("this kind of storage cannot free bytes")
        freeing = objects.freeing()
        now_us, grace_us = ledger.clock_us(), grace * SECOND_US
        try:
            freed_to = freeing_of(ledger).freed.to
            found = old_unnamed(
                ledger,
                objects,
                freeing,
                freed_to=freed_to,
                now_us=now_us,
                grace_us=grace_us,
                young=young,
                packed=packed,
            )
            if dry_run:
                for _, size in found:
                    orphans.add(size)
            else:
                with repacking(ledger, storage, until=freed_to, max_unused=max_unused, orphans_us=grace_us) as packs:
                    run = FreeingRun(
                        ledger=ledger,
                        objects=freeing,
                        allowed=lambda: demand_quiet(ledger),
                        repacking=packs,
                        every_pack=packs is not None,
                    )
                    freed = run.orphans(sha256 for sha256, _ in found)
                orphans.objects, orphans.bytes, locked = freed.objects, freed.bytes, freed.locked
            _clean_quarantine(ledger, objects, freeing, now_us, grace_us, aside, needed, dry_run=dry_run)
        finally:
            objects.close()
        counts = orphans, young, packed, aside, needed
        _clean_further(ledger, surroundings_of(settings), counts, grace_us, dry_run=dry_run)
    if settings.json:
        rows = {"orphans": orphans, "young_orphans": young, "quarantined": aside, "kept_aside": needed}
        rows |= {"unused_in_packs": packed}
        emit_json(
            "storage_clean",
            {"dry_run": dry_run, **{name: _json(each) for name, each in rows.items()}, "locked": locked},
        )
        return
    verb, tell = ("would remove", emit) if dry_run else ("removed", emit_summary)
    tell(f"{verb} {number(orphans.objects, 'orphan')} ({amount(orphans.bytes)})")
    tell(f"{verb} {number(aside.objects, 'object')} that had been set aside ({amount(aside.bytes)})")
    if locked:
        tell(f"{amount(locked)} stay in the bucket until their locks end")
    if packed.objects:
        tell(f"found {number(packed.objects, 'object')} in packs that nobody needs ({amount(packed.bytes)})")
    if young.objects:
        tell(f"left {number(young.objects, 'orphan')} younger than {span(grace_us)} ({amount(young.bytes)})")
    if needed.objects:
        tell(
            f"left {number(needed.objects, 'object')} set aside, because they are too young or still needed "
            f"({amount(needed.bytes)})"
        )


def _clean_further(
    ledger: Ledger,
    surroundings: Surroundings,
    counts: tuple[Count, Count, Count, Count, Count],
    grace_us: int,
    *,
    dry_run: bool,
) -> None:
    """Do the same in each further storage that can be reached, and add the results to the counts."""
    from kropot.errors import KropotError
    from kropot.further.catching_up import CatchingUp
    from kropot.objects.freeing import CanFree
    from kropot.retention.cleaning import old_unnamed

    orphans, young, packed, aside, needed = counts
    for row in surroundings.known(ledger):
        source = surroundings.files_of_first()
        try:
            with surroundings.rejoin(ledger, row) as further:
                work = CatchingUp(ledger, source, further)
                if not dry_run:
                    work.run()
                with closing(further.objects(ledger)) as objects:
                    if not isinstance(objects, CanFree):
                        continue
                    freeing, now_us = objects.freeing(), ledger.clock_us()
                    found = old_unnamed(
                        ledger,
                        objects,
                        freeing,
                        freed_to=further.row.freed,
                        now_us=now_us,
                        grace_us=grace_us,
                        young=young,
                        packed=packed,
                    )
                    counted = _counted(found, orphans)
                    if dry_run:
                        for _ in counted:
                            pass
                    else:
                        work.clean(counted)
                    _clean_quarantine(ledger, objects, freeing, now_us, grace_us, aside, needed, dry_run=dry_run)
        except KropotError as error:
            say(f"nothing was cleaned at {row.address}: {error}; run this again when it is back")
        finally:
            source.close()


def _counted(found: Iterator[tuple[bytes, int]], count: Count) -> Iterator[bytes]:
    for sha256, size in found:
        count.add(size)
        yield sha256


def _clean_quarantine(  # noqa: PLR0917 -- it is a part of `clean`
    ledger: Ledger,
    objects: ObjectStore,
    freeing: Freeable,
    now_us: int,
    grace_us: int,
    aside: Count,
    needed: Count,
    *,
    dry_run: bool,
) -> None:
    from kropot.retention.cleaning import is_dispensable

    for leftover in objects.leftovers():
        if leftover.kind != "quarantined":
            continue
        age_us = freeing.quarantine_age_us(leftover.path, now_us)
        if age_us is None or age_us < grace_us or not is_dispensable(ledger, objects, leftover):
            needed.add(leftover.size)
            continue
        aside.add(leftover.size)
        if not dry_run:
            freeing.remove_quarantined(leftover.path)


def _json(count: Count) -> dict[str, Any]:
    return {"objects": count.objects, "bytes": count.bytes}
