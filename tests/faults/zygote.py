"""A process that has everything imported and forks one child for each command line: a thousand runs cost no start-up.

    LD_PRELOAD=shim.so python -m tests.faults.zygote

reads one JSON object a line ({"argv", "cwd", "env", "kind", "at", "last", "errno", "out", "log", "recording", "mutant",
"processors", "seconds"}). It answers with {"code", "count"}: the exit code, negative for a signal, and the number of
operations, None if the command was killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from ledger.log import Ledger
from tests.faults.mutants import MUTANTS
from tests.faults.shim import Kind, Shim, build
from tests.forked import ROOT, Forking, import_everything


class Zygote(Forking):
    """The other side: runs command lines in children of the process."""

    def __init__(self) -> None:
        super().__init__("tests.faults.zygote")

    def environment(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": str(build()),
            "KROPOT_TEST_SHIM_STATE": f"{self._folder.name}/state",
            "NO_COLOR": "1",
            "PYTHONPATH": str(ROOT),
        }

    def run(
        self,
        argv: list[str],
        *,
        cwd: Path,
        env: dict[str, str] | None = None,
        kind: Kind = Kind.COUNT,
        at: int = 0,
        last: int | None = None,
        error: int = 0,
        log: Path | None = None,
        recording: Path | None = None,
        mutant: str = "",
        processors: int = 1,
        seconds: int = 60,
    ) -> tuple[int, int | None, str]:
        """Run `kropotcli argv` in `cwd`, which is watched; return exit code, operations counted, and all output.

        `log` and `recording` receive the operations, by name and with their bytes; `mutant` is a broken variant. With
        one processor everything is done in one process.
        """
        out = cwd.parent / f"{cwd.name}.out"
        order = {
            "argv": argv,
            "cwd": str(cwd),
            "env": env or {},
            "kind": int(kind),
            "at": at,
            "last": at if last is None else last,
            "errno": error,
            "out": str(out),
            "log": None if log is None else str(log),
            "recording": None if recording is None else str(recording),
            "mutant": mutant,
            "processors": processors,
            "seconds": seconds,
        }
        self.give(order)
        answer = json.loads(self._answers.readline())
        return answer["code"], answer["count"], out.read_text(errors="replace")


def _announce(shim: Shim) -> None:
    """Mark in every log and recording how far the ledger has acknowledged."""
    append = Ledger.append

    def announced(self: Ledger, *args: Any, **kwargs: Any) -> Any:
        commit = append(self, *args, **kwargs)
        shim.mark(commit.last)
        return commit

    Ledger.append = announced  # type: ignore[method-assign]


def _child(order: dict[str, Any], shim: Shim, count: int) -> None:
    """Become the program; never returns."""
    code = 70
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.alarm(order["seconds"])
        os.setpgid(0, 0)
        os.cpu_count = lambda: order["processors"]
        os.chdir(order["cwd"])
        for name in ("log", "recording"):
            if order[name]:
                os.environ[f"KROPOT_TEST_SHIM_{name.upper()}"] = order[name]
        os.environ.update(order["env"])
        out = os.open(order["out"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        for stream in (1, 2):
            os.dup2(out, stream)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        from kropot.cli.main import cli

        _announce(shim)
        if order["mutant"]:
            MUTANTS[order["mutant"]]()
        shim.watch(Path(order["cwd"]))
        shim.log(None if order["log"] is None else Path(order["log"]))
        shim.record(None if order["recording"] is None else Path(order["recording"]))
        shim.arm(Kind(order["kind"]), order["at"], order["last"], order["errno"])
        try:
            cli.main(order["argv"], prog_name="kropotcli")
        except SystemExit as ending:
            code = ending.code if isinstance(ending.code, int) else 1
        except BaseException:  # noqa: BLE001 -- whatever it is, the laboratory shall see it
            traceback.print_exc()
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os.write(count, str(shim.count()).encode())
    finally:
        os._exit(code)


def main() -> None:
    """Serve orders until the pipe ends."""
    import_everything()
    shim = Shim()
    for line in sys.stdin:
        order = json.loads(line)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            _child(order, shim, writing)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            counted = pipe.read()
        _, status = os.waitpid(child, 0)
        answer = {"code": os.waitstatus_to_exitcode(status), "count": int(counted) if counted else None}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
