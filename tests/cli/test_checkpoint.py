"""Keys, checkpoints and proofs from the command line: secrets stay secret, nothing is overwritten, lies exit 4."""

from __future__ import annotations

import io
import json
import shutil
import stat
from contextlib import redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING

import pytest

from kropot.cli.failures import explain
from kropot.cli.main import cli
from kropot.errors import KropotError
from kropot.segments import SegmentFolder
from ledger.errors import LedgerError
from ledger.log import Ledger
from ledger.note import VerifierKey
from ledger.sql import open_store
from tests.ledger.world import began, copied, key, observed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    grow(tmp_path, 0, 5)

    def command(*args: str) -> tuple[int, str, str]:
        where = ["--db-string", f"sqlite:///{tmp_path}/ledger.db", "--storage-path", str(tmp_path / "storage")]
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            try:
                code = cli.main([*where, *args], standalone_mode=False) or 0
            except (KropotError, LedgerError) as error:
                sentence, code = explain(error)
                err.write(sentence)
        return int(code), out.getvalue(), err.getvalue()

    return command


def grow(folder: Path, first: int, last: int) -> None:
    store = open_store(f"sqlite:///{folder}/ledger.db", create=True)
    ledger = Ledger(store)
    start = [began()] if first == 0 else []
    ledger.append([*start, *(observed(n) for n in range(first, last)), *(copied(n) for n in range(first, last))])
    store.close()


