"""WHEN is read as documented, and nothing but a usage error comes out of nonsense."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kropot.errors import UsageError
from kropot.replay.until import At, Position, When, parse_when
from kropot.wording import instant
from ledger.checkpoint import Checkpoint

NOW = 1_800_000_000_000_000
HOUR = 3_600_000_000
ROOT = bytes(range(32))
NOTE = f"kropot.example/ledger\n120411\n{base64.b64encode(ROOT).decode()}\n\n— name AAAA\n".encode()


def parse(text: str, files: dict[str, bytes] | None = None) -> When:
    return parse_when(text, now_us=NOW, read=(files or {}).get)


def us(*parts: int, offset_minutes: int = 0) -> int:
    moment = datetime(*parts, tzinfo=timezone(timedelta(minutes=offset_minutes)))  # type: ignore[arg-type, misc]
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-05-01", At(us=us(2026, 5, 1))),
        ("2026-05-01T14:30", At(us=us(2026, 5, 1, 14, 30), naive=True)),
        ("2026-05-01 14:30:05", At(us=us(2026, 5, 1, 14, 30, 5), naive=True)),
        ("2026-05-01T14:30:05.25", At(us=us(2026, 5, 1, 14, 30, 5, 250_000), naive=True)),
        ("2026-05-01T14:30:05,000001Z", At(us=us(2026, 5, 1, 14, 30, 5, 1))),
        ("2026-05-01t14:30z", At(us=us(2026, 5, 1, 14, 30))),
        ("2026-05-01T14:30+02:00", At(us=us(2026, 5, 1, 12, 30))),
        ("2026-05-01T14:30-0330", At(us=us(2026, 5, 1, 18, 0))),
        ("2026-05-01T14:30+02", At(us=us(2026, 5, 1, 12, 30))),
        ("9999-12-31T23:59:59-23:59", At(us=us(9999, 12, 31, 23, 59, 59) + (23 * 60 + 59) * 60_000_000)),
        ("0001-01-01T00:00+23:59", At(us=us(1, 1, 1) - (23 * 60 + 59) * 60_000_000)),
        ("36h", At(us=NOW - 36 * HOUR)),
        ("7d", At(us=NOW - 168 * HOUR)),
        ("2w", At(us=NOW - 336 * HOUR)),
        ("0h", At(us=NOW)),
        ("999999999999999999w", At(us=us(1, 1, 1))),
        ("@120411", Position(position=120_411)),
        ("@0", Position(position=0)),
    ],
)
def test_every_documented_form_is_understood(text: str, expected: When) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "2026-5-1",
        "2026-02-30",
        "0000-01-01",
        "2026-05-01T25:00",
        "2026-05-01T14:30:60",
        "2026-05-01T14:30+24:00",
        "2026-05-01T14:30+02:60",
        "2026-05-01T",
        "2026-05-01Z",
        "20260501",
        "2026-W18-5",
        "7",
        "7m",
        "-7d",
        "7 d",
        "7d ",
        "\u0667d",
        "@",
        "@-1",
        "@1.5",
        "@" + "9" * 5000,
        "9" * 5000 + "d",
        "\x00",
        "\ud800",
    ],
)
def test_nonsense_is_refused_with_the_accepted_forms(text: str) -> None:
    with pytest.raises(UsageError, match=r"36h, 7d, 2w.*@120411.*checkpoint") as caught:
        parse(text)
    assert len(str(caught.value)) < 400
    str(caught.value).encode()


@given(st.text(max_size=40) | st.from_regex(r"@?[0-9:TZ+.,hdw-]{0,30}", fullmatch=True))
@example("9999-12-31T23:59:59.999999-23:59")
def test_only_usage_errors_come_out_of_any_text(text: str) -> None:
    try:
        when = parse(text)
    except UsageError:
        return
    assert isinstance(when, At | Position)


@given(st.datetimes(), st.integers(-23 * 60, 23 * 60))
def test_an_isoformat_time_means_itself(wall: datetime, offset_minutes: int) -> None:
    zone = timezone(timedelta(minutes=offset_minutes))
    expected = us(*wall.timetuple()[:6], wall.microsecond) - offset_minutes * 60_000_000
    assert parse(wall.replace(tzinfo=zone).isoformat()) == At(us=expected)


@given(st.integers(us(1, 1, 1), us(9999, 12, 31)))
def test_a_printed_moment_is_read_back_as_the_same(moment: int) -> None:
    assert parse(instant(moment)) == At(us=moment)


def test_moments_beyond_the_calendar_are_still_printed() -> None:
    assert instant(2**62) == f"{2**62} us since 1970"


def test_a_checkpoint_file_gives_its_size_and_root() -> None:
    assert parse("cp.txt", {"cp.txt": NOTE}) == Checkpoint(origin="kropot.example/ledger", size=120_411, root=ROOT)


def test_a_file_is_asked_for_only_when_the_text_has_no_other_form() -> None:
    assert parse("7d", {"7d": NOTE}) == At(us=NOW - 168 * HOUR)
    assert parse("./7d", {"./7d": NOTE}) == Checkpoint(origin="kropot.example/ledger", size=120_411, root=ROOT)


@given(st.binary(max_size=200) | st.sampled_from([NOTE[:30], NOTE.replace(b"120411", b"-4"), b"\n1\n" + b"A" * 44]))
def test_only_usage_errors_come_out_of_any_file(note: bytes) -> None:
    with pytest.raises(UsageError, match="is not a checkpoint"):
        parse("cp.txt", {"cp.txt": note})
