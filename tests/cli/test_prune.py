"""`prune`, `keep` and `storage clean`, and what other commands say of what was let go."""

from __future__ import annotations

import json
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from kropot.errors import Exit
from kropot.objects.directory import DirectoryObjects
from ledger.events import AlarmsAccepted, CopyDamaged, Surge
from ledger.log import NewFact, source_key
from ledger.retaining import decided_of
from ledger.sql import open_store
from tests.kropot.retention_world import HOUR, SOURCE, RetentionWorld, sha
from tests.ledger.world import let_go

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import RunCli

POLICY = '[retention]\nkeep-last = 1\nmin-age = "0s"\nkeep-vanished = "0s"\n'


@dataclass
class Bench:
    world: RetentionWorld
    folder: Path
    run_cli: RunCli
    policy: str = POLICY

    def run(self, *args: str) -> subprocess.CompletedProcess[str]:
        config = self.folder / "config.toml"
        config.write_text(
            f'db-string = "sqlite:///{self.folder / "ledger.db"}"\nstorage-path = "{self.folder / "storage"}"\n'
            + self.policy
        )
        config.chmod(0o600)
        return self.run_cli("--config", str(config), *args)

    def json(self, *args: str, code: int = 0) -> Any:
        answer = self.run(*args, "--json")
        assert answer.returncode == code, answer.stderr
        found = json.loads(answer.stdout)
        del found["message_type"]
        return found

    def files(self) -> set[str]:
        return {path.name for path in (self.folder / "storage" / "objects").rglob("*") if path.is_file()}


