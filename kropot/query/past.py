"""The sources as a person knows them: their labels, and whether they are in use or past.

A source is past if a person retired it, or if another token took over: a newer source was listed at one of its
addresses, and this one never was after that. A past source raises no alarm about its server, and `restore` leaves it
out unless asked for it. Its copies stay, and are verified.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from kropot.wording import moment
from ledger.append import source_key
from ledger.decoding import fact_of
from ledger.errors import DamagedRowError
from ledger.events import SourceFact
from ledger.keeping import keeping_of
from ledger.vaults import naming_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ledger.events import Keeping, Source
    from ledger.log import Ledger


class Past(Struct, frozen=True, kw_only=True):
    """Why a source is past, and since when. `heir` is the source of the token that took over.

    `position` is that of the last decision about a retired source. The person knew of everything before that.
    """

    why: Literal["retired", "taken_over"]
    since_us: int
    heir: bytes | None = None
    position: int = 0

    @property
    def text(self) -> str:
        """The reason in words, as the end of a sentence that begins with the source."""
        if self.why == "retired":
            return f"retired at {moment(self.since_us)}"
        return f"another token took over its address at {moment(self.since_us)}"


class KnownSource(Struct, frozen=True, kw_only=True):
    """A source with what people decided about it. It began at `began_us`. `past` is None while it is in use.

    `vault` is the id (16 bytes) of the vault that seals it, None if its list names none.
    """

    id: bytes
    source: Source
    began_us: int
    keeping: Keeping
    past: Past | None
    vault: bytes | None = None


def labels_of(ledger: Ledger) -> dict[bytes, str | None]:
    """Return the sources' labels by id, None for those without one, in the order in which the sources began."""
    return {row.id: keeping_of(ledger, row.id).keeping.label for row in ledger.projection.sources()}


def labels_in(known: Mapping[bytes, KnownSource]) -> dict[bytes, str | None]:
    """Return the labels of these sources as `labels_of` does."""
    return {id_: each.keeping.label for id_, each in known.items()}


def sources_at(ledger: Ledger, position: int | None = None) -> dict[bytes, KnownSource]:
    """Return the sources that had begun at `position`, as they were then, in the order in which they began.

    Without a position, this is the state now.
    """
    states = _sources_now(ledger) if position is None else _sources_then(ledger, position)
    began = {id_: _began_us(ledger, id_) for id_ in states}
    known = {}
    for id_, source in states.items():
        kept = keeping_of(ledger, id_, until=position)
        past = _retired(kept.keeping, kept.position) or _taken_over(id_, states, began, kept.keeping)
        vault = naming_of(ledger.log, id_, until=position).vault
        known[id_] = KnownSource(
            id=id_, source=source, began_us=began[id_], keeping=kept.keeping, past=past, vault=vault
        )
    return known


def freshest_first(known: Mapping[bytes, KnownSource]) -> list[bytes]:
    """Return the sources' ids: those in use before the past ones, and in each group the most recently listed first."""
    return sorted(
        known,
        key=lambda id_: (known[id_].past is not None, -(known[id_].source.listed_us or 0), -known[id_].began_us, id_),
    )


def past_ids(known: Mapping[bytes, KnownSource]) -> frozenset[bytes]:
    """Return the ids of the past sources."""
    return frozenset(id_ for id_, each in known.items() if each.past is not None)


# --- helpers ---------------------------------------------------------------------------------------------------------


def _sources_now(ledger: Ledger) -> dict[bytes, Source]:
    return {id_: entry.source for id_, entry in ledger.sources().items()}


def _sources_then(ledger: Ledger, position: int) -> dict[bytes, Source]:
    """Return the sources after the event at `position`."""
    rows = ledger.projection.sources()
    last = {stream: at for at, stream in ledger.log.last_positions(position, [row.stream for row in rows])}
    events = {event.stream: event for event in ledger.log.events_at(sorted(last.values()))}
    found = {}
    for row in rows:
        fact = fact_of(events[row.stream]) if row.stream in events else None
        if fact is not None and not isinstance(fact, SourceFact):
            # This version does not know the last event, so use the newest earlier one that it knows.
            earlier = (
                fact_of(event)
                for event in ledger.log.stream_events(source_key(row.id).stored, newest_first=True)
                if event.seq < last[row.stream]
            )
            fact = next((each for each in earlier if isinstance(each, SourceFact)), None)
        if isinstance(fact, SourceFact):
            found[row.id] = fact.source
    return found


def _began_us(ledger: Ledger, id_: bytes) -> int:
    first = next(iter(ledger.log.stream_events(source_key(id_).stored)), None)
    if first is None:
        raise DamagedRowError(f"the projection has the source {id_.hex()}, but no event about it")
    return first.recorded_us


def _retired(keeping: Keeping, position: int) -> Past | None:
    if keeping.retired_us is None:
        return None
    return Past(why="retired", since_us=keeping.retired_us, position=position)


def _taken_over(
    id_: bytes, states: Mapping[bytes, Source], began: Mapping[bytes, int], keeping: Keeping
) -> Past | None:
    """Return the takeover by a newer source, if one with a common address began after this one was last in use.

    An address counts even after the server moved away from it, or `source alias` would bring the old source back.
    """
    mine = states[id_]
    last_us = max(mine.listed_us or began[id_], keeping.in_use_us or 0)
    heirs = [
        other
        for other, source in states.items()
        if other != id_
        and source.listed_us is not None
        and began[other] >= last_us
        and not set(source.urls).isdisjoint(mine.urls)
    ]
    if not heirs:
        return None
    heir = min(heirs, key=lambda other: (began[other], other))
    return Past(why="taken_over", since_us=began[heir], heir=heir)
