"""`kropotcli source`: lists sources, changes a server's address, and accepts held-back listings."""

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
    """List sources, change a server's address, and accept held-back listings.

    A source is what one token sees of a server. A new token begins a new source, because the ids of elements can depend
    on the token. SOURCE is the beginning of a source's id. It must fit only one source.
    """


@command.command("list")
def list_(settings: Settings) -> None:
    """List the sources, oldest first."""
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
        emit("no sources yet: `kropotcli collect` begins one")


@command.command("alias")
@click.argument("source_name", metavar="SOURCE")
def alias(settings: Settings, *, source_name: str) -> None:
    """Change the address of SOURCE to --server-url.

    Use this if the server has moved. Nothing is fetched again.
    """
    url = settings.need_server_url()
    with open_ledger(settings) as ledger:
        entry = _find(ledger, source_name)
        if entry.source.url != url:
            fact = moved(entry.source, url)
            key = source_key(entry.id)
            ledger.append([NewFact(key=key, fact=fact, observed_us=ledger.clock_us(), expected=entry.version)])
    if settings.json:
        emit_json({"source": entry.id.hex(), "url": url, "changed": entry.source.url != url})
    elif entry.source.url == url:
        emit(f"nothing to do: source {entry.id.hex()} is at {url} already")
    else:
        emit(f"source {entry.id.hex()} moved from {entry.source.url} to {url}")


@command.command("accept")
@click.argument("source_name", metavar="[SOURCE]", required=False)
def accept(settings: Settings, *, source_name: str | None) -> None:
    """Accept a held-back listing or a surge of changes.

    This clears the alarms of SOURCE, or of all sources if you name none. The next full listing then marks the missing
    elements as vanished. Their copies stay.
    """
    accepted = []
    with open_ledger(settings) as ledger:
        chosen = ledger.sources().values() if source_name is None else [_find(ledger, source_name)]
        for entry in chosen:
            fact = accept_alarms(entry.source)
            if fact is not None:
                key = source_key(entry.id)
                ledger.append([NewFact(key=key, fact=fact, observed_us=ledger.clock_us(), expected=entry.version)])
                accepted.append(entry.id.hex())
    if settings.json:
        emit_json({"accepted": accepted})
    elif accepted:
        emit(f"accepted for {number(len(accepted), 'source')}: {', '.join(accepted)}")
    else:
        emit("nothing to accept: no listing is held back, and there is no surge alarm")


def moved(source: Source, url: str) -> SourceRenamed:
    """Return the fact that the server of `source` is now at `url`. The earlier addresses stay known."""
    urls = (*(known for known in source.urls if known != url), url)
    return SourceRenamed(source=replace(source, urls=urls))


def _find(ledger: Ledger, name: str) -> SourceEntry:
    """Return the source that SOURCE names. Raises: UsageError if SOURCE fits no source, or several."""
    sources = ledger.sources()
    if not sources:
        raise UsageError("the ledger has no sources yet: run `kropotcli collect` to begin one")
    return sources[find_source(sources, name)]
