"""What docs/format.md says of erasure: the proof stays, the subject goes on in a new stream, earlier digests differ."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from ledger.audit import IndexAudit, LogAudit
from ledger.codec import decode_header
from ledger.digest import StateDigest
from ledger.events import PayloadErased
from ledger.log import Ledger, NewFact
from ledger.memory import MemoryStore
from ledger.merkle import Frontier
from ledger.replica import fold
from ledger.transfer import segments
from ledger.transfer.recover import recover_ledger
from tests.ledger.world import began, key, observed

if TYPE_CHECKING:
    from ledger.stores import LedgerStore

ERASED = NewFact(key=key("a"), fact=PayloadErased(reason="a request"), observed_us=1)


def erased_and_seen_again(times: int) -> Ledger:
    """Return a ledger in which `a` was erased, seen again, and so on."""
    ledger = Ledger(MemoryStore(), writer="main")
    ledger.append([began(), observed("a"), observed("b")])
    for _ in range(times):
        ledger.append([ERASED])
        ledger.append([observed("a")])
    return ledger


def findings(store: LedgerStore) -> list[object]:
    log = LogAudit(store.log)
    return [*log.findings(), *IndexAudit(store, log).findings()]


def digest(ledger: Ledger, until: int | None = None) -> str:
    rows = StateDigest()
    for name, entry in sorted(fold(ledger.events(until=until)).entries.items(), key=lambda item: item[0].stored):
        assert entry.element is not None
        rows.add(name, entry.element)
    return rows.text


def test_after_an_erasure_the_subject_goes_on_in_a_new_stream_with_the_same_digest() -> None:
    ledger = erased_and_seen_again(1)
    before, _, erasure, after = (event for event in ledger.stored() if event.seq > 2)
    assert before.payload is before.nonce is None
    assert (erasure.stream, erasure.stream_version) == (before.stream, 2)
    assert (after.stream, after.stream_version) == (5, 1)
    headers = [decode_header(event.header) for event in (before, erasure, after)]
    assert len({header.stream_digest for header in headers}) == 1
    assert dict(ledger.log.streams())[before.stream] is None
    assert findings(ledger.store) == []


def test_an_erasure_leaves_every_root_and_changes_earlier_digests() -> None:
    ledger = Ledger(MemoryStore(), writer="main")
    ledger.append([began(), observed("a"), observed("b")])
    root, whole = ledger.head().frontier.root, digest(ledger)
    ledger.append([ERASED])
    assert ledger.frontier_at(4).root == root
    assert digest(ledger, until=4) != whole
    only_b = Ledger(MemoryStore(), writer="main")
    only_b.append([began(), observed("b")])
    assert digest(ledger, until=4) == digest(only_b)


def test_a_ledger_with_a_subject_that_was_erased_twice_is_recovered_from_its_segments() -> None:
    ledger = erased_and_seen_again(3)
    ledger_id = ledger.identity().ledger_id
    data = b"".join(segments.encode(ledger_id, ledger.log, Frontier()))
    target = MemoryStore()
    recover_ledger(segments.read(io.BytesIO(data), Frontier()), target)
    assert findings(target) == []
    assert target.log.head() == ledger.log.head()
    assert [event._replace(stream=0) for event in Ledger(target).stored()] == [
        event._replace(stream=0) for event in ledger.stored()
    ]
