"""`kropotcli ls`: lists elements, one per line, in constant memory; with a kit, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from kropot.cli.base import Exit, Settings, emit, emit_json, open_ledger
from kropot.cli.base import command as define
from kropot.cli.naming import NAMED, Names, key_options
from kropot.errors import UsageError
from kropot.query.names import find_source
from kropot.query.past import labels_of
from kropot.query.render import entry_json
from kropot.wording import moment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ledger.log import Ledger
    from ledger.replica import Entry

STATES: Final = ("current", "pending", "vanished", "damaged", "lost")


@define("ls")
@click.argument("elements", metavar="[ELEMENT]...", nargs=-1)
@click.option(
    "--state",
    "states",
    type=click.Choice(STATES),
    multiple=True,
    help="List only elements in this state. Can be repeated.",
)
@click.option(
    "--source",
    "source_name",
    metavar="SOURCE",
    help="List only elements of this source. SOURCE is its label, or the beginning of its id.",
)
@click.option("--failing", is_flag=True, help="List only elements whose last fetch failed.")
@key_options(f"Show names instead of ids, sorted by name, and take names. {NAMED}")
def command(
    settings: Settings,
    *,
    elements: tuple[str, ...],
    states: tuple[str, ...],
    source_name: str | None,
    failing: bool,
    kits: tuple[Path, ...],
    passphrase_files: tuple[Path, ...],
) -> Exit:
    """List all elements, or only the named ones, in the order of their ids.

    ELEMENT is [SOURCE:]ID. SOURCE is a source's label, or the beginning of its id. The beginning of an ID is enough if
    no other id begins with it. Each line shows the source, the id, the state, the server's date, and the size and
    SHA-256 of the copy. With --key, it shows names instead of ids, sorted by name, and ELEMENT can be [SOURCE:]NAME or
    the end of a name. With --json, each line is a JSON object.
    """
    if elements and (states or source_name):
        raise UsageError("--state and --source do not work with named elements: leave out the elements or the options")
    with open_ledger(settings, read_only=True) as ledger:
        names = Names.of_kits(ledger, kits, passphrase_files)
        entries = (
            entry
            for entry in _chosen(ledger, names, elements, states, source_name)
            if entry.element is not None and (not failing or entry.element.failure is not None)
        )
        for entry, name in names.sorted(entries, lambda entry: (entry.key, entry.element)):
            if settings.json:
                emit_json("element", entry_json(entry) | names.json(name), flush=False)
            else:
                emit(as_text(entry, name.shown), flush=False)
        names.tell_unnamed()
    return Exit.DONE


def as_text(entry: Entry, name: str) -> str:
    """Return an element as a line of text. Two spaces separate the fields."""
    element = entry.element
    if element is None:
        return f"{name}  erased"
    fields = [name, element.state, moment(element.date * 1_000_000)]
    if element.copy is not None:
        fields += [str(element.copy.size), element.copy.sha256.hex()]
    if element.failure is not None:
        fields.append(f"failing: {element.failure.reason}, next try {moment(element.failure.next_try_us)}")
    if entry.is_dismissed:
        fields.append("dismissed")
    return "  ".join(fields)


def _chosen(
    ledger: Ledger, names: Names, elements: tuple[str, ...], states: tuple[str, ...], source_name: str | None
) -> Iterator[Entry]:
    """Yield the entries that the command line asks for. They are read page by page.

    Raises: UsageError if a name fits no element, or several.
    """
    if elements:
        for text in elements:
            key = names.find(text)
            yield from ledger.entries([key]).values()
        return
    source = None if source_name is None else find_source(labels_of(ledger), source_name)
    yield from ledger.scan(source=source, states=states or None)
