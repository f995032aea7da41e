"""Chunks on the way: in their order, no more than there is room for, each entry once."""

from __future__ import annotations

from msgspec.structs import replace

from kropot.collect.decide.chunks import (
    CHUNK,
    FEW_BYTES,
    PREFETCH_BYTES,
    UNDER_WAY,
    Chunk,
    ChunksOnTheWay,
    Stage,
    can_be_sent,
)
from kropot.collect.decide.inputs import LookedUp, PrefetchedCopy
from kropot.collect.decide.sources import begin
from kropot.securecopy.bulkwire import MAX_ANSWER, MAX_CONTENT
from kropot.securecopy.wire import Listed
from ledger.events import StreamKey
from ledger.replica import Entry
from tests.ledger.fresh import fresh_element

SEALED = b'{"encrypted":""}'
SOURCE = begin(salt=bytes(32), token="t", url="http://one.example").source
NOTHING_KNOWN = LookedUp(known={}, source=SOURCE, version=1, free=7)


def listed(number: int, size: int | None = 100, etag: str | None = '"t"', form: bytes = SEALED) -> Listed:
    return Listed(type="file", id=f"e{number}", date=number, tz="UTC", form=form, size=size, etag=etag)


def some(first: int, count: int, size: int = 100) -> tuple[Listed, ...]:
    return tuple(listed(number, size) for number in range(first, first + count))


def on_the_way(*, is_bulk: bool = True) -> ChunksOnTheWay:
    return ChunksOnTheWay(is_bulk=is_bulk)


def looked_up(chunks: ChunksOnTheWay, happened: LookedUp = NOTHING_KNOWN) -> None:
    assert chunks.looked_up(happened, is_opaque=True)


def copies_of(chunk: Chunk) -> dict[int, PrefetchedCopy]:
    return {at: PrefetchedCopy(sha256=bytes(32), size=1, iv=None) for at in range(len(chunk.wanted))}


def prefetch(chunks: ChunksOnTheWay) -> Chunk:
    chunk = chunks.next_prefetch()
    assert chunk is not None
    return chunk


def test_without_bulk_one_chunk_is_on_the_way_at_a_time() -> None:
    chunks = on_the_way(is_bulk=False)
    chunks.add(some(0, CHUNK + 1))
    first = chunks.begin(0)
    assert len(first.entries) == CHUNK
    assert not chunks.can_begin
    looked_up(chunks)
    assert (chunks.next_prefetch(), chunks.next_ready()) == (None, first)
    assert not chunks.can_begin
    chunks.end()
    assert chunks.can_begin
    assert len(chunks.begin(0).entries) == 1


def test_chunks_are_recorded_in_their_order_whichever_came_first() -> None:
    chunks = on_the_way()
    parts = []
    for first in (0, 10, 20):
        chunks.add(some(first, CHUNK))
        chunks.begin(0)
        looked_up(chunks)
        parts.append(prefetch(chunks))
    chunks.prefetched({parts[1].number: copies_of(parts[1])})
    assert chunks.next_ready() is None
    chunks.prefetched({parts[0].number: copies_of(parts[0])})
    assert chunks.next_ready() is parts[0]
    chunks.end()
    # The other two share entries with those before them: they are looked up again.
    ready = chunks.next_ready()
    assert ready is parts[1]
    assert ready.is_stale
    chunks.look_again(ready)
    assert chunks.next_ready() is None
    looked_up(chunks)
    assert chunks.next_ready() is parts[1]
    assert not parts[1].is_stale
    assert parts[1].copies


def test_what_is_ready_together_is_recorded_together() -> None:
    chunks = on_the_way()
    for first in (0, 10, 20, 30):
        chunks.add(some(first, 10))
        chunks.begin(0)
        looked_up(chunks)
    parts = [prefetch(chunks) for _ in range(4)]
    chunks.prefetched({part.number: {3: copies_of(part)[3]} for part in parts[:3]})
    joined = chunks.next_ready()
    assert joined is not None
    assert [one.id for one in joined.entries] == [f"e{number}" for number in range(30)]
    assert set(joined.copies) == {3, 13, 23}
    assert [joined.entries[at].id for at in joined.wanted] == [one.id for one in joined.entries]
    assert joined.free == 7
    chunks.end()
    assert chunks.head is parts[3]


