"""A real file system that is shut down under the collector, with everything that was not synced thrown away."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kropot.errors import Exit
from kropot.gateway.server import GatewayServer
from tests.token_specs import token_spec

if TYPE_CHECKING:
    from collections.abc import Iterator

FILES = 300
CUTS = int(os.environ.get("KROPOT_TEST_POWER_CUTS", "2"))


def missing() -> str | None:
    """Return what a real shutdown needs and this machine lacks."""
    if os.geteuid() != 0:
        return "only root may shut a file system down"
    for tool in ("mkfs.xfs", "xfs_io", "mount", "umount"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    return None if Path("/dev/loop-control").exists() else "there are no loop devices"


LACK = missing()
pytestmark = pytest.mark.skipif(LACK is not None, reason=str(LACK))


class Volume:
    """An XFS volume in a file; `shut_down` is what a power cut is to it."""

    def __init__(self, place: Path) -> None:
        self._image, self.root = place / "image", place / "volume"
        self.root.mkdir()
        with self._image.open("wb") as file:
            file.truncate(320 << 20)
        subprocess.run(["mkfs.xfs", "-q", self._image], check=True)
        self.mount()

    def mount(self) -> None:
        subprocess.run(["mount", "-o", "loop", self._image, self.root], check=True)

    def shut_down(self) -> None:
        """Without flushing the log: what was not synced is lost."""
        subprocess.run(["xfs_io", "-x", "-c", "shutdown", self.root], check=True)

    def unmount(self) -> None:
        for _ in range(50):
            if subprocess.run(["umount", self.root], capture_output=True, check=False).returncode == 0:
                return
            time.sleep(0.1)
        subprocess.run(["umount", "--lazy", self.root], check=True)


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Volume]:
    made = Volume(tmp_path)
    yield made
    made.unmount()


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    place = tmp_path_factory.mktemp("power")
    source = place / "source"
    source.mkdir()
    dice = random.Random(3)
    for number in range(FILES):
        (source / f"{number}.bin").write_bytes(dice.randbytes(dice.choice((100, 5_000, 90_000))))
    with GatewayServer(source, f"sqlite:///{place / 'gateway.db'}", os.urandom(32), settle_s=0) as gateway:
        token, _ = gateway.create_token(token_spec())
        yield {**os.environ, "KROPOT_TOKEN": token, "KROPOT_SERVER_URL": gateway.url}


class Replica:
    """A replica on the volume, whose collector loses its power."""

    def __init__(self, volume: Volume, place: Path, program: list[str], env: dict[str, str]) -> None:
        self.volume, self._place, self._env = volume, place, env
        where = ("--storage-path", f"{volume.root}/storage", "--db-string", f"sqlite:///{volume.root}/ledger.db")
        self._command = [*program, *where]

    def run(self, *args: str) -> subprocess.CompletedProcess[str]:
        command = [*self._command, *args]
        return subprocess.run(command, cwd=self._place, env=self._env, capture_output=True, text=True, check=False)

    def collect_until_the_power_is_cut(self, wanted: int) -> None:
        """Cut it as soon as so many objects have their names, or at the end; bring back what the cut left."""
        with subprocess.Popen(
            [*self._command, "collect", "--once", "--min-free", "0"],
            cwd=self._place,
            env=self._env,
            stderr=subprocess.PIPE,
            text=True,
        ) as collecting:
            objects = self.volume.root / "storage" / "objects"
            end = time.monotonic() + 60
            while collecting.poll() is None and time.monotonic() < end:
                if sum(1 for _ in objects.glob("??/*")) >= wanted:
                    break
                time.sleep(0.005)
            self.volume.shut_down()
            # It would go on asking for its database for a while, as it should; without power it does not.
            collecting.kill()
            said = collecting.communicate(timeout=60)[1]
        assert "Traceback" not in said, said
        self.volume.unmount()
        self.volume.mount()


@pytest.mark.parametrize("cut", range(CUTS))
def test_after_a_real_power_cut_the_ledger_names_nothing_that_is_lost(
    volume: Volume, tmp_path: Path, kropotcli: Path, env: dict[str, str], cut: int
) -> None:
    replica = Replica(volume, tmp_path, [str(kropotcli)], env)
    replica.collect_until_the_power_is_cut(random.Random(cut).choice((1, 20, 150)))
    checked = replica.run("verify", "--no-record", "--json")
    assert checked.returncode in {Exit.DONE, Exit.NO_LEDGER}, checked.stdout + checked.stderr
    again = replica.run("collect", "--once", "--min-free", "0")
    assert again.returncode == Exit.DONE, again.stderr
    assert replica.run("verify").returncode == Exit.DONE
    assert json.loads(replica.run("replay", "--no-digest", "--json").stdout.splitlines()[-1])["current"] == FILES


MUTANT = """
from tests.faults.mutants import MUTANTS
MUTANTS["no file sync"]()
from kropot.cli.main import main
main()
"""


def test_a_program_that_does_not_sync_its_files_loses_them_in_a_real_power_cut(
    volume: Volume, tmp_path: Path, env: dict[str, str]
) -> None:
    program = [sys.executable, "-c", MUTANT]
    replica = Replica(volume, tmp_path, program, {**env, "PYTHONPATH": str(Path(__file__).parents[2])})
    replica.collect_until_the_power_is_cut(FILES + 1)
    checked = replica.run("verify", "--no-record", "--json")
    assert checked.returncode == Exit.FINDINGS, checked.stdout + checked.stderr
