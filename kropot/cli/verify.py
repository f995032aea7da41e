"""`kropotcli verify`: checks the ledger and the copies, prints a finding per line, and says what was not checked."""

from __future__ import annotations

import dataclasses
import signal
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec.structs

from kropot.cli.base import (
    Exit,
    Settings,
    collect_options,
    emit,
    emit_json,
    open_ledger,
    say,
    server_of,
    storage_of,
    surroundings_of,
    warn,
)
from kropot.cli.base import command as define
from kropot.cli.calls import note_counts
from kropot.cli.notes import notes_in
from kropot.cli.paths import FURTHER
from kropot.cli.sizes import SIZE, SPAN
from kropot.errors import LockedError, ServerRefusedError, UsageError
from kropot.wording import SECOND_US, amount, instant, number, one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kropot.further.joining import Surroundings
    from kropot.objects.stores.address import StorageAddress
    from kropot.securecopy.client import SecureCopyClient
    from kropot.verify import Finding, RefetchDone, Scope, Summary
    from ledger.log import Ledger


class Rate(click.ParamType[int, Any]):
    """Bytes per second, as `50MiB/s` or `50MiB`."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return bytes per second. Raises: click.BadParameter if the text is not a rate above 0."""
        text = str(value).strip().removesuffix("/s")
        try:
            rate = value if isinstance(value, int) else SIZE.convert(text, param, ctx)
        except click.BadParameter:
            rate = 0
        if rate < 1:
            self.fail(f"{value!r} is not a rate above 0: try 50MiB/s", param, ctx)
        return rate


@define("verify")
@click.option("--quick", is_flag=True, help="Check only the names and sizes of the copies. Do not read them.")
@click.option(
    "--budget", type=SPAN, help="Stop reading contents after this time, e.g. 2h. The next run continues from there."
)
@click.option("--max-age", type=SPAN, help="Skip contents that were read less than this long ago, e.g. 30d.")
@click.option("--limit-rate", type=Rate(), help="Read at most this much per second, e.g. 50MiB/s.")
@click.option(
    "--against",
    type=click.Path(exists=True, path_type=Path),
    multiple=True,
    help="Compare the ledger with this checkpoint, or with all checkpoints in this folder. Needs --public-key. Can be"
    " repeated.",
)
@click.option(
    "--public-key", metavar="KEY", help="The public key of the checkpoints' signer: the key itself or a file."
)
@click.option(
    "--source", "ask_source", is_flag=True, help="Also compare a full listing of the server with the projection."
)
@click.option(
    "--repair",
    is_flag=True,
    help="Set damaged objects aside, and heal them from a further storage or fetch them again. Fetching needs a server"
    " and a token.",
)
@click.option(
    "--also-store",
    "also",
    type=FURTHER,
    multiple=True,
    metavar="PLACE",
    help="Also check this further storage, all of it. Can be repeated; `all` means all that the ledger knows. With "
    "--repair, it is healed from the first storage.",
)
@click.option(
    "--no-record", is_flag=True, help="Write nothing to the ledger: record neither findings nor what was read."
)
def command(settings: Settings, **options: Any) -> Exit:
    """Check the ledger, its projection and the copies for damage and changes.

    This prints one finding per line and then a summary. With --json, each line is a JSON object. The exit code is 0 if
    everything that was checked is sound, 4 if something is wrong, and 1 if the check could not be done. A budget that
    runs out is not an error.

    Damaged and lost copies are recorded in the ledger. The next `collect` fetches them again, if their source still has
    them. With --repair, this happens at once. What is known to be damaged or lost is reported by every run.
    """
    from kropot.cli.work_progress import work_progress
    from kropot.verify import RefetchDone, Verification, World

    if options["against"] and options["public_key"] is None:
        raise UsageError("--against needs --public-key to verify the signatures: give the signer's public key")
    if options["repair"] and options["no_record"]:
        raise UsageError("--repair must record its repairs in the ledger: leave out --no-record")
    with (
        _stop_on_signals() as caught,
        open_ledger(settings, read_only=options["no_record"]) as ledger,
        ExitStack() as stack,
    ):
        scope = _scope(settings, ledger, options, stack)
        objects = stack.enter_context(closing(storage_of(settings).objects(places=ledger.places)))
        with work_progress(settings, "verify") as progress:
            world = World(stopped=lambda: bool(caught), progress=progress)
            run = Verification(ledger, objects, scope, world)
            for finding in run.findings():
                show(finding, as_json=settings.json)
        if scope.repair and run.is_fetch_due:
            fetched = RefetchDone(why="it was not fetched, because this run was stopped")
            for finding in run.repaired(fetched if caught else _fetch(settings, ledger)):
                show(finding, as_json=settings.json)
    if not (settings.quiet and run.summary.sound):
        show_summary(run.summary, as_json=settings.json)
    _note(run.summary)
    if run.trouble is not None:
        say(str(run.trouble), level="error")
    if not run.summary.sound:
        return Exit.FINDINGS
    if run.trouble is not None:
        return run.trouble.exit_code
    return Exit.INTERRUPTED if signal.SIGINT in caught else Exit.DONE


