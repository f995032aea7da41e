"""`kropotcli kit`: what a kit holds, kits on paper and behind a passphrase, and the drill that opens copies."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from kropot.sc2.form import Kind
from kropot.sc2.kit import CbcKey, OwnerKit
from kropot.sc2.kits import parse_kit
from kropot.sc2.passphrase import LockedKit, Stretch, lock
from ledger.drills import drill_of
from ledger.errors import ReadOnlyLedgerError
from tests.kropot.replay_cli import kept_in
from tests.kropot.replay_world import KIT, OTHER_KIT
from tests.kropot.sc2_world import VAULT
from tests.kropot.sealed_world import OTHER_VAULT, SealedWorld, kit_file
from tests.kropot.test_restore_cli import kit_fields
from tests.kropot.test_restore_history import altered_payload
from tests.kropot.test_restore_sealed import exchange

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import RunCli
    from tests.kropot.replay_cli import Answer, Run

pytest_plugins = ["tests.kropot.replay_cli"]

PASSPHRASE = "some words that nobody guesses"
NEW = "other words that nobody guesses"
KEYS = [key.hex() for key in (VAULT.id_key, VAULT.etag_key, *VAULT.masters)] + [KIT.passphrase]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[SealedWorld]:
    with kept_in(tmp_path, SealedWorld) as made:
        yield made


@pytest.fixture
def kit(tmp_path: Path) -> str:
    return kit_file(tmp_path)


@pytest.fixture
def old_kit(tmp_path: Path) -> str:
    """The kit of a CBC token, as it was before sc2."""
    return secret(tmp_path / "old.json", json.dumps({"data": kit_fields(KIT)}, indent=2))


def secret(path: Path, text: str) -> str:
    path.write_text(text)
    path.chmod(0o600)
    return str(path)


def quick(salt: bytes) -> Stretch:
    return Stretch(salt=salt, memory_kib=32, passes=1, lanes=1)


def locked_file(folder: Path, kit: OwnerKit | None = None, passphrase: str = PASSPHRASE) -> str:
    made = lock(OwnerKit(vault=VAULT) if kit is None else kit, passphrase, stretch=quick)
    return secret(folder / "locked.json", made.encode().decode())


def expect_no_key(answer: Answer) -> None:
    for each in (*KEYS, PASSPHRASE, NEW):
        assert each not in answer.out
        assert each not in answer.err


# --- show ------------------------------------------------------------------------------------------------------------


def test_show_tells_what_a_kit_holds_and_no_key(run: Run, kit: str, old_kit: str, tmp_path: Path) -> None:
    answer = run("kit", "show", kit)
    assert answer.code == 0
    assert VAULT.id.hex() in answer.out
    assert f"2, the newest last: {VAULT.key_ids[0].hex()}, {VAULT.key_ids[1].hex()}" in answer.out
    assert "whoever has this file can open the backup" in answer.out
    old = run("kit", "show", old_kit)
    assert "aes-256-cbc, sha512, 1 round, without the stored salt" in old.out
    locked = run("kit", "show", locked_file(tmp_path))
    assert "its passphrase opens it" in locked.out
    assert VAULT.id.hex() in locked.out
    assert "masters" not in locked.out
    for each in (answer, old, locked):
        expect_no_key(each)


def test_show_is_json_for_scripts(run: Run, kit: str, old_kit: str, tmp_path: Path) -> None:
    locked, file = locked_file(tmp_path), secret(tmp_path / "passphrase", PASSPHRASE)
    answers = [
        run("kit", "show", "--json", kit),
        run("kit", "show", "--json", old_kit),
        run("kit", "show", "--json", locked),
        run("kit", "show", "--json", locked, "--passphrase-file", file),
    ]
    for answer in answers:
        expect_no_key(answer)
    open_, old, shut, opened = (answer.json for answer in answers)
    ids = [id_.hex() for id_ in VAULT.key_ids]
    vault = VAULT.id.hex()
    assert open_ == {
        "message_type": "kit",
        "locked": False,
        "argon2id": None,
        "vault": vault,
        "key_ids": ids,
        "cbc": [],
        "verifier": None,
    }
    assert old["cbc"] == [{"method": "aes-256-cbc", "digest": "sha512", "rounds": 1, "stored_salt": False}]
    assert (shut["vault"], shut["locked"], shut["key_ids"], shut["cbc"]) == (vault, True, None, None)
    assert opened == shut | {"key_ids": ids, "cbc": []}


@pytest.mark.parametrize("which", ["kit", "old", "locked"])
def test_a_kit_comes_back_from_paper_byte_for_byte(
    run: Run, kit: str, old_kit: str, tmp_path: Path, which: str
) -> None:
    path = {"kit": kit, "old": old_kit, "locked": ""}[which] or locked_file(tmp_path)
    printed = run("kit", "show", "--paper", path)
    assert printed.code == 0
    assert (which == "locked") is ("can open the backup" not in printed.err)
    typed = secret(tmp_path / "typed.txt", f"My kit:\n{printed.out.lower()}")
    answer = run("kit", "read", typed, "-o", str(tmp_path / "again.json"))
    assert answer.code == 0, answer.err
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / path).read_bytes()
    assert (tmp_path / "again.json").stat().st_mode & 0o777 == 0o600
    expect_no_key(answer)


def test_a_typing_error_is_named_and_nothing_is_written(run: Run, kit: str, tmp_path: Path) -> None:
    lines = run("kit", "show", "--paper", kit).out.splitlines(keepends=True)
    lines[4] = lines[4][:6] + ("B" if lines[4][6] == "A" else "A") + lines[4][7:]
    answer = run("kit", "read", secret(tmp_path / "typed.txt", "".join(lines)), "-o", str(tmp_path / "again.json"))
    assert answer.code == 2
    assert answer.err.count("\n") == 1
    assert "line 5 of the kit has a typing error" in answer.err
    assert not (tmp_path / "again.json").exists()


def test_a_kit_is_read_from_what_a_qr_code_holds(run: Run, kit: str, tmp_path: Path) -> None:
    seen = secret(tmp_path / "scanned", (tmp_path / kit).read_text().strip())
    assert run("kit", "read", seen, "-o", str(tmp_path / "again.json")).code == 0
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / kit).read_bytes()


def test_qr_codes_are_printed_and_written(run: Run, kit: str, tmp_path: Path) -> None:
    drawn = tmp_path / "kit.svg"
    answer = run("kit", "show", kit, "--qr", "--svg", str(drawn))
    assert answer.code == 0
    assert set(answer.out) <= set(" \n█▀▄")
    assert drawn.read_text().startswith("<svg")
    assert drawn.stat().st_mode & 0o777 == 0o600
    again = run("kit", "show", kit, "--svg", str(drawn))
    assert again.code == 2
    assert "exists and was not overwritten" in again.err
    assert run("kit", "show", kit, "--qr", "--json").code == 2


# --- passphrases -----------------------------------------------------------------------------------------------------


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stretch new passphrases for a moment only."""
    monkeypatch.setattr("kropot.cli.kit.lock", lambda kit, passphrase: lock(kit, passphrase, stretch=quick))


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("which", ["kit", "old"])
def test_a_passphrase_is_set_changed_and_removed(run: Run, kit: str, old_kit: str, tmp_path: Path, which: str) -> None:
    path = {"kit": kit, "old": old_kit}[which]
    one, two = secret(tmp_path / "one", PASSPHRASE + "\n"), secret(tmp_path / "two", NEW)
    made = [str(tmp_path / name) for name in ("a.json", "b.json", "c.json")]
    answers = [
        run("kit", "passphrase", path, "-o", made[0], "--new-passphrase-file", one),
        run("kit", "passphrase", made[0], "-o", made[1], "--passphrase-file", one, "--new-passphrase-file", two),
        run("kit", "passphrase", made[1], "-o", made[2], "--passphrase-file", two, "--remove", "--json"),
    ]
    assert [answer.code for answer in answers] == [0, 0, 0], answers
    for answer in answers:
        expect_no_key(answer)
    assert f"{path} still opens without a passphrase: once you have tried " in answers[0].err
    assert "still opens with the older passphrase" in answers[1].err
    assert answers[2].json["locked"] is False
    before = parse_kit((tmp_path / path).read_bytes(), name="k")
    for name, passphrase in (("a.json", PASSPHRASE), ("b.json", NEW)):
        locked = parse_kit((tmp_path / name).read_bytes(), name=name)
        assert isinstance(locked, LockedKit)
        assert locked.open(passphrase) == before
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
    assert parse_kit((tmp_path / "c.json").read_bytes(), name="c") == before


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--remove",), "has no passphrase"),
        (("--passphrase-file", "good"), "has no passphrase"),
        (("--new-passphrase-file", "short"), "the passphrase has 5 characters"),
        (("--new-passphrase-file", "empty"), "does not hold a passphrase"),
        (("--new-passphrase-file", "lines"), "does not hold a passphrase"),
        (("--new-passphrase-file", "missing"), "cannot read the passphrase in"),
        (("--new-passphrase-file", "good", "--remove"), "leave out --new-passphrase-file"),
        ((), "there is no terminal to ask"),
    ],
)
def test_what_makes_no_passphrase_is_one_sentence(
    run: Run, kit: str, tmp_path: Path, options: tuple[str, ...], told: str
) -> None:
    for name, text in {"good": PASSPHRASE, "short": "short", "empty": "\n", "lines": f"{PASSPHRASE}\n{NEW}"}.items():
        secret(tmp_path / name, text)
    given = [str(tmp_path / each) if not each.startswith("-") else each for each in options]
    answer = run("kit", "passphrase", kit, "-o", str(tmp_path / "out.json"), *given)
    assert answer.code == 2
    assert told in answer.err
    assert answer.err.count("\n") == 1
    assert not (tmp_path / "out.json").exists()


