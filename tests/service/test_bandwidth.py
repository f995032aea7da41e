"""The limit of the rate: what a timetable says, and that every engine keeps to it, also in the middle of a transfer."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from kropot.bandwidth import RateLimiter, Timetable, parse_timetable
from kropot.cli.main import cli
from kropot.collect.decide.inputs import Received
from kropot.collect.transfer.bulk import BulkFetcher
from kropot.collect.transfer.curl import CurlEngine
from kropot.collect.transfer.engine import Server
from kropot.collect.transfer.plain import PlainEngine
from kropot.objects.memory import MemoryDisk, MemoryObjects
from kropot.securecopy.bulkwire import MEDIA_TYPE, end_frame
from tests.kropot.jobs import fetch_job
from tests.kropot.scripted import Asked, ScriptedServer, measured
from tests.kropot.test_bulkread import frame, wanted

if TYPE_CHECKING:
    from collections.abc import Callable

    from kropot.collect.transfer.engine import TransferEngine
    from tests.kropot.scripted import Part

MONDAY, SATURDAY = 0, 5
DATA = random.Random(1).randbytes(160 << 10)


def at(day: int, hour: int, minute: int = 0) -> time.struct_time:
    return time.struct_time((2026, 11, 30 + day, hour, minute, 0, day, 1, 0))


@pytest.mark.parametrize(
    ("text", "rate"),
    [("2M", 2 << 20), ("512k", 512 << 10), ("1.5M", 3 << 19), ("1G", 1 << 30), ("2MiB/s", 2 << 20), ("off", None)],
)
def test_one_rate_holds_always(text: str, rate: int | None) -> None:
    assert parse_timetable(text).at(at(MONDAY, 3)) == rate


def test_a_timetable_repeats_every_day_and_holds_until_its_next_entry() -> None:
    table = parse_timetable("08:00,512k 19:00,off")
    assert [table.at(at(day, 8)) for day in range(7)] == [512 << 10] * 7
    assert table.at(at(MONDAY, 18, 59)) == 512 << 10
    assert table.at(at(MONDAY, 19)) is None
    assert table.at(at(MONDAY, 7, 59)) is None


def test_a_timetable_can_name_days_and_begins_with_the_end_of_the_week_before() -> None:
    table = parse_timetable("Mon-08:00,1M Fri-18:00,10M Sat-12:30,off")
    assert table.at(at(MONDAY, 7)) is None
    assert table.at(at(3, 12)) == 1 << 20
    assert table.at(at(4, 18)) == 10 << 20
    assert table.at(at(SATURDAY, 12, 29)) == 10 << 20
    assert table.at(at(6, 0)) is None


@pytest.mark.parametrize(
    "text",
    ["", "512", "2X", "-1M", "0k", "100b", "08:00", "8:00,1M", "24:00,1M", "08:60,1M", "08:00,1M 08:00,2M", "1M:2M"],
)
def test_what_is_no_rate_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match=r"rate|time|entry|less"):
        parse_timetable(text)
    ran = CliRunner().invoke(cli, ["collect", "--limit-rate", text], standalone_mode=False)
    assert "08:00,512k 19:00,off" in str(ran.exception)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def rest(self, seconds: float) -> None:
        self.now += seconds


def test_no_more_passes_in_a_time_than_the_rate_says_whatever_the_portions() -> None:
    clock = Clock()
    limiter = RateLimiter(parse_timetable("100k"), clock=clock, local=lambda: at(0, 0), rest=clock.rest)
    for _ in range(200):
        limiter.received(limiter.portion(1 << 20))
        limiter.wait()
    assert 200 * (10 << 10) / (clock.now - 100) == pytest.approx(100 << 10, rel=0.05)
    # What nobody used for an hour is no credit for a burst.
    clock.now += 3600
    began = clock.now
    limiter.received(1 << 20)
    limiter.wait()
    assert clock.now - began == pytest.approx(10.24, rel=0.05)


# --- engines over loopback -------------------------------------------------------------------------------------------


def server_with(url: str, limiter: RateLimiter | None) -> Server:
    return Server(base_url=url, headers={"token": "t"}, silence_s=0.4, limiter=limiter)


def by_engine(make: Callable[..., TransferEngine], url: str, limiter: RateLimiter | None, count: int) -> None:
    engine = make(server_with(url, limiter), MemoryObjects("one", MemoryDisk()))
    try:
        engine.submit([fetch_job(number, f"e{number}", opaque=True) for number in range(count)])
        came = []
        while engine.in_flight:
            came += engine.poll(5)
        assert [type(each) for each in came] == [Received] * count, came
    finally:
        engine.close()


def by_bulk(url: str, limiter: RateLimiter | None, count: int) -> None:
    fetcher = BulkFetcher(server_with(url, limiter), longest_s=0.4)
    assert len(list(fetcher.fetch([wanted(number, len(DATA)) for number in range(count)]))) == count
    fetcher.close()


WAYS: dict[str, Callable[[str, RateLimiter | None, int], None]] = {
    "curl": lambda *args: by_engine(CurlEngine, *args),
    "curl and large": lambda *args: by_engine(lambda *a: CurlEngine(*a, large=1), *args),
    "plain": lambda *args: by_engine(PlainEngine, *args),
    "bulk": by_bulk,
}


def answer(asked: Asked) -> list[Part]:
    if "bulk" not in asked.path:
        return [measured(DATA)]
    frames = [frame(number, DATA) for number in range(asked.body.count(b'["e'))]
    body = b"".join(frames) + end_frame(len(frames))
    return [f"HTTP/1.1 200 OK\r\nContent-Type: {MEDIA_TYPE}\r\nContent-Length: {len(body)}\r\n\r\n".encode(), body]


@pytest.mark.parametrize("way", WAYS)
def test_every_engine_keeps_to_the_rate_and_takes_its_waits_for_no_silence(way: str) -> None:
    with ScriptedServer(answer) as server:
        limiter = RateLimiter(parse_timetable("400k"))
        began = time.monotonic()
        WAYS[way](server.url, limiter, 3)
        took = time.monotonic() - began
    # 480 KiB; the last portion is not waited for, and libcurl's first ones come at once.
    assert 0.75 < took < 8, took


@pytest.mark.parametrize("way", ["curl", "plain", "bulk"])
def test_a_new_rate_counts_in_the_middle_of_a_transfer(way: str) -> None:
    began = time.monotonic()
    # Two rates of a timetable that change half a second from now, as far as the limiter is told.
    table = Timetable(rates=((0, 8 << 10), (1, None)))
    limiter = RateLimiter(table, local=lambda: at(0, 0, int(time.monotonic() - began > 0.5)))
    with ScriptedServer(answer) as server:
        WAYS[way](server.url, limiter, 3)
    # At the first rate it would take a minute.
    assert 0.5 < time.monotonic() - began < 8
