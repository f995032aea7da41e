"""The demonstration as `make run` starts it: it works, it touches nothing of the user's, and its notes are true."""

from __future__ import annotations

import errno
import filecmp
import json
import os
import shlex
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kropot import demo
from kropot.gateway.sources import FolderSource, NearbyFiles

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kropot.gateway.sources import Seen
    from tests.conftest import Demonstrate, RunCli

# The demonstration that most of them look at is shown once.
pytestmark = pytest.mark.xdist_group("demonstration")


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory, kropotcli: Path) -> subprocess.CompletedProcess[str]:
    """Run the demonstration once, in a folder of its own, which is what `args[-1]` of the result is."""
    folder = tmp_path_factory.mktemp("demo") / "kropot-demo"
    return subprocess.run(
        [str(kropotcli), "demo", "--folder", str(folder)], capture_output=True, text=True, timeout=120, check=False
    )


@pytest.fixture
def home(shown: subprocess.CompletedProcess[str]) -> Path:
    return Path(shown.args[-1])


def noted(home: Path, word: str) -> str:
    """Return the one command of the notes that holds a word."""
    lines = (home / "COMMANDS.txt").read_text().splitlines()
    (line,) = [line for line in lines if f" {word}" in line and not line.startswith("#")]
    return line


def by_hand(home: Path, command: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the notes as they say, in a shell."""
    begin = "\n".join((home / "COMMANDS.txt").read_text().splitlines()[:2])
    return subprocess.run(
        ["bash", "-c", f"{begin}\n{command}"], capture_output=True, text=True, timeout=60, check=False
    )


def test_the_demonstration_ends_healthy_and_sound(shown: subprocess.CompletedProcess[str]) -> None:
    assert shown.returncode == 0, shown.stderr
    assert "healthy" in shown.stderr
    assert "vanished 2 elements" in shown.stderr
    assert "Traceback" not in shown.stderr


def test_secrets_lie_in_files_that_only_the_owner_can_read(home: Path) -> None:
    assert home.stat().st_mode & 0o077 == 0
    for name in ("token", "key-kit.json", "gateway/gateway.db.key", "ledger.db"):
        assert (home / name).stat().st_mode & 0o077 == 0, name
    kit = json.loads((home / "key-kit.json").read_text())
    assert kit["masters"][0]


def test_neither_token_nor_key_was_shown(shown: subprocess.CompletedProcess[str], home: Path) -> None:
    kit = json.loads((home / "key-kit.json").read_text())
    for secret in ((home / "token").read_text().strip(), kit["masters"][0]):
        assert secret not in shown.stdout + shown.stderr + (home / "COMMANDS.txt").read_text()


def test_the_noted_commands_work(home: Path) -> None:
    for word in ("status", "ls", "verify"):
        done = by_hand(home, noted(home, word))
        assert done.returncode == 0, done.stderr


def test_what_is_restored_is_what_was_served(home: Path) -> None:
    done = by_hand(home, noted(home, "restore"))
    assert done.returncode == 0, done.stderr
    served = sorted(path.relative_to(home / "source") for path in (home / "source").rglob("*") if path.is_file())
    restored = sorted(path.relative_to(home / "restored") for path in (home / "restored").rglob("*") if path.is_file())
    assert [path for path in restored if path != Path("kropot-manifest.jsonl")] == served
    same, different, missing = filecmp.cmpfiles(home / "source", home / "restored", served, shallow=False)
    assert (len(same), different, missing) == (len(served), [], [])


@pytest.fixture
def gateway_by_hand(home: Path) -> Iterator[subprocess.Popen[str]]:
    command = shlex.split(noted(home, "gateway serve"))
    begin = "\n".join((home / "COMMANDS.txt").read_text().splitlines()[:2])
    process = subprocess.Popen(
        ["bash", "-c", f"{begin}\nexec {shlex.join(command)}"],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    line = process.stderr.readline()
    assert "serving" in line, line
    yield process
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)


@pytest.mark.usefixtures("gateway_by_hand")
def test_the_gateway_starts_again_and_more_is_collected(home: Path) -> None:
    (home / "source" / "by-hand.txt").write_text("added by hand\n")
    deadline = time.monotonic() + 60
    while True:
        done = by_hand(home, noted(home, "collect --once"))
        assert done.returncode == 0, done.stderr
        if "1 new" in done.stdout or time.monotonic() > deadline:
            break
    assert "1 new" in done.stdout


def test_a_users_own_folder_is_not_touched(demonstrate: Demonstrate, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    for number in range(6):
        (own / f"{number}.txt").write_text(f"my own {number}\n")
    (own / "link").symlink_to("0.txt")
    before = {path.name: (path.lstat().st_mtime_ns, path.read_bytes()) for path in own.iterdir()}
    code, out, err = demonstrate("--source", "own", "--json")
    assert code == 0, err
    assert {path.name: (path.lstat().st_mtime_ns, path.read_bytes()) for path in own.iterdir()} == before
    told = json.loads(out)
    assert Path(told["folder"]) == tmp_path / "kropot-demo"


def test_a_folder_that_exists_is_never_written_into(tmp_path: Path) -> None:
    wanted = tmp_path / "kropot-demo"
    assert [demo.make_folder(wanted).name for _ in range(3)] == ["kropot-demo", "kropot-demo-2", "kropot-demo-3"]


def test_secrets_are_not_made_in_the_folder_to_back_up(run_cli: RunCli, tmp_path: Path) -> None:
    done = run_cli("demo", "--source", ".")
    assert done.returncode == 2
    assert "--folder" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_read_is_left_out_of_the_copy_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "own"
    (own / "sub").mkdir(parents=True)
    for name in ("a", "b", "sub/c"):
        (own / name).write_text(name)
    # Root can read everything, but nobody can read what is gone.
    monkeypatch.setattr(demo, "_no_specials", lambda _place, _names: (own / "b").unlink(missing_ok=True) or [])
    assert demo.copy_folder(own, tmp_path / "copy") == [str(own / "b")]
    assert sorted(path.name for path in (tmp_path / "copy").rglob("*")) == ["a", "c", "sub"]


def test_files_that_may_not_be_written_are_not_the_ones_that_are_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(6):
        (tmp_path / f"{number}").write_text("as it was")
    monkeypatch.setattr(os, "access", lambda path, _mode: Path(path).name not in {"0", "1"})
    done = demo.change(tmp_path)
    assert [line.split()[1] for line in done[:-1]] == ["2", "3", "4", "5"]
    assert (tmp_path / "0").read_text() == (tmp_path / "1").read_text() == "as it was"


def test_a_large_folder_that_cannot_be_read_to_its_end_is_shown_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, demonstrate: Demonstrate
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    for name in ("open", "shut"):
        (own / name).write_text(name)
    whole = FolderSource.open

    def refuse(tree: FolderSource, path: bytes) -> tuple[int, Seen]:
        if path == b"shut":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return whole(tree, path)

    def refuse_nearby(files: NearbyFiles, path: bytes) -> tuple[int, Seen]:
        if path == b"shut":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return near(files, path)

    def refuse_whole(files: NearbyFiles, path: bytes, *known: Any) -> bytes | None:
        return None if path == b"shut" else at_once(files, path, *known)

    near, at_once = NearbyFiles.open, NearbyFiles.whole
    monkeypatch.setattr(NearbyFiles, "whole", refuse_whole)
    monkeypatch.setattr(FolderSource, "open", refuse)
    monkeypatch.setattr(NearbyFiles, "open", refuse_nearby)
    monkeypatch.setattr(demo, "COPY_FILES", 0)
    code, _, told = demonstrate("--source", str(own), "--folder", str(tmp_path / "home"))
    assert code == 0, told
    assert "exit code 3" in told
    assert (tmp_path / "home" / "COMMANDS.txt").exists()
    assert (own / "open").read_text() == "open"


def test_a_sample_is_the_same_every_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        demo.write_sample(tmp_path / name)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    same, different, missing = filecmp.cmpfiles(tmp_path / "a", tmp_path / "b", files, shallow=False)
    assert (len(same), different, missing) == (len(files), [], [])


def test_what_is_no_file_is_left_out_of_the_copy(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "file").write_text("x")
    os.mkfifo(tmp_path / "own" / "pipe")
    demo.copy_folder(tmp_path / "own", tmp_path / "copy")
    assert [path.name for path in (tmp_path / "copy").iterdir()] == ["file"]