@pytest.mark.usefixtures("fast")
def test_no_kit_is_overwritten(run: Run, kit: str, tmp_path: Path) -> None:
    before = (tmp_path / kit).read_bytes()
    file = secret(tmp_path / "one", PASSPHRASE)
    answer = run("kit", "passphrase", kit, "-o", kit, "--new-passphrase-file", file)
    assert answer.code == 2
    assert "exists and was not overwritten" in answer.err
    assert (tmp_path / kit).read_bytes() == before


def test_a_locked_kit_opens_everywhere_with_its_passphrase_and_not_with_another(
    world: SealedWorld, run: Run, tmp_path: Path
) -> None:
    key = world.seal(world.source(None), b"docs/a.txt", b"content")
    kit = locked_file(tmp_path)
    right, wrong = secret(tmp_path / "right", PASSPHRASE), secret(tmp_path / "wrong", NEW)
    lines: list[tuple[str, ...]] = [
        ("restore", "--key", kit, "--to", str(tmp_path / "to")),
        ("restore", "--key", kit, "--list-names"),
        ("decrypt", key.id, "--key", kit, "-o", str(tmp_path / "out")),
        ("kit", "check", kit),
        ("recipe", key.id, "--key", kit),
    ]
    for line in lines:
        refused = run(*line, "--passphrase-file", wrong)
        assert refused.code == 13, line
        assert refused.err.count("\n") == 1
        assert "the given passphrase does not open the kit" in refused.err
        expect_no_key(refused)
        unasked = run(*line)
        assert unasked.code == 2
        assert "is locked, and there is no terminal" in unasked.err
    for line in lines:
        opened = run(*line, "--passphrase-file", wrong, "--passphrase-file", right)
        assert opened.code == 0, opened.err
        expect_no_key(opened)
    assert (tmp_path / "to/docs/a.txt").read_bytes() == (tmp_path / "out").read_bytes() == b"content"


