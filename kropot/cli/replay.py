"""`kropotcli replay`: shows, lists, compares or exports the state as of any moment."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any, cast

import click

from kropot.cli.afar import as_sent, from_options, keeper_at, refuse_token_alone
from kropot.cli.base import Exit, Settings, emit, emit_json, open_ledger, say, warn
from kropot.cli.base import command as define
from kropot.cli.copies import read_kits
from kropot.cli.moments import moment_of, until_option
from kropot.cli.naming import NAMED, Names, key_options, tell_unnamed
from kropot.cli.paths import PATH
from kropot.errors import UsageError
from kropot.query.erasures import erased_in
from kropot.query.names import short_name
from kropot.query.past import freshest_first, labels_of, past_ids, sources_at
from kropot.query.render import difference_json, element_json, key_json, moment_json
from kropot.wording import amount, instant, one_line, written
from kropot.wording import moment as clock

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from kropot.afar.differences import RemoteDifferences
    from kropot.afar.replica import AfarReplica
    from kropot.cli.naming import Name
    from kropot.replay.copies import HeldCopy
    from kropot.replay.counts import Counts
    from kropot.replay.fold import Standing
    from kropot.replay.moment import Moment
    from kropot.restore.export import Links
    from kropot.restore.opener import Key
    from ledger.digest import SetDigest
    from ledger.events import Element
    from ledger.log import Ledger

_DIGEST = re.compile("sd[12](:[0-9a-f]{64})?")


class DigestChoice(click.ParamType[str, Any]):
    """A kind of state digest, or a whole state digest."""

    name = "digest"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text. Raises: click.BadParameter if it is neither a kind nor a digest."""
        if not _DIGEST.fullmatch(str(value)):
            self.fail(
                f"{one_line(str(value))!r} is not a state digest: try sd2, sd1, or sd2: and 64 hex digits", param, ctx
            )
        return str(value)


@define("replay")
@until_option
@click.option(
    "--digest",
    type=DigestChoice(),
    default="sd2",
    show_default=True,
    help="The kind of state digest to show. sd1 is from earlier versions, and takes longer because it reads every "
    "element. You can also give a whole digest (sd1:a3e2...): if the state has a different one, the exit code is "
    "4.",
)
@click.option("--no-digest", is_flag=True, help="Do not compute a state digest.")
@click.option("--no-snapshots", is_flag=True, help="Ignore all snapshots, and fold the events themselves.")
@click.option("--list", "is_list", is_flag=True, help="List the elements as they were, in the order of their keys.")
@click.option("--diff", "other", metavar="WHEN2", help="Show what changed between the moment of --until and WHEN2.")
@from_options
@key_options(f"With --list and --diff: show names instead of ids, sorted by name. {NAMED}")
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
    origin: Path | str | None,
    token_file: Path | None,
    kits: tuple[Path, ...],
    passphrase_files: tuple[Path, ...],
    target: Path | None,
    links: str,
) -> Exit:
    """Show the replica as it was at a moment, or as it is now.

    This folds the events of the ledger up to that moment. It prints the position that WHEN means, its recorded time,
    the Merkle root there, the state digest, and counts. It does not use the network or write to the ledger.
    """
    refuse_token_alone(origin, token_file)
    if origin is not None:
        is_alone = not is_list and target is None
        keys = read_kits(kits, passphrase_files)
        return _diff_afar(settings, origin, token_file, moments=(until, other), is_alone=is_alone, keys=keys)
    if sum((is_list, other is not None, target is not None)) > 1:
        raise UsageError("--list, --diff and --export cannot be combined: give only one of them")
    if kits and not (is_list or other is not None):
        raise UsageError("--key shows names, and works only with --list and --diff: leave it out")
    with open_ledger(settings, read_only=True) as ledger:
        names = Names.of_kits(ledger, kits, passphrase_files)
        moment = moment_of(ledger, until)
        if erased := erased_in(ledger):
            say(f"erased: {erased}; the state of an erased element is never shown, at any moment")
        snapshots = not no_snapshots
        if is_list:
            return _list(settings, ledger, moment, names, snapshots=snapshots)
        if other is not None:
            return show_differences(settings, ledger, moment, moment_of(ledger, other), names)
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
            text = _as_expected(ledger, moment.position, found.digest, asked) if expected else text
    held = counts.plain()
    differs = bool(expected) and text != asked
    if differs:
        warn(
            f"the state digest at position {moment.position} is {text}, not {asked}: this is a different state, or an "
            "element was erased after that digest was taken"
        )
    if settings.json:
        digests = {"state_digest": text, "source_digests": {source.hex(): each for source, each in by_source.items()}}
        emit_json("state", moment_json(moment) | digests | held | {"erased": erased_in(ledger).json})
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


