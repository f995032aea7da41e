"""What a policy says, which moments it keeps, and which versions of an element it lets go."""

from __future__ import annotations

import tomllib
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kropot.errors import UsageError
from kropot.retention.moments import KeptMoments, RoundSpan, kept_moments
from kropot.retention.policy import bound, parse_policy, rules_for
from kropot.retention.versions import SeenCopy, releases
from tests.kropot.retention_world import DAY, HOUR, START, rules

ONE, OTHER = bytes(16), b"\x01" * 16


def parsed(text: str) -> Any:
    return parse_policy(tomllib.loads(text).get("retention", {}))


def test_a_policy_is_read_with_its_spans_and_defaults() -> None:
    policy = parsed('[retention]\nkeep-daily = 7\nkeep-all-within = "36h"\n[retention.web]\nkeep-last=2\nmin-age="0s"')
    assert policy == {
        None: rules(daily=7, within_s=36 * 3600),
        "web": rules(last=2, min_age_s=0),
    }
    assert parsed('[retention]\nkeep-yearly = 1\nkeep-vanished = "2y"')[None].vanished_s == 730 * 86_400


WRONG = {
    "keep-daily = 0": "keeps nothing",
    "keep-vanished = '1d'": "keeps nothing",
    "": "no rules",
    "keep-daily = -1": "not a whole number",
    "keep-daily = true": "not a whole number",
    "keep-daily = '7'": "not a whole number",
    "keep-daily = 1.5": "not a whole number",
    "keep-daily = 10000000000": "not a whole number",
    "keep-hourly = 5": "unknown key 'keep-hourly'",
    "keep-last = 1\nmin-age = '-1d'": "not a span",
    "keep-last = 1\nmin-age = -1": "not a span",
    "keep-last = 1\nmin-age = 'soon'": "not a span",
    "keep-last = 1\nmin-age = '5000y'": "too long",
    "keep-last = 1\nmin-age = true": "not a span",
    "keep-last = [1]": "not a whole number",
    "[retention.web]\nkeep-last = 0": "retention.web. keeps nothing",
    "[retention.web.deep]\nkeep-last = 1": "unknown key 'deep'",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_policy_that_is_not_valid_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=WRONG[text]):
        parsed(f"[retention]\n{text}")


def test_a_label_names_one_source_and_its_table_stands_alone() -> None:
    policy = parsed("[retention]\nkeep-daily = 7\n[retention.Web]\nkeep-last = 2")
    both = bound(policy, {ONE: "web", OTHER: None})
    assert [each.source for each in both] == [None, ONE]
    mine, others = rules_for(both, ONE), rules_for(both, OTHER)
    assert mine is not None
    assert others is not None
    assert (mine.last, mine.daily, others.daily) == (2, 0, 7)
    assert rules_for(bound(parsed("[retention.web]\nkeep-last=1"), {ONE: "web"}), OTHER) is None
    with pytest.raises(UsageError, match="no source has the label 'Web'"):
        bound(policy, {ONE: "mail"})


# --- moments ---------------------------------------------------------------------------------------------------------


def rounds(*at_us: int) -> list[RoundSpan]:
    """Return rounds of these times, ten positions apart, newest first."""
    return [RoundSpan(number * 10, number * 10 + 10, us) for number, us in enumerate(at_us, 1)][::-1]


