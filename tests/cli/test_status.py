"""What is an alarm and what is not; and what is read from the ledger to decide it."""

from __future__ import annotations

import json
import os
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from kropot.cli.status import as_text
from kropot.collect.failed_run import record_failure
from kropot.durable.filesystem import Room
from kropot.query.alarm import Alarm
from kropot.query.erasures import Erased
from kropot.query.facts import Facts, FailedRun, FailingElement, SourceFacts, gather
from kropot.query.health import Limits, audited_since_us, health
from kropot.query.past import Past
from kropot.query.render import status_json
from kropot.query.storage import StorageFacts
from kropot.wording import instant, moment
from ledger.events import (
    SOURCE_KIND,
    AuditRange,
    Copy,
    CopyLost,
    CopyStored,
    Element,
    Failure,
    FetchFailed,
    HeldListing,
    ListingAdvanced,
    RemoteObserved,
    RemoteVanished,
    Source,
    SourceBegan,
    StreamKey,
    Surge,
    Unserved,
)
from ledger.log import Ledger, NewFact
from ledger.memory import MemoryStore
from tests.ledger.fresh import fresh_element, fresh_source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ledger.rows import Image

SECOND = 1_000_000
DAY = 86_400 * SECOND
NOW = 1_800_000_000 * SECOND
WHOLE = AuditRange(start=bytes(32), end=b"\xff" * 32, position=9, at_us=NOW)
ID = bytes(range(16))