def test_a_part_asks_for_no_more_than_an_answer_holds_and_only_so_much_is_asked_for_at_once() -> None:
    chunks = on_the_way()
    count = 3 * MAX_ANSWER // MAX_CONTENT
    chunks.add(some(0, count, MAX_CONTENT))
    chunks.begin(0)
    looked_up(chunks)
    assert [chunk.size for chunk in chunks.under_way] == [MAX_ANSWER] * 3
    assert [one.id for chunk in chunks.under_way for one in chunk.entries] == [f"e{n}" for n in range(count)]
    first = prefetch(chunks)
    prefetch(chunks)
    assert 3 * MAX_ANSWER > PREFETCH_BYTES
    assert chunks.next_prefetch() is None
    assert not chunks.can_begin
    chunks.prefetched({first.number: {}})
    assert chunks.next_prefetch() is None
    assert chunks.next_ready() is first
    first.stage = Stage.APPENDING
    assert prefetch(chunks) is chunks.under_way[2]


def test_only_so_many_entries_are_on_the_way() -> None:
    chunks = on_the_way()
    begun = 0
    for first in range(0, 2 * UNDER_WAY, CHUNK):
        chunks.add(some(first, CHUNK))
        if chunks.can_begin:
            chunks.begin(0)
            looked_up(chunks)
            prefetch(chunks)
            begun += 1
    assert begun == UNDER_WAY // CHUNK
    # Nothing can follow, and it is too little for its own sake: it has to be published as it is.
    assert sum(chunk.size for chunk in chunks.under_way) < FEW_BYTES
    assert chunks.wants_flush(is_over=False)
    assert not chunks.wants_flush(is_over=False)


def test_the_last_contents_are_not_waited_for_longer_than_needed() -> None:
    chunks = on_the_way()
    chunks.add(some(0, 5))
    chunks.begin(0)
    looked_up(chunks)
    assert not chunks.wants_flush(is_over=True)
    prefetch(chunks)
    assert not chunks.wants_flush(is_over=False)
    assert chunks.wants_flush(is_over=True)
    assert not chunks.wants_flush(is_over=True)


def an_entry(number: int, etag: str | None) -> Entry:
    element = fresh_element(date=1, form=SEALED, size=100, etag=etag)
    key = StreamKey(source=bytes(16), kind="file", id=f"e{number}")
    return Entry(key=key, stream=number, version=1, position=1, element=element)


def test_new_and_changed_contents_are_prefetched_and_known_ones_are_not() -> None:
    chunks = on_the_way()
    chunks.add(some(0, 5))
    chunks.begin(0)
    known = {1: an_entry(1, '"t"'), 2: an_entry(2, '"before"'), 3: an_entry(3, None)}
    erased = replace(an_entry(4, None), element=None)
    looked_up(
        chunks,
        replace(NOTHING_KNOWN, known={("file", f"e{n}"): entry for n, entry in {**known, 4: erased}.items()}),
    )
    assert prefetch(chunks).wanted == (0, 2)


def test_a_chunk_of_known_entries_waits_for_nothing() -> None:
    chunks = on_the_way()
    chunks.add(some(0, 2))
    chunks.begin(0)
    looked_up(chunks, replace(NOTHING_KNOWN, known={("file", f"e{n}"): an_entry(n, '"t"') for n in range(2)}))
    assert chunks.next_prefetch() is None
    assert chunks.next_ready() is not None


def test_only_small_contents_with_a_tag_are_asked_for_in_bulk() -> None:
    assert can_be_sent(listed(1), is_opaque=True)
    assert can_be_sent(listed(1, MAX_CONTENT), is_opaque=None)
    assert not can_be_sent(listed(1, MAX_CONTENT + 1), is_opaque=None)
    assert not can_be_sent(listed(1, None), is_opaque=None)
    assert not can_be_sent(listed(1, etag=None), is_opaque=None)
    assert not can_be_sent(listed(1, etag='W/"t"'), is_opaque=None)
    plain = listed(1, form=b'{"name":"a"}')
    assert can_be_sent(plain, is_opaque=False)
    assert not can_be_sent(plain, is_opaque=True)


def test_answers_that_nobody_waits_for_change_nothing() -> None:
    chunks = on_the_way()
    assert not chunks.looked_up(NOTHING_KNOWN, is_opaque=None)
    chunks.add(some(0, 2))
    chunks.begin(0)
    chunks.forget_waiting()
    assert chunks.is_empty
    assert not chunks.looked_up(NOTHING_KNOWN, is_opaque=None)
    chunks.prefetched({1: {0: PrefetchedCopy(sha256=bytes(32), size=1, iv=None)}})
    assert chunks.is_empty


def test_what_is_being_recorded_is_not_forgotten() -> None:
    chunks = on_the_way()
    for first in (0, 10):
        chunks.add(some(first, 10))
        chunks.begin(0)
        looked_up(chunks)
    chunks.under_way[0].stage = Stage.APPENDING
    chunks.forget_waiting()
    assert [chunk.entries[0].id for chunk in chunks.under_way] == ["e0"]
