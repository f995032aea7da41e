"""The map of what was read when: whatever is read in whatever order, no part is lost, and the oldest comes first."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kropot.coverage import (
    FIRST,
    LAST,
    MAX_RANGES,
    ONE_RUN_US,
    advance,
    after,
    before,
    due,
    foreseen_us,
    never_read,
    read_by_us,
    runs_left,
    share,
)
from ledger.events import AuditRange

WORDS = st.integers(0, 999)


def at(number: int) -> bytes:
    """A place in the space, `number` thousandths from its beginning."""
    return (number * ((1 << 256) // 1000)).to_bytes(32, "big")


def read(start: int, end: int, at_us: int, position: int = 1) -> AuditRange:
    return AuditRange(start=at(start), end=LAST if end == 1000 else before(at(end)), position=position, at_us=at_us)


def newest_at(ranges: tuple[AuditRange, ...], place: bytes) -> int | None:
    """What the map says of one place, by looking at every range."""
    (found,) = [each.at_us for each in ranges if each.start <= place <= each.end] or [None]
    return found


def test_nothing_read_means_everything_is_due() -> None:
    (whole,) = due(())
    assert (whole.start, whole.end, whole.at_us) == (FIRST, LAST, None)
    assert share(FIRST, LAST) == 1.0


@given(st.lists(st.tuples(WORDS, WORDS), max_size=12))
def test_the_map_says_of_every_place_when_it_was_last_read(readings: list[tuple[int, int]]) -> None:
    ranges: tuple[AuditRange, ...] = ()
    truth: dict[int, int] = {}
    for now, (one, two) in enumerate(readings):
        low, high = min(one, two), max(one, two) + 1
        ranges = advance(ranges, read(low, high, now))
        truth |= dict.fromkeys(range(low, high), now)
    for number in range(0, 1000, 7):
        assert newest_at(ranges, at(number)) == truth.get(number)
    assert list(ranges) == sorted(ranges, key=lambda each: (each.at_us, each.start))


@given(st.lists(st.tuples(WORDS, WORDS), max_size=12), st.integers(0, 12))
def test_what_is_due_is_exactly_what_is_too_old(readings: list[tuple[int, int]], limit: int) -> None:
    ranges: tuple[AuditRange, ...] = ()
    for now, (one, two) in enumerate(readings):
        ranges = advance(ranges, read(min(one, two), max(one, two) + 1, now))
    parts = due(ranges, before_us=limit)
    for number in range(0, 1000, 13):
        found = newest_at(ranges, at(number))
        covering = [part for part in parts if part.start <= at(number) <= part.end]
        assert len(covering) == (found is None or found < limit)
    ages = [-1 if part.at_us is None else part.at_us for part in parts]
    assert ages == sorted(ages)
    assert abs(sum(share(part.start, part.end) for part in due(ranges)) - 1) < 1e-9


@given(st.lists(WORDS, min_size=MAX_RANGES, max_size=3 * MAX_RANGES))
def test_the_map_stays_small_and_never_claims_a_newer_reading(starts: list[int]) -> None:
    ranges: tuple[AuditRange, ...] = ()
    truth: dict[int, tuple[int, int]] = {}
    for now, start in enumerate(starts):
        ranges = advance(ranges, read(start, start + 1, now, position=now))
        truth[start] = (now, now)
    for each in ranges:
        inside = [found for number, found in truth.items() if each.start <= at(number) <= each.end]
        assert all(each.at_us <= moment and each.position <= position for moment, position in inside)
    touching = sum(1 for start in truth if start + 1 in truth)
    assert len(ranges) <= max(MAX_RANGES, len(truth) - touching)


def test_one_reading_after_the_other_gives_one_range() -> None:
    ranges: tuple[AuditRange, ...] = ()
    for number in range(10):
        ranges = advance(ranges, read(number * 100, number * 100 + 100, 7))
    assert ranges == (AuditRange(start=FIRST, end=LAST, position=1, at_us=7),) or len(ranges) == 1
    assert min(each.at_us for each in ranges) == 7


def test_neighbours_are_counted_by_one() -> None:
    assert after(before(at(5))) == at(5)
    assert after(FIRST)[-1] == 1


def test_when_the_last_part_will_have_been_read_is_foretold_from_the_last_two_runs() -> None:
    assert runs_left(0.25, 0.5) == 2
    assert runs_left(0.3, 0.5) == 2
    assert runs_left(0.5, 0.0) == 0
    assert runs_left(0.0, 0.5) is None
    nightly = (read(0, 250, 1_000),)
    assert read_by_us(nightly, 1_100, 2) == 1_300
    assert read_by_us((), 1_100, 2) is None
    assert read_by_us(nightly, 1_100, None) is None


def test_one_run_foretells_nothing_however_many_parts_it_recorded() -> None:
    assert foreseen_us(()) is None
    assert foreseen_us([read(0, 1000, 5)]) is None
    assert foreseen_us([read(0, 100, 5), read(100, 200, 5 + ONE_RUN_US)]) is None


def test_the_rest_is_foretold_from_the_pace_between_runs() -> None:
    day = 24 * 3600 * 1_000_000
    two = [read(0, 250, 0), read(250, 500, day)]
    assert never_read(two) == pytest.approx(0.5)
    assert foreseen_us(two) == pytest.approx(3 * day)  # two more runs of a quarter each
    all_read = [*two, read(500, 750, 2 * day), read(750, 1000, 3 * day)]
    assert never_read(all_read) == 0
    assert foreseen_us(all_read) == pytest.approx(7 * day)  # a whole round of four more
