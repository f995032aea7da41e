"""What every store promises about the log: order, versions, all or nothing, once, and reading back."""

from __future__ import annotations

import random
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from ledger.codec import decode_header, encode_payload, leaf_hash, payload_digest, stream_digest
from ledger.errors import ClockAheadError, ConflictError, LedgerError, LedgerUnavailableError, MalformedEventError
from ledger.events import (
    NO_SOURCE,
    AuditAdvanced,
    AuditRange,
    Element,
    InstanceBegan,
    LedgerBegan,
    PayloadErased,
    RemoteObserved,
    StreamKey,
)
from ledger.log import AUDIT_KEY, LEDGER_KEY, Ledger, NewFact, instance_key, source_key
from ledger.merkle import Frontier
from ledger.replica import fold
from ledger.rows import StoredFact
from tests.contract.conftest import OwnTime
from tests.ledger.world import OTHER, SOURCE, History, began, copied, element, key, observed, source

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ledger.stores import LedgerStore, Writing
    from tests.contract.conftest import LedgerPlace


def filled(store: LedgerStore, count: int = 3) -> Ledger:
    ledger = Ledger(store, writer="main")
    ledger.append([began(), *(observed(name) for name in range(count))])
    return ledger


def test_first_append_begins_the_ledger(store: LedgerStore) -> None:
    ledger = Ledger(store)
    commit = ledger.append([began()])
    first, second = ledger.events()
    assert isinstance(first.fact, LedgerBegan)
    assert first.key == LEDGER_KEY
    assert (len(first.fact.ledger_id), len(first.fact.salt)) == (16, 32)
    assert (commit.first, commit.last, second.position) == (2, 2, 2)
    assert Ledger(store).identity() == ledger.identity() == first.fact


def test_a_ledger_without_events_has_no_identity(store: LedgerStore) -> None:
    ledger = Ledger(store)
    assert ledger.head().position == 0
    assert list(ledger.events()) == []
    assert ledger.sources() == {}
    with pytest.raises(LedgerError, match="nothing was recorded"):
        ledger.identity()


def test_a_stored_event_is_what_its_header_says(store: LedgerStore) -> None:
    ledger = filled(store)
    salt = source(SOURCE.hex()).salt
    for event in ledger.stored(after=2):
        header = decode_header(event.header)
        assert event.nonce is not None
        assert event.payload is not None
        assert (header.seq, header.stream_version, header.type) == (event.seq, event.stream_version, event.type)
        assert (header.schema_version, header.flags) == (event.schema_version, event.flags)
        assert (header.recorded_us, header.observed_us) == (event.recorded_us, event.observed_us)
        assert header.writer == event.writer == "main"
        assert header.stream_digest == stream_digest(salt, key(event.seq - 3))
        assert header.payload_digest == payload_digest(event.nonce, event.payload)
        assert event.payload == encode_payload(RemoteObserved(element=element()))
        assert event.leaf == leaf_hash(event.header)
    assert len({event.nonce for event in ledger.stored()}) == ledger.head().position


def test_the_head_commits_to_every_leaf(store: LedgerStore) -> None:
    ledger = filled(store, 700)
    ledger.append([copied(name) for name in range(9)])
    leaves = [event.leaf for event in ledger.stored()]
    assert len(leaves) == ledger.head().position == 711
    assert ledger.head().frontier == Frontier().extend(leaves)
    for position in (0, 1, 255, 256, 257, 512, 702, 710, 711):
        assert ledger.frontier_at(position) == Frontier().extend(leaves[:position])
    with pytest.raises(LedgerError, match="ends at position 711"):
        ledger.frontier_at(712)


def test_positions_and_versions_count_without_gaps(store: LedgerStore) -> None:
    ledger = Ledger(store)
    history = History(random.Random(1))
    for count in (1, 40, 3, 150):
        ledger.append(history.batch(count))
    events = list(ledger.stored())
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    versions: dict[int, int] = {}
    for event in events:
        assert event.stream_version == versions.get(event.stream, 0) + 1
        versions[event.stream] = event.stream_version
    assert sorted(versions) == list(range(1, len(versions) + 1))


def test_commits_cover_every_position_once(store: LedgerStore) -> None:
    ledger = filled(store, 300)
    ledger.append([copied(0)])
    ledger.append([copied(1), copied(2)])
    commits = list(store.log.commits())
    assert [(row.first, row.last) for row in commits] == [(1, 1), (2, 302), (303, 303), (304, 305)]
    assert [row.frontier for row in commits] == [ledger.frontier_at(row.last).stored for row in commits]
    assert list(store.log.commits(after=302)) == commits[2:]
    assert list(store.log.commits(after=1, until=303)) == commits[1:3]
    assert list(store.log.commits(until=303, newest_first=True)) == commits[2::-1]