def test_one_passphrase_is_asked_for_once_and_a_wrong_one_ends_the_run(
    world: SealedWorld, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.seal(world.source(None), b"a.txt", b"content")
    typed, asked = [PASSPHRASE], []

    def prompt(text: str, **how: object) -> str:
        assert how == {"hide_input": True, "err": True, "confirmation_prompt": False}
        asked.append(text)
        return typed[0]

    monkeypatch.setattr("kropot.cli.passphrases.is_terminal", lambda _: True)
    monkeypatch.setattr("kropot.cli.passphrases.click.prompt", prompt)
    one = locked_file(tmp_path)
    two = secret(tmp_path / "two.json", lock(OwnerKit(vault=OTHER_VAULT), PASSPHRASE, stretch=quick).encode().decode())
    assert run("kit", "check", one, two).code == 0
    assert asked == [f"passphrase of the kit {one}"]
    typed[0] = NEW
    answer = run("restore", "--key", one, "--list-names")
    assert answer.code == 13
    assert answer.err == f"error: the passphrase does not open the kit {one}: check it for typing errors\n"
    assert len(asked) == 2


def test_an_exposed_passphrase_file_is_warned_of(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "passphrase"
    secret(file, PASSPHRASE)
    file.chmod(0o644)
    answer = run("kit", "show", locked_file(tmp_path), "--passphrase-file", str(file))
    assert f"other users can read the passphrase in {file}: chmod 600 it" in answer.err


def on_terminal(args: list[str], answers: list[str], folder: Path) -> tuple[int, str]:
    """Run the program on a terminal of its own, and type an answer when it asks. Return its exit code and output."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(folder)
        os.execv(sys.executable, [sys.executable, "-m", "kropot", *args])  # noqa: S606 -- a terminal needs a fork
    shown, asked = b"", 0
    while True:
        try:
            data = os.read(terminal, 4096)
        except OSError:
            break
        if not data:
            break
        shown += data
        while asked < min(len(answers), shown.count(b"assphrase of the kit") + shown.count(b"confirmation")):
            # What is typed before the terminal's echo is off would be thrown away.
            time.sleep(0.05)
            os.write(terminal, answers[asked].encode() + b"\n")
            asked += 1
    _, status = os.waitpid(child, 0)
    os.close(terminal)
    return os.waitstatus_to_exitcode(status), shown.decode()


def test_a_terminal_is_asked_and_shows_no_passphrase(world: SealedWorld, kit: str, tmp_path: Path) -> None:
    world.seal(world.source(None), b"a.txt", b"content")
    code, shown = on_terminal(["kit", "passphrase", kit, "-o", "locked.json"], [PASSPHRASE, PASSPHRASE], tmp_path)
    assert code == 0, shown
    assert PASSPHRASE not in shown
    place = ["--db-string", f"sqlite:///{tmp_path / 'ledger.db'}", "--storage-path", str(tmp_path / "storage")]
    restore = [*place, "restore", "--key", "locked.json", "--to", "to"]
    code, shown = on_terminal(restore, [PASSPHRASE], tmp_path)
    assert code == 0, shown
    assert shown.count("passphrase of the kit locked.json") == 1
    assert PASSPHRASE not in shown
    assert (tmp_path / "to/a.txt").read_bytes() == b"content"


def test_kits_and_passphrases_come_through_pipes(run_cli: RunCli, kit: str, tmp_path: Path) -> None:
    printed = run_cli("kit", "show", kit, "--paper")
    assert run_cli("kit", "read", "-", "-o", "again.json", stdin=printed.stdout).returncode == 0
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / kit).read_bytes()
    locked = locked_file(tmp_path)
    opened = run_cli("kit", "show", locked, "--passphrase-file", "/dev/stdin", stdin=PASSPHRASE)
    assert (opened.returncode, "masters" in opened.stdout) == (0, True)


# --- the drill -------------------------------------------------------------------------------------------------------


def test_a_drill_opens_copies_of_every_source_of_the_kit(world: SealedWorld, run: Run, kit: str) -> None:
    sources = [world.source(None) for _ in range(3)]
    for number in range(20):
        world.seal(sources[0], b"one %d" % number, b"x" * 100)
    lone = world.seal(sources[1], b"lone", b"y" * 100)
    world.vanish(lone)
    world.seal(sources[2], b"foreign", b"z", vault=OTHER_VAULT, gateway=b"o" * 16)
    other = world.source(KIT)
    world.put(other, "cbc", b"content")
    answer = run("kit", "check", kit, "--sample", "10", "--json")
    assert answer.code == 0, answer.err
    row = answer.json
    assert (row["opened"], row["failed"], row["elements"], row["recorded"]) == (11, 0, 21, True)
    assert row["bytes"] == 1100
    assert row["sources"] == [each.hex() for each in sources[:2]]
    assert row["other_sources"] == [sources[2].hex(), other.hex()]
    found = [drill_of(world.ledger, each) for each in (*sources, other)]
    assert [None if each is None else each[1:] for each in found] == [(10, 0), (1, 0), None, None]
    said = run("kit", "check", kit)
    assert "opened 21 of 21 copies (2.1 KiB) of 21 elements in 2 sources" in said.out
    assert f"not opened: source {other.hex()[:8]}, which is not sealed with a key of this kit" in said.out


def test_a_drill_opens_with_cbc_kits_of_before_and_several_kits(
    world: SealedWorld, run: Run, kit: str, old_kit: str
) -> None:
    world.seal(world.source(None), b"a", b"content")
    source = world.source(KIT)
    world.put(source, "cbc", b"content")
    assert run("kit", "check", old_kit, "--json").json["sources"] == [source.hex()]
    both = run("kit", "check", kit, old_kit, "--json").json
    assert (both["opened"], both["other_sources"]) == (2, [])


def test_a_drill_names_what_does_not_open_and_records_it(
    world: SealedWorld, run: Run, kit: str, tmp_path: Path
) -> None:
    source = world.source(None)
    keys = [world.seal(source, b"file %d" % number, b"x" * 70_000) for number in range(4)]
    paths = []
    for key in keys[:2]:
        copy = world.elements[key].copy
        assert copy is not None
        paths.append(tmp_path / "storage/objects" / copy.sha256.hex()[:2] / copy.sha256.hex())
    paths[0].chmod(0o600)
    paths[0].write_bytes(paths[0].read_bytes()[:-1] + b"!")
    paths[1].unlink()
    answer = run("kit", "check", kit, "--json")
    assert answer.code == 4
    assert {row["name"]: row["problem"] for row in answer.lines[:-1]} == {"file 0": "damaged", "file 1": "missing"}
    assert (answer.lines[-1]["opened"], answer.lines[-1]["failed"]) == (2, 2)
    drill = drill_of(world.ledger, source)
    assert drill is not None
    assert drill[1:] == (2, 2)
    paths[0].unlink()
    assert run("kit", "check", kit).code == 3


def test_a_drill_refuses_what_a_keeper_altered_in_ledger_and_storage(
    world: SealedWorld, run: Run, kit: str, tmp_path: Path
) -> None:
    source = world.source(None)
    keys = [world.seal(source, b"file %d" % number, b"%d" % number * 50) for number in range(4)]
    position = world.ledger.head().position
    exchanged, other = (world.elements[key].copy for key in keys[:2])
    assert exchanged is not None
    assert other is not None
    exchange(world, keys[0], sha256=other.sha256, size=other.size)
    altered_payload(tmp_path, position, revision=7)
    answer = run("kit", "check", kit, "--json")
    assert answer.code == 4
    assert sorted(row["why"] for row in answer.lines[:-1]) == [
        "its content belongs to another element: somebody swapped them",
        f"the payload of event {position} is not the one that was recorded",
    ]
    assert (answer.lines[-1]["opened"], answer.lines[-1]["failed"]) == (2, 2)


def test_a_drill_with_another_kit_or_without_copies_opens_nothing(
    world: SealedWorld, run: Run, kit: str, tmp_path: Path
) -> None:
    (tmp_path / "storage/objects").mkdir(parents=True)
    empty = run("kit", "check", kit)
    assert empty.code == 3
    assert "there is no copy to open yet" in empty.err
    source = world.source(None)
    world.seal(source, b"a", b"content")
    other = kit_file(tmp_path, OTHER_VAULT, "other.json")
    answer = run("kit", "check", other)
    assert answer.code == 13
    assert f"{other} opens none of the 1 source here" in answer.err
    assert drill_of(world.ledger, source) is None


def test_a_kit_that_is_older_than_the_newest_master_opens_what_it_can(
    world: SealedWorld, run: Run, kit: str, tmp_path: Path
) -> None:
    source = world.source(None)
    newer = VAULT.with_new_master(entropy=lambda size: b"n" * size)
    world.seal(source, b"new", b"content", vault=newer)
    answer = run("kit", "check", kit)
    assert answer.code == 13
    assert "give a newer kit" in answer.err
    world.seal(source, b"old", b"content")
    mixed = run("kit", "check", kit, "--json")
    assert (mixed.code, mixed.lines[-1]["opened"], mixed.lines[-1]["problems"]) == (3, 1, {"unopened": 1})
    assert run("kit", "check", kit_file(tmp_path, newer, "newer.json")).code == 0


def test_a_drill_opens_every_kind_of_entry_in_several_sources(world: SealedWorld, run: Run, kit: str) -> None:
    for source in (world.source(None), world.source(None)):
        world.seal(source, b"", b"", kind=Kind.FOLDER, sha256=None)
        world.seal(source, b"docs", b"", kind=Kind.FOLDER, sha256=None)
        world.seal(source, b"docs/a.txt", b"content")
        world.seal(source, b"link", b"", kind=Kind.SYMLINK, target=b"docs", sha256=None)
    answer = run("kit", "check", kit, "--json")
    assert (answer.code, answer.json["opened"], answer.json["failed"]) == (0, 8, 0)


def test_a_drill_can_be_held_without_a_trace(world: SealedWorld, run: Run, kit: str) -> None:
    source = world.source(None)
    world.seal(source, b"a", b"content")
    position = world.ledger.head().position
    assert run("kit", "check", kit, "--no-record", "--json").json["recorded"] is False
    assert world.ledger.head().position == position


def test_a_drill_that_cannot_be_recorded_counts_all_the_same(
    world: SealedWorld, run: Run, kit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise ReadOnlyLedgerError("attempt to write a readonly database")

    monkeypatch.setattr("ledger.drills.record_drills", refuse)
    world.seal(world.source(None), b"a", b"content")
    answer = run("kit", "check", kit)
    assert answer.code == 0
    assert "opened 1 of 1 copies" in answer.out
    assert "this drill was not recorded, so `status` does not show it: cannot write to the ledger" in answer.err


def test_a_large_source_is_sampled_without_reading_it(
    world: SealedWorld, run: Run, kit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kropot.restore.drill._WALK", 5)
    source = world.source(None)
    for number in range(30):
        world.seal(source, b"file %d" % number, b"x")
    row = run("kit", "check", kit, "--sample", "8", "--json").json
    assert (row["opened"], row["failed"], row["elements"]) == (8, 0, 30)


def test_status_shows_the_drill_and_raises_an_alarm_only_when_asked(world: SealedWorld, run: Run, kit: str) -> None:
    source = world.source(KIT)
    world.listed(source)
    world.seal(source, b"a", b"content")
    assert "no copy has ever been opened with a kit: run `kropotcli kit check`" in run("status").out

    def alarms(*options: str) -> list[str]:
        return [alarm["name"] for alarm in run("status", "--json", *options).json["alarms"]]

    assert "drill_stale" not in alarms()
    assert "drill_stale" in alarms("--max-drill-days", "400")
    assert run("kit", "check", kit).code == 0
    assert "1 copy opened with a kit" in run("status").out
    shown = run("status", "--json").json["sources"][0]["drill"]
    assert (shown["opened"], shown["failed"]) == (1, 0)
    assert "drill_stale" not in alarms("--max-drill-days", "400")


def test_the_kit_of_a_cbc_token_with_its_salt_is_shown_so(run: Run, tmp_path: Path) -> None:
    kit = OwnerKit(vault=VAULT, cbc=(CbcKey(kit=KIT, stored_salt="salt"), CbcKey(kit=OTHER_KIT)))
    path = secret(tmp_path / "both.json", kit.encode().decode())
    answer = run("kit", "show", path)
    assert "sha512, 1 round, with the stored salt" in answer.out
    assert "sha256, 2 rounds, without the stored salt, so names are not proved" in answer.out


# --- the recipe ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("is_locked", "is_packed"), [(False, False), (True, False), (False, True)])
def test_the_lines_of_a_recipe_open_the_very_object(
    world: SealedWorld, run: Run, kit: str, tmp_path: Path, *, is_locked: bool, is_packed: bool
) -> None:
    source = world.source(None)
    world.seal(source, b"docs/before.txt", b"before")
    key = world.seal(source, b"docs/a.txt", b"content" * 20_000)
    if is_packed:
        assert run("storage", "pack", "--all").code == 0
    answer = run("recipe", key.id)
    assert answer.code == 0
    expect_no_key(answer)
    assert VAULT.id.hex() in answer.out
    (tmp_path / "recipe.sh").write_text(answer.out.replace("python3 ", f"{sys.executable} -I "))
    done = subprocess.run(
        ["/bin/sh", "-e", "recipe.sh"],
        input=PASSPHRASE,
        env={**os.environ, "KIT": locked_file(tmp_path) if is_locked else kit},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,  # or the program would find the terminal of whoever runs the tests
    )
    assert done.returncode == 0, done.stderr
    assert "OK" in done.stdout
    assert "docs/a.txt" in done.stderr
    assert (tmp_path / "plain.bin").read_bytes() == b"content" * 20_000


def test_a_recipe_is_json_and_names_the_right_kit(world: SealedWorld, run: Run, kit: str, tmp_path: Path) -> None:
    key = world.seal(world.source(None), b"a.txt", b"content")
    row = run("recipe", key.id, "--key", kit, "--json").json
    assert key.id in row["page"]
    assert [step["command"].split()[0] for step in row["steps"]] == ["echo", "cat", "python3"]
    other = kit_file(tmp_path, OTHER_VAULT, "other.json")
    answer = run("recipe", key.id, "--key", other)
    assert answer.code == 13
    assert f"give the kit of the vault {VAULT.id.hex()} with --key" in answer.err
