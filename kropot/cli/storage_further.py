"""`kropotcli storage catch-up` and `forget`: bring further storages up to date, and stop keeping one in step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kropot.cli.base import Exit, Settings, emit, emit_json, open_ledger, say, storage_of, surroundings_of
from kropot.cli.base import command as define
from kropot.cli.paths import FURTHER
from kropot.cli.work_progress import now_and_then
from kropot.errors import KropotError, UsageError
from kropot.wording import amount, number

if TYPE_CHECKING:
    from kropot.further.catching_up import CaughtUp
    from kropot.further.joining import Surroundings
    from kropot.objects.stores.address import StorageAddress
    from ledger.log import Ledger
    from ledger.rows import FurtherRow


@define("catch-up")
@click.argument("places", metavar="[PLACE]...", nargs=-1, type=FURTHER)
@click.option("--begin", is_flag=True, help="Begin a new storage at PLACE, although the one that was there is gone.")
def catch_up(settings: Settings, *, places: tuple[StorageAddress, ...], begin: bool) -> Exit:
    """Bring further storages up to date now: those at PLACE, or all that the ledger knows.

    PLACE is a folder, s3://BUCKET/PREFIX or sftp://USER@HOST/PATH. Collectors with --also-store do this by themselves
    and can go on working. An interrupted run goes on where it was. A PLACE that the ledger does not know yet becomes a
    further storage: `status` speaks of it from then on, and `prune`, `storage clean` and `erase` free bytes there, too.
    """
    from kropot.objects.stores.address import parse_storage, shown_storage
    from kropot.storage_away import demand_objects

    if begin and not places:
        raise UsageError("--begin needs a PLACE for the new storage")
    surroundings = surroundings_of(settings)
    with open_ledger(settings) as ledger:
        demand_objects(storage_of(settings), ledger)
        known = [parse_storage(row.address) for row in surroundings.known(ledger)]
        wanted = list(places) or list(dict.fromkeys(known))
        if not wanted:
            raise UsageError("the ledger knows no further storage: name the PLACE of one")
        outcomes = [_one(ledger, surroundings, place, begin=begin) for place in wanted]
    names = [shown_storage(place) for place in wanted]
    rows = [_json(name, outcome) for name, outcome in zip(names, outcomes, strict=True)]
    if settings.json:
        emit_json("storage_caught_up", {"storages": rows})
    else:
        for name, outcome in zip(names, outcomes, strict=True):
            if not isinstance(outcome, KropotError):
                emit(_text(name, outcome))
    failed = [outcome for outcome in outcomes if isinstance(outcome, KropotError)]
    for error in failed:
        say(str(error), level="error")
    if any(not isinstance(outcome, KropotError) and _bad(outcome) for outcome in outcomes):
        say("some files are damaged or missing in the first storage: run `kropotcli verify --repair`", level="error")
        return Exit.FINDINGS
    if failed:
        return failed[0].exit_code if len(failed) == len(outcomes) else Exit.PARTIAL
    return Exit.DONE


@define("forget")
@click.argument("place", metavar="PLACE")
def forget(settings: Settings, *, place: str) -> None:
    """Do without a further storage from now on. What is in it stays.

    PLACE is its address or its id, as `kropotcli status` shows them. Nothing is freed or erased there any more. Take it
    out of --also-store, too: otherwise the next `collect` begins to keep it in step again.
    """
    from kropot.objects.stores.address import parse_storage, shown_storage

    with open_ledger(settings) as ledger:
        known = ledger.work.further()
        found = [row for row in known if row.id.hex() == place.lower()]
        found = found or [row for row in known if row.address == shown_storage(parse_storage(place))]
        if not found:
            raise UsageError(f"the ledger knows no further storage {place}: `kropotcli status` shows those it knows")
        if len(found) > 1:
            raise UsageError(f"several storages were seen at {place}: name one by its id, as `status` shows it")
        ledger.work.forget_further(found[0].id)
    if settings.json:
        emit_json("storage_forgotten", {"id": found[0].id.hex(), "address": found[0].address})
    else:
        emit(f"forgot the further storage {found[0].address}; its content was not changed")


def step_each(ledger: Ledger, surroundings: Surroundings) -> list[FurtherRow]:
    """Bring each known further storage up to date, after bytes were freed in the first; return those where this failed.

    A failure is reported to the user. The next collector or `storage catch-up` does the rest.
    """
    from kropot.further.catching_up import CatchingUp

    failed = []
    for row in surroundings.known(ledger):
        source = surroundings.files_of_first()
        try:
            with surroundings.rejoin(ledger, row) as further:
                CatchingUp(ledger, source, further).run()
        except KropotError as error:
            say(f"nothing was freed at {row.address} yet: {error}; the next `collect` or `storage catch-up` does it")
            failed.append(row)
        finally:
            source.close()
    return failed


def _one(ledger: Ledger, surroundings: Surroundings, place: StorageAddress, *, begin: bool) -> CaughtUp | KropotError:
    from kropot.further.catching_up import CatchingUp

    progress = now_and_then("storage_catching_up", "files", "bytes")
    source = surroundings.files_of_first()
    try:
        with surroundings.join(ledger, place, begin=begin) as further:
            return CatchingUp(ledger, source, further, progress=progress).run()
    except KropotError as error:
        return error
    finally:
        source.close()


def _bad(done: CaughtUp) -> int:
    return done.missing + done.copied.damaged


def _text(place: str, done: CaughtUp) -> str:
    text = f"{place} is up to date with event {done.position}: "
    text += f"copied {number(done.copied.files, 'file')} ({amount(done.copied.bytes)})"
    text += f", removed {number(done.removed, 'file')}" if done.removed else ""
    return text + (f", {number(_bad(done), 'file')} could not be copied" if _bad(done) else "")


def _json(place: str, outcome: CaughtUp | KropotError) -> dict[str, Any]:
    if isinstance(outcome, KropotError):
        return {"address": place, "done": False, "why_not": str(outcome)}
    return {
        "address": place,
        "done": outcome.is_done,
        "why_not": None,
        "position": outcome.position,
        "files": outcome.copied.files,
        "bytes": outcome.copied.bytes,
        "removed": outcome.removed,
        "missing": outcome.missing,
        "damaged": outcome.copied.damaged,
    }
