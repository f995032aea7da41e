"""`kropotcli source`: lists sources, and records a person's decisions about them and about elements beyond help."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from msgspec.structs import replace

from kropot.cli.base import Settings, emit, emit_json, group, open_ledger
from kropot.cli.naming import NAMED, Names, key_options
from kropot.collect.decide.sources import accept as accept_alarms
from kropot.collect.decide.sources import moved, source_key
from kropot.errors import UsageError
from kropot.query.names import check_label, find_source, long_name, short_name
from kropot.query.past import labels_of, sources_at
from kropot.query.render import source_json
from kropot.wording import moment, number, one_line
from ledger.events import (
    DismissalWithdrawn,
    ElementDismissed,
    KeepingFact,
    SourceLabelled,
    SourceResumed,
    SourceRetired,
)
from ledger.keeping import keep, keeping_of
from ledger.log import NewFact

if TYPE_CHECKING:
    from pathlib import Path

    from kropot.query.names import Labels
    from ledger.events import Keeping
    from ledger.log import Ledger
    from ledger.replica import Entry


@group("source")
def command() -> None:
    """List and label sources, retire them, change a server's address, and answer alarms.

    A source is what one token sees of a server. A new token begins a new source, because the ids of elements can depend
    on the token. A new token for the same vault (`sc2`) at the same server continues the source, however. SOURCE is a
    source's label, or the beginning of its id if that fits only one source.
    """


@command.command("list")
def list_(settings: Settings) -> None:
    """List the sources, oldest first."""
    with open_ledger(settings, read_only=True) as ledger:
        sources, tallies = sources_at(ledger), ledger.tallies()
    for id_, known in sources.items():
        states = {tally.state: tally for tally in tallies if tally.source == id_ and tally.elements}
        if settings.json:
            emit_json("source", source_json(known, states))
        else:
            source, label = known.source, known.keeping.label
            counts = ", ".join(f"{state} {tally.elements}" for state, tally in sorted(states.items())) or "no elements"
            fields = [id_.hex(), *([] if label is None else [label]), source.url, f"listed {moment(source.listed_us)}"]
            vault = [] if known.vault is None else [f"vault {known.vault.hex()}"]
            past = [] if known.past is None else [f"past: {known.past.text}"]
            emit("  ".join([*fields, counts, *vault, *past]))
    if not sources and not settings.json:
        emit("no sources yet: `kropotcli collect` begins one")


@command.command("alias")
@click.argument("source_name", metavar="SOURCE")
def alias(settings: Settings, *, source_name: str) -> None:
    """Change the address of SOURCE to --server-url.

    Use this if the server has moved. Nothing is fetched again.
    """
    url = settings.need_server_url()
    with open_ledger(settings) as ledger:
        labels, id_ = _find(ledger, source_name)
        entry, name = ledger.sources()[id_], long_name(labels, id_)
        if entry.source.url != url:
            fact = moved(entry.source, url)
            key = source_key(entry.id)
            ledger.append([NewFact(key=key, fact=fact, observed_us=ledger.clock_us(), expected=entry.version)])
    if settings.json:
        emit_json("source_moved", {"source": entry.id.hex(), "url": url, "changed": entry.source.url != url})
    elif entry.source.url == url:
        emit(f"nothing to do: source {name} is at {url} already")
    else:
        emit(f"source {name} moved from {entry.source.url} to {url}")


@command.command("accept")
@click.argument("source_name", metavar="[SOURCE]", required=False)
def accept(settings: Settings, *, source_name: str | None) -> None:
    """Accept a held-back listing or a surge of changes.

    This clears the alarms of SOURCE, or of all sources if you name none. The next full listing then marks the missing
    elements as vanished. Their copies stay.
    """
    accepted = []
    with open_ledger(settings) as ledger:
        labels, sources = labels_of(ledger), ledger.sources()
        chosen = list(sources) if source_name is None else [_find(ledger, source_name)[1]]
        for entry in map(sources.__getitem__, chosen):
            fact = accept_alarms(entry.source)
            if fact is not None:
                key = source_key(entry.id)
                ledger.append([NewFact(key=key, fact=fact, observed_us=ledger.clock_us(), expected=entry.version)])
                accepted.append(entry.id)
    if settings.json:
        emit_json("accepted", {"accepted": [each.hex() for each in accepted]})
    elif accepted:
        names = ", ".join(long_name(labels, each) for each in accepted)
        emit(f"accepted for {number(len(accepted), 'source')}: {names}")
    else:
        emit("nothing to accept: no listing is held back, and there is no surge alarm")


@command.command("label")
@click.argument("source_name", metavar="SOURCE")
@click.argument("label", metavar="[NAME]", required=False)
@click.option("--undo", is_flag=True, help="Take the label away.")
def label_(settings: Settings, *, source_name: str, label: str | None, undo: bool) -> None:
    """Give SOURCE the label NAME.

    The label is shown wherever sources are shown, and every command takes it as SOURCE. It is kept in the ledger in
    plain text.
    """
    if undo == (label is not None):
        raise UsageError("give SOURCE a NAME, or take its label away with --undo")
    with open_ledger(settings) as ledger:
        labels, id_ = _find(ledger, source_name)
        if label is not None:
            check_label(labels, id_, label)
        changed = labels[id_] != label
        if changed:
            _decide(ledger, id_, SourceLabelled, label=label)
    done = f"has the label {label}" if label is not None else "has no label"
    _tell(settings, id_, {"label": label, "changed": changed}, f"source {id_.hex()} {done}", changed=changed)


@command.command("retire")
@click.argument("source_name", metavar="SOURCE")
@click.option("--undo", is_flag=True, help="Mark the source as in use again.")
def retire(settings: Settings, *, source_name: str, undo: bool) -> None:
    """Record that nothing is collected from SOURCE any more.

    Use this if the server is gone, or if its token was replaced. The source raises no more alarms, and `collect`
    refuses its token. Its copies stay. `verify` checks them, and `restore` opens them with --past-sources or --source.
    A copy that is later found damaged or lost still raises an alarm.

    With --undo, the source is in use again. This also works if another token took over its address by mistake.
    """
    with open_ledger(settings) as ledger:
        labels, id_ = _find(ledger, source_name)
        past, now_us = sources_at(ledger)[id_].past, ledger.now_us()
        changed = past is not None if undo else past is None or past.why != "retired"
        if changed and undo:
            _decide(ledger, id_, SourceResumed, retired_us=None, in_use_us=now_us)
        elif changed:
            _decide(ledger, id_, SourceRetired, retired_us=now_us, in_use_us=None)
    done = "is in use" if undo else "is retired: stop its collector if it has one; its copies stay"
    text = f"source {long_name(labels, id_)} {done}"
    _tell(settings, id_, {"retired": not undo, "changed": changed}, text, changed=changed)


@command.command("dismiss")
@click.argument("elements", metavar="ELEMENT...", nargs=-1, required=True)
@click.option("--undo", is_flag=True, help="Let the elements raise alarms again.")
@key_options(f"Take names as ELEMENTs. {NAMED}")
def dismiss(
    settings: Settings,
    *,
    elements: tuple[str, ...],
    undo: bool,
    kits: tuple[Path, ...],
    passphrase_files: tuple[Path, ...],
) -> None:
    """Record that nothing can be done about these elements, so that they raise no more alarms.

    ELEMENT is [SOURCE:]ID or, with --key, [SOURCE:]NAME, as `kropotcli ls` shows it. The beginning of an ID or the end
    of a NAME is enough. Its fetches must fail, or its copy must be damaged or lost. The collector keeps trying. News of
    the element, e.g. a new revision, ends the dismissal. `kropotcli history` shows who dismissed an element, and when.
    """
    with open_ledger(settings) as ledger:
        labels, names = labels_of(ledger), Names.of_kits(ledger, kits, passphrase_files)
        keys = [names.find(text) for text in elements]
        found = ledger.entries(keys)
        entries = [_beyond_help(found.get(key), text, undo=undo) for key, text in zip(keys, elements, strict=True)]
        changed = {entry.key: entry for entry in entries if entry.is_dismissed == undo}
        fact = DismissalWithdrawn if undo else ElementDismissed
        now_us = ledger.now_us()
        facts = [
            NewFact(key=key, fact=fact(element=entry.element), observed_us=now_us, expected=entry.version)
            for key, entry in changed.items()
            if entry.element is not None
        ]
        if facts:
            ledger.append(facts)
    for entry in entries:
        name = f"{short_name(labels, entry.key.source)}:{one_line(entry.key.id)}"
        done = "raises alarms again" if undo else "is dismissed"
        row = {"type": entry.key.kind, "id": entry.key.id, "dismissed": not undo, "changed": entry.key in changed}
        _tell(settings, entry.key.source, row, f"{name} {done}", changed=entry.key in changed)


# --- helpers ---------------------------------------------------------------------------------------------------------


def _find(ledger: Ledger, name: str) -> tuple[Labels, bytes]:
    """Return the labels, and the id of SOURCE. Raises: UsageError if SOURCE fits no source, or several."""
    labels = labels_of(ledger)
    if not labels:
        raise UsageError("the ledger has no sources yet: run `kropotcli collect` to begin one")
    return labels, find_source(labels, name)


def _decide(ledger: Ledger, source: bytes, kind: type[KeepingFact], **changes: object) -> None:
    """Record a decision about a source. Earlier decisions stay."""
    kept = keeping_of(ledger, source)
    keeping: Keeping = replace(kept.keeping, **changes)
    keep(ledger, source, kind(keeping=keeping), version=kept.version)


def _beyond_help(entry: Entry | None, text: str, *, undo: bool) -> Entry:
    """Return the entry if it can be dismissed, or with `undo`. Raises: UsageError if there is nothing to dismiss."""
    element = None if entry is None else entry.element
    if entry is None or element is None:
        raise UsageError(f"the element {text!r} was erased: there is nothing to dismiss")
    if not undo and element.damage is None and element.failure is None:
        raise UsageError(
            f"the element {text!r} is {element.state}, and no fetch of it failed: only an element that fails, or whose "
            "copy is damaged or lost, can be dismissed"
        )
    return entry


def _tell(settings: Settings, source: bytes, row: dict[str, object], text: str, *, changed: bool) -> None:
    if settings.json:
        emit_json("source_decision", {"source": source.hex(), **row})
    else:
        emit(text if changed else f"nothing to do: {text}")
