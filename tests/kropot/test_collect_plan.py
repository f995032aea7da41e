"""What one sight, fetch or failure means for an element, and what listings mean for a source."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from kropot.bitmap import Bitmap
from kropot.collect.decide import plan, sources, zone_change
from kropot.collect.decide.plan import Backoff, Dates, known_dates, observe
from kropot.securecopy.wire import Listed
from ledger.answers import SourceEntry
from ledger.events import (
    Copy,
    Failure,
    HeldListing,
    RemoteChanged,
    RemoteObserved,
    RemoteReappeared,
    Source,
    StreamKey,
)
from ledger.replica import Entry
from tests.ledger.fresh import fresh_element, fresh_listing

SOURCE = bytes(range(16))
KEY = StreamKey(source=SOURCE, kind="file", id="a" * 64)
DATE = 1_795_414_108
NOW = DATE * 1_000_000
PLAIN = Dates(by_epoch=(frozenset({0}),))
SEALED = b'{"encrypted":"AAAA"}'
COPY = Copy(sha256=bytes(32), size=16, iv=bytes(16), revision=1, instance="main")
SEEN = Listed(type="file", id=KEY.id, date=DATE, tz="UTC", form=SEALED)
ELEMENT = fresh_element(date=DATE, form=SEALED, copy=COPY)
LISTING = fresh_listing()


def a_source(**fields: object) -> Source:
    source = sources.begin(salt=bytes(32), token="secret-token", url="https://one.example").source
    return replace(source, **fields)  # type: ignore[arg-type]


# --- elements ---


def test_an_element_seen_for_the_first_time_is_wanted() -> None:
    fact = observe(None, SEEN, PLAIN)
    assert isinstance(fact, RemoteObserved)
    assert fact.element.revision == 1
    assert fact.element.is_wanted


def test_another_encrypted_form_is_no_change() -> None:
    assert observe(ELEMENT, replace(SEEN, form=b'{"encrypted":"BBBB"}'), PLAIN) is None


@pytest.mark.parametrize("fields", [{"date": DATE + 1}, {"date": DATE - 1}])
def test_another_date_is_a_new_revision_and_the_old_copy_stays(fields: dict[str, int]) -> None:
    fact = observe(ELEMENT, replace(SEEN, **fields), PLAIN)  # type: ignore[arg-type]
    assert isinstance(fact, RemoteChanged)
    assert fact.element.revision == 2
    assert fact.element.copy == COPY
    assert fact.element.is_wanted


@pytest.mark.parametrize(
    ("known", "seen", "changed"),
    [
        ({"etag": '"a"'}, {"etag": '"b"'}, True),
        ({"etag": '"a"'}, {"etag": '"a"'}, False),
        ({"etag": None}, {"etag": '"b"'}, False),
        ({"etag": '"a"'}, {"etag": None}, False),
        ({"size": 16}, {"size": 32}, True),
        ({"size": None}, {"size": 32}, False),
    ],
)
def test_a_claim_about_the_content_tells_revisions_apart_only_where_it_was_made_twice(
    known: dict[str, object], seen: dict[str, object], *, changed: bool
) -> None:
    fact = observe(replace(ELEMENT, **known), replace(SEEN, **seen), PLAIN)  # type: ignore[arg-type]
    assert isinstance(fact, RemoteChanged) if changed else fact is None


@pytest.mark.parametrize(
    ("known", "seen", "same"),
    [
        ({"etag": '"a"'}, {"etag": '"a"'}, True),
        ({"etag": '"a"', "size": 16}, {"etag": '"a"', "size": 16}, True),
        ({"etag": '"a"', "size": 16}, {"etag": '"a"', "size": None}, True),
        ({"etag": '"a"', "size": 16}, {"etag": '"a"', "size": 32}, False),
        ({"etag": '"a"'}, {"etag": '"b"'}, False),
        ({"etag": 'W/"a"'}, {"etag": 'W/"a"'}, False),
        ({"etag": None}, {"etag": None}, False),
        ({"etag": None}, {"etag": '"a"'}, False),
    ],
)
def test_a_new_date_and_form_of_a_content_that_the_server_vouches_for_are_news_and_no_revision(
    known: dict[str, object], seen: dict[str, object], *, same: bool
) -> None:
    element = replace(ELEMENT, **known)  # type: ignore[arg-type]
    form = b'{"encrypted":"BBBB"}'
    for before in (element, plan.vanished(element).element):
        fact = observe(before, replace(SEEN, date=DATE + 1, form=form, **seen), PLAIN)  # type: ignore[arg-type]
        assert fact is not None
        assert (fact.element.date, fact.element.form, fact.element.copy) == (DATE + 1, form, COPY)
        assert fact.element.revision == element.revision + (not same)
        assert fact.element.is_wanted != same


def test_a_vanished_element_that_is_listed_again_unchanged_needs_no_new_copy() -> None:
    gone = plan.vanished(ELEMENT).element
    assert not gone.present
    assert gone.copy == COPY
    fact = observe(gone, SEEN, PLAIN)
    assert isinstance(fact, RemoteReappeared)
    assert fact.element == ELEMENT


def test_a_vanished_element_that_is_listed_again_with_another_date_is_a_new_revision() -> None:
    fact = observe(plan.vanished(ELEMENT).element, replace(SEEN, date=DATE + 5), PLAIN)
    assert isinstance(fact, RemoteReappeared)
    assert fact.element.revision == 2
    assert fact.element.is_wanted


def test_a_stored_copy_ends_failure_and_damage() -> None:
    failure = Failure(reason="cut", attempts=3, since_us=1, next_try_us=2)
    broken = replace(ELEMENT, revision=2, damage="lost", failure=failure)
    element = plan.stored(broken, sha256=b"\1" * 32, size=48, iv=None, instance="two").element
    assert element.is_current
    assert element.failure is None
    assert element.copy == Copy(sha256=b"\1" * 32, size=48, iv=None, revision=2, instance="two")


def test_failures_are_counted_and_keep_the_moment_of_the_first() -> None:
    first = plan.failed(KEY, ELEMENT, reason="cut", now_us=NOW, backoff=Backoff()).element
    second = plan.failed(KEY, first, reason="http_500", now_us=NOW + 9, backoff=Backoff()).element
    assert first.failure is not None
    assert second.failure is not None
    assert (second.failure.attempts, second.failure.since_us) == (2, NOW)
    assert second.failure.reason == "http_500"


@given(attempts=st.integers(1, 10_000), jitter=st.floats(0, 1, exclude_max=True))
def test_the_pause_after_a_failure_is_capped_and_never_nothing(attempts: int, jitter: float) -> None:
    delay = Backoff(base_s=30, cap_s=6 * 3600).delay_us(attempts, jitter)
    assert 15 * 10**6 <= delay <= 6 * 3600 * 10**6


@given(st.binary(), st.integers(0, 1000))
def test_jitter_is_the_same_each_time_and_within_bounds(salt: bytes, number: int) -> None:
    assert 0 <= plan.jitter(salt, number) < 1
    assert plan.jitter(salt, number) == plan.jitter(salt, number)


def test_failures_of_one_moment_are_tried_again_at_different_ones() -> None:
    assert len({plan.jitter(b"%d" % number, 1) for number in range(100)}) == 100


# --- zones ---


@given(
    shifts=st.lists(st.lists(st.integers(-100, 100).map(lambda q: q * 900), min_size=1, max_size=2), max_size=5),
    epoch=st.integers(0, 5),
    ways=st.lists(st.integers(0, 2), min_size=5, max_size=5),
)
def test_a_date_agrees_after_any_way_through_the_zone_changes_it_has_not_seen(
    shifts: list[list[int]], epoch: int, ways: list[int]
) -> None:
    dates = known_dates(a_source(zone_shifts=tuple(tuple(shift) for shift in shifts)))
    epoch = min(epoch, len(shifts))
    moved = sum([0, *shift][min(way, len(shift))] for shift, way in zip(shifts[epoch:], ways[epoch:], strict=False))
    element = replace(ELEMENT, epoch=epoch)
    assert dates.epoch == len(shifts)
    assert dates.agree(element, DATE + moved)
    assert not dates.agree(element, DATE + moved + 1)


def moves_of(*offsets: int) -> zone_change.Moves:
    moves = zone_change.Moves()
    for number, offset in enumerate(offsets):
        moves.add(offset, {0}, DATE + number)
    return moves


def test_nine_dates_in_ten_that_moved_alike_are_a_change_of_zone() -> None:
    assert zone_change.changed_by(moves_of(*[3600] * 9), known=10, before="+01:00", after="UTC") == (3600,)


def test_two_offsets_are_a_change_of_zone_since_summer_is_in_it() -> None:
    moves = moves_of(*[-7200] * 5, *[-3600] * 5)
    assert zone_change.changed_by(moves, known=10, before="UTC", after="+01:00") == (-7200, -3600)


def test_a_second_change_of_zone_is_told_from_what_the_first_one_moved() -> None:
    moves = zone_change.Moves()
    for number in range(8):
        moves.add(-20700, {0, 18000}, DATE + number)  # known since before the server went to New York
    for number in range(8, 12):
        moves.add(-38700, {0}, DATE + number)  # came while it was there
    assert zone_change.changed_by(moves, known=12, before="-05:00", after="+05:45") == (-38700,)


def test_a_zone_that_was_changed_back_moves_only_what_came_meanwhile() -> None:
    moves = zone_change.Moves()
    for number in range(8):
        moves.add(0, {0, 18000}, DATE + number, is_strange=False)
    for number in range(8, 12):
        moves.add(-18000, {0}, DATE + number)
    assert zone_change.changed_by(moves, known=12, before="-05:00", after="UTC") == (-18000,)


@pytest.mark.parametrize(
    ("made_in", "before", "offsets"),
    [
        ("Europe/Warsaw", "UTC", (-3600,)),
        ("+01:00", "UTC", (-3600,)),
        # The server itself says that its zone changed: what did not move may have been seen first after that.
        ("UTC", "UTC", (-3600,)),
        ("no zone", "UTC", (-3600,)),
        ("Europe/Warsaw", None, ()),  # whether the zone changed at all is not known
    ],
)
def test_rows_that_were_made_after_a_change_of_zone_do_not_speak_against_it(
    made_in: str, before: str | None, offsets: tuple[int, ...]
) -> None:
    moves = moves_of(*[-3600] * 9)
    for _ in range(12):
        moves.stay(made_in)
    assert zone_change.changed_by(moves, known=21, before=before, after="Europe/Warsaw") == offsets


def test_names_of_zones_are_counted_only_up_to_a_number_of_them() -> None:
    moves = zone_change.Moves()
    for number in range(2 * zone_change.MAX_NAMES):
        moves.stay(f"Zone/{number}")
    assert len(moves.made_in) == zone_change.MAX_NAMES


@pytest.mark.parametrize(
    ("offsets", "known", "before"),
    [([3600] * 8, 10, None), ([900, 1800, 2700] * 4, 12, "+01:00"), ([], 5, "+01:00"), ([3600], 2, None)],
)
def test_dates_that_moved_otherwise_are_no_change_of_zone(offsets: list[int], known: int, before: str | None) -> None:
    assert zone_change.changed_by(moves_of(*offsets), known=known, before=before, after="UTC") == ()


@pytest.mark.parametrize(("offsets", "known"), [([3600] * 8, 10), ([3600], 2)])
def test_a_change_that_the_server_itself_says_needs_only_those_that_moved(offsets: list[int], known: int) -> None:
    assert zone_change.changed_by(moves_of(*offsets), known=known, before="+01:00", after="UTC") == (3600,)


def test_files_put_in_anew_an_hour_later_to_the_second_are_no_change_of_zone() -> None:
    assert zone_change.changed_by(moves_of(*[3600] * 50), known=50, before="UTC", after="UTC") == ()


@pytest.mark.parametrize(
    ("date", "moved"),
    [(DATE + 900, True), (DATE - 26 * 3600, True), (DATE + 27 * 3600, False), (DATE + 901, False), (DATE, False)],
)
def test_only_quarter_hours_look_like_a_zone(date: int, *, moved: bool) -> None:
    assert plan.is_only_moved(ELEMENT, replace(SEEN, date=date)) is moved


def test_a_moved_date_with_another_etag_is_no_question_of_zones() -> None:
    element, seen = replace(ELEMENT, etag='"a"'), replace(SEEN, date=DATE + 900, etag='"b"')
    assert not plan.is_only_moved(element, seen)


# --- what is missing ---


def an_entry(position: int = 5, **fields: object) -> Entry:
    return Entry(key=KEY, stream=1, version=1, position=position, element=replace(ELEMENT, **fields))  # type: ignore[arg-type]


def test_an_entry_to_which_nothing_happened_since_the_listing_began_is_missing() -> None:
    assert plan.is_missing(an_entry(), before=5, exempt=())
    assert not plan.is_missing(an_entry(position=6), before=5, exempt=())
    assert not plan.is_missing(an_entry(present=False), before=5, exempt=())
    assert not plan.is_missing(an_entry(), before=5, exempt=((DATE - 1, DATE + 1),))
    assert plan.is_missing(an_entry(), before=5, exempt=((DATE + 1, DATE + 9),))


@given(st.lists(st.integers(0, 5000)))
def test_a_bitmap_is_a_set(numbers: list[int]) -> None:
    bitmap, plain = Bitmap(), set[int]()
    for number in numbers:
        assert bitmap.add(number) is (number not in plain)
        plain.add(number)
    assert bitmap.count == len(plain)
    assert {number for number in range(5100) if number in bitmap} == plain


# --- sources ---


OTHER = bytes(16)


def known(*found: Source) -> dict[bytes, SourceEntry]:
    return {
        id_: SourceEntry(id=id_, version=1, source=source) for id_, source in zip((SOURCE, OTHER), found, strict=False)
    }


def test_a_token_is_known_again_and_cannot_be_read_off() -> None:
    source = a_source()
    match = sources.match_source(known(source), "secret-token", "https://one.example")
    assert (match.kind, match.id) == ("known", SOURCE)
    assert b"secret-token" not in repr(source).encode()


def test_another_token_is_a_new_source_even_at_the_same_address() -> None:
    assert sources.match_source(known(a_source()), "other", "https://one.example").kind == "new"


def test_a_known_token_at_an_unknown_address_is_asked_about() -> None:
    match = sources.match_source(known(a_source(listed_us=9)), "secret-token", "https://two.example")
    assert (match.kind, match.id) == ("moved", SOURCE)


def test_a_source_that_was_never_listed_is_bound_to_no_address() -> None:
    never = sources.begin(salt=b"\1" * 32, token="secret-token", url="https://typo.example").source
    match = sources.match_source(known(never), "secret-token", "https://one.example")
    assert (match.kind, match.id) == ("unlisted", SOURCE)
    for taken_in in (
        {"opaque": True},
        {"cursor": 5},
        {"listed_us": 5},
        {"held": HeldListing(reason="too_many", missing=0, known=0, since_us=1)},
    ):
        listed = replace(never, **taken_in)  # type: ignore[arg-type]
        assert sources.match_source(known(listed), "secret-token", "https://one.example").kind == "moved"
    match = sources.match_source(known(never, replace(never, listed_us=5)), "secret-token", "https://one.example")
    assert (match.kind, match.id) == ("moved", OTHER)


def test_the_source_that_is_at_an_address_now_comes_before_one_that_was() -> None:
    was = a_source(urls=("https://one.example", "https://two.example"), listed_us=9)
    now = sources.begin(salt=b"\1" * 32, token="secret-token", url="https://one.example").source
    match = sources.match_source(known(was, now), "secret-token", "https://one.example")
    assert match.id == OTHER


LIMITS = sources.Thresholds(missing_share=0.1, missing_count=20, changed_share=0.3, changed_count=20)


@pytest.mark.parametrize(
    ("missing", "known", "believed"),
    [(20, 20, True), (21, 100, False), (21, 1000, True), (100, 1000, True), (101, 1000, False)],
)
def test_a_vanishing_is_believed_up_to_both_thresholds(missing: int, known: int, *, believed: bool) -> None:
    assert sources.is_believable(a_source(), missing, known, LIMITS) is believed


def test_what_a_person_accepted_is_believed_and_not_much_more() -> None:
    held = HeldListing(reason="missing", missing=500, known=1000, since_us=1)
    fact = sources.accept(a_source(held=held))
    assert fact is not None
    assert fact.source.held is not None
    assert fact.source.held.is_accepted
    assert sources.is_believable(fact.source, 500, 1000, LIMITS)
    assert not sources.is_believable(fact.source, 900, 1000, LIMITS)
    assert sources.accept(fact.source) is None


def test_a_page_that_brings_nothing_is_no_event() -> None:
    assert sources.advance(a_source(opaque=True), sources.Found(), known=5, now_us=NOW, thresholds=LIMITS) is None
    same = sources.Found(cursor=7, opaque=True)
    assert sources.advance(a_source(opaque=True, cursor=9), same, known=5, now_us=NOW, thresholds=LIMITS) is None


def test_a_cursor_never_goes_back() -> None:
    fact = sources.advance(a_source(cursor=9), sources.Found(new=1, cursor=7), known=5, now_us=NOW, thresholds=LIMITS)
    assert fact is not None
    assert fact.source.cursor == 9


def test_a_surge_of_changes_is_noticed_once_it_is_more_than_both_thresholds() -> None:
    source = a_source()
    for changed, is_surge in ((30, False), (1, True)):
        found = sources.Found(changed=changed, afresh=changed)
        fact = sources.advance(source, found, known=100, now_us=NOW, thresholds=LIMITS)
        assert fact is not None
        source = fact.source
        assert (source.surge is not None) is is_surge
    few = sources.advance(a_source(), sources.Found(changed=19, afresh=19), known=20, now_us=NOW, thresholds=LIMITS)
    assert few is not None
    assert few.source.surge is None


def test_changes_are_forgotten_after_a_day() -> None:
    first = sources.advance(a_source(), sources.Found(changed=30, afresh=30), known=100, now_us=NOW, thresholds=LIMITS)
    assert first is not None
    later = NOW + 25 * 3600 * 10**6
    second = sources.advance(
        first.source, sources.Found(changed=30, afresh=30), known=100, now_us=later, thresholds=LIMITS
    )
    assert second is not None
    assert second.source.surge is None
    assert sum(number for _, number in second.source.churn) == 30


def test_elements_that_changed_lately_already_are_no_surge() -> None:
    again = sources.Found(changed=50)
    fact = sources.advance(a_source(), again, known=100, now_us=NOW, thresholds=LIMITS)
    assert fact is not None
    assert fact.source.surge is None
    assert fact.source.churn == ()


def test_accepting_a_surge_begins_the_count_anew() -> None:
    first = sources.advance(a_source(), sources.Found(changed=50, afresh=50), known=100, now_us=NOW, thresholds=LIMITS)
    assert first is not None
    fact = sources.accept(first.source)
    assert fact is not None
    assert fact.source.surge is None
    again = sources.advance(fact.source, sources.Found(changed=1, afresh=1), known=100, now_us=NOW, thresholds=LIMITS)
    assert again is not None
    assert again.source.surge is None


def test_a_full_listing_lifts_a_hold_and_a_window_does_not() -> None:
    held = a_source(held=HeldListing(reason="missing", missing=50, known=100, since_us=1))
    for mode, is_held in (("window", True), ("full", False)):
        listing = replace(LISTING, mode=mode)
        fact = sources.complete(held, listing, now_us=NOW, zone="UTC", cursor=5, unlistable=())
        assert (fact.source.held is not None) is is_held
        assert fact.source.listed_us == NOW
        assert (fact.source.full_listed_us == NOW) is (mode == "full")


def test_a_window_keeps_the_unlistable_seconds_before_it_and_a_full_listing_names_its_own() -> None:
    source = a_source(unlistable=(5, 50))
    window = replace(LISTING, mode="window", since=20)
    found = sources.complete(source, window, now_us=NOW, zone=None, cursor=None, unlistable=[60])
    assert found.source.unlistable == (5, 60)
    whole = sources.complete(source, LISTING, now_us=NOW, zone=None, cursor=None, unlistable=[])
    assert whole.source.unlistable == ()


def test_a_hold_remembers_since_when() -> None:
    empty = sources.Hold(reason="empty", missing=5, known=5)
    first = sources.hold_back(a_source(), LISTING, empty, now_us=NOW, zone=None, unlistable=())
    many = sources.Hold(reason="missing", missing=6, known=6)
    again = sources.hold_back(first.source, LISTING, many, now_us=NOW + 9, zone=None, unlistable=())
    assert again.source.held == HeldListing(reason="missing", missing=6, known=6, since_us=NOW)
