"""`kropotcli replay`: shows, lists, compares or exports the state as of any moment."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any, cast

import click

from kropot.cli.base import Exit, Settings, emit, emit_json, open_ledger, say, warn
from kropot.cli.base import command as define
from kropot.cli.moments import moment_of, until_option
from kropot.cli.paths import PATH
from kropot.errors import UsageError
from kropot.query.erasures import erased_in
from kropot.query.names import short_name
from kropot.query.past import freshest_first, labels_of, past_ids, sources_at
from kropot.query.render import difference_json, element_json, key_json
from kropot.wording import amount, instant, one_line
from kropot.wording import moment as clock

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from kropot.query.names import Labels
    from kropot.replay.copies import HeldCopy
    from kropot.replay.counts import Counts
    from kropot.replay.fold import Standing
    from kropot.replay.moment import Moment
    from kropot.restore.export import Links
    from ledger.events import Element, StreamKey
    from ledger.log import Ledger

_DIGEST = re.compile("sd[12](:[0-9a-f]{64})?")


class DigestChoice(click.ParamType[str, Any]):
    """A kind of state digest, or a whole one."""

    name = "digest"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text. Raises: click.BadParameter if it is neither a kind nor a digest."""
        if not _DIGEST.fullmatch(str(value)):
            self.fail(
                f"{one_line(str(value))!r} is no state digest: try sd2, sd1, or sd2: and 64 hex digits", param, ctx
            )
        return str(value)


@define("replay")
@until_option
@click.option(
    "--digest",
    type=DigestChoice(),
    default="sd2",
    show_default=True,
    help="The kind of state digest to show. sd1 is that of earlier versions, and takes longer: it reads every element. "
    "Or give a whole digest (sd1:a3e2...): if the state has another one, the exit code is 4.",
)
@click.option("--no-digest", is_flag=True, help="Do not compute a state digest.")
@click.option("--no-snapshots", is_flag=True, help="Ignore all snapshots, and fold the events themselves.")
@click.option("--list", "is_list", is_flag=True, help="List the elements as they were, in the order of their keys.")
@click.option("--diff", "other", metavar="WHEN2", help="Show what changed between the moment of --until and WHEN2.")
@click.option("--export", "target", type=PATH, metavar="DIR", help="Write the encrypted copies to this folder.")
@click.option(
    "--links",
    type=click.Choice(["never", "reflink", "hard"]),
    default="reflink",
    show_default=True,
    help="What an export shares with the storage. never: nothing. reflink: blocks, if the file system can share them. "
    "hard: the files themselves. If you write to a hard-linked export, you damage the backup.",
)
def command(
    settings: Settings,
    *,
    until: str | None,
    digest: str,
    no_digest: bool,
    no_snapshots: bool,
    is_list: bool,
    other: str | None,
    target: Path | None,
    links: str,
) -> Exit:
    """Show the replica as it was at a moment, or as it is now.

    This folds the events of the ledger up to that moment. It prints the position that WHEN means, its recorded time,
    the Merkle root there, the state digest, and counts. It does not use the network or write to the ledger.
    """
    if sum((is_list, other is not None, target is not None)) > 1:
        raise UsageError("--list, --diff and --export cannot be combined: give only one of them")
    with open_ledger(settings, read_only=True) as ledger:
        moment = moment_of(ledger, until)
        if erased := erased_in(ledger):
            say(f"erased: {erased}; the state of an erased element is not shown, at any moment")
        snapshots = not no_snapshots
        if is_list:
            return _list(settings, ledger, moment, snapshots=snapshots)
        if other is not None:
            return _diff(settings, ledger, moment, moment_of(ledger, other))
        if target is not None:
            return _export(settings, ledger, moment, target, snapshots=snapshots, links=cast("Links", links))
        return _summarize(settings, ledger, moment, snapshots=snapshots, asked=None if no_digest else digest)


# --- the summary -----------------------------------------------------------------------------------------------------