def test_records_are_read_by_range_and_by_stream(store: LedgerStore) -> None:
    ledger = filled(store, 2100)  # more than two pages
    ledger.append([copied(5)])
    records = list(ledger.events())
    assert [record.position for record in records] == list(range(1, 2104))
    assert list(ledger.events(after=1000, until=2050)) == records[1000:2050]
    assert list(store.log.pointers(after=7, until=9)) == [(8, records[7].stream), (9, records[8].stream)]
    (eighth,) = store.log.events_at([8])
    whole = (8, key(5).stored, eighth.header, eighth.nonce, eighth.payload)
    assert list(map(tuple, store.log.bodies(7, 8, 5))) == [whole]
    assert [row[0] for row in store.log.bodies(2000, None, 3)] == [2001, 2002, 2003]
    assert store.log.leaves(1, 3) == [event.leaf for event in ledger.stored(after=1, until=3)]
    assert [event.seq for event in store.log.events_at([9, 2, 99_999, 2])] == [2, 9]
    facts = store.log.facts_at([9, 2, 99_999, 2])
    assert [fact[0] for fact in facts] == [2, 9]
    for fact, event in zip(facts, store.log.events_at([2, 9]), strict=True):
        assert tuple(fact) == tuple(getattr(event, name) for name in StoredFact._fields)
    assert list(ledger.history(key(5))) == [records[7], records[2102]]
    assert list(ledger.history(key("nothing"))) == []
    assert [event.seq for event in store.log.stream_events(key(5).stored, newest_first=True)] == [2103, 8]
    newest = next(store.log.stream_events(key(5).stored, newest_first=True), None)
    assert newest is not None
    assert newest.seq == 2103
    assert next(store.log.stream_events(key("nothing").stored, newest_first=True), None) is None
    assert list(store.log.streams(after=2)) == [(n + 3, key(n).stored) for n in range(2100)]
    assert dict(store.log.streams({3, 99_999})) == {3: key(0).stored}


def test_a_stream_that_moved_on_is_a_conflict_and_nothing_is_written(store: LedgerStore) -> None:
    ledger = filled(store)
    before = ledger.head()
    moved = [NewFact(key=key(n), fact=RemoteObserved(element=element(2)), observed_us=1, expected=n) for n in range(3)]
    with pytest.raises(ConflictError) as caught:
        ledger.append([began(OTHER), *moved])
    assert caught.value.keys == (key(0).stored, key(2).stored)
    assert ledger.head() == before
    assert list(ledger.sources()) == [SOURCE]
    ledger.append([moved[1]])
    assert ledger.entries([key(1)])[key(1)].version == 2


def test_expected_versions_count_within_a_batch(store: LedgerStore) -> None:
    ledger = filled(store, 0)
    fact = RemoteObserved(element=element())
    ledger.append([NewFact(key=key("x"), fact=fact, observed_us=1, expected=version) for version in range(3)])
    assert [record.stream_version for record in ledger.history(key("x"))] == [1, 2, 3]


def test_a_fact_that_does_not_belong_on_its_stream_is_refused(store: LedgerStore) -> None:
    ledger = filled(store, 0)
    misplaced: list[tuple[StreamKey, Any]] = [
        (key("x", OTHER), RemoteObserved(element=element())),
        (source_key(SOURCE), RemoteObserved(element=element())),
        (key("x"), began().fact),
        (source_key(SOURCE), began().fact),
        (key("x"), AuditAdvanced(ranges=())),
        (AUDIT_KEY, InstanceBegan(program="1", host="h")),
        (key("x" * 600), RemoteObserved(element=element())),
    ]
    for where, fact in misplaced:
        with pytest.raises(LedgerError):
            ledger.append([observed("good"), NewFact(key=where, fact=fact, observed_us=1)])
        assert ledger.head().position == 2
        assert ledger.entries([key("good")]) == {}


def test_a_fact_that_cannot_be_written_leaves_nothing_behind(store: LedgerStore) -> None:
    ledger = filled(store)
    bad = Element(**{name: getattr(element(), name) for name in Element.__slots__} | {"date": "yesterday"})
    with pytest.raises(MalformedEventError):
        ledger.append([copied(0), NewFact(key=key("bad"), fact=RemoteObserved(element=bad), observed_us=1)])
    assert ledger.head().position == 5
    assert fold(ledger.events()).entries == {entry.key: entry for entry in ledger.scan()}


def test_the_same_batch_key_gives_the_first_commit(place: LedgerPlace) -> None:
    mine = filled(place.open())
    first = mine.append([copied(0)], batch_key=b"once")
    again = Ledger(place.open()).append([copied(0)], batch_key=b"once")
    assert again == first
    assert mine.head().position == first.last
    assert mine.append([copied(1)], batch_key=b"twice").first == first.last + 1


