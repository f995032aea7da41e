"""Builds the image as the Dockerfile says, and asks the program in it."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.release.systems import debootstrap

RELEASE: Final = "trixie"
"""The Debian whose Python is the base's."""


@dataclass(frozen=True)
class Buildah:
    """buildah with a storage of its own, and with mounts of its own: none is left when that storage is removed."""

    place: Path

    def run(self, *args: str) -> str:
        """Run it to its end and return what it printed. Raises: AssertionError with the end of that for a failure."""
        store = ["--root", f"{self.place}/storage", "--runroot", f"{self.place}/run", "--storage-driver", "vfs"]
        line = ["unshare", "--mount", "buildah", *store, *args]
        done = subprocess.run(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        assert done.returncode == 0, f"{' '.join(line)}\n{done.stdout[-3000:]}"
        return done.stdout


def base(buildah: Buildah, root: Path) -> tuple[str, bool]:
    """Return the image that the Dockerfile begins with, and whether a registry has it."""
    (name,) = set(re.findall(r"^FROM (\S+)", (root / "Dockerfile").read_text(), re.MULTILINE))
    try:
        buildah.run("pull", f"docker.io/library/{name}")
    except AssertionError as exc:
        print(f"          {str(exc).splitlines()[-1]}")
        return name, False
    return name, True


def stand_in(buildah: Buildah, root: Path, name: str) -> None:
    """Make an image under that name: a Debian, and all that the Dockerfile installs."""
    (version,) = re.findall(r"^python:([\d.]+)-slim$", name)
    box = buildah.run("from", "scratch").split()[-1]
    folder = Path(buildah.run("mount", box).strip())  # the driver vfs mounts nothing
    debootstrap(folder, RELEASE)
    (folder / "usr/bin/python").symlink_to("python3")
    (folder / "etc/pip.conf").write_text("[global]\nno-index = true\nfind-links = /opt/index\n")
    locks = [each for file in ("run", "build") for each in ("--requirement", str(root / f"locks/{file}.txt"))]
    only = ["--quiet", "--require-hashes", "--only-binary", ":all:", "--python-version", version]
    wheels = ["--dest", str(folder / "opt/index"), *only, *locks]
    subprocess.run([sys.executable, "-m", "pip", "download", *wheels], check=True, stderr=subprocess.DEVNULL)
    buildah.run("config", "--env", "PATH=/usr/local/bin:/usr/sbin:/usr/bin", box)
    buildah.run("commit", "--format", "docker", box, f"docker.io/library/{name}")


def answers(buildah: Buildah, root: Path) -> None:
    """Build the image, and let the program in it back up and restore something."""
    buildah.run("bud", "--pull-never", "--isolation", "chroot", "--format", "docker", "--tag", "kropotcli", str(root))
    box = buildah.run("from", "--pull-never", "kropotcli").split()[-1]
    program = ["run", "--isolation", "chroot", box, "--"]
    assert buildah.run(*program, "id").startswith("uid=1000(kropot) gid=1000(kropot)")
    assert buildah.run(*program, "kropotcli", "--version").startswith("kropotcli ")
    assert "The demo took" in buildah.run(*program, "kropotcli", "demo")