def _as_expected(ledger: Ledger, position: int, digest: SetDigest, asked: str | None) -> str:
    """Return the digest of a state, or the one that includes elements erased since, if that is the expected one."""
    from ledger.digest import text_of
    from ledger.erasing import erased_rows_at
    from ledger.lthash import LtHash

    if digest.text == asked:
        return digest.text
    whole = LtHash()
    for lanes in (*digest.lanes.values(), *erased_rows_at(ledger, position)):
        whole.add_all(lanes)
    text = text_of(whole.lanes)
    if text != asked:
        return digest.text
    say("this is the digest of the state before later erasures")
    return text


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


# --- the list --------------------------------------------------------------------------------------------------------


def _list(settings: Settings, ledger: Ledger, moment: Moment, names: Names, *, snapshots: bool) -> Exit:
    from kropot.query.released import with_releases
    from kropot.replay.fold import walk
    from kropot.replay.snapshots import pointers_at

    with pointers_at(ledger, moment.position, snapshots=snapshots) as pointers:
        found = with_releases(ledger, walk(ledger, pointers, moment.position))
        for (standing, released), name in names.sorted(found, lambda each: (each[0].key, each[0].element)):
            if settings.json:
                row = _listed(standing) | names.json(name)
                emit_json("past_element", row if released is None else row | {"released": released.json}, flush=False)
            else:
                line = _line(name, standing.element)
                emit(line if released is None else f"{line}  released {released.text}", flush=False)
    names.tell_unnamed()
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


def _line(name: Name, element: Element) -> str:
    """Return an element as a line of text. Two spaces separate the fields."""
    fields = [name.shown, element.state, clock(element.date * 1_000_000)]
    if element.copy is not None:
        fields += [str(element.copy.size), element.copy.sha256.hex()]
    return "  ".join(fields)


# --- the difference --------------------------------------------------------------------------------------------------


def show_differences(settings: Settings, ledger: Ledger, one: Moment, other: Moment, names: Names) -> Exit:
    """Print what changed between two moments."""
    from kropot.replay.diff import CHANGES, diff

    earlier, later = sorted((one, other), key=lambda moment: moment.position)
    seen: Counter[str] = Counter()
    differences = diff(ledger, earlier.position, later.position)
    for difference, name in names.sorted(differences, lambda each: (each.key, each.after)):
        seen[difference.change] += 1
        if settings.json:
            emit_json("difference", difference_json(difference) | names.json(name), flush=False)
        else:
            emit(f"{difference.change:<10}  {_line(name, difference.after)}", flush=False)
    names.tell_unnamed()
    counts = ", ".join(f"{seen[change]:,} {change}" for change in CHANGES if seen[change]) or "no differences"
    say(f"from position {earlier.position} to {later.position}: {counts}")
    return Exit.DONE


def _diff_afar(
    settings: Settings,
    origin: Path | str,
    token_file: Path | None,
    *,
    moments: tuple[str | None, str | None],
    is_alone: bool,
    keys: Sequence[Key],
) -> Exit:
    """Show what changed between two moments, as a keeper reports it. The kits open the names on this machine."""
    from kropot.afar.differences import differences
    from kropot.replay.diff import CHANGES

    if not isinstance(origin, str):
        raise UsageError(
            f"the export {origin} is fixed to one moment, so it has no differences: give a ledger or a keeper"
        )
    until, other = moments
    if other is None or not is_alone:
        raise UsageError(
            "`replay` of a keeper shows only the differences between two moments: give --diff, and --until if you want"
        )
    with keeper_at(settings, origin, token_file) as replica:
        found = differences(replica, as_sent(until), as_sent(other))
        for note in found.notes:
            say(note)
        seen: Counter[str] = Counter()
        unnamed = 0
        rows = _named_rows(replica, found, keys) if keys else ((row, None) for row in found.rows)
        for row, path in rows:
            seen[row["change"]] += 1
            unnamed += bool(keys) and path is None
            name = None if path is None else written(path) or "."
            if settings.json:
                emit_json("difference", row | ({"name": name} if keys else {}), flush=False)
            else:
                emit(f"{row['change']:<10}  {_row_line(row, name)}", flush=False)
    tell_unnamed(unnamed)
    counts = ", ".join(f"{seen[change]:,} {change}" for change in CHANGES if seen[change]) or "no differences"
    say(f"from position {found.earlier} to {found.later}, as the keeper says: {counts}")
    return Exit.DONE


