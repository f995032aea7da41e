"""Draining the list of the server of 2020 as it is: nothing that it can list is missed."""

from __future__ import annotations

from itertools import count
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kropot.lister.conversation import ListingFailedError, PageRequest, Trouble
from kropot.lister.drain import Range
from kropot.securecopy.wire import Listed, Page, Rejected
from tests.oldserver import OldServer, Quirks
from tests.simulation.oldlist import ask_page, listen

NOW = 1_795_414_108
DAY = 86_400
PLAIN = Quirks(plain_content_fails=False)


def server_with(dates: list[int], *, zone: str = "UTC", encrypted: bool = False) -> OldServer:
    server = OldServer(zone=zone, encrypted=encrypted, clock=lambda: NOW, quirks=PLAIN)
    for number, date in enumerate(dates):
        server.add(f"file{number:05d}.txt", b"x", at=date)
    return server


def all_ids(server: OldServer) -> set[str]:
    return set(server.ids().values())


def test_an_empty_list_takes_one_question() -> None:
    heard = listen(server_with([]))
    assert heard.ids == set()
    assert len(heard.asked) == 1


def test_every_page_of_a_list_is_drained() -> None:
    server = server_with([NOW - 5000 + 7 * i for i in range(700)])
    heard = listen(server)
    assert heard.ids == all_ids(server)
    assert len(heard.entries) == 700
    assert heard.result.zone == "UTC"


def test_a_second_with_more_files_than_a_page_holds_is_listed_whole() -> None:
    server = server_with([NOW - 100] * 3 + [NOW - 50] * 1500 + [NOW - 20] * 2)
    heard = listen(server)
    assert heard.ids == all_ids(server)
    assert max(ask.limit for ask in heard.asked) == 2048
    assert heard.result.unlistable == []


def test_a_second_that_no_page_can_hold_is_reported_and_the_rest_is_listed() -> None:
    server = server_with([NOW - 100] * 3 + [NOW - 50] * 2100 + [NOW - 20] * 5, encrypted=True)
    heard = listen(server)
    late = {server.id_of(f"file{number:05d}.txt") for number in range(2103, 2108)}
    assert late <= heard.ids
    assert len(heard.ids) == 3 + 2048 + 5
    assert heard.result.unlistable == [NOW - 50]
    assert (NOW - 50, NOW - 50) in heard.result.exempt


def test_a_hundred_thousand_entries_in_one_second_cost_neither_the_rest_nor_much_asking() -> None:
    count = 100_000
    server = server_with([NOW - 100] * 3 + [NOW - 50] * count + [NOW - 20] * 5)
    heard = listen(server)
    late = {server.id_of(f"file{number:05d}.txt") for number in range(count + 3, count + 8)}
    assert late <= heard.ids
    assert heard.result.unlistable in ([], [NOW - 50])
    assert heard.result.unlistable or heard.ids == all_ids(server)
    assert len(heard.asked) < 100


def test_a_file_that_arrives_in_a_second_already_listed_is_found() -> None:
    server = server_with([NOW - 5000 + 7 * i for i in range(300)])

    def add(number: int, _ask: PageRequest) -> None:
        if number == 2:
            server.add("late.txt", b"x", at=NOW - 5000 + 7 * 255)

    heard = listen(server, before=add)
    assert heard.ids == all_ids(server)


@pytest.mark.parametrize("zone", ["UTC", "Europe/Warsaw", "Asia/Kathmandu", "Pacific/Apia", "America/St_Johns"])
def test_a_window_is_asked_for_on_the_wall_of_the_server(zone: str) -> None:
    server = server_with([NOW - 5 * DAY + 600 * i for i in range(700)], zone=zone)
    heard = listen(server, Range(start=NOW - 2 * DAY, cursor=NOW - 5 * DAY + 600 * 699, zone=zone))
    wanted = {server.id_of(f"file{i:05d}.txt") for i in range(700) if NOW - 5 * DAY + 600 * i > NOW - 2 * DAY}
    assert heard.ids >= wanted
    assert len(heard.ids) <= len(wanted) + 1


