"""The facts that show whether a replica is well, read from ledger and storage in constant memory and time."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from kropot.query.erasures import Erased, erased_in
from kropot.query.further import look_at_further
from kropot.query.past import sources_at
from kropot.query.storage import look
from ledger.decoding import entry_of, fact_of
from ledger.drills import drill_of
from ledger.errors import DamagedRowError
from ledger.events import SOURCE_KIND, ListingCompleted, ListingHeldBack, RunFailed, StreamKey

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from kropot.further.joining import Surroundings
    from kropot.objects.opening import Storage
    from kropot.query.further import FurtherFacts
    from kropot.query.past import KnownSource, Past
    from kropot.query.storage import StorageFacts
    from ledger.drills import Drill
    from ledger.events import AuditRange, Element, Listing, Source, Unserved
    from ledger.log import Ledger
    from ledger.replica import Entry, Event

LOOKED_AT: Final = 1_000
"""How many waiting elements to look at from each end of their queue, so that `status` does not take longer for more."""

_BAD_LOOKED_AT: Final = 5_000
"""How many elements with a damaged or lost copy to look at, to find those that were dismissed."""

_NEWEST_EVENTS: Final = 1_000
"""How far back to look for the newest listings. Listings in pages have other events between them."""

_ROUNDS: Final = 30
"""How many of the newest rounds to use for the time between rounds."""

_BAD: Final = ("damaged", "lost")
_LISTED: Final = frozenset({ListingCompleted.TYPE, ListingHeldBack.TYPE})


class FailingElement(Struct, frozen=True, kw_only=True):
    """An element whose fetches fail: why, how often, since when, and when the next try is."""

    key: StreamKey
    reason: str
    attempts: int
    since_us: int
    next_try_us: int


class FailedRun(Struct, frozen=True, kw_only=True):
    """A run that ended without success: which collector's, why (a stable word), and when."""

    instance: str
    reason: str
    at_us: int


class SourceFacts(Struct, frozen=True, kw_only=True):
    """The facts about one source.

    `states` maps a state to (elements, bytes of their copies). `reasons` counts failing elements by reason. `failing`
    holds those that have failed longest, the longest first, and the first of them began to fail at `failing_since_us`.
    `beyond_help` counts elements whose copy is damaged or lost and that the source no longer has. The element that has
    waited longest began to wait at `pending_since_us`. `past` says why the source is no longer in use, None if it is.
    `dismissed` counts the elements that a person dismissed. They count nowhere else but in `states`. `unserved` and
    `unscanned_since` are what the server last said about itself (`Listing`). `failed_run` is the last thing that
    happened to the source, if that is a failed run. `drill` says when copies were last opened with a kit. `vault` is
    the id (16 bytes) of the vault that seals the source, if its list names one. `round_us` is the median time between
    the last rounds, 30 at most; None if there were fewer than two.

    With `is_sampled`, so many elements wait that only those due first and those due last were looked at. Then
    `reasons` and `failing` cover only some, and `failing_about` estimates how many fail.
    """

    id: bytes
    source: Source
    states: Mapping[str, tuple[int, int]]
    reasons: Mapping[str, int]
    failing: tuple[FailingElement, ...]
    failing_since_us: int | None
    beyond_help: int
    pending_since_us: int | None
    past: Past | None = None
    label: str | None = None
    drill: Drill | None = None
    dismissed: int = 0
    unserved: Unserved | None = None
    unscanned_since: int | None = None
    failed_run: FailedRun | None = None
    is_sampled: bool = False
    failing_about: int = 0
    vault: bytes | None = None
    round_us: int | None = None

    @property
    def superseded(self) -> bool:
        """Whether another token took over the source's address."""
        return self.past is not None and self.past.why == "taken_over"

    @property
    def needs_kit(self) -> bool:
        """Whether the source has copies, and is encrypted as far as is known."""
        return self.source.opaque is not False and any(size for _, size in self.states.values())

    @property
    def failing_count(self) -> int:
        """How many elements are failing; with `is_sampled`, at least this many."""
        return sum(self.reasons.values())


