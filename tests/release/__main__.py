"""Builds the packages twice and compares them, then installs the wheel on a bare system and lives with it for a while.

    python -m tests.release --uv PATH

The bare system is a Debian made by debootstrap, where this is root and debootstrap is installed; else a bare virtual
environment with a home of its own. Where buildah is, too, the image is built. Every step is timed, and the first that
fails ends it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.release.builds import built_twice, described, dockerfile_is_clean
from tests.release.image import Buildah, answers, base, stand_in
from tests.release.living import lived_with
from tests.release.systems import BareSystem, debian, virtual

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]


class Steps:
    """Prints each step with its time."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        except BaseException:
            print(f"FAILED  {time.monotonic() - began:6.1f} s  {what}", flush=True)
            raise
        print(f"ok      {time.monotonic() - began:6.1f} s  {what}", flush=True)

    def end(self) -> None:
        print(f"ok      {time.monotonic() - self._began:6.1f} s  everything", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.release", description=__doc__)
    parser.add_argument("--uv", type=Path, default=shutil.which("uv"), help="the program uv")
    parser.add_argument("--system", choices=["debian", "virtual"], help="which bare system (default: what there is)")
    chosen = parser.parse_args()
    if chosen.uv is None:
        parser.error("name the program uv")
    steps = Steps()
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kropot-release-")))
        with steps.step("wheel and sdist, built twice from different folders, are the same bytes"):
            wheel, sdist = built_twice(ROOT, place)
        with steps.step("the description has no link that leads nowhere on an index"):
            described(wheel, sdist)
        with steps.step(
            "hadolint has nothing to say about the Dockerfile" if shutil.which("hadolint") else "(no hadolint)"
        ):
            dockerfile_is_clean(ROOT)
        for what, source in (("the wheel", wheel), ("the clone", ROOT)):
            with steps.step(f"uv tool install from {what}"):
                installed_as_tool(chosen.uv, source, place / f"tool-{source.name}")
        with steps.step("the wheels of everything that it needs are at hand"):
            run(sys.executable, "-m", "pip", "wheel", "--quiet", "--wheel-dir", str(place / "wheels"), str(wheel))
        kind = chosen.system or ("debian" if os.geteuid() == 0 and shutil.which("debootstrap") else "virtual")
        with steps.step(f"a bare system: {kind}"):
            system: BareSystem = stack.enter_context(debian(place) if kind == "debian" else virtual(place))
        with steps.step("the wheel is installed there, without a network"):
            system.install(place / "wheels", wheel.name)
        lived_with(system, steps.step)
        image(steps, place)
    steps.end()


def image(steps: Steps, place: Path) -> None:
    """Build the image, if that can be done here."""
    if os.geteuid() or not shutil.which("buildah") or not shutil.which("debootstrap"):
        with steps.step("(no image: that needs root, buildah and debootstrap)"):
            return
    buildah = Buildah(place / "image")
    name, is_real = base(buildah, ROOT)
    if not is_real:
        with steps.step(f"no registry has {name} for us: a stand-in, made of Debian"):
            stand_in(buildah, ROOT, name)
    with steps.step("the image is built and answers" + ("" if is_real else f", on the stand-in for {name}")):
        answers(buildah, ROOT)


def run(*args: str, **more: str) -> str:
    """Run a command to its end and return what it printed. Raises: CalledProcessError."""
    return subprocess.run(args, check=True, text=True, stdout=subprocess.PIPE, env={**os.environ, **more}).stdout


def installed_as_tool(uv: Path, source: Path, place: Path) -> None:
    """Install as a user does with uv (pipx does the same with pip), and ask for the version."""
    more = {"UV_TOOL_DIR": str(place), "UV_TOOL_BIN_DIR": str(place / "bin")}
    run(str(uv), "tool", "install", "--quiet", "--python", sys.executable, str(source), **more)
    assert run(str(place / "bin" / "kropotcli"), "--version").startswith("kropotcli ")


if __name__ == "__main__":
    main()
