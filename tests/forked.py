"""Runs the installed program in forks of a process that has imported it already: most of a short run is its imports.

Each run is still a process of its own, which ends as any other does: it has its own environment, folder and streams,
and what it executes is the installed script. Only the imports are not its own. Whether a command imports all that it
needs is shown where the program is started afresh: the round of every command (tests/cli/test_secrets.py), the
README's five minutes, the demonstration's notes, every gateway and every collector beside a test.

    python -m tests.forked

reads one JSON object a line ({"argv", "cwd", "env", "in", "out", "err"}; the last three are paths). It answers with
the child's process id, and when the child has ended with its exit code, negative for a signal.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import pkgutil
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TextIO

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT = Path(__file__).parents[1]
LATE = (
    "alembic.command",
    "greenlet",
    "multiprocessing.connection",
    "platformdirs.unix",
    "psycopg",
    "pymysql",
    "sqlalchemy.dialects.mysql.pymysql",
    "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.dialects.sqlite.pysqlite",
    "structlog.stdlib",
    "uvloop",
)
"""What the program imports only when it runs, beside its own modules."""


def import_everything() -> None:
    """Import what any command may need, and have forks share the memory that it takes."""
    for package in ("kropot", "ledger"):
        for found in pkgutil.walk_packages([str(ROOT / package)], f"{package}."):
            if found.name.endswith("__main__") or found.name.startswith("ledger.sql.migrations."):
                continue  # they do something when they are imported
            with contextlib.suppress(ImportError):  # of pycurl, which the program can do without
                importlib.import_module(found.name)
    for name in LATE:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()


class Forking:
    """The tests' side of a process that forks: starts it, writes its orders, and ends it. It has a folder beside it."""

    def __init__(self, module: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="kropot-forking-")
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            cwd=ROOT,
            env=os.environ | self.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the process has no pipes")
        self._orders, self._answers = self._process.stdin, self._process.stdout

    def environment(self) -> dict[str, str]:
        """Return what the process has in its environment beside what is there."""
        return {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._orders.close()
        self._process.wait(30)
        self._answers.close()
        self._folder.cleanup()

    def give(self, order: Mapping[str, Any]) -> None:
        self._orders.write(json.dumps(order) + "\n")
        self._orders.flush()


class ForkedProgram(Forking):
    """Has the process run one command line after another."""

    def __init__(self, program: Path) -> None:
        super().__init__("tests.forked")
        self._program = program

    def run(
        self, args: Sequence[str], *, cwd: Path, env: Mapping[str, str], stdin: str | None, timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """Run the program to its end; afresh where the environment speaks to the interpreter, which is running here.

        Raises: TimeoutExpired, after it was killed.
        """
        argv = [str(self._program), *args]
        if any(name.startswith("PYTHON") and text != os.environ.get(name) for name, text in env.items()):
            return subprocess.run(
                argv, cwd=cwd, env=env, input=stdin, capture_output=True, text=True, timeout=timeout, check=False
            )
        out, err, given = (Path(self._folder.name, name) for name in ("out", "err", "in"))
        given.write_text(stdin or "")
        order = {"argv": argv, "cwd": str(cwd), "env": dict(env), "out": str(out), "err": str(err), "in": str(given)}
        self.give(order)
        child = int(self._answers.readline())
        late = threading.Event()

        def end() -> None:
            late.set()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)

        timer = threading.Timer(timeout, end)
        timer.start()
        code = int(self._answers.readline())
        timer.cancel()
        timer.join()
        if late.is_set():
            raise subprocess.TimeoutExpired(argv, timeout, out.read_bytes(), err.read_bytes())
        return subprocess.CompletedProcess(argv, code, out.read_text(), err.read_text())


def _become(order: dict[str, Any]) -> None:
    """Take on the streams, the environment and the folder of a run."""
    os.setpgid(0, 0)
    new = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    for stream, (path, flags) in enumerate(((order["in"], os.O_RDONLY), (order["out"], new), (order["err"], new))):
        opened = os.open(path, flags, 0o600)
        os.dup2(opened, stream)
        os.close(opened)
    # Of their own, for what the old ones read or held back belongs to the process that was forked.
    sys.stdin = sys.__stdin__ = _stream(0, "r", sys.stdin)  # type: ignore[misc]
    sys.stdout = sys.__stdout__ = _stream(1, "w", sys.stdout)  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = _stream(2, "w", sys.stderr)  # type: ignore[misc]
    os.environ.clear()
    os.environ.update(order["env"])
    time.tzset()
    os.chdir(order["cwd"])
    sys.argv = order["argv"]


def _stream(number: int, mode: str, like: TextIO) -> TextIO:
    """Return a new stream of a number, which treats text as the interpreter's own one does."""
    stream = open(number, mode, encoding=like.encoding, errors=like.errors, closefd=False)  # noqa: SIM115
    assert isinstance(stream, TextIOWrapper)
    stream.reconfigure(line_buffering=number == 2)
    return stream


def serve() -> str | None:
    """Fork a child for each order until there are no more; return the script to run, which is None in the parent."""
    import_everything()
    orders, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w", buffering=1)
    for line in orders:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            orders.close()
            # Its end, not the stream: Python 3.13 says so when a stream finds its descriptor closed.
            silent = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silent, answers.fileno())
            os.close(silent)
            _become(order)
            return str(order["argv"][0])
        with contextlib.suppress(OSError):
            os.setpgid(child, child)
        answers.write(f"{child}\n")
        _, status = os.waitpid(child, 0)
        answers.write(f"{os.waitstatus_to_exitcode(status)}\n")
    return None


if __name__ == "__main__":
    script = serve()
    if script is not None:
        # Here, and not deeper, so that the process ends as if it had begun with this.
        runpy.run_path(script, run_name="__main__")
