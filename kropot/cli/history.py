"""`kropotcli history`: shows every event about one element."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from kropot.cli.afar import from_options, refuse_token_alone
from kropot.cli.base import Exit, Settings, emit, emit_json, open_ledger
from kropot.cli.base import command as define
from kropot.cli.copies import read_kits
from kropot.cli.history_afar import at_keeper, in_export
from kropot.cli.naming import NAMED, Names, key_options
from kropot.query.erasures import erasures_of
from kropot.query.names import readings
from kropot.query.past import labels_of
from kropot.query.render import element_of, event_json, event_name
from kropot.wording import instant, number
from kropot.wording import moment as clock
from ledger.decoding import event_of
from ledger.events import DismissalWithdrawn, ElementDismissed

if TYPE_CHECKING:
    from pathlib import Path

    from ledger.replica import Event


@define("history")
@click.argument("element")
@from_options
@key_options(f"Show names, and take a name as ELEMENT. {NAMED}")
def command(
    settings: Settings,
    *,
    element: str,
    origin: Path | str | None,
    token_file: Path | None,
    kits: tuple[Path, ...],
    passphrase_files: tuple[Path, ...],
) -> Exit:
    """Show every event about one element, oldest first.

    ELEMENT is [SOURCE:]ID. SOURCE is a source's label, or the beginning of its id. The beginning of an ID is enough if
    no other id begins with it. With --key, ELEMENT can be [SOURCE:]NAME, with the name of a file as `ls --key` shows
    it, or the end of that name: page.txt finds docs/page.txt. If several names end with it, they are listed. For erased
    events, this shows only how many there were, and when they were erased.

    With --from, ELEMENT is a whole ID or, with --key, a NAME. An export has only the events that prove its copies.
    """
    refuse_token_alone(origin, token_file)
    if origin is not None:
        keys = read_kits(kits, passphrase_files)
        if isinstance(origin, str):
            at_keeper(settings, origin, token_file, element, keys)
        else:
            in_export(settings, origin, element, keys)
        return Exit.DONE
    with open_ledger(settings, read_only=True) as ledger:
        names = Names.of_kits(ledger, kits, passphrase_files)
        erasures = erasures_of(ledger, [*readings(labels_of(ledger), element), *names.readings(element)])
        key = names.find(element, erased=erasures)
        for erasure in erasures.get(key, ()):
            event, payloads = event_of(erasure, key), erasure.stream_version - 1
            if settings.json:
                emit_json("event", event_json(event) | {"erased_payloads": payloads}, flush=False)
            else:
                emit(f"{as_text(event)}  erased {number(payloads, 'earlier event')}", flush=False)
        for event in ledger.history(key):
            if settings.json:
                emit_json("event", event_json(event) | names.json(names.of_event(event)), flush=False)
            else:
                emit(as_text(event) + (f"  {names.of_event(event).shown}" if names.are_opened else ""), flush=False)
    return Exit.DONE


def as_text(event: Event) -> str:
    """Return one event as a line of text."""
    fields = [str(event.position), instant(event.recorded_us), event_name(event)]
    element = element_of(event)
    if element is None:
        return "  ".join(fields)
    fields += [element.state, f"revision {element.revision}", clock(element.date * 1_000_000)]
    if element.copy is not None:
        fields += [str(element.copy.size), element.copy.sha256.hex()]
    if element.failure is not None:
        fields.append(f"{element.failure.reason}, attempt {element.failure.attempts}")
    if isinstance(event.fact, ElementDismissed | DismissalWithdrawn):
        fields.append(f"by {event.writer}")
    return "  ".join(fields)
