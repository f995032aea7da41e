"""Bare systems to install on: a Debian of its own, or a virtual environment with a home of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RELEASE: Final = "bookworm"
PROGRAM: Final = "opt/kropotcli"
_ENTER: Final = 'mount -t proc proc "$0/proc" && exec chroot "$0" "$@"'
"""In a process with mounts of its own: nothing of this machine is mounted in a folder that is removed later."""


@dataclass(frozen=True)
class BareSystem:
    """A folder that is a system's root (`is_root`), or stands for one. Paths in it are relative to `folder`."""

    folder: Path
    is_root: bool

    def path(self, name: str) -> str:
        """Return a path as programs in the system see it."""
        return f"/{name}" if self.is_root else str(self.folder / name)

    def line(self, *args: str) -> list[str]:
        """Return a command line that runs in the system, with nothing of this environment."""
        home = self.path("root" if self.is_root else "home")
        clean = ["env", "-i", f"HOME={home}", "LANG=C.UTF-8", f"PATH={self.path(PROGRAM)}/bin:/usr/bin:/bin"]
        if not self.is_root:
            return [*clean, *args]
        return ["unshare", "--mount", "sh", "-c", _ENTER, str(self.folder), *clean, *args]

    def start(self, *args: str) -> subprocess.Popen[str]:
        """Start a command and return its process; its log is in tmp/log."""
        with (self.folder / "tmp/log").open("a") as log:
            return subprocess.Popen(self.line(*args), stdout=log, stderr=log, text=True)

    def run(self, *args: str, code: int = 0) -> str:
        """Run a command to its end and return what it printed. Raises: AssertionError for another exit code."""
        done = subprocess.run(self.line(*args), capture_output=True, text=True, check=False, timeout=600)
        assert done.returncode == code, f"{' '.join(args)}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def install(self, wheels: Path, name: str) -> None:
        """Install a wheel with what it needs from a folder of wheels."""
        shutil.copytree(wheels, self.folder / "tmp/wheels")
        python = "/usr/bin/python3" if self.is_root else sys.executable
        self.run(python, "-m", "venv", self.path(PROGRAM))
        pip = f"{self.path(PROGRAM)}/bin/pip"
        self.run(
            pip,
            "install",
            "--quiet",
            "--no-index",
            "--find-links",
            self.path("tmp/wheels"),
            self.path(f"tmp/wheels/{name}"),
        )


@contextmanager
def debian(place: Path) -> Iterator[BareSystem]:
    """Make a Debian with Python and nothing else; it is this machine's kind, so that the wheels fit.

    Nothing of this machine may be mounted in it: whoever removes the folder would remove that, too, if an unmounting
    failed. debootstrap makes the devices that a program needs. /proc is the kernel's, and nothing in it can be removed.
    """
    root = place / "debian"
    debootstrap(root, RELEASE)
    yield BareSystem(root, is_root=True)


def debootstrap(root: Path, release: str) -> None:
    """Make a Debian with Python in a new folder. Raises: AssertionError with the end of what was printed."""
    line = ["debootstrap", "--variant=minbase", "--include=python3-venv", release, str(root)]
    done = subprocess.run(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]


@contextmanager
def virtual(place: Path) -> Iterator[BareSystem]:
    """Stand in for a bare system: a virtual environment, and a home of its own."""
    folder = place / "system"
    for name in ("tmp", "home", "opt"):
        (folder / name).mkdir(parents=True)
    yield BareSystem(folder, is_root=False)
