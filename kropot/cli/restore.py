"""`kropotcli restore`: opens copies and writes them as files, as of any moment."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import click

from kropot.cli.base import Exit, Settings, emit, emit_json, open_ledger
from kropot.cli.base import command as define
from kropot.cli.copies import WORKERS, check_target, open_copies, read_kits
from kropot.cli.moments import moment_of, until_option
from kropot.cli.passphrases import passphrase_option
from kropot.cli.paths import PATH
from kropot.cli.restore_mode import check_options, mode_of
from kropot.cli.restore_progress import RestoreProgress, restore_progress
from kropot.cli.restore_report import RestoreReport
from kropot.cli.restore_stdout import write_to_stdout
from kropot.cli.restore_target import WOULD, Destination
from kropot.errors import UsageError
from kropot.query.erasures import erased_in
from kropot.query.names import find_source
from kropot.query.past import freshest_first, labels_of, past_ids, sources_at
from kropot.wording import moment as clock

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from concurrent.futures import Executor
    from pathlib import Path

    from kropot.query.erasures import Erased
    from kropot.query.past import KnownSource
    from kropot.replay.copies import Copies, HeldCopy
    from kropot.restore.job import Overwrite
    from kropot.restore.plan import Planned, RestoreProblem
    from ledger.answers import Tally


@define("restore")
@click.argument("patterns", metavar="[PATTERN]...", nargs=-1)
@click.option(
    "--key",
    "kits",
    type=PATH,
    multiple=True,
    metavar="KIT.json",
    help="The token's kit: the JSON of the request that made the token. Repeat this option for each token.",
)
@passphrase_option
@click.option("--to", "target", type=PATH, metavar="DIR", help="Restore into this folder.")
@until_option
@click.option(
    "--source",
    "source_names",
    metavar="SOURCE",
    multiple=True,
    help="Restore only from this source, even if it is past. SOURCE is its label, or the beginning of its id. Can be"
    " repeated.",
)
@click.option(
    "--from",
    "exported",
    type=PATH,
    metavar="EXPORT",
    help="Restore from a folder that `replay --export` wrote. This needs no ledger and no storage.",
)
@click.option(
    "--vanished", is_flag=True, help="Also restore elements that had vanished from the server at that moment."
)
@click.option(
    "--past-sources",
    "past",
    is_flag=True,
    help="Also restore what only past sources have: those that retired, or whose token was replaced by then.",
)
@click.option(
    "--both",
    is_flag=True,
    help="If two sources have a file with the same name, restore both. The second gets a number in its name.",
)
@click.option("--list-names", is_flag=True, help="Only print names, dates and sizes, sorted by name. Write nothing.")
@click.option("--dry-run", is_flag=True, help="Only print what would be written. Write nothing.")
@click.option(
    "--overwrite",
    type=click.Choice(["never", "older", "always"]),
    default="never",
    show_default=True,
    help="Replace files of other content that restore did not write: never, only those older than the file that comes"
    " back, or always.",
)
@click.option(
    "--verify-only",
    is_flag=True,
    help="Write nothing. Open and check every copy, and with --to compare the folder's files with them.",
)
@click.option(
    "--stdout",
    "printed",
    metavar="NAME",
    help="Write this one file to standard output, and nothing else. It is checked before the first byte is written.",
)
@click.option("--portable-names", is_flag=True, help="Give all files names that also work on Windows.")
@click.option("--no-snapshots", is_flag=True, help="Ignore all snapshots, and fold the events themselves.")
def command(
    settings: Settings,
    *,
    patterns: tuple[str, ...],
    kits: tuple[Path, ...],
    passphrase_files: tuple[Path, ...],
    target: Path | None,
    until: str | None,
    source_names: tuple[str, ...],
    exported: Path | None,
    vanished: bool,
    past: bool,
    both: bool,
    list_names: bool,
    dry_run: bool,
    overwrite: Overwrite,
    verify_only: bool,
    printed: str | None,
    portable_names: bool,
    no_snapshots: bool,
) -> Exit:
    """Open copies with their kits, and write them as files under their names.

    PATTERN is a name as --list-names prints it, or a glob over the names. *.txt means all such files. docs or docs/**
    means everything in that folder. A file with exactly this name beats the glob. You can give several. Files that an
    earlier run restored are not written again. Other files are not overwritten, unless you ask for it with --overwrite.

    A source that a person retired, or whose token was replaced, is past. Its files are left out unless you ask for them
    with --past-sources or --source. If two sources have a file with the same name, only one is restored: that of the
    source that was listed last. The other one is named.

    If a file cannot be restored, or a pattern matches nothing, you get a warning. The rest is restored, and the exit
    code is 3. If no kit fits, nothing is written, and the exit code is 13.
    """
    from kropot.restore.patterns import Patterns
    from kropot.restore.plan import RestoreCounts, Selection, plan

    mode = mode_of(list_names=list_names, dry_run=dry_run, verify_only=verify_only, printed=printed)
    check_options(settings, mode, target, patterns)
    if target is not None:
        check_target(settings, target)
    tally, report = RestoreCounts(), RestoreReport(settings)
    with ExitStack() as stack:
        matching = Patterns(patterns if printed is None else (printed,))
        pool = stack.enter_context(_pool())
        origin = stack.enter_context(
            _from_export(exported, until, source_names)
            if exported is not None
            else _from_ledger(settings, until, source_names, snapshots=not no_snapshots)
        )
        report.erased, report.sources = origin.erased, origin.sources or {}
        destination = Destination(
            target, stack, pool, portable=portable_names, writes=mode == "restore", overwrite=overwrite
        )
        plans = plan(
            origin.helds,
            kits=read_kits(kits, passphrase_files),
            wanted=Selection(
                patterns=matching,
                sources=origin.wanted,
                vanished=vanished,
                past=past,
                both=both,
                by_path=list_names or dry_run,
            ),
            giver=destination.giver,
            pool=pool,
            tally=tally,
            sources=origin.count(past=past),
        )

        def show() -> AbstractContextManager[RestoreProgress]:
            total = (None, None) if patterns else origin.total(vanished=vanished, past=past)
            return restore_progress(settings, files=total[0], size=total[1])

        if printed is not None:
            return write_to_stdout(plans, origin.copies, printed)
        if list_names:
            _list_names(settings, plans, origin.copies, report)
        elif dry_run:
            _dry_run(settings, plans, destination, report)
        elif verify_only:
            _verify(plans, origin.copies, target, pool, report, show=show())
        else:
            _restore(plans, origin.copies, destination, pool, report, show=show())
    return report.finish(tally, target, unmatched=matching.idle, mode=mode)


# --- where copies come from ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Origin:
    """The elements to choose from, and their copies. `sources` are the sources, and `erased` sums up the erasures.

    Both are None if that is not known. `tallies` are the sums over all elements, empty if they are not known.
    """

    helds: Iterable[HeldCopy]
    copies: Copies
    wanted: frozenset[bytes]
    sources: dict[bytes, KnownSource] | None
    erased: Erased | None = None
    tallies: Sequence[Tally] = ()

    def total(self, *, vanished: bool, past: bool) -> tuple[int, int] | tuple[None, None]:
        """Return how many files there are to restore, and their stored bytes; None twice if that is not known."""
        chosen = self.wanted or {id_ for id_, each in (self.sources or {}).items() if past or each.past is None}
        counted = [
            each
            for each in self.tallies
            if each.bytes and (vanished or each.state != "vanished") and each.source in chosen
        ]
        if not counted:
            return None, None
        return sum(each.elements for each in counted), sum(each.bytes for each in counted)

    def count(self, *, past: bool) -> int | None:
        """Return from how many sources files are wanted, None if that is not known."""
        if self.wanted or self.sources is None:
            return len(self.wanted) or None
        return sum(past or each.past is None for each in self.sources.values())


@contextmanager
def _from_ledger(
    settings: Settings, until: str | None, source_names: tuple[str, ...], *, snapshots: bool
) -> Iterator[_Origin]:
    from kropot.replay.copies import held_at
    from kropot.replay.fold import walk
    from kropot.replay.snapshots import pointers_at

    with open_ledger(settings, read_only=True) as ledger, open_copies(settings) as copies:
        moment = moment_of(ledger, until)
        labels, known = labels_of(ledger), sources_at(ledger, moment.position)
        wanted = frozenset(find_source(labels, name) for name in source_names)
        with pointers_at(ledger, moment.position, snapshots=snapshots) as pointers:
            standings = walk(ledger, pointers, moment.position, sources=freshest_first(known))
            yield _Origin(
                helds=held_at(ledger, standings, past=past_ids(known)),
                copies=copies,
                wanted=wanted,
                sources=known,
                erased=erased_in(ledger),
                tallies=() if until else ledger.tallies(),
            )


@contextmanager
def _from_export(root: Path, until: str | None, source_names: tuple[str, ...]) -> Iterator[_Origin]:
    from kropot.restore.read_export import ExportedCopies

    if until is not None or source_names:
        raise UsageError(
            f"--until and --source do not work with the export {root}, which is fixed to one moment and all sources: "
            "leave them out, or restore from the ledger"
        )
    copies = ExportedCopies(root)
    try:
        yield _Origin(helds=copies.helds(), copies=copies, wanted=frozenset(), sources=None)
    finally:
        copies.close()


@contextmanager
def _pool() -> Iterator[Executor]:
    pool = ThreadPoolExecutor(WORKERS)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


# --- what is done with them ------------------------------------------------------------------------------------------


def _restore(
    plans: Iterator[Planned | RestoreProblem],
    copies: Copies,
    destination: Destination,
    pool: Executor,
    report: RestoreReport,
    *,
    show: AbstractContextManager[RestoreProgress],
) -> None:
    from kropot.restore.job import Restored, restore
    from kropot.restore.plan import RestoreProblem

    for first in plans:
        if isinstance(first, RestoreProblem):
            report.finding(first)
            continue
        with show as progress:
            outcomes = restore(
                chain([first], plans),
                copies=copies,
                tree=destination.tree,
                journal=destination.journal,
                pool=pool,
                overwrite=destination.overwrite,
                moved=progress.moved,
            )
            for outcome in outcomes:
                progress.finished()
                if isinstance(outcome, Restored):
                    report.restored(outcome)
                else:
                    report.finding(outcome)


def _verify(
    plans: Iterable[Planned | RestoreProblem],
    copies: Copies,
    target: Path | None,
    pool: Executor,
    report: RestoreReport,
    *,
    show: AbstractContextManager[RestoreProgress],
) -> None:
    from kropot.restore.compare import Verified, compare

    with show as progress:
        for outcome in compare(plans, copies=copies, root=target, pool=pool, moved=progress.moved):
            progress.finished()
            if isinstance(outcome, Verified):
                report.count(outcome.planned, existed=False, size=outcome.size)
            else:
                report.finding(outcome)


def _dry_run(
    settings: Settings, plans: Iterable[Planned | RestoreProblem], destination: Destination, report: RestoreReport
) -> None:
    from kropot.restore.plan import RestoreProblem

    for plan in plans:
        if isinstance(plan, RestoreProblem):
            report.finding(plan)
            continue
        would = destination.predict(plan)
        report.count(plan, existed=would not in {"restore", "replace", "overwrite"}, size=plan.held.size)
        if settings.json:
            emit_json({"would": would, **_row(plan)}, flush=False)
        else:
            emit(f"{WOULD[would]}  {plan.shown}", flush=False)


def _list_names(
    settings: Settings, plans: Iterable[Planned | RestoreProblem], copies: Copies, report: RestoreReport
) -> None:
    from kropot.durable.errors import StorageError
    from kropot.objects.store import ObjectMissingError
    from kropot.restore.opener import plain_size
    from kropot.restore.plan import RestoreProblem

    for plan in plans:
        if isinstance(plan, RestoreProblem):
            report.finding(plan)
            continue
        size = plan.opened.claim.size
        if size is None:
            try:
                with copies.open(plan.held) as source:
                    size = plain_size(source, held=plan.held, kit=plan.opened.kit)
            except (ObjectMissingError, StorageError):
                size = None
        report.count(plan, existed=False, size=size or 0)
        if settings.json:
            emit_json(_row(plan) | {"size": size}, flush=False)
        else:
            shown = "-" if size is None else str(size)
            emit(f"{clock(_time_us(plan))}  {shown:>12}  {plan.shown}", flush=False)


def _row(plan: Planned) -> dict[str, Any]:
    held = plan.held
    return {
        "name": plan.shown,
        "true_name": plan.opened.claim.what,
        "date": clock(_time_us(plan)),
        "state": held.state,
        "is_older": held.is_older,
        "source": held.key.source.hex(),
        "type": held.key.kind,
        "id": held.key.id,
        "object": None if held.sha256 is None else held.sha256.hex(),
        "stored_size": held.size,
    }


def _time_us(plan: Planned) -> int:
    """Return the file's own time in microseconds, or the server's date for it."""
    mtime_ns = plan.opened.claim.mtime_ns
    return plan.held.date * 1_000_000 if mtime_ns is None else mtime_ns // 1000
