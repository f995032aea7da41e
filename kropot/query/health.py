"""The health of a replica. `gather` reads the facts from the ledger. `health` decides which alarms to raise; pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import islice
from typing import TYPE_CHECKING, Final

from kropot.collect.decide.sources import TOO_MANY, is_cut_short
from kropot.collect.failed_run import NO_ANSWER, REFUSED
from kropot.query.alarm import Alarm
from kropot.query.erasures import Erased, erased_in
from kropot.query.storage import StorageLimits, look, storage_alarms
from kropot.wording import SECOND_US, number
from ledger.decoding import entry_of
from ledger.events import SOURCE_KIND, RunFailed, StreamKey

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from kropot.objects.opening import Storage
    from kropot.query.storage import StorageFacts
    from ledger.events import AuditRange, Element, Source
    from ledger.log import Ledger
    from ledger.replica import Entry, Event

LOOKED_AT: Final = 5_000
"""How many elements without a sound copy are looked at from each end of their queue."""

_WHOLE_START: Final = bytes(32)
_WHOLE_END: Final = b"\xff" * 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When to raise an alarm, in seconds: since a good listing, of failing fetches, since contents were read.

    If more than the share `failing_share` of the elements fail, and more than `failing_count`, that is one at once.
    """

    listing_s: int = 900
    failing_s: int = 86_400
    audit_s: int = 30 * 86_400
    failing_share: float = 0.1
    failing_count: int = 5
    storage: StorageLimits = field(default_factory=StorageLimits)


