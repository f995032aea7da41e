"""The other side of kropotcli: a gateway in a process of its own, started for one step and measured apart."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

_PATIENCE_S = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What the gateway took: seconds until it had scanned the folder, and all its processor time and peak memory."""

    scan_s: float
    cpu_s: float
    peak: int


class Gateway:
    """Serves while the block runs, which begins when the folder is scanned; `served` is there after the block."""

    def __init__(self, command: Sequence[str], output: Path, env: Mapping[str, str]) -> None:
        """Prepare; what it logs goes to `output`."""
        self._command, self._output, self._env = command, output, env
        self.served: Served | None = None

    def __enter__(self) -> Self:
        """Start, and wait for the first scan. Raises: RuntimeError if it ends, or none comes."""
        began = time.perf_counter()
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(self._command, env=self._env, stdout=output, stderr=output)
        while not self._has_scanned():
            if self._process.poll() is not None or time.perf_counter() > began + _PATIENCE_S:
                self._process.kill()
                tail = self._output.read_text(errors="replace").strip().splitlines()[-1:]
                raise RuntimeError(f"the gateway does not serve: {' '.join(tail)}")
            time.sleep(0.01)
        self._scan_s = time.perf_counter() - began
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it, and say what it took."""
        self._process.send_signal(signal.SIGTERM)
        _, status, usage = os.wait4(self._process.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        cpu_s = usage.ru_utime + usage.ru_stime
        self.served = Served(scan_s=self._scan_s, cpu_s=cpu_s, peak=usage.ru_maxrss * 1024)

    def _has_scanned(self) -> bool:
        return '"event":"folder_scanned"' in self._output.read_text(errors="replace")