def _summarize(settings: Settings, ledger: Ledger, moment: Moment, *, snapshots: bool, asked: str | None) -> Exit:
    from kropot.replay.marks import state_at

    kind, _, expected = (asked or "").partition(":")
    by_source: dict[bytes, str] = {}
    text: str | None = None
    if kind == "sd1":
        counts, text = _counts_and_sd1(ledger, moment.position, snapshots=snapshots)
    else:
        found = state_at(ledger, moment.position, snapshots=snapshots, digest=asked is not None)
        counts = found.counts
        if asked is not None:
            text, by_source = found.digest.text, found.digest.sources
    held = counts.plain()
    differs = bool(expected) and text != asked
    if differs:
        warn(
            f"the state digest at position {moment.position} is {text}, and not {asked}: this is another state, or an "
            "element was erased since that digest was taken"
        )
    if settings.json:
        digests = {"state_digest": text, "source_digests": {source.hex(): each for source, each in by_source.items()}}
        emit_json(_place(moment) | digests | held | {"erased": erased_in(ledger).json})
        return Exit.FINDINGS if differs else Exit.DONE
    recorded = "before the first event" if moment.recorded_us is None else f"recorded {instant(moment.recorded_us)}"
    emit(f"position      {moment.position} ({recorded})")
    if moment.until is not None:
        emit(f"until         {moment.until}")
    emit(f"root          {moment.root.hex()}")
    emit(f"state digest  {text or 'not computed'}")
    if len(by_source) > 1:
        labels = labels_of(ledger)
        for source, each in by_source.items():
            emit(f"  {short_name(labels, source):<12}{each}")
    emit(f"elements      {held['elements']:,}")
    for state in ("current", "pending", "vanished", "damaged", "lost"):
        if held[state]:
            emit(f"  {state:<12}{held[state]:,}")
    emit(f"copies        {held['copies']:,} ({amount(held['bytes'])})")
    return Exit.FINDINGS if differs else Exit.DONE


def _counts_and_sd1(ledger: Ledger, position: int, *, snapshots: bool) -> tuple[Counts, str]:
    from kropot.replay.fold import StalePointersError
    from kropot.replay.sd1 import digest_at

    try:
        return digest_at(ledger, position, snapshots=snapshots)
    except StalePointersError:
        if not snapshots:
            raise
        warn("a snapshot contradicts the events, so it was not used: run `kropotcli verify` to see the findings")
        return digest_at(ledger, position, snapshots=False)


def _place(moment: Moment) -> dict[str, Any]:
    return {
        "position": moment.position,
        "until": moment.until,
        "recorded_at": None if moment.recorded_us is None else instant(moment.recorded_us),
        "root": moment.root.hex(),
        "notes": moment.notes,
    }


# --- the list --------------------------------------------------------------------------------------------------------


def _list(settings: Settings, ledger: Ledger, moment: Moment, *, snapshots: bool) -> Exit:
    from kropot.replay.fold import walk
    from kropot.replay.snapshots import pointers_at

    with pointers_at(ledger, moment.position, snapshots=snapshots) as pointers:
        labels = labels_of(ledger)
        for standing in walk(ledger, pointers, moment.position):
            if settings.json:
                emit_json(_listed(standing), flush=False)
            else:
                emit(_line(standing.key, standing.element, labels), flush=False)
    return Exit.DONE


def _listed(standing: Standing) -> dict[str, Any]:
    return (
        key_json(standing.key)
        | element_json(standing.element)
        | {
            "position": standing.position,
            "recorded_at": instant(standing.recorded_us),
        }
    )


def _line(key: StreamKey, element: Element, labels: Labels) -> str:
    """Return an element as a line of text. Two spaces separate the fields."""
    name = f"{short_name(labels, key.source)}:{one_line(key.id)}"
    fields = [name, element.state, clock(element.date * 1_000_000)]
    if element.copy is not None:
        fields += [str(element.copy.size), element.copy.sha256.hex()]
    return "  ".join(fields)


# --- the difference --------------------------------------------------------------------------------------------------