def _named_rows(
    replica: AfarReplica, found: RemoteDifferences, keys: Sequence[Key]
) -> Iterator[tuple[dict[str, Any], bytes | None]]:
    """Yield the rows with the paths that the kits open, sorted by path, with those without a path last."""
    from kropot.afar.differences import with_copies
    from kropot.restore.naming import Namer
    from kropot.restore.spool import Spool

    namer = Namer(keys)
    with Spool[tuple[dict[str, Any], "bytes | None"]]() as spool:
        for row, key, held in with_copies(replica, found):
            path = None if held is None else namer.of_copy(held)
            spool.add(b"\x01" + key.stored if path is None else b"\x00" + path, (row, path))
        yield from spool.in_order()


def _row_line(row: dict[str, Any], name: str | None) -> str:
    """Return an element of a keeper's answer as a line of text, as `_line` does for a local element."""
    shown = one_line(row["id"]) if name is None else name
    fields = [f"{row['source'][:8]}:{shown}", row["state"], one_line(row["date"])]
    if row["sha256"] is not None:
        fields += [str(row["size"]), row["sha256"]]
    return "  ".join(fields)


# --- the export ------------------------------------------------------------------------------------------------------


def _stored(helds: Iterable[HeldCopy], seen: Counter[str]) -> Iterator[HeldCopy]:
    """Yield the elements that have a copy, and count the others."""
    for held in helds:
        if held.sha256 is None:
            seen["unstored"] += 1
        else:
            yield held


def _history(ledger: Ledger, moment: Moment) -> Iterator[bytes] | None:
    """Return the parts of the history file, which lets others check the export; None if nothing was recorded."""
    from kropot.restore.evidence import Origin, history_parts
    from kropot.restore.history import headers_of, salts_of

    first = ledger.log.events_at([1])
    if not first:
        return None
    origin = Origin(first=first[0], position=moment.position, salts=salts_of(ledger))
    return history_parts(origin, headers_of(ledger, ledger.head().position))


def _foreseen(settings: Settings, ledger: Ledger, moment: Moment) -> dict[str, int]:
    """Return the number and bytes of the copies to export; nothing for the past, which has no such sums."""
    if moment.until is not None or settings.quiet:
        return {}
    tallies = [each for each in ledger.tallies() if each.bytes]
    return {"count": sum(each.elements for each in tallies), "size": sum(each.bytes for each in tallies)}


def _export(settings: Settings, ledger: Ledger, moment: Moment, target: Path, *, snapshots: bool, links: Links) -> Exit:
    from kropot.cli.copies import check_target, open_copies, workers
    from kropot.cli.work_progress import work_progress
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
        open_copies(settings, ledger) as copies,
        TargetFolder(target, mode=0o700) as tree,
        Journal(tree, JOURNAL) as journal,
        pointers_at(ledger, moment.position, snapshots=snapshots) as pointers,
        workers(tree) as pool,
        work_progress(settings, "export", noun="copy", **_foreseen(settings, ledger, moment)) as progress,
    ):
        names = NameGiver(tree.rules, Fingerprints(), (WORK, JOURNAL, MANIFEST, HISTORY))
        known = sources_at(ledger, moment.position)
        standings = walk(ledger, pointers, moment.position, sources=freshest_first(known))
        helds = _stored(held_at(ledger, standings, past=past_ids(known), with_events=True), seen)
        history = _history(ledger, moment)
        for outcome in export(
            helds, copies=copies, tree=tree, journal=journal, names=names, pool=pool, links=links, history=history
        ):
            progress.moved(outcome.held.size)
            progress.finished()
            if isinstance(outcome, Exported):
                seen["existed" if outcome.existed else "exported"] += 1
                size += outcome.held.size
                continue
            seen["findings"] += 1
            if settings.json:
                emit_json(
                    "export_problem",
                    {
                        "problem": outcome.flaw,
                        "source": outcome.key.source.hex(),
                        "type": outcome.key.kind,
                        "id": outcome.key.id,
                        "why": outcome.why,
                    },
                )
            warn(f"{one_line(outcome.key.id)}: {outcome.why}")
    total = {name: seen[name] for name in ("exported", "existed", "unstored", "findings")}
    if settings.json:
        emit_json("export_summary", moment_json(moment) | total | {"bytes": size, "erased": erased_in(ledger).json})
    elif not settings.quiet or seen["findings"]:
        emit(f"exported {seen['exported']:,} of {sum(total.values()):,} elements to {target}")
        for name, what in (
            ("existed", "exported by an earlier run, and unchanged"),
            ("unstored", "not exported: no copy was stored at that moment"),
            ("findings", "not exported: see the warnings above"),
        ):
            if seen[name]:
                emit(f"{seen[name]:>8,}  {what}")
    return Exit.PARTIAL if seen["findings"] else Exit.DONE
