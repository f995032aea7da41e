"""`kropotcli kit check`: the yearly drill. Opens copies that are picked at random, with the kit that is kept for it."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from random import SystemRandom
from typing import TYPE_CHECKING, Final

import click

from kropot.cli.afar import from_options, keeper_at, refuse_token_alone, remote_state
from kropot.cli.base import Exit, KropotCommand, Settings, emit, emit_json, emit_summary, open_ledger, warn
from kropot.cli.copies import open_copies, read_kits, reading_pool
from kropot.cli.failures import explain
from kropot.cli.passphrases import passphrase_option
from kropot.cli.paths import PATH
from kropot.cli.restore_progress import restore_progress
from kropot.cli.restore_report import DIFFERENCES, RestoreReport
from kropot.cli.restore_trust import Trust
from kropot.errors import PartialError, WrongKeyError
from kropot.query.names import short_name
from kropot.query.past import labels_in, labels_of
from kropot.wording import amount, number

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from concurrent.futures import Executor
    from pathlib import Path

    from kropot.query.names import Labels
    from kropot.replay.copies import Copies
    from kropot.restore.drill import Drawn, Sample
    from kropot.restore.opener import Key

SAMPLE: Final = 25
"""How many copies a drill opens. If one copy in ten does not open, it finds that with a chance of 93 %."""


@click.command("check", cls=KropotCommand)
@click.argument("kits", metavar="KIT...", type=PATH, nargs=-1, required=True)
@click.option(
    "--sample",
    "wanted",
    type=click.IntRange(min=1),
    default=SAMPLE,
    show_default=True,
    help="How many copies to open. At least one of each source is opened.",
)
@from_options
@click.option("--no-record", is_flag=True, help="Write nothing to the ledger. `status` then does not show this drill.")
@passphrase_option
def check(
    settings: Settings,
    *,
    kits: tuple[Path, ...],
    wanted: int,
    origin: Path | str | None,
    token_file: Path | None,
    no_record: bool,
    passphrase_files: tuple[Path, ...],
) -> Exit:
    """Open copies with KIT, picked at random. Do this once a year, with the kit that you keep off-line.

    The copies come from all sources that the kits open, including past sources and vanished elements. Each is read
    completely and compared with what was sealed, as in a restore. Only the date is recorded, which `status` shows. With
    --from, the copies are those of an export or a keeper, and nothing is written at all.

    The exit code is 0 if all of them opened, 4 if one is not what it should be, and 3 if one could not be read. If the
    kits open nothing here, it is 13.
    """
    from kropot.restore.drill import draw

    refuse_token_alone(origin, token_file)
    keys = read_kits(kits, passphrase_files)
    report = RestoreReport(settings, Trust(signed=(), files=(), require=frozenset()))
    with _origin(settings, origin, token_file) as found, reading_pool() as pool:
        drawn, copies, labels = found
        sample = draw(drawn, keys, wanted=wanted, chance=SystemRandom())
        _refuse_nothing(sample, kits)
        opened = _open(sample, keys=keys, copies=copies, pool=pool, report=report)
    is_recorded = origin is None and not no_record and _record(settings, sample.picked, opened)
    _tell(report, sample, opened, labels, is_recorded=is_recorded)
    if not DIFFERENCES.isdisjoint(report.problems):
        return Exit.FINDINGS
    if not opened and report.problems.keys() == {"unopened"}:
        raise WrongKeyError(f"{kits[0]} opens none of the copies that were picked: give the newest kit of its vault")
    return Exit.DONE if opened == sample.picked else Exit.PARTIAL


@contextmanager
def _origin(
    settings: Settings, origin: Path | str | None, token_file: Path | None
) -> Iterator[tuple[Drawn, Copies, Labels]]:
    """Yield what to draw copies from, where to read them, and the labels of the sources."""
    from kropot.afar.drill import ExportDrawn, RemoteDrawn
    from kropot.afar.objects import RemoteCopies
    from kropot.restore.drill import LedgerDrawn
    from kropot.restore.read_export import ExportedCopies

    if isinstance(origin, str):
        with keeper_at(settings, origin, token_file) as replica:
            state = remote_state(replica, None)
            labels = labels_in(state.sources.known)
            drawn = RemoteDrawn(replica, state.tree, state.sources, state.position)
            yield drawn, RemoteCopies(replica.client), labels
        return
    if origin is not None:
        exported = ExportedCopies(origin)
        try:
            history = exported.history()
            yield ExportDrawn(exported, None if history is None else history[0].salts), exported, {}
        finally:
            exported.close()
        return
    with open_ledger(settings, read_only=True) as ledger, open_copies(settings, ledger) as copies:
        yield LedgerDrawn(ledger), copies, labels_of(ledger)


def _open(
    sample: Sample, *, keys: Sequence[Key], copies: Copies, pool: Executor, report: RestoreReport
) -> Counter[bytes]:
    """Open the copies, and report those that do not open. Return how many opened in each source."""
    from kropot.restore.compare import Verified, compare
    from kropot.restore.drill import planned

    for each in sample.altered:
        report.finding(each)
    opened = Counter[bytes]()
    plans = [planned(held, keys) for held in sample.helds]
    size = sum(held.size for held in sample.helds)
    with restore_progress(report.settings, files=len(plans), size=size) as progress:
        for outcome in compare(plans, copies=copies, root=None, pool=pool, moved=progress.moved):
            progress.finished()
            if isinstance(outcome, Verified):
                report.count(outcome.planned, existed=False, size=outcome.size)
                opened[outcome.planned.held.key.source] += 1
            else:
                report.finding(outcome)
    return opened


def _tell(report: RestoreReport, sample: Sample, opened: Counter[bytes], labels: Labels, *, is_recorded: bool) -> None:
    """Print how many copies opened, of how many."""
    picked, elements = sample.picked.total(), sum(sample.elements.values())
    if report.settings.json:
        emit_json(
            "drill",
            {
                "opened": opened.total(),
                "failed": picked - opened.total(),
                "bytes": report.bytes,
                "elements": elements,
                "sources": [id_.hex() for id_ in sample.elements],
                "other_sources": [id_.hex() for id_ in sample.foreign],
                "problems": report.problems,
                "recorded": is_recorded,
            },
        )
        return
    whole = f"{number(elements, 'element')} in {number(len(sample.elements), 'source')}"
    show = emit_summary if opened.total() == picked else emit
    show(f"opened {opened.total()} of {picked} copies ({amount(report.bytes)}) of {whole}")
    for id_ in sample.foreign:
        emit(f"not opened: source {short_name(labels, id_)}, which is not sealed with a key of this kit")


def _refuse_nothing(sample: Sample, kits: Sequence[Path]) -> None:
    """Refuse a drill that would open nothing. Raises: WrongKeyError, PartialError."""
    if sample.helds or sample.altered:
        return
    if sample.foreign:
        raise WrongKeyError(
            f"{kits[0]} opens none of the {number(len(sample.foreign), 'source')} here: give the kit of their token or "
            "vault, or name the right replica with --db-string or --from"
        )
    raise PartialError("there is no copy to open yet: run `kropotcli collect` first")


def _record(settings: Settings, picked: Counter[bytes], opened: Counter[bytes]) -> bool:
    """Record the drill, for each source. Return whether that was possible."""
    from ledger.drills import record_drills
    from ledger.errors import LedgerError
    from ledger.events import DrillHeld

    drills = {id_: DrillHeld(opened=opened[id_], failed=count - opened[id_]) for id_, count in picked.items()}
    try:
        with open_ledger(settings) as ledger:
            record_drills(ledger, drills)
    except LedgerError as error:
        # The drill still took place, and its result counts.
        warn(f"this drill was not recorded, so `status` does not show it: {explain(error)[0]}")
        return False
    return True
