"""What every store promises about the projection: it is what folding the events gives, at every moment."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from ledger.errors import LedgerError, UnknownCriticalEventError
from ledger.events import (
    Copy,
    CopyDamaged,
    CopyLost,
    CopyStored,
    Element,
    Failure,
    FetchFailed,
    PayloadErased,
    RemoteChanged,
    RemoteVanished,
    StreamKey,
)
from ledger.log import Ledger, NewFact
from ledger.memory import MemoryStore
from ledger.replica import fold
from ledger.rows import DAMAGED, LOST, RELEASED, SOUND
from ledger.sql import open_store
from tests.ledger.databases import fresh_url
from tests.ledger.world import OTHER, SOURCE, History, began, copied, element, key, let_go, observed, sha

if TYPE_CHECKING:
    from pathlib import Path

    from ledger.replica import Entry
    from ledger.retention import CopyReleased, LastCopyReleased
    from ledger.stores import LedgerStore


def lived(store: LedgerStore, seed: int, counts: tuple[int, ...]) -> Ledger:
    ledger = Ledger(store)
    history = History(random.Random(seed))
    for count in counts:
        ledger.append(history.batch(count))
    return ledger


def tables(store: LedgerStore) -> tuple[object, ...]:
    """Everything that the projection consists of."""
    return (
        list(store.projection.page(b"", 1 << 30)),
        list(store.projection.copies()),
        [row for row in store.projection.tallies() if row.elements],
        store.projection.sources(),
    )


def due(ledger: Ledger, *, now_us: int, limit: int, source: bytes | None = None) -> list[Entry]:
    """Return what a collector would be given at `now_us`."""
    taken = ledger.work.take(instance="main", lease_us=1, now_us=now_us, limit=limit, max_bytes=1 << 60, source=source)
    ledger.work.release("main")
    return taken


def check_against_fold(ledger: Ledger) -> None:
    replica = fold(ledger.events())
    assert {entry.key: entry for entry in ledger.scan()} == replica.entries
    assert {one.id: one.source for one in ledger.sources().values()} == replica.sources
    counted: dict[tuple[bytes, str], list[int]] = {}
    for entry in replica.entries.values():
        assert entry.element is not None
        pair = counted.setdefault((entry.key.source, entry.element.state), [0, 0])
        pair[0] += 1
        pair[1] += entry.element.copy.size if entry.element.copy else 0
    assert {(t.source, t.state): [t.elements, t.bytes] for t in ledger.tallies()} == counted
    wanted = [e for e in replica.entries.values() if e.element is not None and e.element.is_wanted]
    assert {entry.key for entry in due(ledger, now_us=1 << 60, limit=10_000)} == {entry.key for entry in wanted}


@pytest.mark.parametrize("seed", range(3))
def test_projection_is_the_fold_of_the_events(store: LedgerStore, seed: int) -> None:
    ledger = lived(store, seed, (1, 5, 60, 9, 120))
    check_against_fold(ledger)


def test_rebuild_brings_back_the_same_rows(store: LedgerStore) -> None:
    ledger = lived(store, 5, (3, 200, 40))
    before = tables(store)
    report = ledger.rebuild()
    assert tables(store) == before
    assert report.events == report.position == ledger.head().position
    assert report.entries == len(list(ledger.scan()))
    assert report.skipped == 0
    ledger.append([observed("after the rebuild")])
    check_against_fold(ledger)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), counts=st.lists(st.integers(1, 30), min_size=1, max_size=6))
def test_projection_equals_fold_and_rebuild_in_any_history(tmp_path: Path, seed: int, counts: list[int]) -> None:
    with fresh_url("sqlite", tmp_path) as url:
        sql = open_store(url, create=True)
        memory = MemoryStore()
        for store in (sql, memory):
            ledger = lived(store, seed, tuple(counts))
            check_against_fold(ledger)
            before = tables(store)
            ledger.rebuild()
            assert tables(store) == before
        sql.close()


def test_a_rebuild_stops_at_a_critical_event_it_does_not_know(
    store: LedgerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = lived(store, 6, (30,))
    before = tables(store)
    # An older version of the program is one that does not know the type.
    from ledger import events

    ledger.append([copied("x"), NewFact(key=key("x"), fact=_released("x"), observed_us=1)])
    after = tables(store)
    monkeypatch.delitem(events.FACTS, "CopyReleased")
    with pytest.raises(UnknownCriticalEventError):
        ledger.rebuild()
    assert tables(store) == after != before


def test_a_rebuild_passes_over_unknown_events_and_counts_them(
    store: LedgerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(store)
    ledger.append([began(), observed("x"), observed("y")])
    failure = Failure(reason="http_500", attempts=1, since_us=1, next_try_us=2)
    failed = FetchFailed(element=replace(element(), failure=failure))
    ledger.append([NewFact(key=key("x"), fact=failed, observed_us=1)])
    from ledger import events

    monkeypatch.delitem(events.FACTS, "FetchFailed")
    assert ledger.rebuild().skipped == 1
    entry = ledger.entries([key("x")])[key("x")]
    assert entry.element == element()
    assert entry.version == 2  # what the next append must expect


def _released(name: str) -> CopyReleased | LastCopyReleased:
    return let_go(copied(name).fact.element, sha(name))  # type: ignore[union-attr]


def test_scan_goes_through_all_pages_in_key_order_with_filters(store: LedgerStore) -> None:
    ledger = Ledger(store)
    ledger.append([began(), began(OTHER)])
    ledger.append([observed(n, (SOURCE, OTHER)[n % 2]) for n in range(2300)])
    ledger.append([copied(n) for n in range(0, 2300, 4)])
    ledger.append([NewFact(key=key(2), fact=RemoteVanished(element=replace(element(), present=False)), observed_us=1)])
    everything = [entry.key for entry in ledger.scan()]
    assert everything == sorted((key(n, (SOURCE, OTHER)[n % 2]) for n in range(2300)), key=lambda k: k.stored)
    assert [entry.key for entry in ledger.scan(source=OTHER)] == everything[1150:]
    assert [entry.key for entry in ledger.scan(source=bytes(15) + b"\x09")] == []
    assert [entry.key for entry in ledger.scan(after=everything[1700])] == everything[1701:]
    current = {entry.key for entry in ledger.scan(states=("current",))}
    assert current == {key(n) for n in range(0, 2300, 4)}
    assert [entry.key for entry in ledger.scan(states=("vanished", "damaged"))] == [key(2)]
    assert {entry.key for entry in ledger.scan(source=SOURCE, wanted=False)} == current | {key(2)}
    assert len(list(ledger.scan(source=SOURCE, wanted=True))) == 1150 - 575 - 1


def test_wanted_entries_come_by_their_due_times_from_both_ends(store: LedgerStore) -> None:
    ledger = Ledger(store)
    ledger.append([began(), began(OTHER)])
    for n in range(0, 1300, 100):  # so many have the same due time
        ledger.append([observed(m) for m in range(n, n + 100)])
    ledger.append([observed("other", OTHER)])
    ledger.append([copied(n) for n in range(1100)])
    late = Failure(reason="http_500", attempts=1, since_us=1, next_try_us=1 << 60)
    failed = replace(element(), failure=late)
    ledger.append([NewFact(key=key(n), fact=FetchFailed(element=failed), observed_us=1) for n in (1150, 1290)])
    lost = CopyLost(element=replace(copied(7).fact.element, damage="lost"), sha256=sha("7"))  # type: ignore[attr-defined]
    ledger.append([NewFact(key=key(7), fact=lost, observed_us=1)])
    first = [row.key for row in store.projection.due(SOURCE, last_first=False)]
    last = [row.key for row in store.projection.due(SOURCE, last_first=True)]
    assert first == last[::-1]
    assert len(set(first)) == 201
    assert {first[-1], first[-2]} == {key(1150).stored, key(1290).stored}
    assert first[-3] == key(7).stored
    assert [row.key for row in store.projection.due(OTHER, last_first=False)] == [key("other", OTHER).stored]
    assert store.projection.wanted_in(SOURCE, ("pending",)) == 200
    assert store.projection.wanted_in(SOURCE, ("lost", "damaged")) == 1
    assert store.projection.wanted_in(OTHER, ("lost", "damaged")) == 0


def test_keys_are_told_apart_byte_by_byte(store: LedgerStore) -> None:
    names = ["a", "A", "ä", "Ä", "a ", "a\u0301", "ß", "ss", "%", "_", "\\", "'", "\U0001f4be", "\u00e9", "e\u0301"]
    kinds = ["file", "File", "FILE", "file "]
    keys = [StreamKey(source=SOURCE, kind=kind, id=name) for kind in kinds for name in names]
    ledger = Ledger(store)
    ledger.append([began(), *(replace(observed("x"), key=one) for one in keys)])
    assert set(ledger.entries(keys)) == set(keys)
    assert [entry.key for entry in ledger.scan()] == sorted(keys, key=lambda k: k.stored)


def test_the_longest_due_comes_first(store: LedgerStore) -> None:
    ledger = Ledger(store)
    ledger.append([began(), began(OTHER)])
    assert ledger.next_due_us() is None
    ledger.append([observed(n) for n in range(4)])
    ledger.append([observed("other", OTHER)])
    now = ledger.now_us()
    recorded = ledger.head().recorded_us
    late = Failure(reason="http_500", attempts=1, since_us=1, next_try_us=recorded + 3_600_000_000)
    soon = Failure(reason="http_500", attempts=1, since_us=1, next_try_us=5)
    ledger.append(
        [
            NewFact(key=key(0), fact=FetchFailed(element=replace(element(), failure=late)), observed_us=1),
            NewFact(key=key(1), fact=FetchFailed(element=replace(element(), failure=soon)), observed_us=1),
        ]
    )
    assert [entry.key for entry in due(ledger, now_us=now, limit=3)] == [key(1), key(2), key(3)]
    assert [entry.key for entry in due(ledger, now_us=0, limit=9)] == [key(1), key(2), key(3), key("other", OTHER)]
    assert [entry.key for entry in due(ledger, now_us=0, limit=9, source=OTHER)] == [key("other", OTHER)]
    assert [entry.key for entry in due(ledger, now_us=late.next_try_us, limit=9)][-1] == key(0)
    assert due(ledger, now_us=0, limit=9, source=bytes(16)) == []
    assert ledger.next_due_us() == 5
    assert ledger.next_due_us(OTHER) == recorded
    assert ledger.next_due_us(bytes(16)) is None


def test_every_object_ever_named_is_listed_with_its_state(store: LedgerStore) -> None:
    ledger = Ledger(store)
    ledger.append([began(), *(observed(n) for n in range(5))])
    ledger.append([copied(n, content=f"object {n}", size=n + 1) for n in range(5)])
    ledger.append([copied(1, content="object 0", size=1)])  # two elements share an object
    sound = copied(2, content="object 2", size=3).fact.element  # type: ignore[union-attr]
    assert isinstance(sound, Element)
    judgements = [
        NewFact(
            key=key(2),
            fact=CopyDamaged(element=replace(sound, damage="damaged"), sha256=sha("object 2")),
            observed_us=1,
        ),
        NewFact(
            key=key(3), fact=CopyLost(element=replace(sound, damage="lost"), sha256=sha("object 3")), observed_us=1
        ),
        NewFact(key=key(1), fact=let_go(sound, sha("object 1")), observed_us=1),
        NewFact(key=key(4), fact=let_go(sound, sha("never stored")), observed_us=1),
    ]
    with pytest.raises(LedgerError, match="was never stored"):
        ledger.append(judgements)
    with pytest.MonkeyPatch.context() as patch:  # another program may have written the last one all the same
        patch.setattr("ledger.log.refuse_contradictions", lambda *_: None)
        ledger.append(judgements)
    ledger.append([copied(3, content="object 3", size=4)])
    rows = list(ledger.copies())
    assert [row.sha256 for row in rows] == sorted(row.sha256 for row in rows)
    assert {(row.sha256, row.key): (row.size, row.position, row.state) for row in rows} == {
        (sha("object 0"), key(0).stored): (1, 8, SOUND),
        (sha("object 0"), key(1).stored): (1, 13, SOUND),
        (sha("object 1"), key(1).stored): (2, 9, RELEASED),
        (sha("object 2"), key(2).stored): (3, 10, DAMAGED),
        (sha("object 3"), key(3).stored): (4, 18, SOUND),
        (sha("object 4"), key(4).stored): (5, 12, SOUND),
    }
    middle = rows[2].sha256
    assert list(ledger.copies(start=middle)) == [row for row in rows if row.sha256 >= middle]
    assert list(ledger.copies(end=middle)) == [row for row in rows if row.sha256 <= middle]
    assert LOST not in {row.state for row in rows}


def test_what_the_store_knows_of_an_element_is_not_contradicted(store: LedgerStore) -> None:
    ledger = Ledger(store)
    ledger.append([began(), observed(1), observed(2)])
    ledger.append([copied(1, content="older"), copied(1, content="newer"), copied(2, content="other")])
    element_ = copied(1, content="newer").fact.element  # type: ignore[union-attr]
    for content, is_known in (("older", True), ("newer", True), ("other", False), ("never", False)):
        damage = None if content == "older" else "lost"
        fact = CopyLost(element=replace(element_, damage=damage), sha256=sha(content))
        lost = NewFact(key=key(1), fact=fact, observed_us=1)
        if is_known:
            ledger.append([lost])
            continue
        with pytest.raises(LedgerError, match="never stored"):
            ledger.append([lost])
    risen = RemoteChanged(element=element(revision=3))
    ledger.append([NewFact(key=key(2), fact=risen, observed_us=1)])
    with pytest.raises(LedgerError, match="from revision 3 to 2"):
        ledger.append([NewFact(key=key(2), fact=RemoteChanged(element=element(revision=2)), observed_us=1)])
    assert ledger.head().position == 10


def test_many_copies_are_listed_over_all_pages(store: LedgerStore) -> None:
    ledger = Ledger(store)
    ledger.append([began(), *(observed(n) for n in range(1300))])
    ledger.append([copied(n, content=str(n // 2)) for n in range(1300)])
    rows = list(ledger.copies())
    assert len(rows) == 1300
    assert [(row.sha256, row.position) for row in rows] == sorted((row.sha256, row.position) for row in rows)
    assert isinstance(copied(1).fact, CopyStored)
    assert isinstance(copied(1).fact.element.copy, Copy)


@pytest.mark.parametrize("sources", [1, 2], ids=["one source", "two sources"])
def test_the_sums_of_copies_go_by_source_and_block_and_leave_out_what_was_erased(
    store: LedgerStore, sources: int
) -> None:
    ledger = Ledger(store)
    ledger.append([began(), *(observed(n) for n in range(20))])
    ledger.append([copied(n, content=str(n), size=n) for n in range(20)])
    if sources == 2:
        ledger.append([began(OTHER), observed(1, OTHER), copied(1, OTHER, content="other", size=1 << 40)])
    ledger.append([NewFact(key=key(7), fact=PayloadErased(reason="law"), observed_us=1)])
    numbers = {row.id: row.no for row in store.projection.sources()}
    for block in (1, 8, 1024):
        wanted: dict[tuple[int, int], tuple[int, int]] = {}
        for row in ledger.copies():
            at = (numbers[StreamKey.parse(row.key).source], row.position // block)
            copies, size = wanted.get(at, (0, 0))
            wanted[at] = (copies + 1, size + row.size)
        assert store.projection.volumes(block) == [(*at, *found) for at, found in sorted(wanted.items())]
        assert sum(copies for copies, _ in wanted.values()) == 18 + sources
