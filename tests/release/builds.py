"""Builds the packages, and looks at what was built."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def built_twice(root: Path, place: Path) -> tuple[Path, Path]:
    """Return the wheel and the sdist, after a second build elsewhere, later and with another umask gave the same."""
    first = _built(root, place / "first", umask=0o022, touched=None)
    second = _built(root, place / "second" / "deeper", umask=0o077, touched=1_000_000_000)
    names = sorted(each.name for each in first)
    assert names == sorted(each.name for each in second)
    for one, other in zip(sorted(first), sorted(second), strict=True):
        assert one.read_bytes() == other.read_bytes(), f"{one.name} differs from build to build"
    (wheel,) = (each for each in first if each.suffix == ".whl")
    (sdist,) = (each for each in first if each.name.endswith(".tar.gz"))
    return wheel, sdist


def _built(root: Path, place: Path, *, umask: int, touched: float | None) -> list[Path]:
    """Build from a copy of the tracked files."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=root, check=True, stdout=subprocess.PIPE, text=True).stdout
    before = os.umask(umask)
    try:
        for name in filter(None, names.split("\0")):
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, place / name)
            if touched is not None:
                os.utime(place / name, (touched, touched))
        subprocess.run(
            [sys.executable, "-m", "hatchling", "build", "-d", "dist"], cwd=place, check=True, stdout=subprocess.PIPE
        )
    finally:
        os.umask(before)
    return list((place / "dist").iterdir())


def described(wheel: Path, sdist: Path) -> None:
    """Hold the description to what an index can show, and the packages to what they must contain."""
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        text = archive.read(metadata).decode()
        tops = {name.partition("/")[0] for name in archive.namelist()}
    assert tops == {"kropot", "ledger", metadata.partition("/")[0]}, tops
    assert "Description-Content-Type: text/markdown" in text
    for target in re.findall(r"\]\(([^)]+)\)", text):
        assert re.match(r"https?://", target), f"the description links to {target}"
    with tarfile.open(sdist) as archive:
        there = {name.partition("/")[2] for name in archive.getnames()}
    assert {"SECURITY.md", "LICENSE", "locks/run.txt", "docs/index.md", "tests/conftest.py", "compose.yaml"} <= there


def dockerfile_is_clean(root: Path) -> None:
    """Ask hadolint, where it is installed."""
    if shutil.which("hadolint"):
        subprocess.run(["hadolint", "Dockerfile"], cwd=root, check=True)