class Facts(Struct, frozen=True, kw_only=True):
    """The facts about the replica at `position`. The ledger began at `began_us`. `audit` says what `verify` read when.

    The last event was recorded at `recorded_us`, and observed at `observed_us` by its writer's clock.
    `erased` sums up the erasures. `storage` is None if it was not looked at. `further` are the further storages.
    """

    position: int
    recorded_us: int
    observed_us: int = 0
    began_us: int
    sources: tuple[SourceFacts, ...]
    audit: tuple[AuditRange, ...]
    erased: Erased
    storage: StorageFacts | None = None
    further: tuple[FurtherFacts, ...] = ()


def gather(
    ledger: Ledger, storage: Storage | None = None, *, surroundings: Surroundings | None = None, shown: int = 10
) -> Facts:
    """Read the facts for `health`. Keep at most `shown` failing elements for each source, so that memory stays flat.

    This takes no longer for many elements: the ledger keeps all counts up to date, and only a limited number of
    elements without a sound copy are read.
    """
    head = ledger.head()
    sources = sources_at(ledger)
    states: dict[bytes, dict[str, tuple[int, int]]] = {id_: {} for id_ in sources}
    for tally in ledger.tallies():
        if tally.source not in states:
            raise DamagedRowError(f"the projection has elements of source {tally.source.hex()}, but not the source")
        states[tally.source][tally.state] = (tally.elements, tally.bytes)
    return Facts(
        position=head.position,
        recorded_us=head.recorded_us,
        observed_us=next((each.observed_us for each in ledger.events(after=head.position - 1)), head.recorded_us),
        began_us=_recorded_us(ledger.events(until=1)),
        sources=tuple(_source_facts(ledger, id_, known, states[id_], shown=shown) for id_, known in sources.items()),
        audit=ledger.audit(),
        erased=erased_in(ledger),
        storage=None if storage is None else look(ledger, storage),
        further=() if surroundings is None else look_at_further(ledger, surroundings),
    )


# --- reading ---------------------------------------------------------------------------------------------------------


def _source_facts(
    ledger: Ledger, id_: bytes, known: KnownSource, states: Mapping[str, tuple[int, int]], *, shown: int
) -> SourceFacts:
    key = StreamKey(source=id_, kind=SOURCE_KIND, id="")
    scan = _SourceScan(shown=shown, past=known.past)
    bad = sum(states.get(state, (0, 0))[0] for state in _BAD)
    # The scan passes over all other elements, too. So stop after the last bad one.
    for entry in islice(ledger.scan(source=id_, states=_BAD), min(_BAD_LOOKED_AT, bad)):
        if entry.element is not None:
            scan.add_bad(entry, entry.element)
    if known.past is None:
        # Elements that the source no longer has are not wanted. If very many are bad, not all dismissed ones are known.
        unwanted = bad and bad - ledger.projection.wanted_in(id_, _BAD)
        scan.beyond_help = max(unwanted - scan.dismissed, 0)
        _look_at_wanted(ledger, id_, scan, states)
    listing, round_us = _newest_rounds(ledger, key, known.source)
    return SourceFacts(
        id=id_,
        source=known.source,
        states=states,
        reasons=dict(scan.reasons.most_common()),
        failing=tuple(scan.longest()),
        failing_since_us=scan.first_failing_us,
        beyond_help=scan.beyond_help,
        pending_since_us=_waiting_since(ledger, scan),
        past=known.past,
        label=known.keeping.label,
        drill=drill_of(ledger, id_),
        dismissed=scan.dismissed,
        unserved=None if listing is None else listing.unserved,
        unscanned_since=None if listing is None else listing.unscanned_since,
        failed_run=_failed_run(ledger, key),
        is_sampled=scan.is_sampled,
        failing_about=scan.failing_about,
        vault=known.vault,
        round_us=round_us,
    )


