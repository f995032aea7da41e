"""Names where the key is, and beginnings of ids everywhere: what is listed is taken back."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import pytest

from ledger.events import StreamKey
from tests.kropot.replay_world import KIT, World
from tests.kropot.sealed_world import SealedWorld, kit_file
from tests.kropot.test_restore_cli import kit_fields

if TYPE_CHECKING:
    from pathlib import Path

    from tests.kropot.replay_cli import Run

pytest_plugins = ["tests.kropot.replay_cli"]


@pytest.fixture
def sealed(world: World) -> SealedWorld:
    return SealedWorld(world.store, objects=world.objects)


@pytest.fixture
def cbc_kit(tmp_path: Path) -> str:
    path = tmp_path / "kit.json"
    path.write_text(
        json.dumps(
            {
                "secureCopyEncryptionKey": KIT.passphrase,
                "secureCopyEncryptionMethod": "aes-256-cbc",
                "secureCopyDigestMethod": KIT.digest,
                "secureCopyDigestRounds": KIT.rounds,
            }
        )
    )
    path.chmod(0o600)
    return str(path)


def test_names_are_listed_in_their_order_and_taken_back(sealed: SealedWorld, run: Run, tmp_path: Path) -> None:
    source, kit = sealed.source(), kit_file(tmp_path)
    names = [b"b.txt", b"a/deep/x", b"a.txt", "\xfc\n.txt".encode(), b"\xff"]
    keys = {name: sealed.seal(source, name, b"1" + name) for name in names}
    rows = run("ls", "--key", kit, "--json").lines
    assert [row["id"] for row in rows] == [keys[name].id for name in sorted(names)]
    shown = [line.split("  ")[0] for line in run("ls", "--key", kit).out.splitlines()]
    assert [name.partition(":")[2] for name in shown] == [row["name"] for row in rows]
    for name, row in zip(shown, rows, strict=True):
        assert [each["id"] for each in run("ls", "--key", kit, "--json", name).lines] == [row["id"]]
        assert f":{row['name']}" in run("history", row["name"], "--key", kit).out
        decrypted = tmp_path / row["id"]
        assert run("decrypt", name, "--key", kit, "-o", str(decrypted)).code == 0
        assert decrypted.read_bytes() == b"1" + sorted(names)[rows.index(row)]


def test_the_id_of_a_name_is_computed_and_no_other_form_is_opened(
    sealed: SealedWorld, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, kit = sealed.source(), kit_file(tmp_path)
    for number in range(5):
        sealed.seal(source, b"%d" % number, b"")
    opened = []
    monkeypatch.setattr("kropot.restore.naming.Namer.of_copy", lambda _self, held: opened.append(held.key))
    assert run("decrypt", "3", "--key", kit, "-o", str(tmp_path / "out")).code == 0
    assert opened == []
    assert run("history", "nobody", "--key", kit).code == 2
    assert len(opened) == 5, "the end of a name is found by opening all of them"


def test_the_end_of_a_name_is_enough_and_an_ambiguous_one_is_listed(
    sealed: SealedWorld, run: Run, tmp_path: Path
) -> None:
    source, other, kit = sealed.source(), sealed.source(url="https://other.example"), kit_file(tmp_path)
    sealed.seal(source, b"docs/old/letter.txt", b"1")
    pages = [sealed.seal(source, name, b"2") for name in (b"notes/page.txt", b"docs/page.txt")]
    sealed.seal(other, b"docs/mypage.txt", b"3")
    for text in ("letter.txt", "old/letter.txt", "./docs/old/letter.txt", f"{source.hex()[:6]}:letter.txt"):
        [row] = run("history", text, "--key", kit, "--json").lines[:1]
        assert row["name"] == "docs/old/letter.txt", text
    for text in ("etter.txt", f"{other.hex()[:6]}:letter.txt", "letter.txt/x"):
        assert run("history", text, "--key", kit).code == 2, text
    several = run("history", "page.txt", "--key", kit)
    short = source.hex()[:8]
    assert (several.code, several.out) == (2, "")
    assert f"several names end so: {short}:docs/page.txt, {short}:notes/page.txt" in several.err
    assert "mypage" not in several.err
    assert run("ls", "docs/page.txt", "--key", kit, "--json").lines[0]["id"] == pages[1].id
    whole = sealed.seal(source, b"page.txt", b"4")
    assert run("ls", "page.txt", "--key", kit, "--json").lines[0]["id"] == whole.id, "a whole name beats ends"


def test_short_digits_are_a_name_first_and_many_are_an_id(sealed: SealedWorld, run: Run, tmp_path: Path) -> None:
    source, kit = sealed.source(), kit_file(tmp_path)
    other = sealed.seal(source, b"other", b"")
    year = sealed.seal(source, f"photos/{other.id[:4]}".encode(), b"")
    trap = sealed.seal(source, f"photos/{other.id[:8]}".encode(), b"")
    assert run("ls", other.id[:4], "--key", kit, "--json").lines[0]["id"] == year.id
    assert run("ls", other.id[:8], "--key", kit, "--json").lines[0]["id"] == other.id
    assert run("ls", other.id[:6], "--key", kit, "--json").lines[0]["id"] == other.id, "no name is so"
    assert run("ls", f"photos/{other.id[:8]}", "--key", kit, "--json").lines[0]["id"] == trap.id


def test_many_names_that_end_so_are_not_all_listed(sealed: SealedWorld, run: Run, tmp_path: Path) -> None:
    source = sealed.source()
    for number in range(12):
        sealed.seal(source, f"{number:02}/index.html".encode(), b"")
    answer = run("history", "index.html", "--key", kit_file(tmp_path))
    assert answer.err.count("/index.html") == 10
    assert "09/index.html and more" in answer.err


def test_an_erased_name_says_that_it_was_erased(sealed: SealedWorld, run: Run, tmp_path: Path) -> None:
    source, kit = sealed.source(), kit_file(tmp_path)
    sealed.erase(sealed.seal(source, b"docs/letter.txt", b""))
    told = run("history", "docs/letter.txt", "--key", kit)
    assert (told.code, "erased 2 earlier events" in told.out) == (0, True), told.err


def test_a_cbc_name_is_found_by_opening_the_forms(world: World, run: Run, cbc_kit: str) -> None:
    one, two = world.source(), world.source(url="https://other.example")
    keys = [world.see(source, "letter.txt") for source in (one, two)]
    only = world.see(one, "only.txt")
    assert f":{only.id[:8]}" not in run("ls", "--key", cbc_kit).out
    assert run("ls", "--key", cbc_kit, "--json", "only.txt").lines[0]["id"] == only.id
    both = run("history", "letter.txt", "--key", cbc_kit)
    assert both.code == 2
    assert all(key.id in both.err for key in keys)
    assert run("history", f"{two.hex()[:4]}:letter.txt", "--key", cbc_kit, "--json").lines[0]["name"] == "letter.txt"
    assert run("history", "letter.txt").code == 2


def test_what_no_kit_opens_keeps_its_id_comes_last_and_is_counted(
    sealed: SealedWorld, run: Run, cbc_kit: str, tmp_path: Path
) -> None:
    source, other = sealed.source(), sealed.source(url="https://other.example")
    sealed.seal(source, b"zebra", b"")
    foreign = sealed.see(other, "sealed by a token")
    answer = run("ls", "--key", kit_file(tmp_path))
    first, second = answer.out.splitlines()
    assert ":zebra" in first
    assert foreign.id in second
    assert "1 element without a name" in answer.err
    assert run("ls", "--key", kit_file(tmp_path), "--key", cbc_kit).err == ""


def test_a_difference_and_a_past_list_show_names(sealed: SealedWorld, run: Run, tmp_path: Path) -> None:
    source, kit = sealed.source(), kit_file(tmp_path)
    sealed.seal(source, b"z-before", b"")
    before = sealed.ledger.head().position
    for name in (b"y", b"x/1"):
        sealed.seal(source, name, b"")
    for command in (("replay", "--diff", f"@{before}"), ("diff", f"@{before}")):
        rows = run(*command, "--key", kit, "--json").lines
        assert [row["name"] for row in rows] == ["x/1", "y"]
    listed = run("replay", "--list", "--until", f"@{before}", "--key", kit).out
    assert ":z-before  current" in listed
    assert run("replay", "--key", kit).code == 2


def test_the_beginning_of_an_id_is_enough_and_an_ambiguous_one_is_listed(world: World, run: Run) -> None:
    source, other = world.source(None), world.source(None, url="https://other.example")
    for name in ("abcd-1", "abcd-2", "abce", "abcd"):
        world.see(source, name)
    world.see(other, "wxyz-other")
    assert [row["id"] for row in run("ls", "--json", "abce").lines] == ["abce"]
    assert [row["id"] for row in run("ls", "--json", "abcd").lines] == ["abcd"]
    assert [row["id"] for row in run("ls", "--json", "wxyz").lines] == ["wxyz-other"]
    assert run("ls", "wxy").code == 2
    several = run("history", "abcd-")
    assert several.code == 2
    assert "abcd-1" in several.err
    assert "abcd-2" in several.err
    assert run("history", f"{other.hex()[:6]}:wxyz-").code == 0
    assert run("history", f"{source.hex()[:6]}:wxyz-").code == 2
    assert StreamKey(source=source, kind="file", id="abcd") in world.elements


def test_every_command_about_an_element_takes_its_name_and_the_beginning_of_its_id(
    sealed: SealedWorld, run: Run, tmp_path: Path
) -> None:
    source, kit = sealed.source(), kit_file(tmp_path)
    stored = sealed.seal(source, b"letters/Q1.txt", b"content")
    lost = sealed.seal(source, b"lost.txt", b"lost")
    sealed.damage(lost, lost=True)
    key = str(tmp_path / "signing.key")
    signed = run("checkpoint", "init", "--key", key).code, run("checkpoint", "sign", "--key", key).code
    assert signed == (0, 0)
    for element, more in ((stored.id[:10], ()), ("letters/Q1.txt", ("--key", kit)), ("Q1.txt", ("--key", kit))):
        proof = run("prove", element, *more)
        assert (proof.code, stored.id in proof.out, "letters" in proof.out) == (0, True, False), proof.err
        assert run("recipe", element, *more).code == 0
    assert run("source", "dismiss", "lost.txt", "--key", kit, "--json").lines[0]["id"] == lost.id
    for command in ("prove", "recipe"):
        assert run(command, "letters/Q2.txt", "--key", kit).code == 2
    assert run("source", "dismiss", "letters/Q1.txt", "--key", kit).code == 2


def test_an_ambiguous_source_is_listed(world: World, run: Run) -> None:
    ids = [world.source(None, url=f"https://{number}.example").hex() for number in range(17)]
    twice = next(each[0] for each in ids if sum(other[0] == each[0] for other in ids) > 1)
    answer = run("ls", "--source", twice)
    assert answer.code == 2
    assert all(each in answer.err for each in ids if each[0] == twice)


def test_a_name_that_is_not_text_is_looked_up_by_its_bytes(world: World, run: Run, tmp_path: Path) -> None:
    salted = tmp_path / "salted.json"
    salted.write_text(json.dumps({"data": kit_fields(KIT), "secureCopyStoredSalt": "salt"}))
    salted.chmod(0o600)
    source = world.source(None)
    id_ = hashlib.new(KIT.digest, b"salt_file+++caf\xe9").hexdigest()
    world.see(source, id_)
    for name in ("caf\udce9", r"caf\xe9"):
        answer = run("history", name, "--key", str(salted), "--json")
        assert answer.code == 0, answer
        assert len(answer.lines) == 1
    assert run("history", "\udcff", "--key", str(salted)).code == 2
