"""`kropotcli log`: lists the restore points, one line per round."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kropot.cli.base import Exit, Settings, emit, emit_json, open_ledger
from kropot.cli.base import command as define
from kropot.cli.moments import since_of
from kropot.cli.naming import NAMED, Names, key_options
from kropot.query.names import find_source, short_name
from kropot.query.past import labels_of
from kropot.query.render import element_of, event_name, key_json, round_json
from kropot.wording import amount, instant

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kropot.cli.naming import Name
    from kropot.query.names import Labels
    from kropot.query.rounds import Round
    from ledger.events import Element, StreamKey
    from ledger.log import Ledger
    from ledger.replica import Event

CHANGES = {
    "RemoteObserved": "new",
    "RemoteCopied": "new",
    "RemoteReappeared": "new",
    "RemoteChanged": "changed",
    "RemoteVanished": "gone",
}
"""What a round found about an element, by the name of the event."""

MARKS = {"new": "+", "changed": "~", "gone": "-"}


@define("log")
@click.option(
    "--since",
    metavar="WHEN",
    help="List only rounds that ended at WHEN or later: a date, a time, an age (36h, 7d, 2w) or a position, as for "
    "--until.",
)
@click.option(
    "--source",
    "source_name",
    metavar="SOURCE",
    help="List only rounds of this source. SOURCE is its label, or the beginning of its id.",
)
@click.option("--changes", is_flag=True, help="Leave out rounds in which nothing was new, changed, gone or copied.")
@key_options(f"Also list what each round found new (+), changed (~) or gone (-), by name. {NAMED}")
def command(
    settings: Settings,
    *,
    since: str | None,
    source_name: str | None,
    changes: bool,
    kits: tuple[Path, ...],
    passphrase_files: tuple[Path, ...],
) -> Exit:
    """List the restore points, one line for each round, oldest first.

    A round is one listing of a source and the fetching that follows it. Each line shows the last position of the round,
    the time, the source, how many elements were new, changed and gone, and how many bytes were copied. To see the state
    at the end of a round, give its time, or its position with the @, to --until.

    The last round of each source is open until its next listing begins. Its position and time are those of the newest
    event in the ledger, which another source or a verify can have recorded. `kropotcli status` shows the time of each
    source's last listing.
    """
    from kropot.query.rounds import rounds
    from kropot.query.volumes import StoredVolumes

    with open_ledger(settings, read_only=True) as ledger:
        labels, volumes = labels_of(ledger), StoredVolumes(ledger)
        sources = None if source_name is None else {find_source(labels, source_name)}
        names = Names.of_kits(ledger, kits, passphrase_files)
        for each in rounds(ledger, since_us=since_of(ledger, since), sources=sources):
            copies, size = volumes.between(each.source, each.after, each.position)
            if changes and not (copies or any(_counts(each))):
                continue
            if settings.json:
                emit_json("round", round_json(each, labels.get(each.source), copies, size), flush=False)
            else:
                emit(_line(each, labels, size), flush=False)
            changed = names.sorted(_changes(ledger, each), _place) if kits else ()
            for event, name in changed:
                change = CHANGES[event_name(event)]
                if settings.json:
                    emit_json("round_change", _change_row(event, change, name), flush=False)
                else:
                    emit(f"    {MARKS[change]} {name.shown}", flush=False)
        names.tell_unnamed()
    return Exit.DONE


def _counts(each: Round) -> tuple[int, int, int]:
    """Return how many elements were new (or back), changed and gone."""
    found = each.listing
    return found.new + found.reappeared, found.changed, found.vanished


def _line(each: Round, labels: Labels, size: int) -> str:
    new, changed, gone = _counts(each)
    marks = ("  held back" if each.is_held else "") + ("  open" if each.is_open else "")
    return (
        f"@{each.position:<9} {instant(each.until_us)}  {short_name(labels, each.source):<10}"
        f"  {new:>9,} new  {changed:>9,} changed  {gone:>9,} gone  {amount(size):>10}{marks}"
    )


def _change_row(event: Event, change: str, name: Name) -> dict[str, Any]:
    key = {} if event.key is None else key_json(event.key)
    return {"position": event.position, "change": change, **key, "name": name.text}


def _place(event: Event) -> tuple[StreamKey, Element | None]:
    if event.key is None:
        raise TypeError(f"the event at position {event.position} is not about an element")
    return event.key, element_of(event)


def _changes(ledger: Ledger, each: Round) -> Iterator[Event]:
    """Yield the events of a round that say what its listing found. They are read page by page."""
    for event in ledger.events(after=each.after, until=each.position):
        if event.key is not None and event.key.source == each.source and event_name(event) in CHANGES:
            yield event
