"""The health of a replica. `gather` reads the facts from the ledger. `health` decides which alarms to raise; pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import islice
from typing import TYPE_CHECKING, Final

from kropot.collect.decide.sources import TOO_MANY, is_cut_short
from kropot.query.erasures import Erased, erased_in
from kropot.query.past import sources_at
from kropot.wording import SECOND_US, number
from ledger.clock import DAY_US
from ledger.errors import DamagedRowError
from ledger.events import SOURCE_KIND, ListingCompleted, ListingHeldBack, StreamKey

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from kropot.query.past import Past
    from ledger.events import AuditRange, Element, Source
    from ledger.log import Ledger
    from ledger.replica import Entry, Event

_NEWEST_EVENTS: Final = 1_000
"""How far back to look for the newest listing: behind it are only the pages of one that is under way."""

_WHOLE_START: Final = bytes(32)
_WHOLE_END: Final = b"\xff" * 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When to raise an alarm, in seconds: since a good listing, of failing fetches, since contents were read."""

    listing_s: int = 900
    failing_s: int = 86_400
    audit_s: int = 30 * 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class FailingElement:
    """An element whose fetches fail: why, how often, since when, and when the next try is."""

    key: StreamKey
    reason: str
    attempts: int
    since_us: int
    next_try_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFacts:
    """The facts about one source.

    `states` maps a state to (elements, bytes of their copies). `reasons` counts failing elements by reason. `failing`
    holds those that have failed longest, the longest first, and the first of them began to fail at `failing_since_us`.
    `beyond_help` counts elements whose copy is damaged or lost and that the source no longer has. The element that has
    waited longest began to wait at `pending_since_us`. `past` says why the source is not in use any more, if it is not.
    Of the elements that a person dismissed, `dismissed` is the number, and they count nowhere else but in `states`.
    `unreadable` counts folders that the server cannot read, as it said itself last time. `vault` is the id (16 bytes)
    of the vault that seals the source, if its list names one.
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
    dismissed: int = 0
    unreadable: int = 0
    vault: bytes | None = None

    @property
    def superseded(self) -> bool:
        """Whether another token took over the source's address."""
        return self.past is not None and self.past.why == "taken_over"

    @property
    def failing_count(self) -> int:
        """How many elements are failing."""
        return sum(self.reasons.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """The facts about the replica at `position`. The ledger began at `began_us`. `audit` says what was read when.

    The last event was recorded at `recorded_us`, and observed at `observed_us` by the clock of who wrote it.
    `erased` sums up the erasures.
    """

    position: int
    recorded_us: int
    observed_us: int = 0
    began_us: int
    sources: tuple[SourceFacts, ...]
    audit: tuple[AuditRange, ...]
    erased: Erased


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """A state that a person must answer: its stable name, the source or None, a message, and since when."""

    name: str
    source: bytes | None
    text: str
    since_us: int | None = None


def gather(ledger: Ledger, *, shown: int = 10) -> Facts:
    """Read the facts for `health`. Keep at most `shown` failing elements for each source, so that memory stays flat.

    This reads single elements only if they have no sound copy. The ledger keeps all other numbers up to date.
    """
    head = ledger.head()
    sources = sources_at(ledger)
    scans = {id_: _SourceScan(shown=shown, past=known.past) for id_, known in sources.items()}
    for entry in ledger.scan(states=("pending", "damaged", "lost")):
        if entry.key.source not in scans:
            raise DamagedRowError(f"the projection has elements of source {entry.key.source.hex()}, but not the source")
        if entry.element is not None:
            scans[entry.key.source].add(entry, entry.element)
    states: dict[bytes, dict[str, tuple[int, int]]] = {id_: {} for id_ in sources}
    for tally in ledger.tallies():
        states[tally.source][tally.state] = (tally.elements, tally.bytes)
    return Facts(
        position=head.position,
        recorded_us=head.recorded_us,
        observed_us=next((each.observed_us for each in ledger.events(after=head.position - 1)), head.recorded_us),
        began_us=_recorded_us(ledger.events(until=1)),
        sources=tuple(
            SourceFacts(
                id=id_,
                source=known.source,
                states=states[id_],
                reasons=dict(scans[id_].reasons.most_common()),
                failing=tuple(scans[id_].longest()),
                failing_since_us=scans[id_].first_failing_us,
                beyond_help=scans[id_].beyond_help,
                pending_since_us=_waiting_since(ledger, scans[id_]),
                past=known.past,
                label=known.keeping.label,
                dismissed=scans[id_].dismissed,
                unreadable=_unreadable_at(ledger, id_, known.source),
                vault=known.vault,
            )
            for id_, known in sources.items()
        ),
        audit=ledger.audit(),
        erased=erased_in(ledger),
    )


def health(now_us: int, facts: Facts, limits: Limits) -> list[Alarm]:
    """Return the alarms, none if the replica is healthy. The same facts give the same alarms."""
    alarms = []
    if not facts.sources:
        text = "nothing was collected into this ledger yet: run `kropotcli collect`"
        alarms.append(Alarm(name="never_collected", source=None, text=text))
    for each in facts.sources:
        if each.past is None:
            alarms.extend(_listing_alarms(now_us, each, limits))
            alarms.extend(_doubtful_change_alarms(each))
        alarms.extend(_copy_alarms(now_us, each, limits))
    stale_us = audited_since_us(facts)
    if stale_us > now_us + DAY_US:
        stale_us = 0  # a clock that was far ahead: nobody knows when it was
    has_copies = any(size for each in facts.sources for _, size in each.states.values())
    if has_copies and now_us - stale_us > limits.audit_s * SECOND_US:
        text = "some stored contents were not read and compared for too long: run `kropotcli verify`"
        alarms.append(Alarm(name="audit_stale", source=None, text=text, since_us=stale_us))
    return alarms


def audited_since_us(facts: Facts) -> int:
    """Return the time since which `verify` has read every content. Return the ledger's beginning if it never has."""
    reached = _WHOLE_START
    oldest = None
    for part in sorted(facts.audit, key=lambda each: (each.start, each.end)):
        if part.start > reached:
            break
        if part.end < reached:
            continue
        oldest = part.at_us if oldest is None else min(oldest, part.at_us)
        if part.end == _WHOLE_END:
            return oldest
        reached = _next(part.end)
    return facts.began_us


# --- reading ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class _SourceScan:
    """The result of one pass over a source's elements without a sound copy, in flat memory.

    Nothing can be fetched from a `past` source. So only its damaged and lost copies count, and of a retired one only
    those that were found so after its retirement.
    """

    shown: int
    past: Past | None = None
    reasons: Counter[str] = field(default_factory=Counter)
    beyond_help: int = 0
    dismissed: int = 0
    first_waiting: int | None = None
    first_failing_us: int | None = None
    _failing: list[tuple[int, int, FailingElement]] = field(default_factory=list)

    def add(self, entry: Entry, element: Element) -> None:
        """Count one element."""
        if entry.is_dismissed:
            self.dismissed += 1
        elif self.past is not None:
            self.beyond_help += element.damage is not None and entry.position > self.past.position
        elif not element.present:
            self.beyond_help += 1
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


def _waiting_since(ledger: Ledger, scan: _SourceScan) -> int | None:
    """Return when the element of a source that has waited longest began to wait."""
    first = scan.first_waiting
    if first is None:
        return scan.first_failing_us
    return _least(scan.first_failing_us, _recorded_us(ledger.events(after=first - 1, until=first)))


def _unreadable_at(ledger: Ledger, source_id: bytes, source: Source) -> int:
    """Return how many folders the server could not read at its newest listing; 0 if it does not say."""
    if source.listed_us is None:
        return 0
    key = StreamKey(source=source_id, kind=SOURCE_KIND, id="")
    for event in islice(ledger.history(key, newest_first=True), _NEWEST_EVENTS):
        if isinstance(event.fact, ListingCompleted | ListingHeldBack):
            return event.fact.listing.unreadable or 0
    return 0


def _recorded_us(records: Iterable[Event]) -> int:
    """Return when the first of the events was recorded, or 0 if there are none.

    Recorded time stands still after a clock was far ahead. Then the time of the observation is the better one.
    """
    return next((min(record.recorded_us, record.observed_us) for record in records), 0)


# --- judging ---------------------------------------------------------------------------------------------------------


def _listing_alarms(now_us: int, each: SourceFacts, limits: Limits) -> Iterator[Alarm]:
    """Yield the alarms about the listings of a source."""
    listed_us = each.source.listed_us
    if listed_us is None:
        text = "no listing of the server was ever completed: check that the collector runs and reaches the server"
        yield Alarm(name="never_listed", source=each.id, text=text)
    elif now_us - listed_us > limits.listing_s * SECOND_US:
        text = (
            "the server was not listed for too long: check that the collector runs, that the server answers, and that "
            "it accepts the token; if the server is gone or the token was replaced, run `kropotcli source retire`"
        )
        yield Alarm(name="listing_stale", source=each.id, text=text, since_us=listed_us)
    if each.unreadable:
        text = (
            f"the server cannot read {number(each.unreadable, 'folder')} of its source, so the files in there are not "
            "backed up: give the gateway's user the right to read them (its log says why)"
        )
        yield Alarm(name="unreadable", source=each.id, text=text)
    if each.source.unlistable:
        seconds = number(len(each.source.unlistable), "second")
        text = (
            f"the server cannot list {seconds} of its history, so files with these dates are not backed up: "
            "look for the cause in the server's log"
        )
        yield Alarm(name="unlistable", source=each.id, text=text)


def _doubtful_change_alarms(each: SourceFacts) -> Iterator[Alarm]:
    """Yield the alarms about listings that were held back, and about surges of changes."""
    held, surge = each.source.held, each.source.surge
    if held is not None and is_cut_short(each.source):
        option = "--listing-entries" if held.reason == TOO_MANY else "--listing-growth"
        text = (
            f"the server's list is longer than {option} allows, and is not asked for any more: look at the server, then"
            f" run `kropotcli source accept`, and collect with a larger {option} if the list is right"
        )
        yield Alarm(name="listing_too_long", source=each.id, text=text, since_us=held.since_us)
    elif held is not None and not held.is_accepted:
        text = (
            f"{held.missing} of {held.known} elements are missing at the server, so the listing was held back and "
            "nothing was marked as vanished: check the server, then run `kropotcli source accept`"
        )
        yield Alarm(name="vanishing_held", source=each.id, text=text, since_us=held.since_us)
    if surge is not None:
        text = (
            f"{surge.changed} of {surge.known} elements changed within 24 hours, as if something had encrypted them "
            "(the older copies are kept): check the server, then run `kropotcli source accept`"
        )
        yield Alarm(name="surge", source=each.id, text=text, since_us=surge.since_us)


def _copy_alarms(now_us: int, each: SourceFacts, limits: Limits) -> Iterator[Alarm]:
    """Yield the alarms about the copies of a source."""
    if each.beyond_help:
        copies = "1 copy is" if each.beyond_help == 1 else f"{each.beyond_help} copies are"
        text = (
            f"{copies} damaged or lost, and cannot be fetched again because the source no longer has the elements: "
            "run `kropotcli verify` to see which, and `kropotcli source dismiss` for those that are gone for good"
        )
        yield Alarm(name="beyond_help", source=each.id, text=text)
    oldest_us = each.failing_since_us
    if oldest_us is not None and now_us - oldest_us > limits.failing_s * SECOND_US:
        text = (
            f"{number(each.failing_count, 'element')} cannot be fetched, some for too long: run `kropotcli ls "
            "--failing` to see why, and `kropotcli source dismiss` for those that nobody can help"
        )
        yield Alarm(name="failing", source=each.id, text=text, since_us=oldest_us)
        return
    waiting_us = each.pending_since_us
    if waiting_us is not None and now_us - waiting_us > limits.failing_s * SECOND_US:
        text = (
            "some elements have waited for their first fetch for too long: check that the collector runs and that its "
            "storage has enough free space (--min-free)"
        )
        yield Alarm(name="waiting", source=each.id, text=text, since_us=waiting_us)


# --- helpers ---------------------------------------------------------------------------------------------------------


def _least(one: int | None, other: int | None) -> int | None:
    """Return the smaller of two numbers, either of which can be None."""
    known = [each for each in (one, other) if each is not None]
    return min(known, default=None)


def _next(sha256: bytes) -> bytes:
    """Return the next 32 bytes in order. The largest value has no next one and MUST NOT be given."""
    return (int.from_bytes(sha256) + 1).to_bytes(32)
