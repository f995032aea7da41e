"""The collector's decisions, one happening at a time: no server, no disk, no database."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from kropot.collect.decide import sources
from kropot.collect.decide.actions import (
    Abandon,
    Action,
    AskGone,
    Beat,
    BeginListing,
    EndListing,
    Fetch,
    Finish,
    GiveBack,
    ListPage,
    LookUp,
    Prefetch,
    Publish,
    RecordFacts,
    Say,
    TakeWork,
)
from kropot.collect.decide.chunks import CHUNK
from kropot.collect.decide.fetching import OUTAGES
from kropot.collect.decide.in_flight import FAST_US, SLOW_US, InFlightLimit
from kropot.collect.decide.inputs import (
    Abandoned,
    Conflicted,
    Fetched,
    GoneAnswered,
    Input,
    ListingBegan,
    ListingBusy,
    LookedUp,
    NotReceived,
    Ousted,
    PageFailed,
    PageListed,
    PageRefused,
    Prefetched,
    PrefetchedCopy,
    PublishDone,
    Received,
    Recorded,
    Started,
    StopRequested,
    Tick,
    WorkTaken,
)
from kropot.collect.decide.listing import GATHER_US
from kropot.collect.decide.plan import SECOND_US
from kropot.collect.decide.rules import CollectRules
from kropot.collect.decide.step import Collector
from kropot.durable.errors import DiscardedError
from kropot.errors import Exit
from kropot.lister.conversation import Trouble
from kropot.objects.store import Published, PublishError, Staged
from kropot.objects.stores.retry import PassingError
from kropot.securecopy.wire import Listed, Page, wall_clock
from ledger.events import (
    CopyStored,
    DismissedFetchFailed,
    FetchFailed,
    ListingCompleted,
    RemoteChanged,
    RemoteCopied,
    RemoteObserved,
    RemoteVanished,
    Source,
    SourceFact,
    StreamKey,
)
from ledger.places import Placement
from ledger.replica import Entry
from tests.ledger.fresh import fresh_element

SOURCE = bytes(range(16))
NOW = 1_795_414_108_000_000
RULES = CollectRules(instance="main", block=2, outstanding=4, min_free=1000)
NOTHING = Page(entries=(), rejected=(), remaining=0)


def an_entry(number: int, position: int = 1) -> Entry:
    element = fresh_element(date=1, form=b'{"encrypted":""}')
    key = StreamKey(source=SOURCE, kind="file", id=f"e{number}")
    return Entry(key=key, stream=number, version=1, position=position, element=element)


class Told:
    """A collector that is told one thing after the other."""

    def __init__(self, rules: CollectRules = RULES) -> None:
        source = sources.begin(salt=bytes(32), token="t", url="http://one.example").source
        self.collector = Collector(SOURCE, source, rules)
        self.actions = self.tell(Started(position=1))

    def tell(self, happened: Input, now_us: int = NOW) -> list[Action]:
        self.actions = self.collector.step(now_us, happened)
        return self.actions

    def kinds(self) -> list[type]:
        return [type(action) for action in self.actions]

    def take(self, *entries: Entry, free: int | None = None) -> list[Action]:
        return self.tell(WorkTaken(entries=entries, next_due_us=None, free=free, position=1))

    def facts(self) -> list[object]:
        return [new.fact for action in self.actions if isinstance(action, RecordFacts) for new in action.facts]


def test_listing_and_fetching_begin_at_once_and_neither_waits_for_the_other() -> None:
    assert Told().kinds() == [BeginListing, TakeWork]


def test_only_so_much_is_taken_on_as_there_is_room_for() -> None:
    told = Told()
    assert [type(a) for a in told.take(an_entry(1), an_entry(2))] == [Fetch, TakeWork]
    assert [type(a) for a in told.take(an_entry(3), an_entry(4))] == [Fetch]
    assert told.collector.outstanding == 4


def test_a_copy_is_recorded_only_after_it_was_published() -> None:
    told = Told()
    entry = an_entry(1)
    told.take(entry)
    good = Received(entry=entry, staged=Staged(path="", sha256=bytes(32), size=16), iv=bytes(16))
    told.tell(Fetched(received=(good,)))
    assert Publish in told.kinds()
    assert told.facts() == []
    told.tell(PublishDone(batch=(good,), results=(Published(sha256=bytes(32), size=16),)))
    (fact,) = told.facts()
    assert isinstance(fact, CopyStored)
    assert fact.element.is_current


def test_what_was_staged_and_lost_is_given_back_and_is_no_failure_of_the_element() -> None:
    told = Told()
    told.take(an_entry(1), an_entry(2))
    staged = Staged(path="", sha256=bytes(32), size=16)
    batch = tuple(Received(entry=an_entry(number), staged=staged, iv=bytes(16)) for number in (1, 2))
    lost = PublishError(sha256=bytes(32), size=16, error=DiscardedError("gone"))
    told.tell(PublishDone(batch=batch, results=(lost, Published(sha256=bytes(32), size=16))))
    assert [action.keys for action in told.actions if isinstance(action, GiveBack)] == [(an_entry(1).key,)]
    assert [type(fact) for fact in told.facts()] == [CopyStored]
    assert told.collector.outstanding == 1
    assert not any(isinstance(action, Say) for action in told.actions)


def away(told: Told, *numbers: int, now_us: int = NOW) -> None:
    """Have elements taken, and the storage away when their contents are to be made durable."""
    told.take(*map(an_entry, numbers))
    told.take()
    staged = Staged(path="", sha256=bytes(32), size=16)
    batch = tuple(Received(entry=an_entry(number), staged=staged, iv=bytes(16)) for number in numbers)
    lost = PublishError(sha256=bytes(32), size=16, error=PassingError("no bucket"))
    told.tell(PublishDone(batch=batch, results=(lost,) * len(batch)), now_us)


def test_a_storage_that_is_away_is_waited_for_and_is_no_failure_of_any_element() -> None:
    told = Told()
    away(told, 1, 2)
    assert told.facts() == []
    assert [a.keys for a in told.actions if isinstance(a, GiveBack)] == [(an_entry(1).key, an_entry(2).key)]
    (said,) = [a for a in told.actions if isinstance(a, Say)]
    assert said.event == "storage_away"
    assert "no bucket" in said.text
    assert told.collector.outstanding == 0
    assert not any(isinstance(a, TakeWork) for a in told.tell(Tick(), NOW + SECOND_US))
    assert any(isinstance(a, TakeWork) for a in told.tell(Tick(), NOW + 10 * SECOND_US))


def test_an_element_for_which_alone_the_storage_is_away_is_to_blame_at_its_second_turn() -> None:
    told = Told()
    away(told, 1)
    told.take(an_entry(2))
    good = Received(entry=an_entry(2), staged=Staged(path="", sha256=bytes(32), size=16), iv=bytes(16))
    told.tell(PublishDone(batch=(good,), results=(Published(sha256=bytes(32), size=16),)))
    away(told, 1)
    assert [type(fact) for fact in told.facts()] == [FetchFailed]


def test_a_run_that_is_to_end_ends_when_the_storage_stays_away() -> None:
    told = Told(replace(RULES, once=True))
    for turn in range(OUTAGES):
        assert not told.collector._fetching.has_given_up
        for _ in range(5):  # what was on its way together met the same outage
            away(told, 1, now_us=NOW + turn * 60 * SECOND_US)
    assert told.collector._fetching.has_given_up


def test_a_copy_that_another_collector_was_faster_to_record_is_not_counted() -> None:
    told = Told()
    entry = an_entry(1)
    told.take(entry)
    good = Received(entry=entry, staged=Staged(path="", sha256=bytes(32), size=16), iv=bytes(16))
    told.tell(PublishDone(batch=(good,), results=(Published(sha256=bytes(32), size=16),)))
    record = next(action for action in told.actions if isinstance(action, RecordFacts))
    told.tell(Recorded(about="copies", facts=record.facts, dropped=frozenset({entry.key}), position=5))
    assert told.collector.progress.copied == 0
    assert told.collector.outstanding == 0


def test_a_full_disk_is_told_in_a_sentence_that_makes_sense_without_a_limit() -> None:
    told, entry = Told(replace(RULES, min_free=0)), an_entry(1)
    told.take(entry)
    told.tell(Fetched(failed=(NotReceived(entry=entry, reason="storage_full", storage=True),)))
    said = [action.text for action in told.actions if isinstance(action, Say)]
    assert said == ["the storage is full, so fetching has paused: free some space"]


def test_a_second_try_is_no_second_copy_in_what_is_wanted() -> None:
    told = Told()
    told.take(an_entry(1), an_entry(2))
    assert told.collector.wanted == 2
    told.collector.progress.failed += 1
    told.take(an_entry(2))
    assert told.collector.wanted == 2


def test_nothing_is_fetched_while_the_disk_is_low_and_that_is_said_once() -> None:
    told = Told()
    told.take(free=999)
    assert [action.event for action in told.actions if isinstance(action, Say)] == ["disk_low"]
    assert TakeWork not in told.kinds()
    told.tell(Tick(), NOW + RULES.disk_check_us)
    assert TakeWork in told.kinds()
    assert not [action for action in told.take(free=998) if isinstance(action, Say)]
    told.tell(Tick(), NOW + 3 * RULES.disk_check_us)
    assert "disk_fine" in [action.event for action in told.take(free=5000) if isinstance(action, Say)]


def failed_fetch(status: int | None, *, refused: bool = False) -> Told:
    told = Told()
    entry = an_entry(1)
    told.take(entry)
    told.tell(Fetched(failed=(NotReceived(entry=entry, reason=f"http_{status}", status=status, refused=refused),)))
    return told


def test_a_failure_that_may_be_the_servers_is_looked_into_before_it_is_recorded() -> None:
    for status in (500, 503, 404, None):
        told = failed_fetch(status)
        assert [action.check for action in told.actions if isinstance(action, ListPage)] == [True]
        assert told.facts() == []


def test_a_server_that_is_down_fails_no_element_and_gets_a_rest() -> None:
    told = failed_fetch(None)
    told.tell(PageFailed(trouble=Trouble(reason="unreachable"), check=True))
    assert told.facts() == []
    assert GiveBack in told.kinds()
    assert TakeWork not in told.kinds()
    assert told.collector.outstanding == 0


def test_a_refused_token_fails_no_element_and_stops_fetching() -> None:
    told = failed_fetch(403, refused=True)
    told.tell(PageRefused(check=True))
    assert told.facts() == []
    assert told.collector.is_refused
    assert TakeWork not in told.kinds()


def test_one_element_that_is_refused_while_the_token_is_fine_has_failed() -> None:
    told = failed_fetch(403, refused=True)
    told.tell(PageListed(page=NOTHING, check=True))
    (fact,) = told.facts()
    assert isinstance(fact, FetchFailed)
    assert not told.collector.is_refused


def test_a_dismissed_element_fails_as_such_and_does_not_spoil_the_run() -> None:
    told = Told()
    entry = replace(an_entry(1), is_dismissed=True)
    told.take(entry)
    told.tell(Fetched(failed=(NotReceived(entry=entry, reason="http_403", status=403, refused=True),)))
    told.tell(PageListed(page=NOTHING, check=True))
    (fact,) = told.facts()
    assert isinstance(fact, DismissedFetchFailed)
    (record,) = (action for action in told.actions if isinstance(action, RecordFacts))
    told.tell(Recorded(about="failures", facts=record.facts, position=9, dropped=frozenset()))
    assert told.collector.failing == 0
    assert told.collector.progress.failed == 1


def test_after_a_500_the_server_is_asked_whether_the_element_is_gone() -> None:
    for gone, kind in ((True, RemoteVanished), (False, FetchFailed), (None, FetchFailed)):
        told = failed_fetch(500)
        told.tell(PageListed(page=NOTHING, check=True))
        (ask,) = [action for action in told.actions if isinstance(action, AskGone)]
        told.tell(GoneAnswered(failed=ask.failed, gone=gone))
        assert [type(fact) for fact in told.facts()] == [kind]


def test_a_server_that_denies_everything_is_not_believed() -> None:
    limits = sources.Thresholds(missing_count=3)
    told = Told(replace(RULES, thresholds=limits))
    kinds = []
    for number in range(5):
        bad = NotReceived(entry=an_entry(number), reason="http_500", status=500)
        told.tell(GoneAnswered(failed=bad, gone=True))
        kinds += [type(fact) for fact in told.facts()]
    assert kinds == [RemoteVanished] * 3 + [FetchFailed] * 2


def test_an_element_that_never_fits_is_given_back_once_and_then_has_failed() -> None:
    told = Told()
    entry = an_entry(1)
    bad = NotReceived(entry=entry, reason="storage_full", storage=True)
    told.take(entry)
    told.tell(Fetched(failed=(bad,)))
    assert told.facts() == []
    assert GiveBack in told.kinds()
    told.tell(Tick(), NOW + RULES.disk_check_us)
    told.take(entry, free=5000)
    told.tell(Fetched(failed=(bad,)))
    assert [type(fact) for fact in told.facts()] == [FetchFailed]


def test_a_wish_to_stop_is_granted_when_nothing_is_under_way_any_more() -> None:
    for how, code in (("term", Exit.DONE), ("int", Exit.INTERRUPTED)):
        told = Told()
        told.take(an_entry(1), an_entry(2))
        told.tell(StopRequested(how=how))  # type: ignore[arg-type]
        assert told.kinds() == [Abandon]
        told.tell(Abandoned(entries=(an_entry(1), an_entry(2))))
        assert [action.code for action in told.actions if isinstance(action, Finish)] == [code]
        assert told.tell(Tick()) == []


def test_a_collector_whose_name_was_taken_over_ends_at_once_and_records_nothing() -> None:
    told = Told()
    told.take(an_entry(1))
    told.tell(Ousted())
    assert [action.code for action in told.actions if isinstance(action, Finish)] == [Exit.LOCKED]
    assert told.facts() == []


def test_signs_of_life_come_well_before_a_lease_runs_out() -> None:
    told = Told()
    assert told.collector.wakes_us <= NOW + RULES.lease_us // 3
    told.tell(Tick(), NOW + RULES.lease_us // 3)
    assert Beat in told.kinds()


def test_a_full_collector_does_not_wake_up_in_vain() -> None:
    told = Told()
    told.take(an_entry(1), an_entry(2))
    told.take(an_entry(3), an_entry(4))
    assert told.collector.wakes_us > NOW


def begun(listed_us: int | None = None, full_listed_us: int | None = None) -> Source:
    source = sources.begin(salt=bytes(32), token="t", url="http://one.example").source
    return replace(source, listed_us=listed_us, full_listed_us=full_listed_us)


def test_a_run_that_is_to_end_waits_for_the_end_of_another_collectors_listing() -> None:
    told = Told(replace(RULES, once=True))
    told.take()
    told.tell(ListingBusy(source=begun()))
    assert [action.event for action in told.actions if isinstance(action, Say)] == ["listing_followed"]
    now = NOW
    for _ in range(3):  # what the other has found by now is looked for each time
        assert TakeWork in told.kinds()
        told.tell(WorkTaken(entries=(), next_due_us=None, free=None, position=1), now)
        assert Finish not in told.kinds()
        now = told.collector.wakes_us
        told.tell(Tick(), now)
        assert told.kinds() == [BeginListing]
        told.tell(ListingBusy(source=begun()), now)
        assert Say not in told.kinds()
    told.tell(WorkTaken(entries=(), next_due_us=None, free=None, position=1), now)
    told.tell(Tick(), told.collector.wakes_us)
    told.tell(ListingBegan(source=begun(NOW, NOW), version=2, known=1, position=3))
    assert told.kinds() == [EndListing, TakeWork]
    told.take(an_entry(1))
    assert Finish not in told.kinds()
    good = Received(entry=an_entry(1), staged=Staged(path="", sha256=bytes(32), size=16), iv=bytes(16))
    told.tell(Fetched(received=(good,)))
    told.tell(PublishDone(batch=(good,), results=(Published(sha256=bytes(32), size=16),)))
    (record,) = (action for action in told.actions if isinstance(action, RecordFacts))
    told.tell(Recorded(about="copies", facts=record.facts, position=4))
    told.take()
    assert [action.code for action in told.actions if isinstance(action, Finish)] == [Exit.DONE]


def test_a_listing_that_came_to_nothing_elsewhere_is_taken_over() -> None:
    told = Told(replace(RULES, once=True))
    told.take()
    told.tell(ListingBusy(source=begun(7, 7)))
    told.tell(Tick(), told.collector.wakes_us)
    told.tell(ListingBegan(source=begun(7, 7), version=2, known=1, position=3))
    assert ListPage in told.kinds()


def test_a_window_listed_elsewhere_does_not_stand_for_the_full_listing_that_was_asked_for() -> None:
    for full_listed_us, kind in ((7, ListPage), (8, EndListing)):
        told = Told(replace(RULES, once=True, full=True))
        told.take()
        told.tell(ListingBusy(source=begun(7, 7)))
        told.tell(Tick(), told.collector.wakes_us)
        told.tell(ListingBegan(source=begun(8, full_listed_us), version=2, known=1, position=3))
        assert kind in told.kinds()


# --- where a listing begins ---


@pytest.mark.parametrize(
    ("closed", "begins_s"), [(None, 9000 - RULES.overlap_s), (8999, 9000 - RULES.overlap_s), (9000, 9000), (9500, 9000)]
)
def test_a_window_needs_no_overlap_if_the_server_closed_what_was_listed(closed: int | None, begins_s: int) -> None:
    told, source = Told(), replace(begun(NOW, NOW), cursor=9000, zone="UTC")
    told.tell(ListingBegan(source=source, version=2, known=1, position=3, closed=closed))
    (asked,) = (action.ask for action in told.actions if isinstance(action, ListPage))
    assert asked.since == wall_clock(begins_s, "UTC")


@pytest.mark.parametrize("closed", [None, 8999, 9000])
def test_everything_is_listed_if_the_server_closes_less_than_it_did(closed: int | None) -> None:
    told, source = Told(replace(RULES, once=True)), replace(begun(NOW, NOW), cursor=9000, zone="UTC")
    told.tell(ListingBegan(source=source, version=2, known=1, position=3, closed=9000))
    told.tell(PageListed(page=replace(NOTHING, closed=closed)))
    (record,) = (action for action in told.actions if isinstance(action, RecordFacts))
    (completed,) = (new.fact for new in record.facts)
    assert isinstance(completed, ListingCompleted)
    assert completed.listing.closed == closed
    told.tell(Recorded(about="listing", facts=record.facts, dropped=frozenset(), position=4))
    said = told.kinds() + [type(action) for action in told.tell(Tick())]
    assert (BeginListing in said) == (closed != 9000)


# --- how much is taken on ---


def test_a_quick_collector_takes_on_more_up_to_a_bound() -> None:
    window = InFlightLimit(least=4, most=10)
    window.entered(NOW)
    sizes = [window.size]
    for number in range(1, 5):
        window.passed(window.size, NOW + number * FAST_US)
        sizes.append(window.size)
    assert sizes == [4, 8, 10, 10, 10]


def test_a_slow_collector_leaves_work_to_others() -> None:
    window = InFlightLimit(least=4, most=16)
    window.entered(NOW)
    for number in range(1, 5):
        window.passed(window.size, NOW + number * FAST_US)
    assert window.size == 16
    for number in range(1, 5):
        window.passed(window.size, NOW + number * SLOW_US + 5 * FAST_US)
    assert window.size == 4


def test_work_is_taken_by_the_window() -> None:
    told = Told(replace(RULES, outstanding=4, most_outstanding=8))
    for moment in range(1, 3):
        entries = [an_entry(number) for number in range(4)]
        told.take(*entries)
        goods = tuple(
            Received(entry=entry, staged=Staged(path="", sha256=bytes(32), size=16), iv=None) for entry in entries
        )
        told.tell(Fetched(received=goods))
        results = tuple(Published(sha256=bytes(32), size=16) for _ in goods)
        (record,) = (a for a in told.tell(PublishDone(batch=goods, results=results)) if isinstance(a, RecordFacts))
        recorded = Recorded(about="copies", facts=record.facts, dropped=frozenset(), position=9)
        told.tell(recorded, NOW + moment * FAST_US)
    told.take(*[an_entry(number) for number in range(6)])
    assert TakeWork in told.kinds()


# --- gathering pages ---


def a_page(first: int, count: int) -> Page:
    form = b'{"encrypted":""}'
    entries = (Listed(type="file", id=f"e{n}", date=n, tz="UTC", form=form) for n in range(first, first + count))
    return Page(entries=tuple(entries), rejected=(), remaining=count, closed=first + count)


def looked_up(told: Told) -> list[str]:
    return [listed.id for action in told.actions if isinstance(action, LookUp) for listed in action.entries]


def listing(page: int) -> Told:
    """A collector whose first page of so many entries, e0 and after, was recorded at NOW."""
    told = Told(replace(RULES, page=page))
    source = told.collector.source
    told.tell(ListingBegan(source=source, version=1, known=0, position=1))
    told.tell(PageListed(page=a_page(0, page)))
    assert len(looked_up(told)) == page
    told.tell(LookedUp(known={}, source=source, version=1))
    (record,) = (action for action in told.actions if isinstance(action, RecordFacts))
    told.tell(Recorded(about="page", facts=record.facts, dropped=frozenset(), position=9))
    return told


def test_pages_that_follow_fast_are_recorded_together() -> None:
    told = listing(2)
    told.tell(PageListed(page=a_page(2, 2)), NOW + 1)
    assert looked_up(told) == []
    told.tell(PageListed(page=a_page(4, 2)), NOW + GATHER_US)
    assert looked_up(told) == ["e2", "e3", "e4", "e5"]


def test_a_page_does_not_wait_for_the_next_that_is_slow_to_come() -> None:
    told = listing(2)
    told.tell(PageListed(page=a_page(2, 2)), NOW + 1)
    assert told.collector.wakes_us == NOW + GATHER_US
    told.tell(Tick(), NOW + GATHER_US)
    assert looked_up(told) == ["e2", "e3"]
    told.tell(Tick(), NOW + GATHER_US)
    assert looked_up(told) == []


def test_a_full_chunk_is_recorded_at_once() -> None:
    told = listing(CHUNK)
    told.tell(PageListed(page=a_page(CHUNK, CHUNK)), NOW + 1)
    assert len(looked_up(told)) == CHUNK


# --- contents that come before their elements are recorded ---


def bulk_page(first: int, count: int) -> Page:
    page = a_page(first, count)
    entries = tuple(replace(one, size=16, etag=f'"{one.id}"') for one in page.entries)
    return replace(page, entries=entries, is_bulk=True)


def bulk_listing(count: int) -> Told:
    """A collector that was shown so many entries by a server that sends in bulk, and looked them up."""
    told = Told(replace(RULES, page=count))
    source = told.collector.source
    told.tell(ListingBegan(source=source, version=1, known=0, position=1))
    told.tell(PageListed(page=bulk_page(0, count)))
    told.tell(LookedUp(known={}, source=source, version=1))
    return told


def a_copy() -> PrefetchedCopy:
    place = Placement(sha256=bytes(32), pack=bytes(32), offset=5, length=16)
    return PrefetchedCopy(sha256=bytes(32), size=16, iv=bytes(16), place=place)


def ordered(told: Told) -> list[Prefetch]:
    return [action for action in told.actions if isinstance(action, Prefetch)]


def test_a_first_sight_and_its_copy_are_one_event_and_what_failed_is_a_plain_sight() -> None:
    told = bulk_listing(3)
    (prefetch,) = ordered(told)
    assert [listed.id for listed in prefetch.entries] == ["e0", "e1", "e2"]
    assert told.facts() == []
    told.take()
    told.tell(Prefetched(copies={prefetch.number: {0: a_copy(), 2: a_copy()}}))
    (record,) = (action for action in told.actions if isinstance(action, RecordFacts))
    assert [type(new.fact) for new in record.facts][:3] == [RemoteCopied, RemoteObserved, RemoteCopied]
    assert isinstance(record.facts[-1].fact, SourceFact)
    assert record.places == (a_copy().place, a_copy().place)
    told.tell(Recorded(about="page", facts=record.facts, dropped=frozenset(), position=9))
    progress = told.collector.progress
    assert (progress.new, progress.copied, progress.bytes, progress.taken) == (3, 2, 32, 2)
    assert TakeWork in told.kinds()


def test_the_next_page_is_looked_up_and_fetched_while_contents_are_on_their_way_and_recorded_in_order() -> None:
    told = bulk_listing(2)
    (first,) = ordered(told)
    told.tell(PageListed(page=bulk_page(2, 2)), NOW + GATHER_US)
    assert looked_up(told) == ["e2", "e3"]
    told.tell(LookedUp(known={}, source=told.collector.source, version=1), NOW + GATHER_US)
    (second,) = ordered(told)
    assert second.number != first.number
    told.tell(Prefetched(copies={second.number: {0: a_copy(), 1: a_copy()}}), NOW + GATHER_US)
    assert told.facts() == []
    told.tell(Prefetched(copies={first.number: {0: a_copy(), 1: a_copy()}}), NOW + GATHER_US)
    (record,) = (action for action in told.actions if isinstance(action, RecordFacts))
    assert [new.key.id for new in record.facts if new.key.is_element] == ["e0", "e1", "e2", "e3"]


def test_a_conflict_keeps_the_copies_and_looks_again() -> None:
    told = bulk_listing(1)
    (prefetch,) = ordered(told)
    told.tell(Prefetched(copies={prefetch.number: {0: a_copy()}}))
    told.tell(Conflicted(about="page", keys=frozenset()))
    assert looked_up(told) == ["e0"]
    told.tell(LookedUp(known={}, source=told.collector.source, version=2))
    assert ordered(told) == []
    assert isinstance(told.facts()[0], RemoteCopied)


@pytest.mark.parametrize("is_bulk", [False, True])
def test_a_source_that_never_had_an_element_is_looked_up_only_after_a_conflict(*, is_bulk: bool) -> None:
    told = Told(replace(RULES, page=1))
    source = told.collector.source
    told.tell(ListingBegan(source=source, version=1, known=0, position=1, is_blank=True))
    told.tell(PageListed(page=replace(bulk_page(0, 1), is_bulk=is_bulk)))
    (look,) = (action for action in told.actions if isinstance(action, LookUp))
    assert look.are_new is is_bulk
    told.tell(LookedUp(known={}, source=source, version=1))
    for prefetch in ordered(told):
        told.tell(Prefetched(copies={prefetch.number: {}}))
    told.take()
    told.tell(Conflicted(about="page", keys=frozenset()))
    (look,) = (action for action in told.actions if isinstance(action, LookUp))
    assert not look.are_new


def test_a_changed_content_that_came_is_recorded_with_its_change() -> None:
    told = Told(replace(RULES, page=1))
    source = told.collector.source
    entry = an_entry(0)
    assert entry.element is not None
    known = replace(entry, element=replace(entry.element, date=0, etag='"before"', size=16))
    told.tell(ListingBegan(source=source, version=1, known=1, position=1))
    told.tell(PageListed(page=replace(bulk_page(0, 1), entries=(replace(bulk_page(0, 1).entries[0], date=7),))))
    told.tell(LookedUp(known={("file", "e0"): known}, source=source, version=1))
    (prefetch,) = ordered(told)
    told.tell(Prefetched(copies={prefetch.number: {0: a_copy()}}))
    (record,) = (action for action in told.actions if isinstance(action, RecordFacts))
    changed, copied = record.facts[:2]
    assert (type(changed.fact), type(copied.fact)) == (RemoteChanged, CopyStored)
    assert (changed.expected, copied.expected) == (1, 2)
    assert isinstance(copied.fact, CopyStored)
    assert copied.fact.element.is_current


def test_a_listing_that_is_given_up_forgets_what_is_on_its_way() -> None:
    told = bulk_listing(1)
    (prefetch,) = ordered(told)
    told.tell(PageRefused())
    told.tell(Prefetched(copies={prefetch.number: {0: a_copy()}}))
    assert told.facts() == []


def test_nothing_is_recorded_where_there_is_no_room_for_it() -> None:
    told = Told(replace(RULES, page=1))
    source = told.collector.source
    told.tell(ListingBegan(source=source, version=1, known=0, position=1))
    told.tell(PageListed(page=bulk_page(0, 1)))
    told.tell(LookedUp(known={}, source=source, version=1, free=RULES.min_free - 1))
    assert ordered(told) == []
    assert told.facts() == []
    assert told.collector.trouble == "no_room"
