"""What the entries of a listing mean: facts about elements, and dates that moved strangely."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from kropot.collect.decide import sources
from kropot.collect.decide.plan import SECOND_US, Dates, is_only_moved, known_dates, observe, stored
from ledger.append import NewFact
from ledger.events import Element, RemoteChanged, RemoteCopied, RemoteObserved, StreamKey

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kropot.collect.decide.inputs import PrefetchedCopy
    from kropot.collect.decide.listing_run import ListingRun
    from kropot.collect.decide.plan import Observation
    from kropot.collect.decide.sources import Thresholds
    from kropot.securecopy.wire import Listed
    from ledger.events import CopyStored, Source, SourceFact
    from ledger.replica import Entry

SLACK_S = 300
"""How far ahead of our clock a date may be before the cursor no longer follows it, in seconds."""

DAY_S = 86400

NO_COPIES: Final[Mapping[int, PrefetchedCopy]] = MappingProxyType({})


def observe_chunk(
    run: ListingRun,
    source_id: bytes,
    source: Source,
    chunk: tuple[Listed, ...],
    known: Mapping[tuple[str, str], Entry],
    *,
    now_us: int,
    thresholds: Thresholds,
    copies: Mapping[int, PrefetchedCopy] = NO_COPIES,
    instance: str = "",
) -> tuple[list[NewFact], SourceFact | None]:
    """Return the facts about elements that this chunk tells, and the one about their source if there is any news.

    `known` has the entries that the ledger knows, by type and id. `copies` are durable copies that `instance` made of
    contents, by the places of their entries in the chunk: they are recorded where the entries bring news of a content.
    """
    is_opaque = source.opaque or (source.opaque is None and any(one.is_sealed for one in chunk))
    sighted = _Observed(run=run, source_id=source_id, now_us=now_us, dates=known_dates(source), instance=instance)
    horizon = now_us // SECOND_US + SLACK_S
    cursor: int | None = None
    for at, listed in enumerate(chunk):
        if listed.date <= horizon and (cursor is None or listed.date > cursor):
            cursor = listed.date
        if is_opaque and not listed.is_sealed:
            # A plain form holds the file's name, which must not reach the ledger of an encrypted replica.
            run.counts.refused += 1
            continue
        sighted.take(listed, known.get((listed.type, listed.id)), copies.get(at))
    found = sources.Found(
        new=sighted.new,
        changed=sighted.changed,
        afresh=sighted.afresh,
        reappeared=sighted.reappeared,
        cursor=cursor,
        opaque=is_opaque if chunk else None,
    )
    advanced = sources.advance(source, found, known=run.known + run.counts.new, now_us=now_us, thresholds=thresholds)
    return sighted.facts, advanced


@dataclass(slots=True, kw_only=True)
class _Observed:
    """Entries of one chunk as they are observed; an id that is listed twice builds on its first sight."""

    run: ListingRun
    source_id: bytes
    now_us: int
    dates: Dates
    instance: str
    facts: list[NewFact] = field(default_factory=list)
    new: int = 0
    changed: int = 0
    afresh: int = 0
    reappeared: int = 0
    again: dict[StreamKey, tuple[Element, int]] = field(default_factory=dict)

    def take(self, listed: Listed, entry: Entry | None, copy: PrefetchedCopy | None) -> None:
        """Observe one entry, whose content may be here."""
        run, is_first = self.run, True
        if entry is None:
            key = StreamKey(source=self.source_id, kind=listed.type, id=listed.id)
            element, version = self.again.get(key, (None, 0))
        else:
            key = entry.key
            element, version = self.again.get(key, (entry.element, entry.version))
            if element is None:
                return
            is_first = run.seen.add(entry.stream)
            run.present += is_first and element.present
        is_strange = element is not None and not run.shift.is_believing and not self.dates.agree(element, listed.date)
        is_moved = element is not None and is_strange and is_only_moved(element, listed)
        if element is not None and is_first:
            ways = self.dates.ways(element)
            if is_moved or (not is_strange and len(ways) > 1):
                # Even where it is not strange: it moved before, or did not then, and may have moved back or on now.
                run.shift.moved.add(listed.date - element.date, ways, listed.date, is_strange=is_strange)
            elif element.present:
                run.shift.moved.stay(listed.tz)
        if is_moved:
            run.shift.keep(listed)
            return
        fact = observe(element, listed, self.dates)
        if fact is None:
            return
        self._count(fact, element)
        told: list[Observation | CopyStored] = [fact]
        if copy is not None and not fact.element.is_current:
            told = _with_copy(fact, copy, self.instance)
        for ahead, each in enumerate(told):
            self.facts.append(NewFact(key=key, fact=each, observed_us=self.now_us, expected=version + ahead))
        self.again[key] = (told[-1].element, version + len(told))

    def _count(self, fact: Observation, element: Element | None) -> None:
        if isinstance(fact, RemoteObserved):
            self.new += 1
        elif isinstance(fact, RemoteChanged):
            self.changed += 1
            is_same = element is not None and fact.element.revision == element.revision
            self.afresh += not (is_same or self._changed_lately(element))
        else:
            self.reappeared += 1

    def _changed_lately(self, element: Element | None) -> bool:
        """Whether what is known of the element is itself a change of the last 24 hours, by the server's own dates."""
        now_s = self.now_us // SECOND_US
        return element is not None and element.revision > 1 and now_s - DAY_S < element.date <= now_s + SLACK_S


def _with_copy(fact: Observation, copy: PrefetchedCopy, instance: str) -> list[Observation | CopyStored]:
    """Return the facts that say what `fact` says, and that its content is durable: one for a first sight, else two."""
    said = stored(fact.element, sha256=copy.sha256, size=copy.size, iv=copy.iv, instance=instance)
    return [RemoteCopied(element=said.element)] if isinstance(fact, RemoteObserved) else [fact, said]
