"""What a copy between stores promises: the same bytes, the same proofs, checked, and from where it stopped."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from kropot.replay.marks import state_at
from ledger.errors import BrokenChainError, LedgerError
from ledger.events import PayloadErased
from ledger.log import Ledger, NewFact
from ledger.memory import MemoryStore
from ledger.stores import stored_events
from ledger.transfer.copy import PAGE, copy_ledger
from tests.ledger.world import History, began, copied, key, observed

if TYPE_CHECKING:
    from ledger.stores import LedgerStore


def lived(counts: tuple[int, ...] = (1, 60, 5, 700, 1, 1, 90)) -> Ledger:
    """A ledger with a past: several batches, erasures and a checkpoint."""
    ledger = Ledger(MemoryStore(), writer="main")
    history = History(random.Random(11), names=200)
    for count in counts:
        for _ in range(count // 40 + 1):
            ledger.append(history.batch(min(count, 40)), batch_key=history.rng.randbytes(8))
    ledger.blobs.save_checkpoint(7, "a note\n")
    return ledger


def contents(store: LedgerStore) -> tuple[object, ...]:
    return (
        store.log.head(),
        list(stored_events(store.log)),
        list(store.log.streams()),
        list(store.log.commits()),
        list(store.projection.page(b"", 1 << 30)),
        list(store.projection.copies()),
        store.projection.sources(),
        [row for row in store.projection.tallies() if row.elements],
        list(store.blobs.checkpoints()),
    )


def test_a_copy_holds_the_same_rows_and_goes_on_as_the_original_would(store: LedgerStore) -> None:
    original = lived()
    told: list[tuple[int, int]] = []
    report = copy_ledger(original.store, store, progress=lambda done, whole: told.append((done, whole)))
    assert contents(store) == contents(original.store)
    assert report.root == original.head().frontier.root
    assert report.events == report.position == original.head().position
    assert report.state == state_at(original, report.position).digest.text
    assert told[-1] == (report.position, report.position)
    assert Ledger(store).append([observed("after the move")]).first == report.position + 1


def test_a_copy_goes_on_where_it_stopped(store: LedgerStore) -> None:
    original = lived()
    ledger = Ledger(store)

    class StopError(Exception):
        pass

    def stop(_done: int, _whole: int) -> None:
        raise StopError

    for batch in range(8):
        original.append([observed(f"page {batch} {n}") for n in range(PAGE // 4)])
    with pytest.raises(StopError):
        copy_ledger(original.store, store, progress=stop)
    stopped = ledger.head().position
    assert 0 < stopped < original.head().position
    # What is erased meanwhile is erased in what was copied before, too.
    known = next(record.key for record in original.events(after=100) if record.key and record.key.is_element)
    original.append([NewFact(key=known, fact=PayloadErased(reason="r"), observed_us=1)])
    report = copy_ledger(original.store, store)
    assert report.events == original.head().position - stopped
    assert contents(store) == contents(original.store)
    assert copy_ledger(original.store, store).events == 0


def test_another_ledger_is_not_overwritten(store: LedgerStore) -> None:
    other = Ledger(store)
    other.append([began(), observed("x")])
    before = contents(store)
    with pytest.raises(LedgerError, match="a different ledger"):
        copy_ledger(lived().store, store)
    assert contents(store) == before


def test_a_copy_that_has_gone_its_own_way_is_not_continued(store: LedgerStore) -> None:
    original = lived((3, 20))
    copy_ledger(original.store, store)
    Ledger(store).append([observed("here alone")])
    with pytest.raises(LedgerError, match="a different ledger, or a longer one"):
        copy_ledger(original.store, store)
    original.append([observed("there"), observed("and there")])
    with pytest.raises(LedgerError, match="a different ledger"):
        copy_ledger(original.store, store)


def test_a_source_that_was_tampered_with_does_not_pass_for_a_copy(store: LedgerStore) -> None:
    source = MemoryStore()
    ledger = Ledger(source)
    ledger.append([began(), observed(0), observed(1)])
    ledger.append([copied(0), copied(1)])
    forged = source._tables.events[5]._replace(payload=source._tables.events[4].payload)
    source._tables.events[5] = forged
    assert forged.stream == source._tables.streams[key(1).stored]
    with pytest.raises(BrokenChainError) as caught:
        copy_ledger(source, store)
    assert caught.value.position == 6
