"""`kropotcli history`: everything that ever happened to one element."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kropot.cli.base import Exit, Settings, emit, emit_json, open_ledger
from kropot.cli.base import command as define
from kropot.cli.element import find_element
from kropot.cli.words import moment as clock
from kropot.replay.until import instant
from ledger.events import Element, ErasedFact, UnknownFact

if TYPE_CHECKING:
    from ledger.replica import Event


@define("history")
@click.argument("element")
def command(settings: Settings, *, element: str) -> Exit:
    """Show every event about one element, oldest first.

    ELEMENT is [SOURCE:]ID, SOURCE the beginning of a source's id.
    """
    with open_ledger(settings, read_only=True) as ledger:
        for record in ledger.history(find_element(ledger, element)):
            if settings.json:
                emit_json(as_json(record), flush=False)
            else:
                emit(as_text(record), flush=False)
    return Exit.DONE


def as_json(record: Event) -> dict[str, Any]:
    """Return one event as JSON shows it; of an erased or unknown one there is no state."""
    row: dict[str, Any] = {
        "position": record.position,
        "version": record.stream_version,
        "event": _name(record),
        "recorded_at": instant(record.recorded_us),
        "observed_at": instant(record.observed_us),
        "writer": record.writer,
    }
    element = _element(record)
    if element is None:
        return row
    copy, failure = element.copy, element.failure
    row |= {
        "state": element.state,
        "revision": element.revision,
        "date": element.date,
        "tz": element.tz,
        "present": element.present,
        "sha256": None if copy is None else copy.sha256.hex(),
        "size": None if copy is None else copy.size,
        "iv": None if copy is None or copy.iv is None else copy.iv.hex(),
        "copy_revision": None if copy is None else copy.revision,
        "failure": None
        if failure is None
        else {"reason": failure.reason, "attempts": failure.attempts, "next_try": instant(failure.next_try_us)},
    }
    named: object = getattr(record.fact, "sha256", None)
    return row | ({"object": named.hex()} if isinstance(named, bytes) else {})


def as_text(record: Event) -> str:
    """Return one event as a line for people."""
    fields = [str(record.position), clock(record.recorded_us), _name(record)]
    element = _element(record)
    if element is None:
        return "  ".join(fields)
    fields += [element.state, f"revision {element.revision}", clock(element.date * 1_000_000)]
    if element.copy is not None:
        fields += [str(element.copy.size), element.copy.sha256.hex()]
    if element.failure is not None:
        fields.append(f"{element.failure.reason}, attempt {element.failure.attempts}")
    return "  ".join(fields)


def _name(record: Event) -> str:
    fact = record.fact
    if isinstance(fact, UnknownFact):
        return f"{fact.type_name} (unknown to this version)"
    if isinstance(fact, ErasedFact):
        return f"{fact.type_name} (erased)"
    return fact.TYPE


def _element(record: Event) -> Element | None:
    element: object = getattr(record.fact, "element", None)
    return element if isinstance(element, Element) else None
