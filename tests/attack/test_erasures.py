"""Whoever may append can erase a backup through the front door. Every command says so, and no key signs it unasked."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from kropot.checkpoints.folder import CheckpointFolder
from kropot.checkpoints.signing import sign_head
from kropot.checkpoints.state import SignerState
from kropot.errors import UnacceptedErasureError
from kropot.upkeep import keep_checkpoints
from ledger.checkpoint import SigningKey
from tests.kropot.replay_world import KIT, World
from tests.kropot.test_restore_cli import kit_fields

if TYPE_CHECKING:
    from pathlib import Path

    from ledger.events import StreamKey
    from tests.kropot.replay_cli import Run

pytest_plugins = ["tests.kropot.replay_cli"]

KEY = SigningKey(name="signer", seed=bytes(range(32)))


@pytest.fixture
def keys(world: World) -> list[StreamKey]:
    """Fill the replica with five files, and return their keys."""
    source = world.source()
    return [world.put(source, f"{n}.txt", b"content") for n in range(5)]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return the signer's own folder."""
    (tmp_path / "home" / "notes").mkdir(parents=True)
    return tmp_path / "home"


def sign(world: World, home: Path, accepted: int = 0) -> int:
    folder = CheckpointFolder(home / "notes")
    return sign_head(world.ledger, KEY, home / "signer.key", [folder], accepted=accepted).checkpoint.size


def against(run: Run, home: Path) -> tuple[int, dict[str, dict[str, Any]], dict[str, Any]]:
    """Return what `verify --against` answers: the exit code, findings by kind, the summary."""
    given = ("--against", str(home / "notes"), "--public-key", KEY.verifier.text)
    answer = run("verify", "--json", "--no-record", "--quick", *given)
    return answer.code, {line["kind"]: line for line in answer.lines[:-1]}, answer.lines[-1]


# --- every command names erasures ------------------------------------------------------------------------------------


def test_every_command_names_what_was_erased(world: World, run: Run, keys: list[StreamKey], tmp_path: Path) -> None:
    kit = tmp_path / "kit.json"
    kit.write_text(json.dumps({"data": kit_fields(KIT)}))
    kit.chmod(0o600)
    for command in (("status",), ("replay",)):
        assert "erased" not in run(*command).out
    for key in keys[:2]:
        world.erase(key)
    last = world.ledger.head().position
    words = "2 elements with 4 payloads, from "
    fields = {"elements": 2, "payloads": 4, "last_position": last}

    status = run("status")
    assert f"erased   {words}" in status.out
    assert f"(event {last})" in status.out
    told = [
        run("status", "--json").json["erased"],
        run("verify", "--json", "--no-record").lines[-1]["covered"]["erasures"],
        run("replay", "--json").json["erased"],
        run("replay", "--json", "--export", str(tmp_path / "export")).lines[-1]["erased"],
        run("restore", "--json", "--key", str(kit), "--to", str(tmp_path / "json")).lines[-1]["erased"],
    ]
    for erased in told:
        assert {name: erased[name] for name in fields} == fields
        assert erased["since"] <= erased["last"]
    for way in ((), ("--list",), ("--until", "@3"), ("--diff", "@3")):
        replay = run("replay", *way)
        assert f"erased: {words}" in replay.err, way
    restore = run("restore", "--key", str(kit), "--to", str(tmp_path / "to"))
    assert f"erased, so it cannot be restored: {words}" in restore.err
    assert f"note erased: {words}" in run("verify", "--no-record").out


def test_history_tells_of_an_erased_element_that_nothing_names_any_more(
    world: World, run: Run, keys: list[StreamKey]
) -> None:
    world.erase(keys[0])
    answer = run("history", keys[0].id)
    assert answer.code == 0
    assert answer.out.strip().endswith("PayloadErased  erased 2 earlier events")
    row = run("history", keys[0].id, "--json").json
    assert (row["event"], row["erased_payloads"]) == ("PayloadErased", 2)
    world.see(keys[0].source, "0.txt", date=1_790_000_100)  # it goes on in a new stream
    events = [row["event"] for row in run("history", keys[0].id, "--json").lines]
    assert events == ["PayloadErased", "RemoteObserved"]
    assert "PayloadErased" not in run("history", keys[1].id).out
    assert run("history", "never.txt").code == 2


# --- no key signs them unasked ---------------------------------------------------------------------------------------