@pytest.mark.parametrize(
    ("believed", "true"),
    [("UTC", "America/New_York"), ("Asia/Tokyo", "UTC"), ("UTC", "Pacific/Kiritimati"), ("Europe/Warsaw", "UTC")],
)
def test_a_zone_that_is_not_the_servers_is_found_out_and_nothing_is_missed(believed: str, true: str) -> None:
    dates = [NOW - 4 * DAY + 120 * i for i in range(2800)]
    server = server_with(dates, zone=true)
    window = listen(server, Range(start=dates[2000], cursor=dates[2400], zone=believed))
    assert window.ids >= {server.id_of(f"file{i:05d}.txt") for i in range(2001, 2800)}
    whole = listen(server, Range(zone=believed))
    assert whole.ids == all_ids(server)


def test_names_of_zones_that_rows_carry_may_all_be_stale() -> None:
    server = server_with([NOW - 4 * DAY + 120 * i for i in range(1400)])
    server.set_zone("America/Caracas")
    heard = listen(server)
    assert heard.ids == all_ids(server)
    assert heard.result.zone == "-04:00"


def test_a_wall_clock_that_is_read_too_early_is_harmless_until_it_stops_the_listing() -> None:
    server = server_with([NOW - 4 * DAY + 2 * i for i in range(3000)])
    server.set_zone("Asia/Kolkata")
    heard = listen(server)
    assert heard.ids == all_ids(server)
    assert heard.result.zone == "+05:30"


@pytest.mark.parametrize("start", [None, NOW - DAY])
def test_a_new_row_shows_a_change_of_zone_that_nothing_else_does(start: int | None) -> None:
    """To the end of the list, every page begins where it was asked to, whichever way the wall clock is read."""
    dates = [NOW - 60 - i for i in range(20)]
    server = server_with(dates)
    server.set_zone("Asia/Kolkata")
    server.add("new.txt", b"", at=NOW)
    heard = listen(server, Range(start=start, cursor=start and dates[0], zone="UTC"))
    assert heard.ids == all_ids(server)
    assert heard.result.zone == "Asia/Kolkata"


def test_the_zone_is_asked_for_again_if_an_answer_does_not_come() -> None:
    server = server_with([NOW - 60])
    server.set_zone("Asia/Kolkata")
    server.add("new.txt", b"", at=NOW)
    asked = count(1)

    def answer(ask: PageRequest) -> Page | Trouble:
        is_lost = ask.limit == 1 and next(asked) % 3
        return Trouble(reason="http_500", status=500) if is_lost else ask_page(server, ask)

    assert listen(server, Range(zone="UTC"), answer=answer).result.zone == "Asia/Kolkata"


def test_a_summer_time_change_in_the_list_is_no_hindrance() -> None:
    autumn = 1_792_890_000  # 2026-10-25 01:00 UTC: 03:00 becomes 02:00 in Warsaw
    dates = [autumn - 3 * 3600 + 11 * i for i in range(2000)]
    server = server_with(dates, zone="Europe/Warsaw")
    assert listen(server).ids == all_ids(server)


def test_an_entry_deleted_between_two_pages_changes_nothing_else() -> None:
    server = server_with([NOW - 5000 + 7 * i for i in range(600)])

    def delete(number: int, _ask: PageRequest) -> None:
        if number == 2:
            server.delete("file00255.txt")

    heard = listen(server, before=delete)
    assert heard.ids >= all_ids(server)
    assert heard.result.zone == "UTC"


def test_the_newest_file_may_be_gone_when_a_window_is_listed() -> None:
    server = server_with([NOW - 5 * DAY + 600 * i for i in range(700)])
    server.delete("file00699.txt")
    server.add("fresh.txt", b"x", at=NOW - 10)
    heard = listen(server, Range(start=NOW - DAY, cursor=NOW - 5 * DAY + 600 * 699, zone="UTC"))
    assert server.id_of("fresh.txt") in heard.ids


@pytest.mark.parametrize("place", [0, 1, 255, 256, 300, 698, 699])
def test_a_poison_row_is_passed_and_named_and_everything_else_is_listed(place: int) -> None:
    dates = [NOW - 50_000 + 7 * i for i in range(700)]
    server = server_with(dates)
    server.poison(f"file{place:05d}.txt")
    heard = listen(server)
    assert heard.ids == all_ids(server) - {server.id_of(f"file{place:05d}.txt")}
    assert heard.result.unlistable == [dates[place]]
    assert any(first <= dates[place] <= last for first, last in heard.result.exempt)


def test_rows_that_share_the_second_of_a_poison_row_are_listed_up_to_it() -> None:
    server = server_with([NOW - 100] * 10 + [NOW - 50] * 10 + [NOW - 20] * 10)
    server.poison("file00014.txt")
    heard = listen(server)
    wanted = {server.id_of(f"file{i:05d}.txt") for i in (*range(14), *range(20, 30))}
    assert heard.ids == wanted
    assert heard.result.unlistable == [NOW - 50]


