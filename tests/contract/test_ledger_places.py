"""What every store promises about placements: found, walked, dropped, replaced, forgotten, and part of an append."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from ledger.errors import ConflictError
from ledger.log import Ledger
from ledger.memory import MemoryStore
from ledger.places import PackRow, PackTotals, Placement
from ledger.sql import open_store
from ledger.transfer.copy import copy_ledger
from tests.ledger.world import began, observed

if TYPE_CHECKING:
    from pathlib import Path

    from ledger.stores import LedgerStore
    from tests.contract.conftest import LedgerPlace

ONE, TWO, THREE = b"\x01" * 32, b"\xfe" * 32, b"\x02" * 32


def sha(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


def placements(pack: bytes, numbers: range) -> list[Placement]:
    return [Placement(sha256=sha(n), pack=pack, offset=10 * at, length=10) for at, n in enumerate(numbers)]


def names(store: LedgerStore) -> list[PackRow]:
    return list(store.places.packs())


def test_placements_are_found_and_walked_in_order(store: LedgerStore) -> None:
    # More than one page, and some objects in two packs.
    first, second = placements(ONE, range(12_000)), placements(TWO, range(11_990, 12_010))
    store.places.add(first)
    store.places.add(second)
    assert store.places.find([sha(n) for n in range(600)]) == {sha(n): [first[n]] for n in range(600)}
    both = store.places.find([sha(11_995), b"\0" * 32])
    assert sorted(both[sha(11_995)], key=lambda one: one.pack) == [first[11_995], second[5]]
    assert len(both) == 1
    walked = list(store.places.walk())
    assert [one.sha256 for one in walked] == sorted(one.sha256 for one in first + second)
    assert sorted(map(repr, walked)) == sorted(map(repr, first + second))
    part = list(store.places.walk(start=sha(1), end=sha(2))) or list(store.places.walk(start=sha(2), end=sha(1)))
    low, high = sorted([sha(1), sha(2)])
    assert [one.sha256 for one in part] == [one.sha256 for one in walked if low <= one.sha256 < high]
    assert names(store) == [PackRow(ONE, 12_000, 120_000), PackRow(TWO, 20, 200)]
    assert store.places.totals() == PackTotals(2, 12_020, 120_200)


def test_placement_that_is_added_again_counts_once(store: LedgerStore) -> None:
    store.places.add(placements(ONE, range(10)))
    store.places.add(placements(ONE, range(20)))
    assert store.places.totals() == PackTotals(1, 20, 200)
    store.places.add([])
    assert len(list(store.places.walk())) == 20


def test_storages_do_not_see_each_others_packs(store: LedgerStore) -> None:
    store.places.add(placements(ONE, range(3)))
    store.places.add(placements(ONE, range(2, 5)), place="attic")
    assert {one.sha256 for one in store.places.walk(place="attic")} == {sha(n) for n in range(2, 5)}
    assert store.places.find([sha(4)]) == {}
    assert store.places.totals(place="attic") == PackTotals(1, 3, 30)
    store.places.forget(ONE, place="attic")
    assert store.places.totals() == PackTotals(1, 3, 30)


def test_dropped_placement_is_remembered_until_its_pack_is_written_anew(store: LedgerStore) -> None:
    store.places.add(placements(ONE, range(3)))
    store.places.drop(sha(1), ONE)
    store.places.drop(sha(1), ONE)
    store.places.drop(sha(1), TWO)
    assert store.places.find([sha(0), sha(1)]).keys() == {sha(0)}
    assert store.places.dropped([sha(0), sha(1)]) == {(sha(1), ONE)}
    assert {one.sha256 for one in store.places.walk()} == {sha(0), sha(2)}
    assert names(store) == [PackRow(ONE, 3, 30)]
    store.places.add(placements(ONE, range(3)))
    assert store.places.dropped([sha(1)]) == set()
    assert len(list(store.places.walk())) == 3
    assert names(store) == [PackRow(ONE, 3, 30)]


def test_replaced_pack_has_only_its_new_placements(store: LedgerStore) -> None:
    store.places.add(placements(ONE, range(10)))
    store.places.add(placements(TWO, range(10)))
    store.places.drop(sha(9), ONE)
    store.places.replace(ONE, placements(ONE, range(8, 12)))
    assert {one.sha256 for one in store.places.walk() if one.pack == ONE} == {sha(n) for n in range(8, 12)}
    assert names(store) == [PackRow(ONE, 4, 40), PackRow(TWO, 10, 100)]
    store.places.sweep()
    assert len(list(store.places.walk())) == 14


def test_forgotten_pack_is_not_seen_and_its_rows_are_swept(store: LedgerStore) -> None:
    store.places.add(placements(ONE, range(100)))
    store.places.add(placements(TWO, range(100)))
    store.places.forget(TWO)
    assert {one.pack for one in store.places.walk()} == {ONE}
    assert names(store) == [PackRow(ONE, 100, 1000)]
    # A pack that comes before the rows are swept is not taken for the forgotten one.
    store.places.add(placements(THREE, range(5)))
    assert store.places.sweep() in {0, 100}
    assert store.places.sweep() == 0
    assert {one.pack for one in store.places.walk()} == {ONE, THREE}
    store.places.add(placements(TWO, range(3)))
    assert store.places.totals() == PackTotals(3, 108, 1080)


def test_placements_are_recorded_with_the_facts_or_not_at_all(store: LedgerStore) -> None:
    ledger = Ledger(store)
    ledger.append([began(), observed(1)], places=placements(ONE, range(3)))
    assert len(ledger.places.find([sha(n) for n in range(3)])) == 3
    with pytest.raises(ConflictError):
        ledger.append([observed(1)], places=placements(TWO, range(3)))
    assert names(store) == [PackRow(ONE, 3, 30)]


def test_another_process_sees_them(place: LedgerPlace) -> None:
    place.open().places.add(placements(ONE, range(3)))
    assert len(list(place.open().places.walk())) == 3


def test_copy_of_a_ledger_has_them(store: LedgerStore, tmp_path: Path) -> None:
    Ledger(store).append([began(), observed(1)], places=placements(ONE, range(30)))
    store.places.drop(sha(3), ONE)
    target = open_store(f"sqlite:///{tmp_path / 'copy.db'}", create=True)
    try:
        copy_ledger(store, target)
        assert list(target.places.walk()) == list(store.places.walk())
    finally:
        target.close()


def test_forgetting_leaves_no_rows_behind_in_memory() -> None:
    store = MemoryStore()
    store.places.add(placements(ONE, range(3)))
    store.places.drop(sha(1), ONE)
    store.places.forget(ONE)
    assert store.places.dropped([sha(1)]) == set()