def _diff(settings: Settings, ledger: Ledger, one: Moment, other: Moment) -> Exit:
    from kropot.replay.diff import CHANGES, diff

    earlier, later = sorted((one, other), key=lambda moment: moment.position)
    seen: Counter[str] = Counter()
    labels = labels_of(ledger)
    for difference in diff(ledger, earlier.position, later.position):
        seen[difference.change] += 1
        if settings.json:
            emit_json(difference_json(difference), flush=False)
        else:
            emit(f"{difference.change:<10}  {_line(difference.key, difference.after, labels)}", flush=False)
    counts = ", ".join(f"{seen[change]:,} {change}" for change in CHANGES if seen[change]) or "no differences"
    say(f"from position {earlier.position} to {later.position}: {counts}")
    return Exit.DONE


# --- the export ------------------------------------------------------------------------------------------------------


def _stored(helds: Iterable[HeldCopy], seen: Counter[str]) -> Iterator[HeldCopy]:
    """Yield the elements that have a copy, and count those that have none."""
    for held in helds:
        if held.sha256 is None:
            seen["unstored"] += 1
        else:
            yield held


def _history(ledger: Ledger, moment: Moment) -> Iterator[bytes] | None:
    """Return the parts of the file with which the export can be checked elsewhere, None if nothing was recorded."""
    from kropot.restore.evidence import Origin, history_parts
    from kropot.restore.history import headers_of, salts_of

    first = ledger.log.events_at([1])
    if not first:
        return None
    origin = Origin(first=first[0], position=moment.position, salts=salts_of(ledger))
    return history_parts(origin, headers_of(ledger, ledger.head().position))


def _export(settings: Settings, ledger: Ledger, moment: Moment, target: Path, *, snapshots: bool, links: Links) -> Exit:
    from kropot.cli.copies import check_target, open_copies, workers
    from kropot.durable.target import WORK, TargetFolder
    from kropot.replay.copies import held_at
    from kropot.replay.fold import walk
    from kropot.replay.snapshots import pointers_at
    from kropot.restore.evidence import HISTORY
    from kropot.restore.export import JOURNAL, MANIFEST, Exported, export
    from kropot.restore.fingerprints import Fingerprints
    from kropot.restore.journal import Journal
    from kropot.restore.names import NameGiver

    check_target(settings, target)
    seen: Counter[str] = Counter()
    size = 0
    with (
        open_copies(settings, places=ledger.places) as copies,
        TargetFolder(target, mode=0o700) as tree,
        Journal(tree, JOURNAL) as journal,
        pointers_at(ledger, moment.position, snapshots=snapshots) as pointers,
        workers(tree) as pool,
    ):
        names = NameGiver(tree.rules, Fingerprints(), (WORK, JOURNAL, MANIFEST, HISTORY))
        known = sources_at(ledger, moment.position)
        standings = walk(ledger, pointers, moment.position, sources=freshest_first(known))
        helds = _stored(held_at(ledger, standings, past=past_ids(known), with_events=True), seen)
        history = _history(ledger, moment)
        for outcome in export(
            helds, copies=copies, tree=tree, journal=journal, names=names, pool=pool, links=links, history=history
        ):
            if isinstance(outcome, Exported):
                seen["existed" if outcome.existed else "exported"] += 1
                size += outcome.held.size
                continue
            seen["findings"] += 1
            if settings.json:
                emit_json(
                    {
                        "problem": outcome.flaw,
                        "source": outcome.key.source.hex(),
                        "type": outcome.key.kind,
                        "id": outcome.key.id,
                        "why": outcome.why,
                    }
                )
            warn(f"{one_line(outcome.key.id)}: {outcome.why}")
    total = {name: seen[name] for name in ("exported", "existed", "unstored", "findings")}
    if settings.json:
        emit_json(_place(moment) | total | {"bytes": size, "erased": erased_in(ledger).json})
    else:
        emit(f"exported {seen['exported']:,} of {sum(total.values()):,} elements to {target}")
        for name, what in (
            ("existed", "exported by an earlier run, and unchanged"),
            ("unstored", "not exported: no copy was stored at that moment"),
            ("findings", "not exported: see the warnings above"),
        ):
            if seen[name]:
                emit(f"{seen[name]:>8,}  {what}")
    return Exit.PARTIAL if seen["findings"] else Exit.DONE
