"""What a person decides about sources and elements: labels, retirement, dismissal; and which sources are past."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from kropot.collect.decide.sources import moved
from kropot.query.facts import gather
from kropot.query.health import Limits, health
from kropot.query.past import freshest_first, labels_of, sources_at
from ledger.audit import IndexAudit, LogAudit
from ledger.errors import LedgerError
from ledger.events import (
    NO_SOURCE,
    CopyLost,
    DismissedFetchFailed,
    ElementDismissed,
    Keeping,
    SourceLabelled,
    SourceRenamed,
    SourceRetired,
)
from ledger.keeping import keep, keeping_key, keeping_of
from ledger.log import NewFact, source_key
from ledger.replica import fold
from tests.kropot.replay_world import World

if TYPE_CHECKING:
    from tests.kropot.replay_cli import Run

pytest_plugins = ["tests.kropot.replay_cli"]

HOUR = 3600


def alarms(world: World) -> list[str]:
    limits = Limits(audit_s=10**9, failing_s=60)
    return [alarm.name for alarm in health(world.now_us, gather(world.ledger), limits)]


def past(world: World) -> list[str | None]:
    """Return for each source, in the order of their beginnings, why it is past."""
    return [None if known.past is None else known.past.why for known in sources_at(world.ledger).values()]


def rename(world: World, source: bytes, url: str) -> None:
    fact = moved(world.ledger.sources()[source].source, url)
    world.ledger.append([NewFact(key=source_key(source), fact=fact, observed_us=world.now_us)])


# --- which sources are past ------------------------------------------------------------------------------------------


def test_another_token_takes_over_once_it_was_listed_and_until_the_first_is_listed_again() -> None:
    world = World()
    old = world.source()
    world.listed(old)
    world.tick()
    new = world.source()
    assert past(world) == [None, None]
    world.listed(new)
    assert past(world) == ["taken_over", None]
    assert sources_at(world.ledger)[old].past.heir == new  # type: ignore[union-attr]
    world.tick()
    world.listed(old)
    assert past(world) == [None, None]


def test_neither_an_alias_nor_a_label_brings_a_replaced_source_back() -> None:
    world = World()
    old = world.source()
    world.listed(old)
    world.tick()
    new = world.source()
    world.listed(new)
    for source in (new, old):
        rename(world, source, f"https://moved-{source.hex()}.example.org")
        keep(world.ledger, source, SourceLabelled(keeping=Keeping(label=source.hex()[:4] + "-")), version=0)
        assert past(world) == ["taken_over", None]


def test_sources_at_different_addresses_never_take_over() -> None:
    world = World()
    for name in ("one", "two"):
        world.listed(world.source(url=f"https://{name}.example.org"))
        world.tick()
    assert past(world) == [None, None]


def test_a_moment_knows_the_sources_as_they_were_then() -> None:
    world = World()
    old = world.source()
    world.listed(old)
    world.tick()
    before = world.ledger.head().position
    new = world.source()
    world.listed(new)
    keep(world.ledger, new, SourceRetired(keeping=Keeping(retired_us=5)), version=0)
    (known,) = sources_at(world.ledger, before).values()
    assert (known.id, known.past) == (old, None)
    assert sources_at(world.ledger, world.ledger.head().position) == sources_at(world.ledger)
    assert past(world) == ["taken_over", "retired"]
    assert sources_at(world.ledger, 1) == {}


def test_sources_in_use_come_first_and_of_these_the_one_that_was_listed_last() -> None:
    world = World()
    made = [world.source(url=f"https://{name}.example.org") for name in range(4)]
    for source in (made[3], made[0], made[2]):
        world.tick()
        world.listed(source)
    keep(world.ledger, made[2], SourceRetired(keeping=Keeping(retired_us=5)), version=0)
    assert freshest_first(sources_at(world.ledger)) == [made[0], made[3], made[1], made[2]]


# --- the facts -------------------------------------------------------------------------------------------------------


def test_decisions_are_kept_apart_from_what_the_collector_knows_and_are_audited() -> None:
    world = World()
    source = world.source()
    version = world.ledger.sources()[source].version
    keep(world.ledger, source, SourceLabelled(keeping=Keeping(label="web")), version=0)
    keep(world.ledger, source, SourceRetired(keeping=Keeping(label="web", retired_us=7)), version=1)
    assert world.ledger.sources()[source].version == version, "a collector at work would have to begin again"
    assert fold(world.ledger.events()).keepings == {source: Keeping(label="web", retired_us=7)}
    kept = keeping_of(world.ledger, source)
    assert (kept.keeping, kept.version) == (Keeping(label="web", retired_us=7), 2)
    assert keeping_of(world.ledger, source, until=kept.position - 1).keeping == Keeping(label="web")
    audit = LogAudit(world.store.log)
    assert list(audit.findings()) == []
    assert list(IndexAudit(world.store, audit).findings()) == []
    assert world.ledger.rebuild().skipped == 0


@pytest.mark.parametrize("source", [NO_SOURCE, b"unknown source  "])
def test_a_decision_about_no_known_source_is_refused(source: bytes) -> None:
    world = World()
    world.source()
    with pytest.raises(LedgerError):
        keep(world.ledger, source, SourceLabelled(keeping=Keeping(label="web")), version=0)
    assert list(world.ledger.history(keeping_key(source))) == []


def test_a_renaming_keeps_the_addresses_of_a_source_that_was_listed() -> None:
    world = World()
    source = world.source(url="https://typo.example.org")
    never = replace(world.ledger.sources()[source].source, opaque=None)
    assert moved(never, "https://right.example.org") == SourceRenamed(
        source=replace(never, urls=("https://right.example.org",))
    )
    world.listed(source)
    listed = world.ledger.sources()[source].source
    assert moved(listed, "https://new.example.org").source.urls == (
        "https://typo.example.org",
        "https://new.example.org",
    )


# --- labels ----------------------------------------------------------------------------------------------------------


def test_a_label_is_shown_and_taken_wherever_a_source_is(world: World, run: Run) -> None:
    source = world.source()
    other = world.source(url="https://other.example.org")
    key = world.put(source, "a.txt", b"1")
    world.put(other, "a.txt", b"2")
    assert "has the label web 1" in run("source", "label", source.hex()[:6], "web 1").out
    assert run("source", "label", "web 1", "web 1").out.startswith("nothing to do")
    assert run("ls", f"web 1:{key.id}").out.startswith(f"web 1:{key.id}  current")
    assert run("ls", "--source", "WEB 1").out.count("\n") == 1
    assert run("replay", "--list").out.count("web 1:") == 1
    assert run("history", f"web 1:{key.id}").code == 0
    assert f"{source.hex()}  web 1  https" in run("source", "list").out
    assert "web 1  https" in run("status").out
    assert [row["label"] for row in run("source", "list", "--json").lines] == ["web 1", None]
    refused = run("source", "label", other.hex(), "Web 1")
    assert (refused.code, "has the label" in refused.err) == (2, True)
    assert run("source", "label", "web 1", "--undo").out == f"source {source.hex()} has no label\n"
    assert run("ls", "--source", "web 1").code == 2
    assert set(labels_of(world.ledger).values()) == {None}
    assert run("source", "label", source.hex()).code == 2


# --- retirement ------------------------------------------------------------------------------------------------------


def test_a_retired_source_raises_no_alarm_until_a_copy_is_lost(world: World, run: Run) -> None:
    source = world.source()
    lost, failing, sound = (world.put(source, name, name.encode()) for name in ("lost", "failing", "sound"))
    world.listed(source)
    world.damage(lost, lost=True)
    world.vanish(lost)
    world.see(source, "failing", date=5)
    world.fail(failing)
    world.tick(48 * HOUR)
    assert alarms(world) == ["listing_stale", "beyond_help", "failing"]
    answer = run("source", "retire", source.hex())
    assert (answer.code, "is retired" in answer.out) == (0, True)
    assert alarms(world) == []
    assert run("source", "retire", source.hex()).out.startswith("nothing to do")
    rename(world, source, "https://moved.example.org")
    assert alarms(world) == [], "an alias does not bring it back"
    assert "past: retired at" in run("source", "list").out
    assert "past: retired at" in run("status").out
    world.damage(sound, lost=True)
    assert alarms(world) == ["beyond_help"], "the archive itself is still watched"
    assert run("source", "dismiss", sound.id).code == 0
    assert alarms(world) == []
    assert run("source", "retire", source.hex(), "--undo").out == f"source {source.hex()} is in use\n"
    assert alarms(world) == ["listing_stale", "beyond_help", "failing"]


def test_undo_also_answers_a_take_over_that_was_none(world: World, run: Run) -> None:
    sources = []
    for _ in range(2):
        sources.append(world.source())
        world.tick()
        world.listed(sources[-1])
        world.tick()
    assert past(world) == ["taken_over", None]
    assert run("source", "retire", sources[0].hex(), "--undo").code == 0
    assert past(world) == [None, None]
    assert run("source", "retire", sources[0].hex(), "--undo").out.startswith("nothing to do")


# --- dismissal -------------------------------------------------------------------------------------------------------


def test_a_lost_copy_is_dismissed_until_there_is_news_of_it(world: World, run: Run) -> None:
    source = world.source()
    key = world.put(source, "a", b"1")
    world.listed(source)
    world.damage(key, lost=True)
    world.vanish(key)
    assert alarms(world) == ["beyond_help"]
    assert run("source", "dismiss", key.id).out == f"{source.hex()[:8]}:{key.id} is dismissed\n"
    assert alarms(world) == []
    assert run("source", "dismiss", key.id).out.startswith("nothing to do: ")
    (each,) = gather(world.ledger).sources
    assert (each.dismissed, each.beyond_help) == (1, 0)
    assert "dismissed 1 element" in run("status").out
    assert run("ls", key.id).out.endswith("  dismissed\n")
    assert "  ElementDismissed  lost" in run("history", key.id).out
    assert "  by " in run("history", key.id).out.splitlines()[-1]
    assert run("source", "dismiss", key.id, "--undo").code == 0
    assert alarms(world) == ["beyond_help"]
    assert run("source", "dismiss", key.id).code == 0
    element = world.elements[key]
    assert element.copy is not None
    world._append(key, CopyLost(element=element, sha256=element.copy.sha256))
    assert alarms(world) == ["beyond_help"], "it was found again after that"


def test_a_failing_element_stays_dismissed_while_it_goes_on_failing(world: World, run: Run) -> None:
    source = world.source()
    key = world.see(source, "a")
    world.listed(source)
    world.fail(key)
    assert run("source", "dismiss", key.id).code == 0
    world.tick(600)
    failure = world.elements[key].failure
    assert failure is not None
    world._append(key, DismissedFetchFailed(element=replace(world.elements[key], failure=replace(failure, attempts=9))))
    assert (alarms(world), gather(world.ledger).sources[0].dismissed) == ([], 1)
    world.see(source, "a", date=1_790_000_555)
    world.fail(key)
    world.tick(600)
    assert "failing" in alarms(world), "a new revision is news"


def test_only_what_is_beyond_help_can_be_dismissed_and_of_several_all_or_none(world: World, run: Run) -> None:
    source = world.source()
    good, waiting, bad = world.put(source, "good", b"1"), world.see(source, "waiting"), world.put(source, "bad", b"2")
    world.damage(bad)
    for key, state in ((good, "current"), (waiting, "pending")):
        answer = run("source", "dismiss", bad.id, key.id)
        assert answer.code == 2
        assert f"is {state}, and no fetch of it failed" in answer.err
    world.erase(good)
    assert run("source", "dismiss", "no such element").code == 2
    assert not [event for event in world.ledger.events() if isinstance(event.fact, ElementDismissed)]
    done = run("source", "dismiss", bad.id, "--json").json
    decided = {"source": source.hex(), "type": "file", "id": bad.id, "dismissed": True, "changed": True}
    assert done == {"message_type": "source_decision"} | decided


def test_a_decision_needs_a_source_that_is_there(world: World, run: Run) -> None:
    world.ledger.begin()
    for args in (("retire", "ab"), ("label", "ab", "x"), ("dismiss", "ab")):
        assert run("source", *args).code == 2