class LosesAnswers:
    """A store whose next commits are made, or not, and whose answers are then lost on the way."""

    def __init__(self, store: LedgerStore, *, committed: bool, times: int) -> None:
        self.store, self.committed, self.times = store, committed, times

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    @contextmanager
    def writing(self) -> Iterator[Writing]:
        lost = self.times > 0
        self.times -= 1
        with self.store.writing() as tx:
            yield tx
            if lost and not self.committed:
                raise LedgerUnavailableError("the connection was lost")
        if lost:
            raise LedgerUnavailableError("the connection was lost")


@pytest.mark.parametrize("committed", [True, False])
def test_an_append_whose_answer_was_lost_is_recorded_once(store: LedgerStore, *, committed: bool) -> None:
    filled(store)
    ledger = Ledger(LosesAnswers(store, committed=committed, times=1))  # type: ignore[arg-type]
    commit = ledger.append([copied(0), copied(1)])
    assert (commit.first, commit.last) == (6, 7)
    assert ledger.head().position == 7
    assert [record.position for record in ledger.history(key(0))] == [3, 6]


@pytest.mark.parametrize("committed", [True, False])
def test_a_database_that_stays_away_is_the_callers_to_wait_for(store: LedgerStore, *, committed: bool) -> None:
    filled(store)
    ledger = Ledger(LosesAnswers(store, committed=committed, times=2))  # type: ignore[arg-type]
    with pytest.raises(LedgerUnavailableError):
        ledger.append([copied(0), copied(1)], batch_key=b"kept")
    assert Ledger(store).append([copied(0), copied(1)], batch_key=b"kept").last == 7
    assert ledger.head().position == 7


def test_recorded_times_never_decrease_and_cut_prefixes(store: LedgerStore) -> None:
    clock = iter([1_000_000, 5_000_000, 2_000_000, *[6_000_000] * 9])
    ledger = Ledger(store, clock=lambda: next(clock))
    times = [ledger.append([new]).recorded_us for new in (began(), observed(1), observed(2), observed(3))]
    assert times == sorted(times)
    if store.now_us() is None:
        assert times == [5_000_000, 5_000_000, 6_000_000, 6_000_000]
    recorded = [record.recorded_us for record in ledger.events()]
    for moment in {0, *recorded, *(us + 1 for us in recorded), 1 << 60}:
        assert ledger.position_at(moment) == sum(us < moment for us in recorded)


def test_a_claim_days_ahead_of_the_ledgers_time_is_refused(store: LedgerStore) -> None:
    ledger = filled(store)
    ahead = ledger.now_us() + 25 * 3600 * 1_000_000
    with pytest.raises(ClockAheadError):
        ledger.append([NewFact(key=key("x"), fact=RemoteObserved(element=element()), observed_us=ahead)])
    assert ledger.head().position == 5
    hour = ledger.now_us() + 3600 * 1_000_000
    ledger.append([NewFact(key=key("x"), fact=RemoteObserved(element=element()), observed_us=hour)])


def test_erased_payloads_are_gone_and_the_proof_stays(store: LedgerStore) -> None:
    ledger = filled(store)
    ledger.append([copied(0), copied(1)])
    leaves = [event.leaf for event in ledger.stored()]
    ledger.append([NewFact(key=key(0), fact=PayloadErased(reason="request 17"), observed_us=1)])
    events = [event for event in ledger.stored() if event.stream == 3]
    assert [event.payload is None and event.nonce is None for event in events] == [True, True, False]
    bodies = store.log.bodies(events[0].seq - 1, events[0].seq, 1)
    assert list(map(tuple, bodies)) == [(events[0].seq, None, events[0].header, None, None)]
    assert ledger.head().frontier == Frontier().extend([*leaves, events[-1].leaf])
    assert all(leaf_hash(event.header) == event.leaf for event in ledger.stored())
    assert [record.key for record in ledger.events() if record.stream == 3] == [None] * 3
    assert dict(store.log.streams({3})) == {3: None}
    assert ledger.entries([key(0)]) == {}
    assert [row.key for row in ledger.copies()] == [key(1).stored]
    assert {(tally.state, tally.elements) for tally in ledger.tallies()} == {("current", 1), ("pending", 1)}
    ledger.append([observed(0)])  # its name was forgotten: this is another stream
    assert ledger.entries([key(0)])[key(0)].version == 1
    assert ledger.entries([key(0)])[key(0)].stream == 6


def test_nothing_follows_an_erasure_within_its_batch(store: LedgerStore) -> None:
    ledger = filled(store)
    with pytest.raises(LedgerError, match="follows the erasure"):
        ledger.append([NewFact(key=key(0), fact=PayloadErased(reason="r"), observed_us=1), copied(0)])
    assert ledger.head().position == 5


