"""What a second is called on a server's wall."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kropot.collect.decide.zone_change import between
from kropot.securecopy.zones import MAX_DATE, MIN_DATE, is_known_zone, wall_clock

FIFTH = 1795414112  # "2026-11-23 06:08:32" on the real server's wall, which was UTC


@pytest.mark.parametrize(
    ("tz", "wall"),
    [
        ("UTC", "2026-11-23 06:08:32"),
        ("Z", "2026-11-23 06:08:32"),
        ("Europe/Warsaw", "2026-11-23 07:08:32"),
        ("America/New_York", "2026-11-23 01:08:32"),
        ("+02:00", "2026-11-23 08:08:32"),
        ("-0330", "2026-11-23 02:38:32"),
    ],
)
def test_walls_show_their_zone(tz: str, wall: str) -> None:
    assert wall_clock(FIFTH, tz) == wall
    assert is_known_zone(tz)


@pytest.mark.parametrize(
    "tz", ["", "Nowhere/Land", "../../etc/passwd", "/etc/passwd", "CEST", "+99:00", "a" * 64, "Europe", "\n"]
)
def test_an_unknown_zone_only_makes_a_window_bigger(tz: str) -> None:
    assert not is_known_zone(tz)
    assert wall_clock(FIFTH, tz) == "2026-11-22 18:08:32"


@given(
    date=st.integers(MIN_DATE, MAX_DATE),
    tz=st.sampled_from(["UTC", "Europe/Warsaw", "Pacific/Kiritimati", "?", "-11:59"]),
)
def test_every_date_has_a_wall_that_the_server_can_parse(date: int, tz: str) -> None:
    text = wall_clock(date, tz)
    assert len(text) == 19
    shown = datetime.strptime(text, "%Y-%m-%d %H:%M:%S")  # noqa: DTZ007 - a wall has no zone
    moment = datetime(1970, 1, 1) + timedelta(seconds=date)  # noqa: DTZ001 - as above
    assert abs(shown - moment) <= timedelta(days=2)


@given(tz=st.text(max_size=64), date=st.integers(-(2**70), 2**70))
def test_no_zone_and_no_date_of_a_server_breaks_the_wall(tz: str, date: int) -> None:
    assert len(wall_clock(date, tz)) == 19


def test_how_far_dates_move_when_the_zone_changes() -> None:
    assert between("Asia/Kolkata", "UTC", FIFTH) == (19800,)
    assert between("UTC", "Europe/Warsaw", FIFTH) == (-7200, -3600)
    assert between("Asia/Kolkata", "+05:30", FIFTH) == ()
    assert between(None, "UTC", FIFTH) == between("UTC", "Nowhere/Land", FIFTH) == ()
