"""`kropotcli restore`: opens copies and writes them as files, as of any moment."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack, nullcontext
from itertools import chain
from typing import TYPE_CHECKING

import click
from msgspec import Struct

from kropot.cli.afar import from_options
from kropot.cli.base import Exit, Settings
from kropot.cli.base import command as define
from kropot.cli.copies import check_target, read_kits, reading_pool
from kropot.cli.moments import until_option
from kropot.cli.passphrases import passphrase_option
from kropot.cli.paths import PATH
from kropot.cli.restore_look import dry_run as show_plan
from kropot.cli.restore_look import list_names as show_names
from kropot.cli.restore_mode import check_options, mode_of
from kropot.cli.restore_origin import RestoreWish, origin_of
from kropot.cli.restore_progress import RestoreProgress, restore_progress
from kropot.cli.restore_report import RestoreReport
from kropot.cli.restore_stdout import write_to_stdout
from kropot.cli.restore_target import Destination
from kropot.cli.restore_trust import Trust, trust_options
from kropot.gc_tuning import look_for_cycles_rarely

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from concurrent.futures import Executor
    from pathlib import Path

    from kropot.replay.copies import Copies
    from kropot.restore.crew import Crew
    from kropot.restore.entry import Overwrite
    from kropot.restore.opener import Key
    from kropot.restore.owners import Owners
    from kropot.restore.plan import Planned, RestoreProblem


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
@from_options
@click.option(
    "--from-storage",
    is_flag=True,
    help="Restore from the objects in --storage-path alone, without a ledger: the last sealed version of each "
    "element. Only for sc2.",
)
@click.option(
    "--vanished", is_flag=True, help="Also restore elements that had vanished from the server at that moment."
)
@click.option(
    "--past-sources",
    "past",
    is_flag=True,
    help="Also restore what only past sources have: sources that were retired by then, or whose token was replaced.",
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
    help="Replace files with different content that restore did not write: never, only those older than the restored "
    "file, or always.",
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
@trust_options
@click.option(
    "--numeric-owner",
    is_flag=True,
    help="As root, give files to the user and group with the recorded numeric ids, not to those with the recorded "
    "names.",
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
    origin: Path | str | None,
    token_file: Path | None,
    from_storage: bool,
    vanished: bool,
    past: bool,
    both: bool,
    list_names: bool,
    dry_run: bool,
    overwrite: Overwrite,
    verify_only: bool,
    printed: str | None,
    against: tuple[Path, ...],
    public_key: str | None,
    require: frozenset[str],
    accept_older: bool,
    numeric_owner: bool,
    portable_names: bool,
    no_snapshots: bool,
) -> Exit:
    """Open copies with their kits, and write them as files under their names.

    PATTERN is a name as --list-names prints it, or a glob over the names. *.txt means all such files. docs or docs/**
    means everything in that folder. A file with exactly this name beats the glob. You can give several. Files that an
    earlier run restored are not written again. Other files are not overwritten, unless you ask for it with --overwrite.

    A source that a person retired, or whose token was replaced, is past. Its files are left out unless you ask for them
    with --past-sources or --source. If two sources have a file with the same name, only the one of the source that was
    listed last is restored. A message names the other one.

    If a file cannot be restored, or a pattern matches nothing, you get a warning. The rest is restored, and the exit
    code is 3. If no kit fits, nothing is written, and the exit code is 13.

    Every event, form and content is compared with what it must be. What was altered or swapped is never written: you
    get a warning, and the exit code is 4. The last two lines say how far the sealing and the history prove the rest.
    Beside each kit, a small file (KIT.json.seen) remembers the ledger. A ledger that lacks what was seen before is
    refused (exit code 4).
    """
    from kropot.restore.crew import Crew
    from kropot.restore.owners import Owners
    from kropot.restore.patterns import Patterns
    from kropot.restore.plan import RestoreCounts, Selection, plan

    mode = mode_of(list_names=list_names, dry_run=dry_run, verify_only=verify_only, printed=printed)
    check_options(settings, mode, target, patterns)
    if target is not None:
        check_target(settings, target)
    trust = Trust.of(kits, against=against, public_key=public_key, require=require, accept_older=accept_older)
    tally, report = RestoreCounts(), RestoreReport(settings, trust)
    wish = RestoreWish(
        origin=origin,
        token_file=token_file,
        from_storage=from_storage,
        until=until,
        sources=source_names,
        names=patterns if printed is None else (printed,),
        vanished=vanished,
        past=past,
        snapshots=not no_snapshots,
        remember=mode != "look",
    )
    with ExitStack() as stack:
        matching = Patterns(wish.names)
        pool = stack.enter_context(reading_pool())
        keys = read_kits(kits, passphrase_files)
        found = stack.enter_context(origin_of(settings, wish, keys, trust))
        report.erased, report.sources = found.erased, found.sources or {}
        destination = Destination(
            target, stack, pool, portable=portable_names, writes=mode == "restore", overwrite=overwrite
        )
        owners = Owners(numeric=numeric_owner)
        look_for_cycles_rarely()
        crew = (
            stack.enter_context(Crew(found.copies, keys, owners, workers=found.workers)) if mode == "restore" else None
        )
        plans = plan(
            found.helds,
            kits=keys,
            wanted=Selection(
                patterns=matching,
                sources=found.wanted,
                vanished=vanished,
                past=past,
                both=both,
                by_path=list_names or dry_run,
            ),
            giver=destination.giver,
            pool=pool,
            tally=tally,
            sources=found.count(past=past),
            crew=crew,
        )
        plans = trust.demanded(plans)

        def show() -> AbstractContextManager[RestoreProgress]:
            total = (None, None) if patterns else found.total(vanished=vanished, past=past)
            return restore_progress(settings, files=total[0], size=total[1])

        if printed is not None:
            return write_to_stdout(plans, found.copies, printed, report)
        if list_names:
            show_names(settings, plans, found.copies, report)
        elif dry_run:
            show_plan(settings, plans, destination, report)
        elif verify_only:
            _verify(plans, found.copies, target, pool, report, show=show())
        else:
            hands = _Hands(pool=pool, crew=crew, owners=owners, keys=keys)
            _restore(plans, found.copies, destination, report, hands=hands, show=show())
            report.tree = destination.opened
        report.hidden, report.survey = found.hidden(), found.survey
    return report.finish(tally, target, unmatched=matching.idle, mode=mode)


# --- work on the plans -----------------------------------------------------------------------------------------------


class _Hands(Struct, frozen=True, kw_only=True):
    """The workers, the restorer of owners, and the keys in the plans."""

    pool: Executor
    crew: Crew | None
    owners: Owners
    keys: Sequence[Key]


def _restore(
    plans: Iterator[Planned | RestoreProblem],
    copies: Copies,
    destination: Destination,
    report: RestoreReport,
    *,
    hands: _Hands,
    show: AbstractContextManager[RestoreProgress],
) -> None:
    from kropot.restore.job import Restored, restore
    from kropot.restore.plan import RestoreProblem

    for first in plans:
        if isinstance(first, RestoreProblem):
            report.finding(first)
            continue
        # The workers end before the folder is closed.
        with show as progress, hands.crew or nullcontext():
            outcomes = restore(
                chain([first], plans),
                copies=copies,
                tree=destination.tree,
                journal=destination.journal,
                pool=hands.pool,
                overwrite=destination.overwrite,
                owners=hands.owners,
                keys=hands.keys,
                crew=hands.crew,
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