def test_sources_and_audits_are_what_was_said_last(store: LedgerStore) -> None:
    ledger = filled(store, 0)
    assert ledger.audit() == ()
    ranges = (AuditRange(start=bytes(32), end=b"\xff" * 32, position=2, at_us=3),)
    ledger.append([began(OTHER), NewFact(key=AUDIT_KEY, fact=AuditAdvanced(ranges=ranges), observed_us=1)])
    ledger.append([NewFact(key=instance_key("main"), fact=InstanceBegan(program="1", host="h"), observed_us=1)])
    found = ledger.sources()
    assert list(found) == [SOURCE, OTHER]
    assert found[OTHER].source == source(OTHER.hex())
    assert found[OTHER].version == 1
    assert ledger.audit() == ranges
    assert [record.key for record in ledger.events(after=2)] == [source_key(OTHER), AUDIT_KEY, instance_key("main")]
    assert AUDIT_KEY.source == NO_SOURCE


def test_concurrent_writers_leave_no_gap_and_readers_never_skip(place: LedgerPlace) -> None:
    filled(place.open(), 0)
    writers, batches, size = 4, 12, 5
    ledgers = [Ledger(place.open(), writer=str(n)) for n in range(writers)]
    reader = Ledger(place.open())
    failures: list[BaseException] = []
    seen: list[int] = []
    done = threading.Event()

    def write(n: int) -> None:
        try:
            for batch in range(batches):
                ledgers[n].append([observed(f"{n} {batch} {i}") for i in range(size)])
        except BaseException as error:  # noqa: BLE001  # it is raised again below, in the test's own thread
            failures.append(error)

    def follow() -> None:
        last = 0
        while last < 2 + writers * batches * size:
            finished = done.is_set()
            for event in reader.stored(after=last):
                seen.append(event.seq)
                last = event.seq
            if finished:
                return

    threads = [threading.Thread(target=write, args=(n,)) for n in range(writers)]
    following = threading.Thread(target=follow)
    for thread in (*threads, following):
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    following.join()
    assert failures == []
    assert seen == list(range(1, 3 + writers * batches * size))
    assert reader.head().frontier == Frontier().extend([event.leaf for event in reader.stored()])
    by_writer = [record.writer for record in reader.events(after=2)]
    assert {by_writer.count(str(n)) for n in range(writers)} == {batches * size}


def test_two_writers_that_expect_the_same_version_cannot_both_pass(place: LedgerPlace) -> None:
    filled(place.open(), 1)
    ledgers = [Ledger(place.open(), writer=str(n)) for n in range(4)]
    outcomes: list[str] = []
    gate = threading.Barrier(4)

    def write(ledger: Ledger) -> None:
        gate.wait()
        try:
            ledger.append([NewFact(key=key(0), fact=RemoteObserved(element=element(2)), observed_us=1, expected=1)])
            outcomes.append("recorded")
        except ConflictError:
            outcomes.append("conflict")

    threads = [threading.Thread(target=write, args=(ledger,)) for ledger in ledgers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["conflict"] * 3 + ["recorded"]


def told(store: LedgerStore) -> Ledger:
    """Record one and the same history: same facts, same clock, same randomness."""
    clock = iter(range(1_000_000, 2_000_000))
    rng = random.Random(7)
    ledger = Ledger(OwnTime(store), writer="main", clock=lambda: next(clock), entropy=rng.randbytes)  # type: ignore[arg-type]
    history = History(random.Random(8))
    for count in (1, 30, 300, 2, 60):
        ledger.append(history.batch(count))
    return ledger


def test_the_same_history_has_the_same_leaves_on_every_store(store: LedgerStore) -> None:
    from ledger.memory import MemoryStore

    mine, reference = told(store), told(MemoryStore())
    assert [e.leaf for e in mine.stored()] == [e.leaf for e in reference.stored()]
    assert mine.head() == reference.head()
    assert list(mine.stored()) == list(reference.stored())
    assert list(mine.store.projection.page(b"", 1 << 30)) == list(reference.store.projection.page(b"", 1 << 30))
    assert list(mine.store.projection.copies()) == list(reference.store.projection.copies())


def test_an_element_that_was_erased_and_blocked_is_not_recorded_again(store: LedgerStore) -> None:
    ledger = Ledger(store, writer="main")
    ledger.append([began(), observed(0), observed(1)])
    ledger.append([NewFact(key=key(0), fact=PayloadErased(reason="r", blocked=True), observed_us=1)])
    ledger.append([NewFact(key=key(1), fact=PayloadErased(reason="r"), observed_us=1)])
    head = ledger.head().position
    with pytest.raises(ConflictError):
        ledger.append([observed(2), observed(0)])
    assert ledger.head().position == head
    assert ledger.append([observed(2), observed(1)]).last == head + 2
    assert ledger.database.fold_log()