@dataclass(slots=True, kw_only=True)
class _SourceScan:
    """The result of one pass over a source's elements without a sound copy, in flat memory.

    Nothing can be fetched from a `past` source. So only its damaged and lost copies count. For a retired source, only
    those count that were found after its retirement.
    """

    shown: int
    past: Past | None = None
    reasons: Counter[str] = field(default_factory=Counter)
    beyond_help: int = 0
    dismissed: int = 0
    is_sampled: bool = False
    failing_about: int = 0
    first_waiting: int | None = None
    first_failing_us: int | None = None
    _failing: list[tuple[int, int, FailingElement]] = field(default_factory=list)

    def add_bad(self, entry: Entry, element: Element) -> None:
        """Count an element whose copy is damaged or lost, unless it counts as a wanted one."""
        if self.past is None and element.present:
            return
        if entry.is_dismissed:
            self.dismissed += 1
        elif self.past is not None:
            self.beyond_help += entry.position > self.past.position

    def add_wanted(self, entry: Entry, element: Element) -> None:
        """Count an element that waits to be fetched."""
        if entry.is_dismissed:
            self.dismissed += 1
        elif element.failure is None:
            self.first_waiting = _least(self.first_waiting, entry.position)
        else:
            failure = element.failure
            self.reasons[failure.reason] += 1
            self.first_failing_us = _least(self.first_failing_us, failure.since_us)
            failing = FailingElement(
                key=entry.key,
                reason=failure.reason,
                attempts=failure.attempts,
                since_us=failure.since_us,
                next_try_us=failure.next_try_us,
            )
            # The one that began to fail last is on top, and is removed first.
            heappush(self._failing, (-failure.since_us, -entry.position, failing))
            if len(self._failing) > self.shown:
                heappop(self._failing)

    def longest(self) -> list[FailingElement]:
        """Return the elements that have failed longest, the longest first."""
        return [failing for _, _, failing in sorted(self._failing, reverse=True)]


def _look_at_wanted(ledger: Ledger, source: bytes, scan: _SourceScan, states: Mapping[str, tuple[int, int]]) -> None:
    """Look at the source's wanted elements: at all of them, or at those due first and those due last.

    Failing elements are due at their next try, so if very many wait, the failing ones are among the last.
    """
    seen: set[int] = set()
    for entry in map(entry_of, islice(ledger.projection.due(source, last_first=False), LOOKED_AT)):
        if entry.element is not None:
            scan.add_wanted(entry, entry.element)
            seen.add(entry.stream)
    scan.failing_about = sum(scan.reasons.values())
    if len(seen) < LOOKED_AT:
        return
    scan.is_sampled = True
    wanted = sum(states.get(state, (0, 0))[0] for state in ("pending", *_BAD))
    about = scan.failing_about * wanted // len(seen)
    for entry in map(entry_of, islice(ledger.projection.due(source, last_first=True), LOOKED_AT)):
        if entry.stream in seen:
            break
        if entry.element is not None:
            scan.add_wanted(entry, entry.element)
    scan.failing_about = max(about, sum(scan.reasons.values()))


def _failed_run(ledger: Ledger, key: StreamKey) -> FailedRun | None:
    """Return the run that failed, if nothing has happened to the source since."""
    last = next(ledger.history(key, newest_first=True), None)
    if last is None or not isinstance(last.fact, RunFailed):
        return None
    return FailedRun(instance=last.fact.instance, reason=last.fact.reason, at_us=last.recorded_us)


def _waiting_since(ledger: Ledger, scan: _SourceScan) -> int | None:
    """Return when the element of a source that has waited longest began to wait."""
    first = scan.first_waiting
    if first is None:
        return scan.first_failing_us
    return _least(scan.first_failing_us, _recorded_us(ledger.events(after=first - 1, until=first)))


def _newest_rounds(ledger: Ledger, key: StreamKey, source: Source) -> tuple[Listing | None, int | None]:
    """Return what the newest listing of a source found, and how far apart its last rounds were (microseconds)."""
    if source.listed_us is None:
        return None, None
    newest: Listing | None = None
    times: list[int] = []
    for event in islice(ledger.log.stream_events(key.stored, newest_first=True), _NEWEST_EVENTS):
        if event.type not in _LISTED:
            continue
        fact = fact_of(event) if newest is None else None
        if isinstance(fact, ListingCompleted | ListingHeldBack):
            newest = fact.listing
        times.append(event.recorded_us)
        if len(times) == _ROUNDS:
            break
    gaps = sorted(later - earlier for later, earlier in pairwise(times) if later > earlier)
    return newest, gaps[len(gaps) // 2] if gaps else None


def _recorded_us(records: Iterable[Event]) -> int:
    """Return when the first of the events was recorded, or 0 if there are none.

    Recorded time stands still after a clock was far ahead. Then the time of the observation is more accurate.
    """
    return next((min(record.recorded_us, record.observed_us) for record in records), 0)


def _least(one: int | None, other: int | None) -> int | None:
    """Return the smaller of two numbers, either of which can be None."""
    known = [each for each in (one, other) if each is not None]
    return min(known, default=None)