def kept(given_rules: Any, *at_us: int, now_us: int) -> list[int]:
    """Return the numbers of the rounds that are kept."""
    return [each // 10 for each in kept_moments(rounds(*at_us), (), given_rules, now_us).listed]


def test_the_last_round_of_each_day_is_kept() -> None:
    times = [START + day * DAY + hour * HOUR for day in range(4) for hour in (3, 20)]
    now = times[-1]
    assert kept(rules(daily=2), *times, now_us=now) == [6, 8]
    assert kept(rules(last=3), *times, now_us=now) == [6, 7, 8]
    assert kept(rules(within_s=86_400), *times, now_us=now) == [6, 7, 8]
    assert kept(rules(daily=2, last=1, within_s=3600), *times, now_us=now) == [6, 8]


def test_days_without_a_round_do_not_count() -> None:
    times = [START, START + 100 * DAY, START + 200 * DAY]
    assert kept(rules(daily=2), *times, now_us=START + 300 * DAY) == [2, 3]
    assert kept(rules(yearly=5), *times, now_us=START + 300 * DAY) == [3]


def test_weeks_begin_on_monday_and_years_of_weeks_are_those_of_iso() -> None:
    sunday = int(datetime(2027, 1, 3, 12, tzinfo=UTC).timestamp()) * 1_000_000
    assert kept(rules(weekly=2), sunday - 6 * DAY, sunday, sunday + DAY, now_us=sunday + DAY) == [2, 3]


@given(
    st.lists(st.integers(0, 800), min_size=1, max_size=60, unique=True),
    st.integers(0, 4),
    st.integers(0, 4),
    st.integers(0, 4),
    st.integers(0, 40),
)
def test_what_is_kept_is_what_counting_says(days: list[int], last: int, daily: int, monthly: int, within: int) -> None:
    times = [START + day * DAY // 2 for day in sorted(days)]
    rule = rules(last=last, daily=daily, monthly=monthly, within_s=within * 86_400)
    by_day = {us // DAY: number for number, us in enumerate(times, 1)}
    by_month = {datetime.fromtimestamp(us / 1e6, UTC).strftime("%Y-%m"): number for number, us in enumerate(times, 1)}
    wanted = set(range(len(times) + 1 - last, len(times) + 1)) if last else set()
    wanted |= {by_day[day] for day in sorted(by_day)[-daily:]} if daily else set()
    wanted |= {by_month[month] for month in sorted(by_month)[-monthly:]} if monthly else set()
    wanted |= {n for n, us in enumerate(times, 1) if within and us >= times[-1] - within * DAY}
    assert kept(rule, *times, now_us=times[-1]) == sorted(each for each in wanted if each > 0)


@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=8, unique=True),
    st.lists(st.integers(1, 60), max_size=3, unique=True),
    st.integers(1, 60),
    st.one_of(st.none(), st.integers(1, 60)),
    st.booleans(),
)
def test_a_version_is_needed_if_it_was_current_at_a_kept_moment(
    ends: list[int],
    pins: list[int],
    start: int,
    end: int | None,
    vanished: bool,  # noqa: FBT001 -- Hypothesis gives arguments by position
) -> None:
    edges = [0, *sorted(ends)]
    all_rounds = [RoundSpan(before, after, START) for before, after in pairwise(edges)]
    moments = kept_moments(all_rounds[::-1], pins, rules(last=100), START)
    if end is not None and end < start:
        return
    spans = [(each.listed, each.ended) for each in all_rounds] + [(pin, pin) for pin in pins]
    expected = any(start <= ended and (end is None or (listed if vanished else ended) < end) for listed, ended in spans)
    assert moments.need(start, end, vanished=vanished) == expected


# --- versions --------------------------------------------------------------------------------------------------------

A, B, C = b"a" * 32, b"b" * 32, b"c" * 32
NONE = KeptMoments(listed=[], ended=[])


def seen(position: int, sha256: bytes | None, *, present: bool = True, state: str = "", of: bytes = A) -> SeenCopy:
    return SeenCopy(position, START + position * DAY, sha256, 5, present, (of, state) if state else None)


def let_go(events: list[SeenCopy], *, moments: KeptMoments = NONE, day: int = 100, **given_rules: Any) -> list[bytes]:
    rule = rules(**({"last": 1, "min_age_s": 0} | given_rules))
    return [each.sha256 for each in releases(events, moments, rule, START + day * DAY)]


def test_older_versions_go_and_the_newest_stays() -> None:
    assert let_go([seen(1, A), seen(2, B), seen(3, C)]) == [A, B]
    assert let_go([seen(1, A), seen(2, B)], moments=KeptMoments(listed=[1], ended=[1])) == []


def test_age_counts_from_the_end_of_a_version() -> None:
    events = [seen(1, A), seen(90, B)]
    assert let_go(events, day=100, min_age_s=30 * 86_400) == []
    assert let_go(events, day=120, min_age_s=30 * 86_400) == [A]


def test_five_bogus_writes_push_nothing_out() -> None:
    bogus = [seen(200 + number, bytes([number]) * 32) for number in range(5)]
    assert let_go([seen(1, A), *bogus], day=206, min_age_s=30 * 86_400) == []


def test_a_version_that_came_back_is_as_old_as_its_last_end() -> None:
    assert let_go([seen(1, A), seen(2, B), seen(3, A)]) == [B]
    twice = [seen(1, A), seen(2, B), seen(3, A), seen(4, C)]
    assert let_go(twice, moments=KeptMoments(listed=[1], ended=[1])) == [B]
    assert let_go(twice, moments=KeptMoments(listed=[3], ended=[3])) == [B]


def test_the_newest_sound_version_stays_though_newer_ones_are_bad() -> None:
    assert let_go([seen(1, A), seen(2, B), seen(3, B, state="damaged", of=B)]) == []
    assert let_go([seen(1, A), seen(2, B), seen(3, C), seen(4, C, state="lost", of=C)]) == [A]


def test_a_vanished_element_keeps_its_last_version_unless_a_rule_says_otherwise() -> None:
    gone = [seen(1, A), seen(2, B), seen(50, B, present=False)]
    assert let_go(gone) == [A]
    assert let_go(gone, vanished_s=60 * 86_400) == [A]
    assert let_go(gone, vanished_s=49 * 86_400) == [A, B]
    assert let_go(gone, vanished_s=0, min_age_s=60 * 86_400) == [A]
    assert let_go([*gone, seen(60, B)], vanished_s=0) == [A]


def test_what_was_let_go_is_not_let_go_again_and_what_was_taken_back_is() -> None:
    once = [seen(1, A), seen(2, B), seen(3, B, state="released")]
    assert let_go(once) == []
    assert let_go([*once, seen(4, B, state="sound")]) == [A]
    assert let_go([*once, seen(4, A, state="sound"), seen(5, B, state="sound", of=B)]) == [A]