@dataclass(frozen=True, slots=True, kw_only=True)
class FailingElement:
    """An element whose fetches fail: why, how often, since when, and when the next try is."""

    key: StreamKey
    reason: str
    attempts: int
    since_us: int
    next_try_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedRun:
    """A run that ended without success: which collector's, why (a stable word), and when."""

    instance: str
    reason: str
    at_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFacts:
    """The facts about one source.

    `states` maps a state to (elements, bytes of their copies). `reasons` counts failing elements by reason. `failing`
    holds those that have failed longest, the longest first, and the first of them began to fail at `failing_since_us`.
    `beyond_help` counts elements whose copy is damaged or lost and that the source no longer has. The element that has
    waited longest began to wait at `pending_since_us`. `superseded` means that a newer source has the same address,
    because a new token is used. `failed_run` is the last thing that happened to the source, if that is a failed run.

    With `is_sampled`, very many elements wait: only those longest and last due were looked at, so `reasons` and
    `failing` name some, and `failing_about` is an estimate of how many fail.
    """

    id: bytes
    source: Source
    states: Mapping[str, tuple[int, int]]
    reasons: Mapping[str, int]
    failing: tuple[FailingElement, ...]
    failing_since_us: int | None
    beyond_help: int
    pending_since_us: int | None
    superseded: bool
    failed_run: FailedRun | None = None
    is_sampled: bool = False
    failing_about: int = 0

    @property
    def failing_count(self) -> int:
        """How many elements are failing, or at least that many with `is_sampled`."""
        return sum(self.reasons.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """The facts about the replica at `position`. The ledger began at `began_us`. `audit` says what was read when.

    `erased` sums up the erasures. `storage` is None if nobody looked at it.
    """

    position: int
    recorded_us: int
    began_us: int
    sources: tuple[SourceFacts, ...]
    audit: tuple[AuditRange, ...]
    erased: Erased
    storage: StorageFacts | None = None


def gather(ledger: Ledger, storage: Storage | None = None, *, shown: int = 10) -> Facts:
    """Read the facts for `health`. Keep at most `shown` failing elements for each source, so that memory stays flat.

    This takes no longer for many elements: the ledger keeps all numbers up to date, and of those without a sound copy
    only so many are read.
    """
    head = ledger.head()
    sources = {id_: entry.source for id_, entry in ledger.sources().items()}
    keys = {id_: StreamKey(source=id_, kind=SOURCE_KIND, id="") for id_ in sources}
    began = {id_: _recorded_us(ledger.history(key)) for id_, key in keys.items()}
    states: dict[bytes, dict[str, tuple[int, int]]] = {id_: {} for id_ in sources}
    for tally in ledger.tallies():
        states[tally.source][tally.state] = (tally.elements, tally.bytes)
    scans = {id_: _scan(ledger, id_, states[id_], shown=shown) for id_ in sources}
    return Facts(
        position=head.position,
        recorded_us=head.recorded_us,
        began_us=_recorded_us(ledger.events(until=1)),
        sources=tuple(
            SourceFacts(
                id=id_,
                source=source,
                states=states[id_],
                reasons=dict(scans[id_].reasons.most_common()),
                failing=tuple(scans[id_].longest()),
                failing_since_us=scans[id_].first_failing_us,
                beyond_help=_beyond_help(ledger, id_, states[id_]),
                pending_since_us=_waiting_since(ledger, scans[id_]),
                superseded=_is_superseded(id_, sources, began),
                failed_run=_failed_run(ledger, keys[id_]),
                is_sampled=scans[id_].is_sampled,
                failing_about=scans[id_].failing_about,
            )
            for id_, source in sources.items()
        ),
        audit=ledger.audit(),
        erased=erased_in(ledger),
        storage=None if storage is None else look(ledger, storage),
    )


def health(now_us: int, facts: Facts, limits: Limits) -> list[Alarm]:
    """Return the alarms, none if the replica is healthy. The same facts give the same alarms."""
    alarms = []
    if not facts.sources:
        text = "nothing was collected into this ledger yet: run `kropotcli collect`"
        alarms.append(Alarm(name="never_collected", source=None, text=text))
    if facts.storage is not None:
        listed_us = max((each.source.listed_us or 0 for each in facts.sources), default=0) or None
        alarms.extend(storage_alarms(facts.storage, limits.storage, listed_us=listed_us))
    for each in facts.sources:
        if not each.superseded:
            alarms.extend(_run_alarms(each))
            alarms.extend(_listing_alarms(now_us, each, limits))
        alarms.extend(_doubtful_change_alarms(each))
        alarms.extend(_copy_alarms(now_us, each, limits))
    stale_us = audited_since_us(facts)
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
    """The result of one pass over a source's elements without a sound copy, in flat memory."""

    shown: int
    reasons: Counter[str] = field(default_factory=Counter)
    is_sampled: bool = False
    failing_about: int = 0
    first_waiting: int | None = None
    first_failing_us: int | None = None
    _failing: list[tuple[int, int, FailingElement]] = field(default_factory=list)

    def add(self, entry: Entry, element: Element) -> None:
        """Count one wanted element."""
        if element.failure is None:
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


def _scan(ledger: Ledger, source: bytes, states: Mapping[str, tuple[int, int]], *, shown: int) -> _SourceScan:
    """Look at the source's wanted elements: at all, or at those that are longest due and those that are due last.

    Those that fail are due at their next try, so where very many wait, the failing ones are among the last.
    """
    scan = _SourceScan(shown=shown)
    seen: set[int] = set()
    for entry in map(entry_of, islice(ledger.projection.due(source, last_first=False), LOOKED_AT)):
        if entry.element is not None:
            scan.add(entry, entry.element)
            seen.add(entry.stream)
    scan.failing_about = sum(scan.reasons.values())
    if len(seen) < LOOKED_AT:
        return scan
    scan.is_sampled = True
    wanted = sum(states.get(state, (0, 0))[0] for state in ("pending", "damaged", "lost"))
    about = scan.failing_about * wanted // len(seen)
    for entry in map(entry_of, islice(ledger.projection.due(source, last_first=True), LOOKED_AT)):
        if entry.stream in seen:
            break
        if entry.element is not None:
            scan.add(entry, entry.element)
    scan.failing_about = max(about, sum(scan.reasons.values()))
    return scan


def _beyond_help(ledger: Ledger, source: bytes, states: Mapping[str, tuple[int, int]]) -> int:
    """Return how many elements have a damaged or lost copy and are not wanted, as the source no longer has them."""
    bad = ("damaged", "lost")
    count = sum(states.get(state, (0, 0))[0] for state in bad)
    return count and count - ledger.projection.wanted_in(source, bad)


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


def _recorded_us(records: Iterable[Event]) -> int:
    """Return when the first of the events was recorded, or 0 if there are none."""
    return next((record.recorded_us for record in records), 0)


def _is_superseded(id_: bytes, sources: Mapping[bytes, Source], began: Mapping[bytes, int]) -> bool:
    """Return whether a source with the same address began after the last listing of this one."""
    mine = sources[id_]
    last_us = mine.listed_us or began[id_]
    return any(
        other != id_ and source.url == mine.url and source.listed_us is not None and began[other] >= last_us
        for other, source in sources.items()
    )


# --- judging ---------------------------------------------------------------------------------------------------------


def _run_alarms(each: SourceFacts) -> Iterator[Alarm]:
    """Yield the alarm about the last run, if it failed and nothing has gone well since."""
    failed = each.failed_run
    if failed is None:
        return
    texts = {
        REFUSED: "the server refused the token: have it allowed again, or collect with a new one",
        NO_ANSWER: "the server could not be listed: look in the collector's log for the reason",
    }
    text = texts.get(failed.reason, f"it ended with an error ({failed.reason}): look in the collector's log")
    text = f"the last run of collector {failed.instance} failed; {text}"
    yield Alarm(name="run_failed", source=each.id, text=text, since_us=failed.at_us)


def _listing_alarms(now_us: int, each: SourceFacts, limits: Limits) -> Iterator[Alarm]:
    """Yield the alarms about the listings of a source."""
    listed_us = each.source.listed_us
    if listed_us is None:
        text = "no listing of the server was ever completed: check that the collector runs and reaches the server"
        yield Alarm(name="never_listed", source=each.id, text=text)
    elif now_us - listed_us > limits.listing_s * SECOND_US:
        text = (
            "the server was not listed for too long: check that the collector runs, that the server answers, and that "
            "it accepts the token"
        )
        yield Alarm(name="listing_stale", source=each.id, text=text, since_us=listed_us)
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
            "run `kropotcli verify` to see which"
        )
        yield Alarm(name="beyond_help", source=each.id, text=text)
    oldest_us = each.failing_since_us
    if oldest_us is not None and now_us - oldest_us > limits.failing_s * SECOND_US:
        text = (
            f"{number(each.failing_count, 'element')} cannot be fetched, some for too long: "
            "run `kropotcli ls --failing` to see why"
        )
        yield Alarm(name="failing", source=each.id, text=text, since_us=oldest_us)
        return
    present = sum(elements for state, (elements, _) in each.states.items() if state != "vanished")
    about = max(each.failing_count, each.failing_about)
    if about and (about >= present or (about > limits.failing_count and about > limits.failing_share * present)):
        text = (
            f"{about:,} of {number(present, 'element')} cannot be fetched: run `kropotcli ls --failing` to see why, "
            "and look at the server"
        )
        yield Alarm(name="many_failing", source=each.id, text=text, since_us=oldest_us)
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
