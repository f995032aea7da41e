"""The audit over every store: whatever happened by the program's own hand is clean, also while more is happening."""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from ledger.audit import IndexAudit, LogAudit
from ledger.audit.copies import FoldedCopies
from ledger.digest import StateDigest
from ledger.events import AuditAdvanced, AuditRange, Failure, FetchFailed, InstanceBegan, PayloadErased
from ledger.log import AUDIT_KEY, Ledger, NewFact, instance_key
from ledger.merkle import Frontier
from ledger.rows import DAMAGED, SOUND, CopyState
from tests.ledger.world import History, began, copied, element, key, observed, sha

if TYPE_CHECKING:
    from ledger.audit import Finding
    from ledger.stores import LedgerStore


def lived(store: LedgerStore, seed: int, batches: int) -> Ledger:
    """Return a ledger after a random life, with the ledger's own events among those of elements."""
    clock = itertools.count(1_795_000_000_000_000, 997)
    ledger = Ledger(store, writer="main", clock=lambda: next(clock))
    history = History(random.Random(seed), names=30)
    for number in range(batches):
        ledger.append(history.batch(history.rng.randrange(1, 40)))
        if number % 3 == 0:
            fact = InstanceBegan(program=f"test {number}", host="vault")
            ledger.append([NewFact(key=instance_key("main"), fact=fact, observed_us=1)])
            whole = AuditRange(start=bytes(32), end=b"\xff" * 32, position=1, at_us=number)
            ledger.append([NewFact(key=AUDIT_KEY, fact=AuditAdvanced(ranges=(whole,)), observed_us=1)])
    return ledger


def failing() -> FetchFailed:
    failure = Failure(reason="x", attempts=1, since_us=1, next_try_us=2)
    return FetchFailed(element=replace(element(), failure=failure))


def audited(store: LedgerStore, **extra: object) -> tuple[LogAudit, IndexAudit, list[Finding]]:
    log = LogAudit(store.log, **extra)  # type: ignore[arg-type]
    flaws = list(log.findings())
    index = IndexAudit(store, log)
    return log, index, flaws + list(index.findings())


def test_an_empty_ledger_is_clean(store: LedgerStore) -> None:
    log, index, flaws = audited(store)
    assert flaws == []
    assert (log.position, index.rows, log.frontier) == (0, 0, Frontier())


@pytest.mark.parametrize("seed", range(2))
def test_any_life_is_clean(store: LedgerStore, seed: int) -> None:
    ledger = lived(store, seed, 7)
    log, index, flaws = audited(store)
    assert flaws == []
    assert log.position == ledger.head().position
    assert log.frontier == ledger.head().frontier
    assert index.rows == len(list(ledger.scan()))
    assert log.erased == sum(1 for event in ledger.stored() if event.payload is None)


def test_the_digest_is_that_of_the_elements(store: LedgerStore) -> None:
    ledger = lived(store, 9, 6)
    digest = StateDigest()
    for entry in ledger.scan():
        assert entry.element is not None
        digest.add(entry.key, entry.element)
    assert audited(store)[1].digest == digest.text


def test_a_rebuilt_index_is_clean(store: LedgerStore) -> None:
    lived(store, 2, 5).rebuild()
    assert audited(store)[2] == []


def test_roots_are_taken_at_every_mark(store: LedgerStore) -> None:
    ledger = lived(store, 3, 8)
    head = ledger.head().position
    sizes = [0, 1, 7, 64, head // 2, head, head + 1]
    log, _, flaws = audited(store, root_sizes=sizes)
    assert flaws == []
    assert log.roots == {size: ledger.frontier_at(size).root for size in sizes if size <= head}


def test_what_is_appended_between_log_and_index_is_left_to_the_next_audit(store: LedgerStore) -> None:
    ledger = Ledger(store)
    ledger.append([began(), *(observed(number) for number in range(20)), *(copied(number) for number in range(20))])
    log = LogAudit(store.log)
    assert list(log.findings()) == []
    failed = failing()
    ledger.append([observed("new"), copied("new"), copied(3, content="another")])
    ledger.append([NewFact(key=key(4), fact=failed, observed_us=1)])
    ledger.append([NewFact(key=key(5), fact=PayloadErased(reason="a request"), observed_us=1)])
    index = IndexAudit(store, log)
    assert list(index.findings()) == []
    assert index.moved > 0
    assert audited(store)[2] == []


def test_unknown_events_are_proved_and_counted(store: LedgerStore, monkeypatch: pytest.MonkeyPatch) -> None:
    from ledger import events

    ledger = Ledger(store)
    ledger.append([began(), observed("x"), observed("y"), copied("x")])
    ledger.append([NewFact(key=key("x"), fact=failing(), observed_us=1)])
    monkeypatch.delitem(events.FACTS, "FetchFailed")
    log = LogAudit(store.log)
    assert list(log.findings()) == []
    assert log.unknown == 1
    ledger.rebuild()  # as the version that does not know the type would have projected it
    log, _, flaws = audited(store)
    assert flaws == []
    assert log.unknown == 1


def test_an_unknown_critical_event_is_a_flaw(store: LedgerStore, monkeypatch: pytest.MonkeyPatch) -> None:
    from ledger import events

    ledger = Ledger(store)
    ledger.append([began(), observed("x"), NewFact(key=key("x"), fact=PayloadErased(reason="r"), observed_us=1)])
    monkeypatch.delitem(events.FACTS, "PayloadErased")
    assert [(flaw.kind, flaw.position) for flaw in LogAudit(store.log).findings()] == [("unknown_critical", 4)]


def test_copies_that_do_not_fit_into_memory_fold_the_same() -> None:
    rng = random.Random(1)
    small, large = FoldedCopies(max_bytes=1000), FoldedCopies()
    for seq in range(1, 2000):
        content, stream = sha(str(rng.randrange(300))), rng.randrange(1, 20)
        for spill in (small, large):
            if seq % 5:
                spill.stored(content, stream, seq, seq)
            else:
                spill.changed(content, stream, 1, DAMAGED)
    for spill in (small, large):
        spill.drop(7)
    rows = list(small.states())
    assert rows == list(large.states()) == sorted(rows)
    assert {row.state for row in rows} == {SOUND, DAMAGED}
    assert all(row.stream != 7 for row in rows)
    assert isinstance(rows[0], CopyState)
