"""One process, measured: wall time, processor time, peak memory, and the time until its files are durable."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from kropot.durable.filesystem import OsFiles

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What one run took: seconds of wall and processor time, bytes of peak memory, of all its processes together.

    `synced_s` is the wall time with a final sync of the file system; `problem` says why it does not count.
    """

    wall_s: float
    synced_s: float
    cpu_s: float
    peak: int
    problem: str | None = None


def measure(
    command: Sequence[str], *, into: Path, cwd: Path, env: Mapping[str, str] | None = None, log: Path | None = None
) -> Run:
    """Run a command that writes below `into`, and sync that file system afterwards.

    What it prints goes to `log`, which is `output.txt` in `cwd` unless it is given.
    """
    log = log or cwd / "output.txt"
    os.sync()
    began = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=cwd, env={**os.environ, **(env or {})}, stdout=output, stderr=output, stdin=subprocess.DEVNULL
        )
        watch = _MemoryWatch(process.pid)
        watch.start()
        _, status, usage = os.wait4(process.pid, 0)
        peak = max(watch.stop(), usage.ru_maxrss * 1024)
    process.returncode = os.waitstatus_to_exitcode(status)
    wall_s = time.perf_counter() - began
    _sync_volume(into)
    synced_s = time.perf_counter() - began
    tail = log.read_text(errors="replace").strip().splitlines()[-1:]
    return Run(
        wall_s=wall_s,
        synced_s=synced_s,
        cpu_s=usage.ru_utime + usage.ru_stime,
        peak=peak,
        problem=None if process.returncode == 0 else f"exit {process.returncode}: {' '.join(tail)}",
    )


def middle(runs: Sequence[Run]) -> Run:
    """Return the median of each figure; a problem of any run is a problem."""
    return Run(
        wall_s=median(run.wall_s for run in runs),
        synced_s=median(run.synced_s for run in runs),
        cpu_s=median(run.cpu_s for run in runs),
        peak=int(median(run.peak for run in runs)),
        problem=next((run.problem for run in runs if run.problem), None),
    )


def check(folder: Path, *, files: int, size: int) -> str | None:
    """Return what is wrong with a folder that should hold so many files of so many bytes, None if nothing is."""
    sizes = [
        path.stat().st_size
        for path in folder.rglob("*")
        if path.is_file() and path.stat().st_size == size and path.name != "output.txt"
    ]
    return None if len(sizes) == files else f"{len(sizes)} of {files} files came whole"


class _MemoryWatch(threading.Thread):
    """Adds up the resident memory of a process and its children, ten times a second."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid = pid
        self._over = threading.Event()
        self._peak = 0

    def run(self) -> None:
        while not self._over.wait(0.1):
            with contextlib.suppress(OSError):
                self._peak = max(self._peak, sum(_resident(pid) for pid in (self._pid, *_children(self._pid))))

    def stop(self) -> int:
        """Return the largest sum that was seen, in bytes."""
        self._over.set()
        self.join()
        return self._peak


def _resident(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return found


def _sync_volume(path: Path) -> None:
    files = OsFiles()
    fd = files.open_volume(str(path))
    try:
        files.sync_volume(fd)
    finally:
        files.close(fd)
