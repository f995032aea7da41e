"""A disk that is full: the program says so, loses nothing, and goes on by itself once there is room."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

from kropot.errors import Exit
from kropot.gateway.server import GatewayServer
from tests.token_specs import token_spec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.forked import ForkedProgram

FILES, SIZE = 12, 1 << 20
MOUNTS = os.geteuid() == 0 and Path("/proc/filesystems").exists() and "tmpfs" in Path("/proc/filesystems").read_text()
pytestmark = pytest.mark.xdist_group("full disks")
needs_mount = pytest.mark.skipif(not MOUNTS, reason="only root may mount a small file system")


class Small:
    """A small file system in memory."""

    def __init__(self, root: Path, size: str) -> None:
        root.mkdir()
        self.root = root
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", root], check=True)

    def grow(self, size: str) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", self.root], check=True)

    def end(self) -> None:
        subprocess.run(["umount", "--lazy", self.root], check=True)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Small]:
    disk = Small(tmp_path / "small", "8m")
    yield disk
    disk.end()


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    place = tmp_path_factory.mktemp("full")
    source = place / "source"
    source.mkdir()
    for number in range(FILES):
        (source / f"{number}.bin").write_bytes(os.urandom(SIZE))
    with GatewayServer(source, f"sqlite:///{place / 'gateway.db'}", os.urandom(32), settle_s=0) as gateway:
        token, kit = gateway.create_token(token_spec())
        (place / "kit.json").write_text(json.dumps(kit))
        yield {**os.environ, "KROPOT_TOKEN": token, "KROPOT_SERVER_URL": gateway.url, "KIT": str(place / "kit.json")}


class Collector:
    """A collector that runs on and on."""

    def __init__(self, kropotcli: Path, folder: Path, env: dict[str, str], *args: str) -> None:
        self.log = folder / "log"
        self._kropotcli, self._env, self._args = kropotcli, env, args
        self._file = self.log.open("wb")
        command = [str(kropotcli), "--refresh-time", "1", *args]
        self.process = subprocess.Popen(command, cwd=folder, env=env, stdout=self._file, stderr=self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self._file.close()

    def said(self) -> str:
        return self.log.read_text()

    def wait_for(self, pattern: str, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not re.search(pattern, self.said()):
            assert self.process.poll() is None, f"it ended with {self.process.poll()}: {self.said()}"
            assert time.monotonic() < end, f"{pattern!r} is not in {self.said()}"
            time.sleep(0.1)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


def run(
    forked: ForkedProgram, folder: Path, *words: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return forked.run(words, cwd=folder, env=env or dict(os.environ), stdin=None, timeout=60)


def current(forked: ForkedProgram, folder: Path, *args: str) -> int:
    done = run(forked, folder, *args, "status", "--json")
    states = json.loads(done.stdout.splitlines()[0])
    return sum(source["states"].get("current", {}).get("elements", 0) for source in states["sources"])


def until_current(forked: ForkedProgram, folder: Path, collector: Collector, count: int, *args: str) -> None:
    end = time.monotonic() + 90
    while current(forked, folder, *args) < count:
        assert collector.process.poll() is None, collector.said()
        assert time.monotonic() < end, collector.said()
        time.sleep(0.3)


@needs_mount
@pytest.mark.parametrize("ledger", ["elsewhere", "there, too"])
def test_a_collector_on_a_full_disk_says_so_and_goes_on_by_itself_once_there_is_room(
    small: Small, kropotcli: Path, forked: ForkedProgram, env: dict[str, str], ledger: str
) -> None:
    tmp_path = small.root.parent
    database = tmp_path / "ledger.db" if ledger == "elsewhere" else small.root / "ledger.db"
    where = ("--storage-path", str(small.root / "storage"), "--db-string", f"sqlite:///{database}")
    with Collector(kropotcli, tmp_path, env, *where, "collect", "--min-free", "0") as collector:
        collector.wait_for("the storage is full|the disk is full|disk is full")
        small.grow("64m")
        until_current(forked, tmp_path, collector, FILES, *where)
        assert collector.stop() == Exit.DONE
    assert "Traceback" not in collector.said()
    verify = run(forked, tmp_path, *where, "verify")
    assert verify.returncode == Exit.DONE, verify.stdout + verify.stderr


@needs_mount
def test_a_single_run_on_a_full_disk_ends_partly_done_and_the_next_one_finishes(
    small: Small, tmp_path: Path, forked: ForkedProgram, env: dict[str, str]
) -> None:
    where = ("--storage-path", str(small.root / "storage"))
    command = (*where, "collect", "--once", "--min-free", "0")
    done = run(forked, tmp_path, *command, env=env)
    assert done.returncode == Exit.PARTIAL
    assert "full" in done.stderr
    assert "Traceback" not in done.stderr
    small.grow("64m")
    done = run(forked, tmp_path, *command, env=env)
    assert done.returncode == Exit.DONE, done.stderr
    assert current(forked, tmp_path, *where) == FILES


@pytest.fixture(scope="module")
def replica(tmp_path_factory: pytest.TempPathFactory, forked: ForkedProgram, env: dict[str, str]) -> Path:
    """A replica on a disk with room, with a key to sign by."""
    folder = tmp_path_factory.mktemp("replica")
    for command in (("collect", "--once"), ("checkpoint", "init", "--key", "signer.key")):
        assert run(forked, folder, *command, env=env).returncode == Exit.DONE
    return folder


@needs_mount
@pytest.mark.parametrize(
    "command",
    [
        ("restore", "--key", "{kit}", "--to", "{full}/out"),
        ("replay", "--export", "{full}/out"),
        ("db", "copy", "sqlite:///database.db", "sqlite:///{full}/copy.db"),
        ("checkpoint", "sign", "--key", "signer.key", "--to", "{full}"),
    ],
    ids=lambda command: command[0],
)
def test_a_full_disk_is_said_in_one_sentence_and_the_command_finishes_once_there_is_room(
    small: Small, replica: Path, forked: ForkedProgram, env: dict[str, str], command: tuple[str, ...]
) -> None:
    filler = small.root / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    words = [word.format(full=small.root, kit=env["KIT"]) for word in command]
    done = run(forked, replica, *words, env=env)
    assert done.returncode in {Exit.ERROR, Exit.PARTIAL}, done.stderr
    assert re.search("No space left|is full", done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    filler.unlink()
    small.grow("64m")
    done = run(forked, replica, *words, env=env)
    assert done.returncode == Exit.DONE, done.stderr


def test_files_over_the_process_limit_fail_by_name_and_come_once_it_is_lifted(
    tmp_path: Path, kropotcli: Path, forked: ForkedProgram, env: dict[str, str]
) -> None:
    command = [str(kropotcli), "collect", "--once", "--min-free", "0"]
    limited = ["sh", "-c", 'ulimit -f "$0" && exec "$@"', str(SIZE // 2 // 512), *command]
    done = subprocess.run(limited, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode in {Exit.ERROR, Exit.PARTIAL}, done.stderr
    assert done.stderr.strip()
    assert "Traceback" not in done.stderr
    done = run(forked, tmp_path, *command[1:], env=env)
    assert done.returncode == Exit.DONE, done.stderr
    assert current(forked, tmp_path) == FILES
