"""What the entries of a listing mean: facts about elements, and dates that moved strangely."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from kropot.collect.decide import sources
from kropot.collect.decide.plan import SECOND_US, Dates, first_sight, is_only_moved, known_dates, observe, stored
from ledger.append import NewFact
from ledger.events import Copy, Element, RemoteChanged, RemoteCopied, RemoteObserved, StreamKey

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
    """Return this chunk's facts about elements, and the fact about their source if there is any news.

    `known` has the entries that the ledger knows, by type and id. `copies` are durable copies that `instance` made of
    contents, by the places of their entries in the chunk. They are recorded if the entries bring a new content.
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
        name = listed.type, listed.id
        entry = known.get(name)
        if entry is not None or name in sighted.again:
            sighted.take(name, listed, entry, copies.get(at))
        else:
            sighted.see_first(name, listed, copies.get(at))
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
    """Entries of one chunk as they are observed; if an id is listed twice, the second sighting builds on the first.

    `again` has the observed elements by type and id, each with its stream's version after that.
    """

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
    again: dict[tuple[str, str], tuple[Element, int]] = field(default_factory=dict)

    def see_first(self, name: tuple[str, str], listed: Listed, came: PrefetchedCopy | None) -> None:
        """Observe an unknown element. A single fact says so, and that its content is durable if it came."""
        fact: RemoteObserved
        if came is None:
            fact = RemoteObserved(element=first_sight(listed, self.dates))
        else:
            copy = Copy(sha256=came.sha256, size=came.size, iv=came.iv, revision=1, instance=self.instance)
            fact = RemoteCopied(element=first_sight(listed, self.dates, copy))
        self.new += 1
        self.facts.append(NewFact(key=self._key(listed), fact=fact, observed_us=self.now_us, expected=0))
        self.again[name] = (fact.element, 1)

    def take(self, name: tuple[str, str], listed: Listed, entry: Entry | None, copy: PrefetchedCopy | None) -> None:
        """Observe an element that is known from its entry or from this chunk; its content may be here."""
        run, is_first = self.run, True
        if entry is None:
            key = self._key(listed)
            element, version = self.again[name]
        else:
            key = entry.key
            known, version = self.again.get(name, (entry.element, entry.version))
            if known is None:
                return
            element, is_first = known, run.seen.add(entry.stream)
            run.present += is_first and element.present
        is_strange = not run.shift.is_believing and not self.dates.agree(element, listed.date)
        is_moved = is_strange and is_only_moved(element, listed)
        if is_first:
            ways = self.dates.ways(element)
            if is_moved or (not is_strange and len(ways) > 1):
                # Even if it is not strange: it moved before, or did not, and may have moved back or further now.
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
            size, iv = copy.size, copy.iv
            told.append(stored(fact.element, sha256=copy.sha256, size=size, iv=iv, instance=self.instance))
        for ahead, each in enumerate(told):
            self.facts.append(NewFact(key=key, fact=each, observed_us=self.now_us, expected=version + ahead))
        self.again[name] = (told[-1].element, version + len(told))

    def _key(self, listed: Listed) -> StreamKey:
        return StreamKey(source=self.source_id, kind=listed.type, id=listed.id)

    def _count(self, fact: Observation, element: Element) -> None:
        if isinstance(fact, RemoteChanged):
            self.changed += 1
            is_same = fact.element.revision == element.revision
            self.afresh += not (is_same or self._changed_lately(element))
        else:
            self.reappeared += 1

    def _changed_lately(self, element: Element) -> bool:
        """Whether the element's known state is itself a change of the last 24 hours, by the server's own dates."""
        now_s = self.now_us // SECOND_US
        return element.revision > 1 and now_s - DAY_S < element.date <= now_s + SLACK_S
