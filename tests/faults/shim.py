"""The shim from Python: build it once, load it into a process, arm it."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from enum import IntEnum
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")


class Kind(IntEnum):
    """What happens at an armed operation: nothing, the end before or after it, half of it, an error.

    The end is that of the whole process group, except for KILL_ONE.
    """

    COUNT = 0
    KILL_BEFORE = 1
    KILL_AFTER = 2
    TORN = 3
    FAIL = 4
    KILL_ONE = 5


def compiler() -> str | None:
    """Return the path of a C compiler, None where there is none (or not on Linux, which the shim is written for)."""
    if os.uname().sysname != "Linux":
        return None
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


def build() -> Path:
    """Return the path of the built shim; it is built once for each state of its source.

    Raises: CalledProcessError with the compiler's words on its stderr.
    """
    name = f"kropot-shim-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]}.so"
    built = Path(tempfile.gettempdir()) / f"kropot-shim-{os.getuid()}" / name
    if not built.exists():
        found = compiler()
        if found is None:
            raise FileNotFoundError("a C compiler")
        built.parent.mkdir(mode=0o700, exist_ok=True)
        temporary = built.with_suffix(f".{os.getpid()}")
        subprocess.run(
            [
                found,
                "-O2",
                "-fPIC",
                "-shared",
                "-Wall",
                "-Wextra",
                "-Werror",
                "-o",
                temporary,
                SOURCE,
                "-ldl",
                "-lpthread",
            ],
            check=True,
            capture_output=True,
            text=True,
        )
        temporary.rename(built)
    return built


class Shim:
    """The shim in this very process, which MUST have been started with it preloaded."""

    def __init__(self) -> None:
        self._calls = ctypes.CDLL(None)
        if not hasattr(self._calls, "shim_arm"):
            raise RuntimeError("this process was not started with the shim preloaded")
        self._calls.shim_count.restype = ctypes.c_long
        self._calls.shim_arm.argtypes = [ctypes.c_int, ctypes.c_long, ctypes.c_long, ctypes.c_int]

    def watch(self, folder: Path) -> None:
        """Count operations below this folder only."""
        self._calls.shim_watch(os.fsencode(folder))

    def arm(self, kind: Kind, at: int = 0, last: int | None = None, error: int = 0) -> None:
        """Begin to count from 1 again; `kind` happens at the operations `at` to `last`."""
        self._calls.shim_arm(int(kind), at, at if last is None else last, error)

    def log(self, path: Path | None) -> None:
        """Write a line for every operation to `path`."""
        self._calls.shim_log(None if path is None else os.fsencode(path))

    def record(self, path: Path | None) -> None:
        """Write every operation with its bytes to `path`: what `tests.faults.power` reads."""
        self._calls.shim_record(None if path is None else os.fsencode(path))

    def mark(self, value: int) -> None:
        """Put a mark between the operations before and those to come."""
        self._calls.shim_mark(ctypes.c_long(value))

    def count(self) -> int:
        """Return how many operations there were since `arm`."""
        return int(self._calls.shim_count())