def test_a_key_is_its_owners_alone_and_never_replaced(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "keys" / "signing.key"
    code, shown, said = run("checkpoint", "init", "--key", str(path))
    assert code == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert VerifierKey.parse(shown).text == path.with_name("signing.key.pub").read_text().strip()
    secret = path.read_text().strip()
    assert secret not in shown + said
    code, _, said = run("checkpoint", "init", "--key", str(path))
    assert code == 2
    assert "never replaced" in said
    assert path.read_text().strip() == secret


def test_a_key_whose_making_was_cut_short_is_finished(run: Run, tmp_path: Path) -> None:
    path, public = tmp_path / "signing.key", tmp_path / "signing.key.pub"
    assert run("checkpoint", "init", "--key", str(path))[0] == 0
    secret, verifier = path.read_text(), public.read_text()
    public.unlink()
    code, shown, _ = run("checkpoint", "init", "--key", str(path))
    assert (code, shown) == (0, verifier)
    assert (path.read_text(), public.read_text()) == (secret, verifier)
    public.unlink()
    assert run("checkpoint", "init", "--key", str(path), "--name", "another")[0] == 2
    path.write_text("no key at all")
    assert run("checkpoint", "init", "--key", str(path))[0] == 2
    assert not public.exists()


def test_checkpoints_are_numbered_and_an_old_database_is_not_signed(run: Run, tmp_path: Path) -> None:
    signing, folder = str(tmp_path / "k"), tmp_path / "elsewhere"
    folder.mkdir()
    run("checkpoint", "init", "--key", signing)
    shutil.copy(tmp_path / "ledger.db", tmp_path / "old.db")
    for number in (1, 1, 2):  # nothing new the second time: nothing is written
        if number == 2:
            grow(tmp_path, 5, 9)
        assert run("checkpoint", "sign", "--key", signing, "--to", str(folder))[0] == 0
        assert len(list(folder.iterdir())) == number
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint-00000001.txt", "checkpoint-00000002.txt"]
    shutil.copy(tmp_path / "old.db", tmp_path / "ledger.db")
    code, shown, said = run("checkpoint", "sign", "--key", signing, "--to", str(folder))
    assert (code, shown) == (4, "")
    assert "rolled back" in said
    assert len(list(folder.iterdir())) == 2
    public = signing + ".pub"
    code, shown, _ = run("verify", "--quick", "--no-record", "--against", str(folder), "--public-key", public)
    assert code == 4
    assert "TRUNCATED OR ROLLED BACK" in shown


def test_without_a_folder_the_history_beside_the_objects_tells_an_old_database(run: Run, tmp_path: Path) -> None:
    signing = str(tmp_path / "k")
    run("checkpoint", "init", "--key", signing)
    shutil.copy(tmp_path / "ledger.db", tmp_path / "old.db")
    grow(tmp_path, 5, 9)
    store = open_store(f"sqlite:///{tmp_path}/ledger.db")
    (tmp_path / "storage" / "tmp").mkdir(parents=True)
    SegmentFolder(tmp_path / "storage", scratch=tmp_path / "storage" / "tmp").write(Ledger(store))
    store.close()
    assert run("checkpoint", "sign", "--key", signing)[0] == 0
    shutil.copy(tmp_path / "old.db", tmp_path / "ledger.db")
    code, shown, said = run("checkpoint", "sign", "--key", signing)
    assert (code, shown) == (4, "")
    assert "rolled back" in said


def test_another_key_does_not_sign_on_in_the_same_folder(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    for name in ("one", "two"):
        run("checkpoint", "init", "--key", str(tmp_path / name))
    assert run("checkpoint", "sign", "--key", str(tmp_path / "one"), "--to", str(folder))[0] == 0
    grow(tmp_path, 5, 6)
    code, _, said = run("checkpoint", "sign", "--key", str(tmp_path / "two"), "--to", str(folder))
    assert code == 4
    assert "a new folder for a new key" in said


def test_a_proof_is_checked_without_database_or_storage(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signing, folder = str(tmp_path / "k"), tmp_path / "elsewhere"
    folder.mkdir()
    run("checkpoint", "init", "--key", signing)
    run("checkpoint", "sign", "--key", signing, "--to", str(folder))
    grow(tmp_path, 5, 9)
    run("checkpoint", "sign", "--key", signing, "--to", str(folder))
    code, document, _ = run("prove", key(3).id)
    assert code == 0
    proof, growth = tmp_path / "proof.json", tmp_path / "growth.json"
    proof.write_text(document)
    one, two = sorted(folder.iterdir())
    code, document, said = run("consistency", str(one), str(two), "--public-key", signing + ".pub")
    assert code == 0
    assert "8 were appended" in said
    growth.write_text(document)
    (tmp_path / "ledger.db").unlink()
    code, shown, _ = run("check-proof", str(proof), "--public-key", signing + ".pub")
    assert code == 0
    assert f'Element "{key(3).id}" ' in shown
    assert "16 bytes" in shown
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(proof.read_bytes())))
    assert run("check-proof", "-", "--public-key", signing + ".pub") == (0, shown, "")
    assert run("check-proof", str(growth), "--public-key", signing + ".pub")[0] == 0
    forged = {**json.loads(proof.read_text()), "id": "another"}
    proof.write_text(json.dumps(forged))
    code, shown, said = run("check-proof", str(proof), "--public-key", signing + ".pub")
    assert (code, shown) == (4, "")
    assert "another element" in said


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("verify", "--against", "."), "needs --public-key"),
        (("verify", "--repair", "--no-record"), "leave out --no-record"),
        (("verify", "--public-key", "nowhere"), "no verifier key at nowhere"),
        (("checkpoint", "sign", "--key", "nowhere"), "checkpoint init"),
        (("check-proof", "nowhere", "--public-key", "nowhere"), "no verifier key at nowhere"),
        (("prove", "nothing"), "no element"),
        (("prove", "3"), "no checkpoint covers"),
    ],
)
def test_what_makes_no_sense_is_said_in_one_sentence(run: Run, args: tuple[str, ...], words: str) -> None:
    code, shown, said = run(*args)
    assert (code, shown) == (2, "")
    assert words in said


def test_a_folder_whose_disk_is_away_is_neither_made_nor_taken_for_the_one_before(run: Run, tmp_path: Path) -> None:
    signing, stick, other = str(tmp_path / "k"), tmp_path / "stick", tmp_path / "other"
    other.mkdir()
    run("checkpoint", "init", "--key", signing)
    sign = ("checkpoint", "sign", "--key", signing, "--to", str(stick), "--to", str(other))
    code, _, said = run(*sign)
    assert code == 1
    assert f"there is no folder {stick}" in said
    assert not stick.exists()
    assert len(list(other.iterdir())) == 1  # what can be written is
    stick.mkdir()
    assert run(*sign)[0] == 0
    (stick / "checkpoint-00000001.txt").rename(tmp_path / "on the stick")  # as an empty mount point
    grow(tmp_path, 5, 9)
    code, _, said = run(*sign)
    assert code == 1
    assert f"{stick} held checkpoints before and is empty now" in said
    assert list(stick.iterdir()) == []
    assert len(list(other.iterdir())) == 2
    (tmp_path / "on the stick").rename(stick / "checkpoint-00000001.txt")
    assert run(*sign)[0] == 0
    assert len(list(stick.iterdir())) == 2