def _note(summary: Summary) -> None:
    """Note the counts that a call about this run reports."""
    copies = summary.covered.get("copies") or {}
    note_counts(
        sound=summary.sound,
        findings=summary.errors,
        repaired=summary.repaired,
        objects=copies.get("objects", 0),
        bytes=copies.get("bytes", 0),
    )


def _scope(settings: Settings, ledger: Ledger, options: dict[str, Any], stack: ExitStack) -> Scope:
    """Return the scope that the options ask for. `stack` closes what it opens. Raises: UsageError."""
    from kropot.checkpoints.keys import read_verifier_key
    from kropot.further.healing import Healer
    from kropot.verify import Note, Scope

    key, age, storage = options["public_key"], options["max_age"], storage_of(settings)
    surroundings = surroundings_of(settings)
    source, client = _source(settings, ledger) if options["ask_source"] else (None, None)
    return Scope(
        quick=options["quick"],
        budget_s=options["budget"],
        max_age_us=None if age is None else age * SECOND_US,
        rate=options["limit_rate"],
        record=not options["no_record"],
        against=tuple(Note(*each) for each in notes_in(options["against"])),
        key=None if key is None else read_verifier_key(key),
        repair=options["repair"],
        source=source,
        client=None if client is None else stack.enter_context(client),
        segments=storage.segments(),
        storage=storage,
        surroundings=surroundings,
        further=_further(surroundings, ledger, options["also"]),
        healer=stack.enter_context(closing(Healer(ledger, surroundings))) if options["repair"] else None,
    )


def _further(
    surroundings: Surroundings, ledger: Ledger, named: tuple[StorageAddress, ...]
) -> tuple[StorageAddress, ...]:
    """Return the further storages to check, each once."""
    from kropot.objects.stores.address import parse_storage

    known = [parse_storage(row.address) for row in surroundings.known(ledger)]
    found: list[StorageAddress] = []
    for each in named:
        found += known if each == Path("all") else [each]
    return tuple(dict.fromkeys(found))


def _source(settings: Settings, ledger: Ledger) -> tuple[bytes, SecureCopyClient]:
    """Return the token's source and a client for it. Raises: UsageError if the token has no source in this ledger."""
    from kropot.collect.decide.sources import match_source
    from ledger.vaults import namings_of

    server = server_of(settings)
    match = match_source(ledger.sources(), server.token.reveal(), server.url, namings_of(ledger.store))
    if match.kind != "known" or match.id is None:
        raise UsageError(
            f"--source found nothing to compare, because nothing was collected from {server.url} with this token yet:"
            " run `kropotcli collect` first"
        )
    return match.id, server.client()


def _fetch(settings: Settings, ledger: Ledger) -> RefetchDone:
    """Collect once, to fetch damaged copies again. Return how this ended, or why it is not possible."""
    from kropot.cli.progress import progress_display
    from kropot.collect.decide.sources import match_source
    from kropot.collect.service import collect
    from kropot.verify import RefetchDone
    from ledger.vaults import namings_of

    if settings.server_url is None or settings.token is None:
        say("nothing can be fetched again now: give --server-url and --token-file too, or run `kropotcli collect`")
        return RefetchDone(why="it was not fetched, because no server and token were given")
    token, url = settings.token.reveal(), settings.server_url
    source = match_source(ledger.sources(), token, url, namings_of(ledger.store)).id
    try:
        wanted = collect_options(settings, once=True)
        outcome = collect(ledger, wanted, show=lambda: progress_display(settings), say=say, warn=warn)
    except LockedError as error:
        say(f"{error}; that collector fetches the damaged or lost copies again")
        return RefetchDone(source=source, why="it was not fetched now, because another collector is at work")
    except ServerRefusedError as error:
        say(str(error), level="error")
        return RefetchDone(source=source, reach="refused", why="the server refuses the token")
    if outcome.code == Exit.REFUSED:
        return RefetchDone(source=outcome.source_id, reach="refused", why="the server refuses the token")
    return RefetchDone(source=outcome.source_id, why="the collector of this run did not get it: see its messages above")