@given(seed=st.integers(0, 1 << 32), count=st.integers(0, 400), bad=st.integers(0, 12))
@settings(max_examples=40)
def test_whatever_the_bad_rows_nothing_is_missed_outside_the_ranges_that_are_reported(
    seed: int, count: int, bad: int
) -> None:
    rng = Random(seed)
    date, dates = NOW - 3 * DAY, []
    for _ in range(count):
        date += rng.choice([0, 0, 1, 2, 30, 600])
        dates.append(date)
    server = server_with(dates)
    poisoned = {f"file{number:05d}.txt" for number in rng.sample(range(count), min(bad, count))}
    for name in poisoned:
        server.poison(name)
    heard = listen(server)
    exempt = heard.result.exempt
    for name, id_ in server.ids().items():
        date = dates[int(name[4:9])]
        assert (id_ in heard.ids) or any(first <= date <= last for first, last in exempt)
    assert set(heard.result.unlistable) <= {dates[int(name[4:9])] for name in poisoned}


@given(
    seed=st.integers(0, 1 << 32), count=st.integers(0, 900), zone=st.sampled_from(["UTC", "Europe/Warsaw", "+05:45"])
)
@settings(max_examples=40)
def test_whatever_the_dates_everything_is_listed(seed: int, count: int, zone: str) -> None:
    rng = Random(seed)
    date, dates = NOW - 30 * DAY, []
    for _ in range(count):
        date += rng.choice([0, 0, 0, 0, 1, 5, 3600]) if rng.random() < 0.9 else rng.randrange(DAY)
        dates.append(date)
    server = server_with(dates, zone="UTC" if zone[0] == "+" else zone)
    heard = listen(server, Range(zone=zone))
    assert heard.ids == all_ids(server)
    assert heard.result.unlistable == []


def test_a_server_that_is_down_is_not_taken_for_one_with_bad_rows() -> None:
    server = server_with([NOW - 100])
    heard_reason = None
    try:
        listen(server, answer=lambda _ask: Trouble(reason="http_502", status=502))
    except ListingFailedError as error:
        heard_reason = error.reason
    assert heard_reason == "http_502"


def test_a_server_that_goes_down_in_the_middle_ends_the_listing_as_failed() -> None:
    server = server_with([NOW - 5000 + 7 * i for i in range(700)])
    count = 0

    def answer(ask: PageRequest) -> Page | Trouble:
        nonlocal count
        count += 1
        return Trouble(reason="timeout") if count > 2 else ask_page(server, ask)

    with pytest.raises(ListingFailedError, match="timeout"):
        listen(server, answer=answer)


def test_a_page_that_is_too_much_for_the_server_is_halved() -> None:
    server = server_with([NOW - 5000 + 7 * i for i in range(700)])

    def answer(ask: PageRequest) -> Page | Trouble:
        return Trouble(reason="timeout") if ask.limit > 50 else ask_page(server, ask)

    heard = listen(server, answer=answer)
    assert heard.ids == all_ids(server)
    assert heard.result.unlistable == []


@given(seed=st.integers(0, 1 << 32))
@settings(max_examples=25)
def test_a_server_that_fails_now_and_then_is_still_listed_outside_the_seconds_it_denies(seed: int) -> None:
    rng = Random(seed)
    dates = [NOW - 50_000 + 7 * i for i in range(700)]
    server = server_with(dates)

    def answer(ask: PageRequest) -> Page | Trouble:
        return Trouble(reason="http_500", status=500) if rng.random() < 0.1 else ask_page(server, ask)

    try:
        heard = listen(server, answer=answer)
    except ListingFailedError:
        return
    missed = {dates[int(name[4:9])] for name, id_ in server.ids().items() if id_ not in heard.ids}
    assert all(any(first <= date <= last for first, last in heard.result.exempt) for date in missed)


def test_a_server_that_cuts_pages_shorter_than_asked_is_drained() -> None:
    server = server_with([NOW - 5000 + 7 * i for i in range(700)])
    heard = listen(server, answer=lambda ask: ask_page(server, PageRequest(since=ask.since, limit=min(ask.limit, 100))))
    assert heard.ids == all_ids(server)


