"""`kropotcli history`: shows every event about one element."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from kropot.cli.base import Exit, Settings, emit, emit_json, open_ledger
from kropot.cli.base import command as define
from kropot.query.names import find_element
from kropot.query.render import element_of, event_json, event_name
from kropot.wording import moment as clock

if TYPE_CHECKING:
    from ledger.replica import Event


@define("history")
@click.argument("element")
def command(settings: Settings, *, element: str) -> Exit:
    """Show every event about one element, oldest first.

    ELEMENT is [SOURCE:]ID. SOURCE is the beginning of a source's id.
    """
    with open_ledger(settings, read_only=True) as ledger:
        for event in ledger.history(find_element(ledger, element)):
            if settings.json:
                emit_json(event_json(event), flush=False)
            else:
                emit(as_text(event), flush=False)
    return Exit.DONE


def as_text(event: Event) -> str:
    """Return one event as a line of text."""
    fields = [str(event.position), clock(event.recorded_us), event_name(event)]
    element = element_of(event)
    if element is None:
        return "  ".join(fields)
    fields += [element.state, f"revision {element.revision}", clock(element.date * 1_000_000)]
    if element.copy is not None:
        fields += [str(element.copy.size), element.copy.sha256.hex()]
    if element.failure is not None:
        fields.append(f"{element.failure.reason}, attempt {element.failure.attempts}")
    return "  ".join(fields)
