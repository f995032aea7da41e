"""What every store promises about working state: who is at work, who fetches what, and who is too late."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import func, select

from ledger.errors import ConflictError, InstanceBusyError
from ledger.events import RemoteChanged
from ledger.log import Ledger, NewFact
from ledger.memory import MemoryStore
from ledger.rows import FurtherRow
from ledger.sql import parse_place
from ledger.sql.dialects import reader_engine
from ledger.sql.schema import metadata
from tests.contract.conftest import OwnTime
from tests.ledger.world import OTHER, SOURCE, began, copied, element, key, observed

if TYPE_CHECKING:
    from ledger.events import StreamKey
    from ledger.replica import Entry
    from tests.contract.conftest import LedgerPlace

HOUR = 3_600_000_000
DAY = 24 * HOUR


def collectors(place: LedgerPlace, count: int = 2, elements: int = 10) -> list[Ledger]:
    """So many processes on one ledger that knows some elements."""
    ledgers = [Ledger(place.open(), writer=str(n)) for n in range(count)]
    ledgers[0].append([began(), *(observed(n) for n in range(elements))])
    return ledgers


def keys(entries: list[Entry]) -> list[StreamKey]:
    return [entry.key for entry in entries]


def kept(place: LedgerPlace) -> tuple[int, ...]:
    """Return how many instances, leases and reservations are there, whoever they belong to."""
    store = place.open()
    if isinstance(store, MemoryStore):
        return len(store.work.instances()), len(store.work._leases), len(store.work._reservations)
    engine = reader_engine(parse_place(place.url))
    try:
        with engine.connect() as connection:
            tables = (metadata.tables[name] for name in ("instance", "lease", "claim"))
            counts = [select(func.count()).select_from(table) for table in tables]
            return tuple(connection.execute(count).scalar_one() for count in counts)
    finally:
        engine.dispose()


def test_nobody_is_given_what_another_has(place: LedgerPlace) -> None:
    one, two = collectors(place)
    first = one.work.take(instance="one", lease_us=HOUR, limit=6)
    second = two.work.take(instance="two", lease_us=HOUR, limit=6)
    assert keys(first) == [key(n) for n in range(6)]
    assert keys(second) == [key(n) for n in range(6, 10)]
    assert one.work.take(instance="one", lease_us=HOUR) == []
    assert first[0] == one.entries([key(0)])[key(0)]


def test_what_is_given_back_can_be_taken(place: LedgerPlace) -> None:
    one, two = collectors(place)
    one.work.take(instance="one", lease_us=HOUR)
    two.work.release("two")
    two.work.release("one")
    assert two.work.take(instance="two", lease_us=HOUR) == []
    one.work.release("one", [key(3), key("unknown")])
    assert keys(two.work.take(instance="two", lease_us=HOUR)) == [key(3)]
    one.work.release("one")
    assert len(two.work.take(instance="two", lease_us=HOUR)) == 9


def test_what_an_append_is_about_is_given_back_with_it_and_nothing_else(place: LedgerPlace) -> None:
    def seen(number: int, expected: int | None = None) -> NewFact:
        return NewFact(key=key(number), fact=RemoteChanged(element=element()), observed_us=1, expected=expected)

    one, two = collectors(place, elements=4)
    assert keys(two.work.take(instance="two", lease_us=HOUR, limit=1)) == [key(0)]
    assert keys(one.work.take(instance="one", lease_us=HOUR)) == [key(1), key(2), key(3)]
    with pytest.raises(ConflictError):
        one.append([seen(1), seen(2, expected=7)], release="one")
    assert two.work.take(instance="two", lease_us=HOUR) == []
    one.append([seen(0), seen(1)], release="one")
    one.append([seen(2)])
    assert keys(two.work.take(instance="three", lease_us=HOUR)) == [key(1)]


def test_a_lease_that_ran_out_is_taken_over_and_what_is_done_is_not(place: LedgerPlace) -> None:
    one, two = collectors(place, elements=3)
    assert len(one.work.take(instance="one", lease_us=-1)) == 3
    one.append([copied(1)])
    assert keys(two.work.take(instance="two", lease_us=HOUR)) == [key(0), key(2)]


def test_a_block_is_bounded_in_bytes_and_a_large_element_stands_alone(place: LedgerPlace) -> None:
    ledger = Ledger(place.open())
    sizes = [40, 50, 20, 500, 1, 99, 1]
    ledger.append([began(), *(observed(n, size=size) for n, size in enumerate(sizes))])
    blocks = []
    while block := ledger.work.take(instance="one", lease_us=HOUR, max_bytes=100):
        blocks.append([int(entry.key.id) for entry in block])
    assert blocks == [[0, 1], [2], [3], [4, 5], [6]]


def test_work_can_be_taken_from_one_source_alone(place: LedgerPlace) -> None:
    (ledger,) = collectors(place, count=1, elements=2)
    ledger.append([began(OTHER), observed("x", OTHER)])
    assert keys(ledger.work.take(instance="one", lease_us=HOUR, source=OTHER)) == [key("x", OTHER)]
    assert keys(ledger.work.take(instance="one", lease_us=HOUR, source=SOURCE)) == [key(0), key(1)]


def test_the_same_name_twice_is_refused_while_the_first_is_alive(place: LedgerPlace) -> None:
    one, two = collectors(place)
    one.work.enroll("main", place="vault:/replica", lease_us=HOUR)
    one.work.enroll("main", place="vault:/replica", lease_us=HOUR)
    with pytest.raises(InstanceBusyError, match="vault:/replica"):
        two.work.enroll("main", place="tower:/replica", lease_us=HOUR)
    with pytest.raises(InstanceBusyError):
        two.work.enroll("main", place="tower:/replica", lease_us=HOUR, here=True)
    with pytest.raises(InstanceBusyError):
        two.work.take(instance="main", lease_us=HOUR)
    two.work.enroll("second", place="tower:/replica", lease_us=HOUR)
    assert [(row.name, row.place) for row in one.store.work.instances()] == [
        ("main", "vault:/replica"),
        ("second", "tower:/replica"),
    ]
    one.work.retire("main")
    two.work.enroll("main", place="tower:/replica", lease_us=HOUR)


def test_a_dead_instance_is_replaced_and_what_it_held_is_free(place: LedgerPlace) -> None:
    one, two = collectors(place)
    one.work.enroll("main", place="vault:/replica", lease_us=-1)
    one.work.take(instance="main", lease_us=HOUR)
    assert one.work.reserve("list", lease_us=HOUR)
    two.work.enroll("main", place="tower:/replica", lease_us=HOUR)
    assert len(two.work.take(instance="main", lease_us=HOUR)) == 10
    assert two.work.reserve("list", lease_us=HOUR)
    with pytest.raises(InstanceBusyError):
        one.work.beat("main", lease_us=HOUR)
    one.work.release("main")
    one.work.retire("main")
    assert two.work.take(instance="main", lease_us=HOUR) == []
    assert [row.place for row in two.store.work.instances()] == ["tower:/replica"]


def test_who_holds_the_lock_on_the_same_place_need_not_wait(place: LedgerPlace) -> None:
    one, two = collectors(place)
    one.work.enroll("main", place="vault:/replica", lease_us=HOUR)
    two.work.enroll("main", place="vault:/replica", lease_us=HOUR, here=True)
    with pytest.raises(InstanceBusyError):
        one.work.beat("main", lease_us=HOUR)


def test_a_beat_prolongs_leases_and_reservations(place: LedgerPlace) -> None:
    one, two = collectors(place, elements=2)
    one.work.enroll("main", place="vault:/replica", lease_us=-1)
    one.work.take(instance="main", lease_us=-1)
    assert one.work.reserve("list", lease_us=-1)
    one.work.beat("main", lease_us=HOUR)
    assert two.work.take(instance="two", lease_us=HOUR) == []
    assert not two.work.reserve("list", lease_us=HOUR)
    with pytest.raises(InstanceBusyError):
        two.work.enroll("main", place="tower:/replica", lease_us=HOUR)


def test_one_lists_at_a_time(place: LedgerPlace) -> None:
    one, two = collectors(place)
    assert one.work.reserve("list", lease_us=HOUR)
    assert one.work.reserve("list", lease_us=HOUR)
    assert not two.work.reserve("list", lease_us=HOUR)
    assert two.work.reserve("audit", lease_us=HOUR)
    two.work.unreserve("list")
    assert not two.work.reserve("list", lease_us=HOUR)
    one.work.unreserve("list")
    assert two.work.reserve("list", lease_us=-1)
    assert one.work.reserve("list", lease_us=HOUR)


def test_what_the_dead_held_is_swept_away_by_whoever_lives(place: LedgerPlace) -> None:
    one, two = collectors(place, elements=4)
    one.work.enroll("one", place="vault:/replica", lease_us=HOUR)
    two.work.enroll("two", place="tower:/replica", lease_us=HOUR)
    one.work.take(instance="one", lease_us=-1, limit=3)
    two.work.take(instance="two", lease_us=HOUR, limit=1, due_us=two.now_us() + HOUR)
    assert one.work.reserve("list", lease_us=-1)
    # Whatever becomes of the elements, nobody takes them again who would put his lease in the place of the old one.
    two.append([copied(n) for n in range(1, 4)])
    two.work.beat("two", lease_us=HOUR)
    assert kept(place) == (2, 1, 0)
    one.work.take(instance="one", lease_us=-1)
    Ledger(place.open()).work.enroll("three", place="attic:/replica", lease_us=HOUR)
    assert kept(place) == (3, 1, 0)


def test_an_instance_that_never_came_back_is_forgotten_after_a_month(place: LedgerPlace) -> None:
    one, two = collectors(place)
    one.work.enroll("one", place="vault:/replica", lease_us=-29 * DAY)
    two.work.enroll("two", place="tower:/replica", lease_us=HOUR)
    assert [row.name for row in two.store.work.instances()] == ["one", "two"]
    one.work.enroll("one", place="vault:/replica", lease_us=-31 * DAY)
    two.work.beat("two", lease_us=HOUR)
    assert [row.name for row in two.store.work.instances()] == ["two"]


def test_a_name_or_a_lease_that_a_clock_far_ahead_took_is_nobodys(place: LedgerPlace) -> None:
    one, two = collectors(place)
    one.work.enroll("main", place="vault:/replica", lease_us=3 * DAY)
    assert one.work.reserve("list", lease_us=3 * DAY)
    one.work.take(instance="main", lease_us=3 * DAY)
    assert two.work.reserve("list", lease_us=HOUR)
    two.work.enroll("main", place="tower:/replica", lease_us=HOUR)
    assert len(two.work.take(instance="main", lease_us=HOUR)) == 10


def test_leases_end_also_while_the_ledgers_time_stands_still(place: LedgerPlace) -> None:
    now = 10 * DAY
    one, two = (Ledger(OwnTime(place.open()), writer=str(n), clock=lambda: now) for n in range(2))  # type: ignore[arg-type]
    one.append([began(), *(observed(n) for n in range(3))])
    now -= 5 * DAY  # the clock was far ahead, and was set right
    assert one.now_us() == 10 * DAY
    assert len(one.work.take(instance="one", lease_us=HOUR)) == 3
    assert one.work.reserve("list", lease_us=HOUR)
    assert two.work.take(instance="two", lease_us=HOUR) == []
    now += 2 * HOUR
    assert len(two.work.take(instance="two", lease_us=HOUR)) == 3
    assert two.work.reserve("list", lease_us=HOUR)


def test_many_takers_at_once_share_everything_and_nothing_twice(place: LedgerPlace) -> None:
    ledgers = collectors(place, count=4, elements=200)
    taken: list[StreamKey] = []
    failures: list[BaseException] = []
    gate = threading.Barrier(4)

    def work(n: int) -> None:
        gate.wait()
        try:
            idle = 0
            while idle < 3:  # a neighbour's open transaction hides its rows for a moment
                block = ledgers[n].work.take(instance=str(n), lease_us=HOUR, limit=7)
                idle = 0 if block else idle + 1
                taken.extend(keys(block))
        except BaseException as error:  # noqa: BLE001  # it is raised again below, in the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(taken) == len(set(taken)) == 200


def test_further_storages_are_known_until_they_are_forgotten(place: LedgerPlace) -> None:
    one, two = collectors(place, elements=1)
    first = FurtherRow(b"a" * 16, "/mnt/b", 3, 1, 5)
    other = FurtherRow(b"b" * 16, "/mnt/a", 0, 0, 6)
    for row in (first, other):
        one.work.keep_further(row)
    assert two.work.further() == [other, first]
    two.work.keep_further(first._replace(position=7, address="/mnt/0"))
    assert one.work.further() == [first._replace(position=7, address="/mnt/0"), other]
    one.work.forget_further(first.id)
    one.work.forget_further(b"c" * 16)
    assert two.work.further() == [other]