def test_a_server_that_pays_no_heed_to_since_or_limit_is_listed_once() -> None:
    server = server_with([NOW - 5000 + 7 * i for i in range(700)])
    heard = listen(server, answer=lambda _ask: ask_page(server, PageRequest(since=None, limit=8000)))
    assert heard.ids == all_ids(server)
    assert len(heard.asked) == 2


def test_a_server_that_pays_no_heed_to_since_alone_does_not_keep_the_listing_for_ever() -> None:
    server = server_with([NOW - 5000 + 7 * i for i in range(700)])
    heard = listen(server, answer=lambda ask: ask_page(server, PageRequest(since=None, limit=ask.limit)), most=200)
    assert heard.ids <= all_ids(server)


def entry(number: int, date: int) -> Listed:
    return Listed(type="file", id=f"e{number}", date=date, tz="UTC", form=b"{}")


def test_a_list_that_is_not_ordered_by_date_is_marked_so_that_nothing_is_missed_for_it() -> None:
    page = Page(entries=tuple(entry(i, NOW - i * DAY) for i in range(5)), rejected=(), remaining=5)
    heard = listen(server_with([]), answer=lambda _ask: page)
    assert heard.result.is_misordered


def test_lines_that_are_no_entries_are_counted_and_spare_their_whole_page() -> None:
    page = Page(
        entries=(entry(1, NOW - 100), entry(2, NOW - 50)),
        rejected=(Rejected(line=2, why="not_json"),),
        remaining=3,
    )
    heard = listen(server_with([]), answer=lambda _ask: page)
    assert heard.result.rejected == 2
    assert any(first <= NOW - 75 <= last for first, last in heard.result.exempt)


def test_a_page_of_lines_that_are_none_does_not_end_the_list() -> None:
    server = server_with([NOW - 5000 + 7 * i for i in range(700)])
    bad = {NOW - 5000 + 7 * i for i in range(400)}

    def answer(ask: PageRequest) -> Page | Trouble:
        page = ask_page(server, ask)
        assert isinstance(page, Page)
        lines = enumerate(page.entries, 1)
        return Page(
            entries=tuple(one for one in page.entries if one.date not in bad),
            rejected=tuple(Rejected(line=n, why="bad_id", date=one.date) for n, one in lines if one.date in bad),
            remaining=0,
        )

    heard = listen(server, answer=answer)
    assert heard.ids == {server.id_of(f"file{i:05d}.txt") for i in range(400, 700)}


def closing(server: OldServer, closed: int) -> object:
    """Return answers as the gateway gives them: closed seconds only, whole seconds, and says which were closed."""

    def answer(ask: PageRequest) -> Page | Trouble:
        page = ask_page(server, PageRequest(since=ask.since, limit=8000))
        assert isinstance(page, Page)
        entries = [one for one in page.entries if one.date <= closed]
        if len(entries) > ask.limit:
            end = entries[ask.limit - 1].date
            entries = [one for one in entries if one.date <= end]
        return Page(entries=tuple(entries), rejected=(), remaining=len(entries), closed=closed)

    return answer


def test_a_server_that_closes_its_seconds_is_listed_without_any_overlap() -> None:
    server = server_with([NOW - 5000 + 7 * (i // 4) for i in range(2000)])
    heard = listen(server, answer=closing(server, NOW))  # type: ignore[arg-type]
    assert heard.ids == all_ids(server)
    assert len(heard.entries) == 2000
    assert heard.result.closed == NOW
    again = listen(server, Range(start=NOW, cursor=NOW, zone="UTC", is_closed=True), answer=closing(server, NOW))  # type: ignore[arg-type]
    assert len(again.asked) == 1


def test_dates_to_come_do_not_hide_what_lies_before_them() -> None:
    server = server_with([NOW - 100, NOW + 40 * DAY, NOW - 50])
    heard = listen(server)
    assert heard.ids == all_ids(server)


def test_what_two_pages_share_is_counted_once() -> None:
    server = server_with([NOW - 5000 + 7 * i for i in range(700)])
    assert listen(server).result.seen == 700


def test_a_listing_that_begins_anew_counts_anew() -> None:
    server = server_with([NOW - 5000 + 7 * i for i in range(20)], zone="Asia/Tokyo")
    heard = listen(server, Range(start=NOW - 5000 - 7200, cursor=NOW - 4000 - 1, zone="America/Bogota"))
    assert heard.ids == all_ids(server)
    assert heard.result.seen == 20
    assert heard.result.zone == "Asia/Tokyo"
