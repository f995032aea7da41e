"""`kropotcli log`: every time and position that it shows leads `--until` to the same state."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from kropot.query.rounds import rounds
from kropot.query.volumes import BLOCK, StoredVolumes
from ledger.events import Listing, ListingAdvanced, ListingCompleted, ListingHeldBack
from ledger.log import NewFact, source_key
from tests.kropot.replay_world import EMPTY, World
from tests.kropot.sealed_world import SealedWorld, kit_file

if TYPE_CHECKING:
    from pathlib import Path

    from tests.kropot.replay_cli import Run

pytest_plugins = ["tests.kropot.replay_cli"]

NOTHING = Listing(mode="window", since=None, until=None, seen=0, new=0, changed=0, reappeared=0, vanished=0, rejected=0)


def listed(world: World, source: bytes, *, kind: type = ListingCompleted, **found: int) -> None:
    """Record a listing, as the last event of its batch."""
    after = replace(world.ledger.sources()[source].source, listed_us=world.now_us)
    fact = kind(source=after) if kind is ListingAdvanced else kind(source=after, listing=replace(NOTHING, **found))
    world.ledger.append([NewFact(key=source_key(source), fact=fact, observed_us=world.now_us)])


def test_a_round_ends_where_the_next_listing_of_its_source_begins(world: World, run: Run) -> None:
    source = world.source(None)
    world.tick()
    listed(world, source, seen=2, new=2)
    for name in ("one", "two"):
        world.tick(0.000_001)
        world.store_copy(world.see(source, name), b"12345")
    between = world.ledger.head()
    world.tick()
    listed(world, source, kind=ListingAdvanced)
    listed(world, source, kind=ListingAdvanced)
    listed(world, source, seen=1, vanished=1)
    first, second = run("log", "--json").lines
    assert (first["position"], first["new"], first["copies"], first["bytes"]) == (between.position, 2, 2, 10)
    assert (second["gone"], second["copies"], second["open"]) == (1, 0, True)
    assert second["position"] == world.ledger.head().position
    for each in (first, second):
        by_time = run("replay", "--until", each["time"], "--json").json
        by_position = run("replay", "--until", f"@{each['position']}", "--json").json
        assert by_time["position"] == by_position["position"] == each["position"]
        assert by_time["state_digest"] == by_position["state_digest"]
    told = run("log").out.splitlines()
    assert told[0].startswith(f"@{first['position']}")
    assert first["time"] in told[0]
    assert "2 new" in told[0]
    assert "10 B" in told[0]
    assert [line.endswith("  open") for line in told] == [False, True]


def test_a_clock_that_stands_still_cuts_no_round_in_two(world: World, run: Run) -> None:
    source = world.source(None)
    for _ in range(4):
        listed(world, source)
        world.see(source, "again")
    for each in run("log", "--json").lines:
        assert run("replay", "--until", each["time"], "--json").json["position"] in {each["position"], 0}


def test_rounds_of_several_sources_are_told_apart(world: World, run: Run) -> None:
    one, two = world.source(None), world.source(None, url="https://other.example")
    for source, size in ((one, 3), (two, 5), (one, 7)):
        world.tick()
        listed(world, source, new=1)
        world.store_copy(world.see(source, f"{size}.bin"), b"x" * size)
    world.tick()
    listed(world, two, kind=ListingHeldBack)
    rows = run("log", "--json").lines
    assert [(row["source"], row["bytes"], row["held"]) for row in rows] == [
        (one.hex(), 3, False),
        (two.hex(), 5, False),
        (one.hex(), 7, False),
        (two.hex(), 0, True),
    ]
    assert [row["position"] for row in rows] == sorted(row["position"] for row in rows)
    only = run("log", "--json", "--source", one.hex()[:6]).lines
    assert [row["bytes"] for row in only] == [3, 7]
    assert [row["bytes"] for row in run("log", "--json", "--changes").lines] == [3, 5, 7]
    assert "held back" in run("log").out


def test_since_leaves_out_what_ended_before_and_counts_the_rest_alike(world: World, run: Run) -> None:
    source = world.source(None)
    for number in range(6):
        world.tick(10)
        listed(world, source, new=1)
        world.tick(1)
        world.store_copy(world.see(source, f"{number}"), b"x" * number)
    whole = run("log", "--json").lines
    for index, each in enumerate(whole):
        assert run("log", "--json", "--since", each["time"]).lines == whole[index + 1 :]
        assert run("log", "--json", "--since", f"@{each['position']}").lines == whole[index + 1 :]
    assert run("log", "--since", "nonsense").code == 2


def test_a_long_round_is_summed_by_the_database(world: World) -> None:
    source, other = world.source(None), world.source(None, url="https://other.example")
    listed(world, source)
    keys = [world.see(source if number % 3 else other, str(number)) for number in range(30)]
    world.see_many(source, 2 * BLOCK)
    for number, key in enumerate(keys):
        world.store_copy(key, b"x" * number)
    world.see_many(other, 2 * BLOCK)
    volumes, head = StoredVolumes(world.ledger), world.ledger.head().position
    (found,) = [each for each in rounds(world.ledger) if each.source == source]
    assert found.position == head
    mine = [number for number in range(30) if number % 3]
    assert volumes.between(source, found.after, head) == (len(mine), sum(mine))
    assert volumes.between(other, 0, head) == (10, sum(range(30)) - sum(mine))
    assert volumes.between(source, head, head) == (0, 0)
    # Whoever keeps it counts what came since.
    world.store_copy(keys[1], b"y" * 1000)
    for further in (1, 3, 70):
        world.see_many(world.source(None, url=f"https://{further}.example"), further * BLOCK)
        world.store_copy(keys[1], b"z" * further)
        until = world.ledger.head().position
        for after in (0, head - 5, until - 3 * BLOCK):
            assert volumes.between(source, after, until) == StoredVolumes(world.ledger).between(source, after, until)


def test_names_stand_below_their_round(tmp_path: Path, world: World, run: Run) -> None:
    sealed = SealedWorld(world.store, objects=world.objects)
    source = sealed.source()
    listed(sealed, source, new=1)
    key = sealed.seal(source, b"docs/letter.txt", b"Dear")
    sealed.tick()
    listed(sealed, source, vanished=1)
    sealed.vanish(key)
    kit = kit_file(tmp_path)
    told = run("log", "--key", kit)
    assert [line.strip().split(" ")[0] for line in told.out.splitlines() if line.startswith(" ")] == ["+", "-"]
    assert told.out.count(f"{source.hex()[:8]}:docs/letter.txt") == 2
    rows = run("log", "--key", kit, "--json").lines
    changes = [(row["change"], row["name"]) for row in rows if row["message_type"] == "round_change"]
    assert changes == [("new", "docs/letter.txt"), ("gone", "docs/letter.txt")]
    assert "docs/letter" not in run("log").out


def test_an_empty_ledger_has_no_restore_points(world: World, run: Run) -> None:
    world.ledger.begin()
    assert run("log") == (0, "", "")
    assert world.elements == {}
    assert EMPTY.copy is None


@pytest.mark.parametrize("args", [("--source", "nobody"), ("--key", "nothing.json")])
def test_what_is_wrong_is_one_sentence(world: World, run: Run, args: tuple[str, ...]) -> None:
    world.source()
    answer = run("log", *args)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("error: ")
    assert answer.err.count("\n") == 1