def show(finding: Finding, *, as_json: bool) -> None:
    """Print one finding."""
    if as_json:
        emit_json("finding", msgspec.structs.asdict(finding))
        return
    where = [
        f"{name} {value}"
        for name, value in (
            ("position", finding.position),
            ("element", None if finding.element is None else one_line(finding.element)),
            ("object", finding.object),
            ("pack", finding.pack),
        )
        if value is not None
    ]
    hint = f" -- {finding.hint}" if finding.hint else ""
    emit(f"{finding.severity} {finding.kind}: {', '.join(where)}{': ' if where else ''}{finding.detail}{hint}")


def show_summary(summary: Summary, *, as_json: bool) -> None:
    """Print what was checked and what was not."""
    if as_json:
        told = {"kind": "summary", **dataclasses.asdict(summary), "sound": summary.sound}
        copies = told["covered"].get("copies", {})
        if "all_read_by_us" in copies:
            by_us = copies.pop("all_read_by_us")
            copies["all_read_by"] = None if by_us is None else instant(by_us)
        emit_json("verify_summary", told)
        return
    for line in _lines(summary):
        emit(line)


def _lines(summary: Summary) -> Iterator[str]:
    parts = ("ledger", "index", "checkpoints", "segments", "copies", "source")
    ledger, projection, checkpoints, segments, copies, source = (summary.covered.get(part) for part in parts)
    if ledger is not None:
        yield f"ledger       {number(ledger['events'], 'event')}, root {ledger['root']}"
    if projection is not None:
        yield f"projection   {number(projection['entries'], 'element')} match the events"
        digest, old = projection["state_digest"], projection["state_digest_sd1"]
        yield f"             {digest or 'no state digest sd2: something was erased during the check'}"
        yield f"             {old or 'no state digest sd1: the ledger grew during the check'}"
    if checkpoints is not None:
        tail = number(checkpoints["unsealed_tail"], "event")
        checked = number(checkpoints["checked"], "checkpoint")
        yield f"checkpoints  {checked} compared, {tail} after the last verified one"
    if segments is not None and segments["files"]:
        yield f"segments     {number(segments['files'], 'segment')} in the storage, up to event {segments['reach']}"
    if copies is not None:
        yield f"copies       {_copies(copies)}"
    for address, each in (summary.covered.get("further") or {}).items():
        held = f"{number(each['objects'], 'object')} ({amount(each['bytes'])})"
        reach = f"what events up to {each['position']} name, history up to {each['segments_to']}"
        yield f"also in      {address}: {held}, {reach}"
    if source is not None:
        listed = number(source["listed"], "element")
        yield f"source       {listed} listed, {source['agreeing']} the same here, {source['proved']} of them by content"
    yield from _gaps(summary)
    if summary.repaired:
        yield f"repaired     {number(summary.repaired, 'copy').replace('copys', 'copies')}"
    if summary.sound:
        yield "everything that was checked is sound" if summary.not_covered else "everything is sound"
    else:
        unsolved = number(summary.errors - summary.repaired, "finding")
        yield f"NOT SOUND: {unsolved}; the lines above say what to do"


def _gaps(summary: Summary) -> Iterator[str]:
    copies = summary.covered.get("copies")
    if copies is not None and copies["not_recorded_because"]:
        yield f"not recorded: {copies['not_recorded_because']}"
    for gap in summary.not_covered:
        yield f"not checked: {gap}"


def _copies(copies: dict[str, Any]) -> str:
    if not copies["share_due"]:
        return "nothing to read: all contents were read and compared within --max-age"
    how = "read and compared" if copies["contents"] else "present, with the right size"
    return f"{number(copies['objects'], 'object')} ({amount(copies['bytes'])}) {how}"


@contextmanager
def _stop_on_signals() -> Iterator[set[int]]:
    """Let SIGINT and SIGTERM stop the reading of contents cleanly. Yield the set of received signals."""
    caught: set[int] = set()

    def catch(number_: int, _frame: object) -> None:
        if number_ in caught:
            raise KeyboardInterrupt
        caught.add(number_)
        say("stopping: verify first records what it has read; press Ctrl-C again to stop at once")

    before: dict[int, Callable[..., object] | int | None] = {}
    try:
        for each in (signal.SIGINT, signal.SIGTERM):
            before[each] = signal.signal(each, catch)
        yield caught
    finally:
        for number_, handler in before.items():
            signal.signal(number_, handler)
