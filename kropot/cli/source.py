"""`kropotcli source`: list sources, tell that a server moved, accept what was held back."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from kropot.cli.base import Settings, emit, emit_json, group, open_ledger
from kropot.collect.decide.sources import accept as accept_alarms
from kropot.collect.decide.sources import source_key
from kropot.errors import UsageError
from kropot.query.names import find_source
from kropot.query.render import source_json
from kropot.wording import moment, number
from ledger.events import SourceRenamed
from ledger.log import NewFact

if TYPE_CHECKING:
    from ledger.events import Source
    from ledger.log import Ledger, SourceEntry


@group("source")
def command() -> None:
    """List sources; tell that a server moved; accept what was held back.

    A source is a server as seen through one token. A new token begins a new source, for the ids of elements may belong
    to the token. SOURCE is the beginning of a source's id, as long as only one begins so.
    """


@command.command("list")
def list_(settings: Settings) -> None:
    """List the sources, in the order in which they began."""
    with open_ledger(settings, read_only=True) as ledger:
        sources, tallies = ledger.sources(), ledger.tallies()
    for id_, entry in sources.items():
        states = {tally.state: tally for tally in tallies if tally.source == id_ and tally.elements}
        if settings.json:
            emit_json(source_json(entry, states))
        else:
            source = entry.source
            counts = ", ".join(f"{state} {tally.elements}" for state, tally in sorted(states.items())) or "no elements"
            emit(f"{id_.hex()}  {source.url}  listed {moment(source.listed_us)}  {counts}")
    if not sources and not settings.json:
        emit("no sources yet")


@command.command("alias")
@click.argument("source_name", metavar="SOURCE")
def alias(settings: Settings, *, source_name: str) -> None:
    """Tell that the server of SOURCE has moved to --server-url; nothing is fetched again."""
    url = settings.need_server_url()
    with open_ledger(settings) as ledger:
        entry = _find(ledger, source_name)
        if entry.source.url != url:
            fact = moved(entry.source, url)
            key = source_key(entry.id)
            ledger.append([NewFact(key=key, fact=fact, observed_us=ledger.now_us(), expected=entry.version)])
    if settings.json:
        emit_json({"source": entry.id.hex(), "url": url, "changed": entry.source.url != url})
    elif entry.source.url == url:
        emit(f"{entry.id.hex()} is at {url} already")
    else:
        emit(f"{entry.id.hex()} moved from {entry.source.url} to {url}")


@command.command("accept")
@click.argument("source_name", metavar="[SOURCE]", required=False)
def accept(settings: Settings, *, source_name: str | None) -> None:
    """Accept what was held back as too strange: of SOURCE, or of every source that has such an alarm.

    Elements that were missing are declared gone by the next full listing; their copies stay.
    """
    accepted = []
    with open_ledger(settings) as ledger:
        chosen = ledger.sources().values() if source_name is None else [_find(ledger, source_name)]
        for entry in chosen:
            fact = accept_alarms(entry.source)
            if fact is not None:
                key = source_key(entry.id)
                ledger.append([NewFact(key=key, fact=fact, observed_us=ledger.now_us(), expected=entry.version)])
                accepted.append(entry.id.hex())
    if settings.json:
        emit_json({"accepted": accepted})
    elif accepted:
        emit(f"accepted for {number(len(accepted), 'source')}: {', '.join(accepted)}")
    else:
        emit("nothing was held back")


def moved(source: Source, url: str) -> SourceRenamed:
    """Return the fact that the server of `source` is now at `url`; the addresses before it stay known."""
    urls = (*(known for known in source.urls if known != url), url)
    return SourceRenamed(source=replace(source, urls=urls))


def _find(ledger: Ledger, name: str) -> SourceEntry:
    """Return the source that SOURCE names. Raises: UsageError if none or several are so named."""
    sources = ledger.sources()
    if not sources:
        raise UsageError("the ledger knows no source yet: `kropotcli collect` begins one")
    return sources[find_source(sources, name)]