@pytest.fixture
def bench(tmp_path: Path, run_cli: RunCli) -> Iterator[Bench]:
    store = open_store(f"sqlite:///{tmp_path / 'ledger.db'}", create=True)
    world = RetentionWorld(random.Random(1), store=store, clock_us=time.time_ns() // 1000 - 3 * HOUR)
    world.objects = DirectoryObjects(tmp_path / "storage", "main")  # type: ignore[assignment]
    world.effects = world._effects()
    world.listed({"a": "old", "b": "gone"})
    world.clock_us += HOUR
    world.listed({"a": "new", "b": None})
    world.clock_us += HOUR
    world.listed({})
    yield Bench(world, tmp_path, run_cli)
    world.objects.close()
    store.close()


def test_without_a_policy_nothing_is_released(bench: Bench) -> None:
    bench.policy = ""
    for args in (("prune",), ("prune", "--dry-run")):
        answer = bench.run(*args)
        assert answer.returncode == Exit.USAGE
        assert "there is no policy, so nothing is released" in answer.stderr
    assert decided_of(bench.world.ledger).position == 0


@pytest.mark.parametrize(
    "policy",
    ["[retention]\nkeep-hourly = 1", "[retention]\nkeep-last = 0", "[retention.web]\nkeep-last = 1", "retention = 5"],
)
def test_a_wrong_policy_is_refused_before_anything_is_done(bench: Bench, policy: str) -> None:
    bench.policy = policy
    head = bench.world.ledger.head().position
    assert bench.run("prune").returncode == Exit.USAGE
    assert bench.run("prune", "--dry-run").returncode == Exit.USAGE
    if "web" not in policy:
        assert bench.run("config", "check").returncode == Exit.USAGE
    assert bench.world.ledger.head().position == head


def test_a_table_of_its_own_holds_for_the_source_with_this_label(bench: Bench) -> None:
    bench.policy = POLICY.replace("[retention]", "[retention]\nkeep-last = 9\n[retention.photos]")
    answer = bench.run("prune")
    assert answer.returncode == Exit.USAGE
    assert "no source has the label 'photos'" in answer.stderr
    assert bench.run("source", "label", SOURCE.hex(), "Photos").returncode == Exit.DONE
    said = bench.json("prune", "--grace", "0s")
    assert [(row["label"], row["copies"]) for row in said["sources"]] == [("Photos", 1), ("Photos", 1)]
    assert said["freed"]["objects"] == 2
    assert bench.run("verify", "--no-record").returncode == Exit.DONE
    bench.policy = POLICY.replace("[retention]", "[retention.photos]")
    bench.world.listed({"a": "newest"})
    bench.world.clock_us += HOUR
    bench.world.listed({})
    assert bench.json("prune", "--dry-run")["copies"] == 1


def test_a_dry_run_shows_what_would_go_and_changes_nothing(bench: Bench) -> None:
    head, before = bench.world.ledger.head().position, bench.files()
    shown = bench.json("prune", "--dry-run")
    assert (shown["copies"], shown["bytes"]) == (2, 7)
    assert [(row["reason"], row["copies"]) for row in shown["sources"]] == [("replaced", 1), ("vanished", 1)]
    assert "2 copies (7 B) would be released" in bench.run("prune", "--dry-run").stdout
    assert (bench.world.ledger.head().position, bench.files()) == (head, before)


def test_a_release_waits_is_taken_back_and_is_freed(bench: Bench) -> None:
    said = bench.json("prune")
    assert (said["copies"], said["freed"]["objects"], said["waiting"]) == (2, 0, 2)
    assert bench.json("status")["space"]["waiting"] == {"objects": 2, "bytes": 7}
    assert bench.json("prune", "--undo") == {"taken_back": 2, "bytes": 7, "gone": 0}
    assert bench.json("status")["space"]["older"] == 3
    assert "2 copies" in bench.run("--quiet", "prune", "--dry-run").stdout
    assert bench.run("--quiet", "prune").stdout == ""
    assert bench.run("--quiet", "storage", "clean").stdout == ""
    said = bench.json("prune", "--grace", "0s")
    assert said["freed"] == {"objects": 2, "bytes": 7, "locked": 0}
    assert bench.files() == {sha("new").hex()}
    assert bench.json("prune", "--undo")["taken_back"] == 0
    assert bench.run("verify", "--no-record").returncode == Exit.DONE


def test_an_alarm_stops_it(bench: Bench) -> None:
    world = bench.world
    alarmed = AlarmsAccepted(source=replace(world.source, surge=Surge(changed=9, known=10, since_us=1)))
    world.append([NewFact(key=source_key(SOURCE), fact=alarmed, observed_us=world.clock_us)])
    for args in (("prune",), ("prune", "--dry-run"), ("storage", "clean")):
        answer = bench.run(*args)
        assert answer.returncode == Exit.PARTIAL
        assert "open alarm" in answer.stderr
    assert bench.run("source", "accept").returncode == Exit.DONE
    assert bench.json("prune", "--grace", "0s")["freed"]["objects"] == 2


def test_a_key_signs_the_policy_and_covers_what_is_freed(bench: Bench) -> None:
    key = bench.folder / "key"
    public = bench.json("checkpoint", "init", "--key", str(key))["public_key_file"]
    assert bench.run("checkpoint", "sign", "--key", str(key)).returncode == Exit.DONE
    answer = bench.run("prune", "--grace", "0s")
    assert answer.returncode == Exit.USAGE
    assert "name the key with --key" in answer.stderr
    said = bench.json("prune", "--grace", "0s", "--key", str(key))
    assert (said["copies"], said["freed"]["objects"]) == (2, 0), "no checkpoint covers it"
    assert bench.run("checkpoint", "sign", "--key", str(key)).returncode == Exit.DONE
    assert bench.json("prune", "--grace", "0s", "--key", str(key))["freed"]["objects"] == 2
    assert bench.run("verify", "--no-record", "--public-key", public).returncode == Exit.DONE
    bench.policy = POLICY.replace("keep-last = 1", "keep-last = 2")
    assert bench.run("prune").returncode == Exit.USAGE


def test_a_release_that_no_policy_entails_is_a_finding(bench: Bench) -> None:
    world = bench.world
    entry = world.ledger.entries([world.key("a")])[world.key("a")]
    assert entry.element is not None
    world.append([NewFact(key=world.key("a"), fact=let_go(entry.element, sha("old")), observed_us=1)])
    answer = bench.run("verify", "--no-record")
    assert answer.returncode == Exit.FINDINGS
    assert "unentailed_release" in answer.stdout
    (bench.folder / "storage" / "objects" / sha("new").hex()[:2] / sha("new").hex()).unlink()
    answer = bench.run("verify", "--no-record")
    assert "lost" in answer.stdout, "bytes that are gone without a release"


def test_history_says_when_and_why_a_copy_was_let_go(bench: Bench) -> None:
    before = bench.world.rounds[0]
    position = next(event.seq for event in bench.world.ledger.stored() if event.type == "ListingCompleted") + len(
        before.state
    )
    bench.json("prune", "--grace", "0s")
    (one, other) = [
        json.loads(line)
        for line in bench.run("replay", "--until", f"@{position}", "--list", "--json").stdout.splitlines()
    ]
    assert {row["id"]: row["released"]["reason"] for row in (one, other)} == {"a": "replaced", "b": "vanished"}
    text = bench.run("replay", "--until", f"@{position}", "--list").stdout
    assert "released on 20" in text
    assert "because a newer version had replaced it" in text
    exported = bench.run("replay", "--until", f"@{position}", "--export", str(bench.folder / "out"))
    assert exported.returncode == Exit.PARTIAL
    assert "retention released this copy on 20" in exported.stderr
    assert "CopyReleased" in bench.run("history", "a").stdout


def test_a_restore_point_is_kept_and_let_go(bench: Bench) -> None:
    assert bench.json("keep") == {"kept": []}
    position = bench.world.ledger.head().position
    assert bench.run("keep", f"@{position}").returncode == Exit.USAGE
    kept = bench.json("keep", f"@{position}", "--label", "before the move")
    assert kept == {"kept": [{"position": position, "label": "before the move"}]}
    assert bench.run("keep").stdout == f"@{position}  before the move\n"
    assert bench.run("keep", "--undo", "--label", "another").returncode == Exit.USAGE
    assert bench.json("keep", "--undo", "--label", "before the move") == {"kept": []}
    assert bench.run("prune").returncode == Exit.DONE
    assert "released since @5" in bench.run("keep", "@5", "--label", "too late").stderr


def test_orphans_are_counted_and_cleaned(bench: Bench) -> None:
    bench.world._publish("an orphan")
    bench.world.objects.set_aside(sha("old"))
    entry = bench.world.ledger.entries([bench.world.key("a")])[bench.world.key("a")]
    assert entry.element is not None
    bad = CopyDamaged(element=entry.element, sha256=sha("old"))
    bench.world.append([NewFact(key=entry.key, fact=bad, observed_us=1)])
    space = bench.json("status")["space"]
    assert (space["orphans"], space["quarantine"]) == ({"objects": 1, "bytes": 9}, {"objects": 1, "bytes": 3})
    young = bench.json("storage", "clean")
    assert (young["orphans"]["objects"], young["young_orphans"]["objects"]) == (0, 1)
    dry = bench.json("storage", "clean", "--grace", "0s", "--dry-run")
    assert (dry["orphans"]["objects"], dry["quarantined"]["objects"]) == (1, 1)
    assert sha("an orphan").hex() in bench.files()
    done = bench.json("storage", "clean", "--grace", "0s")
    assert (done["orphans"]["objects"], done["quarantined"]["objects"]) == (1, 1)
    assert sha("an orphan").hex() not in bench.files()
    assert list((bench.folder / "storage" / "quarantine").iterdir()) == []