def test_an_erasure_behind_the_last_checkpoint_is_a_finding(
    world: World, run: Run, keys: list[StreamKey], home: Path
) -> None:
    sign(world, home)
    assert against(run, home)[:2] == (0, {})
    for key in keys[:4]:
        world.erase(key)
    code, found, summary = against(run, home)
    assert code == 4
    assert found["unsigned_erasure"]["severity"] == "error"
    assert "4 elements with 8 payloads" in found["unsigned_erasure"]["detail"]
    assert f"(event {world.ledger.head().position})" in found["unsigned_erasure"]["detail"]
    assert found["erased"]["severity"] == "note"
    assert not summary["sound"]


def test_the_signer_signs_no_erasure_that_nobody_accepted(
    world: World, run: Run, keys: list[StreamKey], home: Path
) -> None:
    signed = sign(world, home)
    world.erase(keys[0])
    first = world.ledger.head().position
    world.erase(keys[1])
    last = world.ledger.head().position
    state = SignerState(home / "signer.key", world.ledger.identity().ledger_id)
    for accepted in (0, first - 1, first):
        with pytest.raises(UnacceptedErasureError, match=f"--accept-erasures {last}`"):
            sign(world, home, accepted)
    before = state.read()
    assert before is not None
    assert before.size == signed
    assert len(list(CheckpointFolder(home / "notes").exported())) == 1

    assert sign(world, home, last) == last
    code, found, summary = against(run, home)
    assert (code, summary["sound"]) == (0, True)
    assert (found["erased"]["severity"], "unsigned_erasure" in found) == ("note", False)
    world.put(keys[0].source, "later.txt", b"more")
    assert sign(world, home) > last  # what was accepted once is accepted for ever

    world.erase(keys[2])
    with pytest.raises(UnacceptedErasureError, match=r"the event at position \d+ erased"):
        sign(world, home, last)
    code, found, _ = against(run, home)
    assert code == 4
    assert "1 element with 2 payloads" in found["unsigned_erasure"]["detail"]


def test_a_signer_without_its_state_knows_what_its_checkpoints_cover(
    world: World, run: Run, keys: list[StreamKey], home: Path
) -> None:
    world.erase(keys[0])
    accepted = world.ledger.head().position
    sign(world, home, accepted)
    SignerState(home / "signer.key", world.ledger.identity().ledger_id).path.unlink()
    world.put(keys[0].source, "later.txt", b"more")
    assert sign(world, home) > accepted
    assert against(run, home)[0] == 0


def test_the_command_refuses_with_4_and_signs_when_asked(
    world: World, run: Run, keys: list[StreamKey], home: Path
) -> None:
    (home / "signer.key").write_text(f"{KEY.text}\n")
    (home / "signer.key").chmod(0o600)
    line = ("checkpoint", "sign", "--key", str(home / "signer.key"), "--to", str(home / "notes"))
    world.erase(keys[0])
    last = world.ledger.head().position
    answer = run(*line)
    assert answer.code == 4
    assert answer.out == ""
    assert f"the event at position {last} erased" in answer.err
    assert list((home / "notes").iterdir()) == []
    assert run(*line, "--accept-erasures", str(last)).code == 0
    assert run(*line).code == 0
    assert against(run, home)[0] == 0


def test_a_key_without_any_checkpoint_accepts_nothing(world: World, run: Run, keys: list[StreamKey]) -> None:
    world.erase(keys[0])
    answer = run("verify", "--json", "--no-record", "--quick", "--public-key", KEY.verifier.text)
    assert answer.code == 4
    assert "unsigned_erasure" in [line["kind"] for line in answer.lines]


def test_without_a_key_erasures_are_named_and_it_is_said_that_nothing_was_checked(
    world: World, run: Run, keys: list[StreamKey], home: Path
) -> None:
    sign(world, home)
    world.erase(keys[0])
    answer = run("verify", "--json", "--no-record", "--quick")
    assert answer.code == 0
    assert [line["severity"] for line in answer.lines if line["kind"] == "erased"] == ["note"]
    assert any(gap.startswith("erasures: ") for gap in answer.lines[-1]["not_covered"])


def test_a_collector_that_signs_goes_on_collecting_and_says_it_once_per_checkpoint(
    world: World, keys: list[StreamKey], home: Path
) -> None:
    folders = [CheckpointFolder(home / "notes")]
    chore = keep_checkpoints(world.ledger, KEY, home / "signer.key", folders, every_s=3600, every_events=2)
    chore.do()
    world.erase(keys[0])
    world.erase(keys[1])
    with pytest.raises(UnacceptedErasureError):
        chore.do()
    chore.do()  # nothing new: it is not said again
    world.put(keys[0].source, "later.txt", b"more")
    with pytest.raises(UnacceptedErasureError):
        chore.do()
    assert len(list(folders[0].exported())) == 1
