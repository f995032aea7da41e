"""The ledger's copy in the storage path: written, checked against the database, and read back."""

from __future__ import annotations

import contextlib
import io
import itertools
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from kropot.errors import IntegrityError
from kropot.segments import SegmentFolder
from ledger.errors import LedgerError, MalformedSegmentError
from ledger.events import CopyStored, InstanceBegan, StreamKey
from ledger.log import Ledger, NewFact, instance_key, source_key
from ledger.memory import MemoryStore
from ledger.merkle import Frontier
from ledger.stores import stored_events
from ledger.transfer.recover import recover_ledger
from ledger.transfer.segments import encode, reach_of, read
from tests.ledger.facts import COPY, ELEMENT, SAMPLES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ledger.transfer.copy import CopyReport
    from ledger.transfer.recover import KeyedEvent

SPAN = 8


def began(ledger: Ledger, count: int) -> None:
    """Append so many events, one a batch."""
    for _ in range(count):
        at = ledger.head().position
        fact = InstanceBegan(program=f"{at}", host="vault")
        ledger.append([NewFact(key=instance_key(f"i{at % 3}"), fact=fact, observed_us=1)])


def new_ledger(count: int) -> Ledger:
    ledger = Ledger(MemoryStore(), writer="main", clock=lambda: 1_000_000)
    ledger.begin()
    began(ledger, count - 1)
    return ledger


def folder(root: Path) -> SegmentFolder:
    scratch = root / "tmp" / "main"
    scratch.mkdir(parents=True, exist_ok=True)
    return SegmentFolder(root, scratch=scratch, span=SPAN)


def test_full_segments_and_the_tail_hold_the_whole_history(tmp_path: Path) -> None:
    ledger = new_ledger(21)
    names = [path.name for path in folder(tmp_path).write(ledger)]
    assert names == ["00000000.segment", "00000001.segment", "00000002.partial-21"]
    stored = [event._replace(stream=0) for event in ledger.stored()]
    read_back = list(folder(tmp_path).events())
    assert [event for event, _ in read_back] == stored
    keys = dict(ledger.log.streams({event.stream for event in ledger.stored()}))
    assert [key for _, key in read_back] == [keys[event.stream] for event in ledger.stored()]


def test_a_grown_tail_replaces_the_shorter_one(tmp_path: Path) -> None:
    ledger = new_ledger(3)
    folder(tmp_path).write(ledger)
    began(ledger, 2)
    folder(tmp_path).write(ledger)
    assert [path.name for path in (tmp_path / "ledger").iterdir()] == ["00000000.partial-5"]
    began(ledger, 3)
    folder(tmp_path).write(ledger)
    assert [path.name for path in (tmp_path / "ledger").iterdir()] == ["00000000.segment"]
    assert folder(tmp_path).write(ledger) == []


def test_two_writers_write_the_same_bytes(tmp_path: Path) -> None:
    ledger = new_ledger(12)
    for name in ("a", "b"):
        folder(tmp_path / name).write(ledger)
    for path in (tmp_path / "a" / "ledger").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / "ledger" / path.name).read_bytes()


def test_files_of_the_history_are_the_owners_alone(tmp_path: Path) -> None:
    folder(tmp_path).write(new_ledger(3))
    assert (tmp_path / "ledger").stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in (tmp_path / "ledger").iterdir())


def test_a_ledger_that_was_rolled_back_is_refused(tmp_path: Path) -> None:
    store = MemoryStore()
    ledger = Ledger(store, writer="main", clock=lambda: 1_000_000, entropy=bytes)
    ledger.begin()
    older = Ledger(MemoryStore(), writer="main", clock=lambda: 1_000_000, entropy=bytes)
    older.begin()
    began(ledger, 5)
    began(older, 2)
    folder(tmp_path).write(ledger)
    with pytest.raises(IntegrityError, match=r"rolled back: it ends at event 3, .* up to event 6"):
        folder(tmp_path).write(older)


def test_a_history_that_forked_is_refused(tmp_path: Path) -> None:
    one = Ledger(MemoryStore(), writer="main", clock=lambda: 1_000_000, entropy=bytes)
    two = Ledger(MemoryStore(), writer="else", clock=lambda: 1_000_000, entropy=bytes)
    for ledger in (one, two):
        ledger.begin()
        began(ledger, 5)
    folder(tmp_path).write(one)
    began(two, 4)
    with pytest.raises(IntegrityError, match="different histories"):
        folder(tmp_path).write(two)


def test_another_or_a_new_ledger_on_the_same_storage_is_refused(tmp_path: Path) -> None:
    folder(tmp_path).write(new_ledger(5))
    with pytest.raises(IntegrityError, match="the database is ledger"):
        folder(tmp_path).check(new_ledger(9))
    for nothing in (None, Ledger(MemoryStore())):
        with pytest.raises(IntegrityError, match="the database is new"):
            folder(tmp_path).check(nothing)


def test_a_storage_without_history_is_nobodys(tmp_path: Path) -> None:
    folder(tmp_path).check(None)
    folder(tmp_path).check(new_ledger(3))
    assert list(folder(tmp_path).events()) == []


