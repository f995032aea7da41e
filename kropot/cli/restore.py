"""`kropotcli restore`: decrypt copies back into files, as of any moment."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

import click

from kropot.cli.base import Exit, Settings, emit, emit_json, open_ledger
from kropot.cli.base import command as define
from kropot.cli.giving import WORKERS, check_target, copies_of, end, read_kits
from kropot.cli.moments import moment_of, until_option
from kropot.cli.paths import PATH
from kropot.cli.told import Told
from kropot.durable.dirfd import look_below
from kropot.errors import UsageError
from kropot.query.names import find_source
from kropot.wording import moment as clock
from kropot.wording import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from concurrent.futures import Executor
    from pathlib import Path

    from kropot.replay.copies import Copies, HeldCopy
    from kropot.restore.names import NameGiver
    from kropot.restore.plan import Planned, RestoreProblem

MANIFEST = b"kropot-manifest.jsonl"


@define("restore")
@click.argument("patterns", metavar="[PATTERN]...", nargs=-1)
@click.option(
    "--key",
    "kits",
    type=PATH,
    multiple=True,
    metavar="KIT.json",
    help="The JSON of the request that made the token; once for each token.",
)
@click.option("--to", "target", type=PATH, metavar="DIR", help="The folder to restore into.")
@until_option
@click.option(
    "--source",
    "source_names",
    metavar="SOURCE",
    multiple=True,
    help="Only this source, named by the beginning of its id.",
)
@click.option(
    "--from",
    "exported",
    type=PATH,
    metavar="EXPORT",
    help="Restore from a folder that `replay --export` wrote, without ledger and storage.",
)
@click.option("--vanished", is_flag=True, help="Also what the server no longer had at that moment.")
@click.option("--list-names", is_flag=True, help="Only print names, dates and sizes.")
@click.option("--dry-run", is_flag=True, help="Only say what would be written.")
@click.option(
    "--portable-names", is_flag=True, help="Give names that Windows can hold and tell apart, wherever this runs."
)
@click.option("--no-snapshots", is_flag=True, help="Fold the events themselves, whatever snapshots there are.")
def command(
    settings: Settings,
    *,
    patterns: tuple[str, ...],
    kits: tuple[Path, ...],
    target: Path | None,
    until: str | None,
    source_names: tuple[str, ...],
    exported: Path | None,
    vanished: bool,
    list_names: bool,
    dry_run: bool,
    portable_names: bool,
    no_snapshots: bool,
) -> Exit:
    """Open the copies with their kits and give the files their names back.

    PATTERN is a glob over the restored names: *.txt means all such files, docs or docs/** all in that folder. What
    an earlier run has restored is not written again, and a file that is not ours is never overwritten. Findings, and
    patterns that match nothing, are named, the rest is restored: exit code 3. Where no kit fits, nothing is written:
    13.
    """
    from kropot.restore.patterns import Patterns
    from kropot.restore.plan import RestoreCounts, Selection, plan

    if target is None and not list_names:
        raise UsageError("say where the files shall go with --to DIR, or look first with --list-names")
    if target is not None:
        check_target(settings, target)
    tally, told = RestoreCounts(), Told(settings)
    with ExitStack() as stack:
        matching = Patterns(patterns)
        pool = stack.enter_context(_pool())
        origin = stack.enter_context(
            _from_export(exported, until, source_names)
            if exported is not None
            else _from_ledger(settings, until, source_names, snapshots=not no_snapshots)
        )
        place = _Place(target, stack, pool, portable=portable_names, is_real=not (dry_run or list_names))
        plans = plan(
            origin.helds,
            kits=read_kits(kits),
            wanted=Selection(patterns=matching, sources=origin.wanted, vanished=vanished),
            giver=place.giver,
            pool=pool,
            tally=tally,
            sources=origin.sources,
        )
        if list_names:
            _list_names(settings, plans, origin.copies, told)
        elif dry_run:
            _dry_run(settings, plans, place, told)
        else:
            _restore(plans, origin.copies, place, pool, told)
    return told.end(tally, target, idle=matching.idle, is_real=not (dry_run or list_names))


# --- where copies come from ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Origin:
    """What was held and where its bytes are; `sources` is how many sources there are, None where that is not known."""

    helds: Iterable[HeldCopy]
    copies: Copies
    wanted: frozenset[bytes]
    sources: int | None


@contextmanager
def _from_ledger(
    settings: Settings, until: str | None, source_names: tuple[str, ...], *, snapshots: bool
) -> Iterator[_Origin]:
    from kropot.replay.copies import held_at
    from kropot.replay.fold import walk
    from kropot.replay.snapshots import pointers_at

    with open_ledger(settings, read_only=True) as ledger, copies_of(settings) as copies:
        moment = moment_of(ledger, until)
        known = ledger.sources()
        wanted = frozenset(find_source(known, name) for name in source_names)
        with pointers_at(ledger, moment.position, snapshots=snapshots) as pointers:
            helds = held_at(ledger, walk(ledger, pointers, moment.position))
            yield _Origin(helds=helds, copies=copies, wanted=wanted, sources=len(wanted) or len(known))


@contextmanager
def _from_export(root: Path, until: str | None, source_names: tuple[str, ...]) -> Iterator[_Origin]:
    from kropot.restore.exported import ExportedCopies

    if until is not None or source_names:
        raise UsageError("an export is of one moment and all sources: --until and --source belong to its making")
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


# --- where files go --------------------------------------------------------------------------------------------------


_Would = Literal["restore", "replace", "keep", "leave"]
_WOULD: dict[_Would, str] = {
    "restore": "would restore",
    "replace": "would replace",
    "keep": "is there",
    "leave": "is not ours",
}


class _Place:
    """The folder to restore into, made when the first form was opened and not before."""

    def __init__(self, target: Path | None, stack: ExitStack, pool: Executor, *, portable: bool, is_real: bool) -> None:
        self.target = target
        self._stack = stack
        self._pool = pool
        self._portable = portable
        self._is_real = is_real

    def giver(self) -> NameGiver:
        """Open the folder, unless nothing is to be written, and return what names its files."""
        from dataclasses import replace

        from kropot.durable.target import WORK, NameRules, TargetFolder
        from kropot.restore.fingerprints import Fingerprints
        from kropot.restore.journal import Journal, written_in
        from kropot.restore.names import NameGiver

        rules = NameRules(portable=self._portable or os.name == "nt")
        if self._is_real and self.target is not None:
            self.tree = self._stack.enter_context(TargetFolder(self.target))
            self.journal = self._stack.enter_context(Journal(self.tree, MANIFEST))
            self._stack.callback(end, self._pool, self.tree)
            rules = replace(self.tree.rules, portable=rules.portable or self.tree.rules.portable)
        elif self.target is not None:
            self.written = self._stack.enter_context(written_in(self.target, MANIFEST))
        if rules.portable:
            # Where such names are needed, `a` and `A` are one name.
            rules = replace(rules, fold_case=True)
        return NameGiver(rules, Fingerprints(), (WORK, MANIFEST))

    def foresee(self, plan: Planned) -> _Would:
        """Return what a restore would do with what has the name now; nothing is written.

        What is not ours is left alone, but taken for done where it holds just what would be written.
        """
        found = None if self.target is None else look_below(self.target, plan.path)
        if found is None:
            return "restore"
        if self.written.is_done(plan.path, plan.held.identity, found):
            return "keep"
        return "replace" if self.written.is_ours(plan.path, found) else "leave"


def _restore(
    plans: Iterator[Planned | RestoreProblem], copies: Copies, place: _Place, pool: Executor, told: Told
) -> None:
    from kropot.restore.job import Restored, restore
    from kropot.restore.plan import RestoreProblem

    for first in plans:
        if isinstance(first, RestoreProblem):
            told.finding(first)
            continue
        outcomes = restore(chain([first], plans), copies=copies, tree=place.tree, journal=place.journal, pool=pool)
        for outcome in outcomes:
            if isinstance(outcome, Restored):
                told.restored(outcome)
            else:
                told.finding(outcome)


def _dry_run(settings: Settings, plans: Iterable[Planned | RestoreProblem], place: _Place, told: Told) -> None:
    from kropot.restore.plan import RestoreProblem

    for plan in plans:
        if isinstance(plan, RestoreProblem):
            told.finding(plan)
            continue
        would = place.foresee(plan)
        told.counted(plan, existed=would not in {"restore", "replace"}, size=plan.held.size)
        if settings.json:
            emit_json({"would": would, **_row(plan)}, flush=False)
        else:
            emit(f"{_WOULD[would]}  {one_line(plan.shown)}", flush=False)


def _list_names(settings: Settings, plans: Iterable[Planned | RestoreProblem], copies: Copies, told: Told) -> None:
    from kropot.durable.errors import StorageError
    from kropot.objects.store import ObjectMissingError
    from kropot.restore.opener import plain_size
    from kropot.restore.plan import RestoreProblem

    for plan in plans:
        if isinstance(plan, RestoreProblem):
            told.finding(plan)
            continue
        size = plan.opened.claim.size
        if size is None:
            try:
                with copies.open(plan.held) as source:
                    size = plain_size(source, held=plan.held, kit=plan.opened.kit)
            except (ObjectMissingError, StorageError):
                size = None
        told.counted(plan, existed=False, size=size or 0)
        if settings.json:
            emit_json(_row(plan) | {"size": size}, flush=False)
        else:
            shown = "-" if size is None else str(size)
            emit(f"{clock(_time_us(plan))}  {shown:>12}  {one_line(plan.shown)}", flush=False)


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
    """Return the file's time in microseconds: its own, or the server's date for it."""
    mtime_ns = plan.opened.claim.mtime_ns
    return plan.held.date * 1_000_000 if mtime_ns is None else mtime_ns // 1000