def a_source(**changes: object) -> Source:
    source = fresh_source(urls=("https://a.example",), cursor=NOW // SECOND, listed_us=NOW, full_listed_us=NOW)
    return replace(source, **changes)  # type: ignore[arg-type]


ALL_SERVED = Unserved(sockets=0, pipes=0, devices=0, links=0, unreadable=0, unsettled=0, excluded=0)


def source_facts(**changes: object) -> SourceFacts:
    facts = SourceFacts(
        id=ID,
        source=a_source(),
        states={"current": (2, 64)},
        reasons={},
        failing=(),
        failing_since_us=None,
        beyond_help=0,
        pending_since_us=None,
    )
    return replace(facts, **changes)  # type: ignore[arg-type]


def facts(*sources: SourceFacts, **changes: object) -> Facts:
    found = Facts(
        position=9, recorded_us=NOW, began_us=NOW - 400 * DAY, sources=sources, audit=(WHOLE,), erased=Erased()
    )
    return replace(found, **changes)  # type: ignore[arg-type]


def names(found: Facts, *, now_us: int = NOW, limits: Limits | None = None) -> list[str]:
    return [alarm.name for alarm in health(now_us, found, limits or Limits())]


def failing(since_us: int) -> FailingElement:
    key = StreamKey(source=ID, kind="file", id="a")
    return FailingElement(key=key, reason="http_500", attempts=3, since_us=since_us, next_try_us=NOW)


def test_a_quiet_replica_is_healthy() -> None:
    assert names(facts(source_facts())) == []


def test_an_empty_ledger_is_not_healthy() -> None:
    assert names(facts()) == ["never_collected"]


@pytest.mark.parametrize(
    ("changed", "alarm"),
    [
        (source_facts(source=a_source(listed_us=None)), "never_listed"),
        (source_facts(source=a_source(listed_us=NOW - 901 * SECOND)), "listing_stale"),
        (source_facts(source=a_source(unlistable=(1_700_000_000,))), "unlistable"),
        (
            source_facts(source=a_source(held=HeldListing(reason="empty", missing=21, known=21, since_us=NOW))),
            "vanishing_held",
        ),
        (source_facts(source=a_source(surge=Surge(changed=40, known=100, since_us=NOW))), "surge"),
        (source_facts(unserved=replace(ALL_SERVED, unreadable=1)), "unreadable"),
        (source_facts(unscanned_since=NOW // 1_000_000 - 60), "unscanned"),
        (source_facts(beyond_help=1), "beyond_help"),
        (source_facts(reasons={"http_500": 1}, failing_since_us=NOW - DAY - 1), "failing"),
        (source_facts(pending_since_us=NOW - DAY - 1), "waiting"),
        (
            source_facts(reasons={"http_500": 1}, failing_since_us=NOW - DAY - 1, pending_since_us=NOW - DAY - 1),
            "failing",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_trouble_is_an_alarm_of_its_own(changed: SourceFacts, alarm: str) -> None:
    assert names(facts(changed)) == [alarm]


@pytest.mark.parametrize(
    "changed",
    [
        source_facts(source=a_source(listed_us=NOW - 900 * SECOND)),
        source_facts(source=a_source(held=HeldListing(reason="accepted", missing=21, known=21, since_us=NOW))),
        source_facts(reasons={"http_500": 1}, failing_since_us=NOW - DAY),
        source_facts(pending_since_us=NOW - DAY),
        source_facts(source=a_source(listed_us=NOW - 90 * DAY), past=Past(why="taken_over", since_us=NOW)),
    ],
    ids=["listed just in time", "accepted", "failing for less than a day", "waiting for a day", "superseded"],
)
def test_what_is_within_its_limits_is_no_alarm(changed: SourceFacts) -> None:
    assert names(facts(changed)) == []


def test_contents_that_nobody_read_for_long_are_an_alarm() -> None:
    old = replace(WHOLE, at_us=NOW - 31 * DAY)
    assert names(facts(source_facts(), audit=(old,))) == ["audit_stale"]
    assert names(facts(source_facts(), audit=())) == ["audit_stale"]
    assert names(facts(source_facts(), audit=(), began_us=NOW - 29 * DAY)) == []
    assert names(facts(source_facts(states={}), audit=())) == []


@given(st.lists(st.integers(1, 254), max_size=6, unique=True).map(sorted), st.data())
def test_an_audit_is_as_old_as_its_oldest_part(cuts: list[int], data: st.DataObject) -> None:
    edges = [0, *cuts, 256]
    parts = tuple(
        AuditRange(
            start=bytes([low]) + bytes(31),
            end=bytes([high - 1]) + b"\xff" * 31,
            position=1,
            at_us=data.draw(st.integers(1, NOW)),
        )
        for low, high in pairwise(edges)
    )
    found = facts(audit=tuple(data.draw(st.permutations(parts))))
    assert audited_since_us(found) == min(part.at_us for part in parts)
    if len(parts) > 1:
        gone = data.draw(st.sampled_from(parts))
        missing = replace(found, audit=tuple(part for part in parts if part is not gone))
        assert audited_since_us(missing) == found.began_us


def shown(*parts: tuple[int, int, int]) -> tuple[str, dict[str, object]]:
    """What status says of an audit of these parts: first byte, last byte, when."""
    audit = tuple(
        AuditRange(start=bytes([low]) + bytes(31), end=bytes([high]) + b"\xff" * 31, position=1, at_us=at_us)
        for low, high, at_us in parts
    )
    found = facts(source_facts(), audit=audit)
    return "\n".join(as_text(NOW, found, [])), status_json(NOW, found, [])["audit"]


def test_status_says_when_each_part_was_read_and_when_the_rest_will_be() -> None:
    text, audit = shown()
    assert "contents never read and compared: run `kropotcli verify`" in text
    assert audit == {"ranges": [], "never_read": 1.0, "all_read_by": None}
    text, audit = shown((0, 255, NOW))
    assert f"contents all read and compared since {moment(NOW)}" in text
    assert (audit["never_read"], audit["all_read_by"]) == (0, None)
    text, audit = shown((0, 63, NOW))
    assert "contents 25.0% read and compared, 75.0% never\n  too early to estimate" in text
    text, audit = shown((0, 63, NOW), (64, 127, NOW + DAY))
    assert f"0000..3fff   25.0%  read {moment(NOW)}" in text
    assert f"at this pace, the rest will be read by {moment(NOW + 3 * DAY)}" in text
    assert audit["all_read_by"] == instant(NOW + 3 * DAY)
    assert [part["share"] for part in audit["ranges"]] == [0.25, 0.25]  # type: ignore[attr-defined]


def test_a_replica_without_copies_has_no_contents_to_speak_of() -> None:
    assert "contents" not in "\n".join(as_text(NOW, facts(source_facts(states={}), audit=()), []))


# --- reading it from a ledger ----------------------------------------------------------------------------------------


def element(**changes: object) -> Element:
    found = fresh_element(date=1_700_000_000, form=b"{}")
    return replace(found, **changes)  # type: ignore[arg-type]


def a_copy() -> Copy:
    return Copy(sha256=os.urandom(32), size=32, iv=None, revision=1, instance="main")


def key(id_: str, source: bytes = ID) -> StreamKey:
    return StreamKey(source=source, kind="file", id=id_)


def source_key(source: bytes = ID) -> StreamKey:
    return StreamKey(source=source, kind=SOURCE_KIND, id="")


@pytest.fixture
def clock() -> list[int]:
    return [NOW]


@pytest.fixture
def ledger(clock: list[int]) -> Ledger:
    return Ledger(MemoryStore(), clock=lambda: clock[0])


@pytest.fixture
def append(ledger: Ledger, clock: list[int]) -> Callable[..., None]:
    def append(*facts: tuple[StreamKey, object], at_us: int) -> None:
        clock[0] = at_us
        ledger.append([NewFact(key=key_, fact=fact, observed_us=at_us) for key_, fact in facts])  # type: ignore[arg-type]

    return append


def test_what_is_gathered_agrees_with_what_was_appended(ledger: Ledger, append: Callable[..., None]) -> None:
    append((source_key(), SourceBegan(source=a_source(listed_us=None))), at_us=NOW)
    append((key("waits"), RemoteObserved(element=element())), at_us=NOW + 1 * SECOND)
    failure = Failure(reason="http_500", attempts=2, since_us=NOW - SECOND, next_try_us=NOW + DAY)
    append(
        (key("fails"), RemoteObserved(element=element())),
        (key("fails"), FetchFailed(element=element(failure=failure))),
        (key("stored"), RemoteObserved(element=element())),
        (key("lost"), RemoteObserved(element=element())),
        at_us=NOW + 2 * SECOND,
    )
    copy = a_copy()
    append(
        (key("stored"), CopyStored(element=element(copy=a_copy()))),
        (key("lost"), CopyStored(element=element(copy=copy))),
        (key("lost"), RemoteVanished(element=element(copy=copy, present=False))),
        (key("lost"), CopyLost(element=element(copy=copy, present=False, damage="lost"), sha256=copy.sha256)),
        at_us=NOW + 3 * SECOND,
    )
    found = gather(ledger)
    (each,) = found.sources
    assert {state: n for state, (n, _) in each.states.items() if n} == {"pending": 2, "current": 1, "lost": 1}
    assert each.reasons == {"http_500": 1}
    assert [f.key.id for f in each.failing] == ["fails"]
    assert each.beyond_help == 1
    assert each.pending_since_us == NOW - SECOND
    assert found.began_us == NOW


def test_what_never_failed_waits_since_it_was_recorded(ledger: Ledger, append: Callable[..., None]) -> None:
    append((source_key(), SourceBegan(source=a_source())), at_us=NOW)
    append((key("a"), RemoteObserved(element=element())), at_us=NOW + 5 * SECOND)
    append((key("b"), RemoteObserved(element=element())), at_us=NOW + 9 * SECOND)
    assert gather(ledger).sources[0].pending_since_us == NOW + 5 * SECOND


def test_only_the_longest_failing_are_kept_and_all_are_counted(ledger: Ledger, append: Callable[..., None]) -> None:
    append((source_key(), SourceBegan(source=a_source())), at_us=NOW)
    for number in range(30):
        failure = Failure(reason="truncated", attempts=1, since_us=NOW - number, next_try_us=NOW + DAY)
        append((key(f"{number:02}"), RemoteObserved(element=element(failure=failure))), at_us=NOW)
    (each,) = gather(ledger, shown=3).sources
    assert [f.key.id for f in each.failing] == ["29", "28", "27"]
    assert each.failing_count == 30
    (none,) = gather(ledger, shown=0).sources
    assert none.failing == ()
    assert none.failing_count == 30
    assert none.failing_since_us == NOW - 29


def test_a_new_token_supersedes_the_source_before_it(ledger: Ledger, append: Callable[..., None]) -> None:
    newer = bytes(reversed(ID))
    append((source_key(), SourceBegan(source=a_source(listed_us=NOW))), at_us=NOW)
    append((source_key(newer), SourceBegan(source=a_source(listed_us=None))), at_us=NOW + DAY)
    assert [each.superseded for each in gather(ledger).sources] == [False, False]
    append((source_key(newer), ListingAdvanced(source=a_source(listed_us=NOW + DAY))), at_us=NOW + DAY)
    assert [each.superseded for each in gather(ledger).sources] == [True, False]
    append((source_key(), ListingAdvanced(source=a_source(listed_us=NOW + 2 * DAY))), at_us=NOW + 2 * DAY)
    assert [each.superseded for each in gather(ledger).sources] == [False, False]


def test_text_and_json_say_the_same_alarms() -> None:
    found = facts(source_facts(beyond_help=1, reasons={"http_500": 1}, failing=(failing(NOW),)))
    alarms = [*health(NOW, found, Limits()), Alarm(name="probe", source=None, text="a probe", since_us=NOW)]
    text = "\n".join(as_text(NOW, found, alarms))
    shown = json.loads(json.dumps(status_json(NOW, found, alarms)))
    assert [alarm["name"] for alarm in shown["alarms"]] == ["beyond_help", "probe"]
    assert shown["healthy"] is False
    assert shown["sources"][0]["failing"]["longest"][0]["reason"] == "http_500"
    assert all(alarm["name"] in text and alarm["text"] in text for alarm in shown["alarms"])
    assert "healthy" in as_text(NOW, facts(source_facts()), [])[-1]


def test_status_names_the_seconds_that_the_server_cannot_list() -> None:
    seven = source_facts(source=a_source(unlistable=tuple(range(1795898543, 1795898550))))
    lines = as_text(NOW, facts(seven), [])
    told = next(line for line in lines if line.startswith("  unlisted"))
    assert told.startswith("  unlisted 2026-11-28T20:42:23Z, 2026-11-28T20:42:24Z")
    assert told.endswith("and 2 more (--json shows them)")


def test_an_empty_ledger_has_no_last_event() -> None:
    empty = facts(position=0, recorded_us=0)
    assert as_text(NOW, empty, [])[0] == "ledger   position 0, last event -"
    assert status_json(NOW, empty, [])["recorded"] is None


# --- the storage, the last run, and many failures --------------------------------------------------------------------


def storage_names(**changes: object) -> list[str]:
    found = replace(StorageFacts(place="/srv/objects"), **changes)  # type: ignore[arg-type]
    return names(facts(source_facts(), storage=found))


def test_a_storage_with_room_that_holds_what_is_named_is_healthy() -> None:
    plenty = Room(bytes=1 << 40, files=1 << 20)
    assert storage_names(room=plenty, ledger_room=plenty, probed=16, segments_to=9) == []
    assert storage_names(room=Room(bytes=1 << 40, files=None)) == []


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("storage_away", {"away": "there is no folder"}),
        ("storage_unknown", {"trouble": "permission denied"}),
        ("history_differs", {"refusal": "rolled back"}),
        ("objects_missing", {"probed": 16, "missing": 1}),
        ("storage_full", {"room": Room(bytes=1000, files=None)}),
        ("storage_full", {"room": Room(bytes=1 << 40, files=3)}),
        ("storage_full", {"ledger_room": Room(bytes=1000, files=None)}),
        ("segments_stale", {"segments_to": 5, "unwritten_us": NOW - 3600 * SECOND}),
    ],
)
def test_each_trouble_of_the_storage_is_an_alarm(name: str, changes: dict[str, object]) -> None:
    assert storage_names(**changes) == [name]


def test_events_of_just_now_need_no_segment_yet() -> None:
    assert storage_names(segments_to=5, unwritten_us=NOW - 60 * SECOND) == []


def test_a_failed_run_is_an_alarm_until_something_goes_well() -> None:
    failed = source_facts(failed_run=FailedRun(instance="main", reason="refused", at_us=NOW))
    assert names(facts(failed)) == ["run_failed"]
    assert "the server refused the token" in health(NOW, facts(failed), Limits())[0].text
    assert names(facts(replace(failed, past=Past(why="taken_over", since_us=NOW)))) == []


@pytest.mark.parametrize(
    ("failing_", "present", "alarms"),
    [(300, 300, ["many_failing"]), (3, 3, ["many_failing"]), (31, 300, ["many_failing"]), (30, 300, []), (5, 6, [])],
)
def test_many_failures_are_an_alarm_at_once(failing_: int, present: int, alarms: list[str]) -> None:
    states = {"current": (present - failing_, 0), "pending": (failing_, 0), "vanished": (1000, 0)}
    found = source_facts(states=states, reasons={"http_500": failing_}, failing_since_us=NOW)
    assert names(facts(found)) == alarms


@pytest.mark.parametrize("counts", [(100, 60, 40), (0, 160, 160), (70, 20, 20)])
def test_where_very_many_wait_only_some_are_looked_at(
    ledger: Ledger,
    append: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    counts: tuple[int, int, int],
) -> None:
    waiting, failing_, about = counts
    monkeypatch.setattr("kropot.query.facts.LOOKED_AT", 40)
    read: list[Image] = []
    due = ledger.projection.due

    def counted(source: bytes, *, last_first: bool) -> Iterator[Image]:
        for image in due(source, last_first=last_first):
            read.append(image)
            yield image

    monkeypatch.setattr(ledger.projection, "due", counted)
    later = Failure(reason="http_500", attempts=1, since_us=NOW, next_try_us=NOW + DAY)
    some = ((key(f"waits {n}"), RemoteObserved(element=element())) for n in range(waiting))
    append((source_key(), SourceBegan(source=a_source())), *some, at_us=NOW)
    append(*((key(f"fails {n}"), RemoteObserved(element=element(failure=later))) for n in range(failing_)), at_us=NOW)
    found = gather(ledger)
    (each,) = found.sources
    assert len(read) <= 2 * 40
    assert each.is_sampled
    assert each.failing_about == about
    assert "many_failing" in names(found)
    assert each.pending_since_us == NOW


def test_what_is_beyond_help_is_counted_beside_what_is_wanted(ledger: Ledger, append: Callable[..., None]) -> None:
    append((source_key(), SourceBegan(source=a_source())), at_us=NOW)
    for name, present in (("here", True), ("gone", False), ("gone too", False)):
        copy = a_copy()
        append(
            (key(name), RemoteObserved(element=element())),
            (key(name), CopyStored(element=element(copy=copy))),
            (key(name), CopyLost(element=element(copy=copy, present=present, damage="lost"), sha256=copy.sha256)),
            at_us=NOW,
        )
    (each,) = gather(ledger).sources
    assert each.beyond_help == 2
    assert each.states["lost"] == (3, 96)


def test_a_failed_run_is_the_last_thing_known_of_a_source(ledger: Ledger, append: Callable[..., None]) -> None:
    append((source_key(), SourceBegan(source=a_source())), at_us=NOW)
    record_failure(ledger, ID, "main", "refused")
    record_failure(ledger, ID, "main", "refused")
    assert ledger.head().position == 3
    (each,) = gather(ledger).sources
    assert each.failed_run == FailedRun(instance="main", reason="refused", at_us=NOW)
    append((source_key(), ListingAdvanced(source=a_source())), at_us=NOW)
    assert gather(ledger).sources[0].failed_run is None
    record_failure(ledger, ID, "main", "refused")
    assert ledger.head().position == 5