def test_a_damaged_newest_file_still_speaks_by_its_name(tmp_path: Path) -> None:
    ledger = Ledger(MemoryStore(), writer="main", clock=lambda: 1_000_000, entropy=bytes)
    older = Ledger(MemoryStore(), writer="main", clock=lambda: 1_000_000, entropy=bytes)
    ledger.begin()
    older.begin()
    began(ledger, 9)
    began(older, 8)
    folder(tmp_path).write(ledger)
    (tmp_path / "ledger" / "00000001.partial-10").write_bytes(b"rot")
    with pytest.raises(IntegrityError, match="rolled back"):
        folder(tmp_path).check(older)


def segment_bytes() -> bytes:
    ledger = new_ledger(6)
    return b"".join(encode(ledger.identity().ledger_id, ledger.log, Frontier()))


SEGMENT = segment_bytes()


@given(st.integers(0, len(SEGMENT) - 1), st.integers(1, 255))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_flipped_byte_is_found(at: int, flip: int) -> None:
    changed = bytearray(SEGMENT)
    changed[at] ^= flip
    with pytest.raises(MalformedSegmentError):
        list(read(io.BytesIO(bytes(changed)), Frontier()))


@given(st.integers(0, len(SEGMENT) - 1), st.binary(max_size=30))
@settings(max_examples=300, deadline=None)
def test_a_segment_cut_or_extended_is_found(at: int, more: bytes) -> None:
    with pytest.raises(MalformedSegmentError):
        list(read(io.BytesIO(SEGMENT[:at]), Frontier()))
    if more:
        with pytest.raises(MalformedSegmentError):
            list(read(io.BytesIO(SEGMENT + more), Frontier()))


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_rubbish_is_refused_with_its_own_error(rubbish: bytes) -> None:
    for data in (rubbish, SEGMENT[:17] + rubbish, rubbish + SEGMENT[-200:]):
        with pytest.raises(MalformedSegmentError):
            list(read(io.BytesIO(data), Frontier()))
        with contextlib.suppress(MalformedSegmentError):  # the ends alone may be sound; any other error is a defect
            assert reach_of(io.BytesIO(data)).first == 1


def test_a_segment_out_of_its_place_is_refused() -> None:
    with pytest.raises(MalformedSegmentError, match="begins at event 1, but event 3 comes next"):
        list(read(io.BytesIO(SEGMENT), Frontier().extend([bytes(32), bytes(32)])))


def recovered(root: Path, store: MemoryStore) -> CopyReport:
    return recover_ledger(folder(root).events(), store)


def cut_short(events: Iterator[KeyedEvent], count: int) -> Iterator[KeyedEvent]:
    yield from itertools.islice(events, count)
    raise ConnectionError


def test_a_ledger_comes_back_from_its_segments_alone(tmp_path: Path) -> None:
    ledger = new_ledger(21)
    folder(tmp_path).write(ledger)
    store = MemoryStore()
    report = recovered(tmp_path, store)
    assert (report.position, report.root) == (21, ledger.head().frontier.root)
    assert list(stored_events(store.log)) == list(ledger.stored())
    assert list(store.log.streams()) == list(ledger.log.streams())
    assert Ledger(store).frontier_at(13) == ledger.frontier_at(13)


def test_a_recovery_that_was_cut_short_goes_on(tmp_path: Path) -> None:
    ledger = new_ledger(21)
    folder(tmp_path).write(ledger)
    store = MemoryStore()
    with pytest.raises(ConnectionError):
        recover_ledger(cut_short(folder(tmp_path).events(), 10), store, page=5)
    assert recovered(tmp_path, store).events == 11
    assert list(stored_events(store.log)) == list(ledger.stored())


def test_an_erased_stream_is_recovered_as_one_stream(tmp_path: Path) -> None:
    ledger = new_ledger(2)
    ledger.append([NewFact(key=source_key(b"s" * 16), fact=SAMPLES["SourceBegan"], observed_us=1)])
    element = StreamKey(source=b"s" * 16, kind="file", id="a")
    stored = CopyStored(element=replace(ELEMENT, copy=COPY))
    for fact in (SAMPLES["RemoteObserved"], stored, SAMPLES["PayloadErased"]):
        ledger.append([NewFact(key=element, fact=fact, observed_us=1)])
    folder(tmp_path).write(ledger)
    store = MemoryStore()
    with pytest.raises(ConnectionError):
        recover_ledger(cut_short(folder(tmp_path).events(), 5), store, page=2)
    assert store.log.head().position == 4
    recovered(tmp_path, store)
    assert list(stored_events(store.log)) == list(ledger.stored())
    assert list(store.log.streams()) == list(ledger.log.streams())


def test_a_ledger_is_not_recovered_over_another(tmp_path: Path) -> None:
    folder(tmp_path).write(new_ledger(21))
    other = new_ledger(4).store
    assert isinstance(other, MemoryStore)
    with pytest.raises(LedgerError, match="a different ledger"):
        recovered(tmp_path, other)
    with pytest.raises(LedgerError, match="no events"):
        recover_ledger(iter(()), MemoryStore())
