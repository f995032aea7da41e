"""Fuzz the parsers for as long as one likes: python -m tests.faults.fuzz [--seconds N] [--target NAME] [--guided].

Without --guided: seeded damage to examples (tests/faults/mutate.py). With it: guided by coverage, which needs atheris.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.faults.mutate import NASTY, mutate
from tests.faults.report import save

if TYPE_CHECKING:
    from tests.faults.targets import Target


def main(words: list[str] | None = None) -> int:
    """Fuzz, print what each target came to; return 1 where anything but a documented error came out."""
    if "--inside" not in sys.argv:
        from tests.faults.targets import TARGETS
    else:
        import atheris

        # What is imported here is watched; to watch everything that Python knows takes minutes.
        with atheris.instrument_imports(include=["kropot", "ledger"]):
            from tests.faults.targets import TARGETS
    parser = argparse.ArgumentParser(prog="python -m tests.faults.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10, help="so long for each target")
    parser.add_argument("--target", default="", help="only this one: " + ", ".join(TARGETS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--guided", action="store_true", help="guided by coverage; needs atheris")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args(words)
    if asked.inside:
        _guided(TARGETS[asked.target], asked.seconds, asked.seed)
    rows, bad = [], 0
    for name in [asked.target] if asked.target else TARGETS:
        count, failures = (
            _apart(name, asked.seconds, asked.seed)
            if asked.guided
            else _plain(name, TARGETS[name], asked.seconds, asked.seed)
        )
        bad += len(failures)
        for failure in failures:
            print(f"FAILED {name}: {failure}")
        print(f"{name:<20} {count:>9} inputs {len(failures):>3} failed", flush=True)
        rows.append({"target": name, "inputs": count, "failed": len(failures)})
    if not asked.target:
        how = "guided by coverage (atheris)" if asked.guided else "damaged examples, seeded"
        tried = {
            "tried": f"inputs to {len(rows)} parsers, {how}",
            "count": sum(row["inputs"] for row in rows),
            "out": f"{bad} undocumented errors",
        }
        save("fuzz-guided" if asked.guided else "fuzz", asked.seed, {"rows": [tried], "targets": rows})
    return 1 if bad else 0


def _plain(name: str, target: Target, seconds: float, seed: int) -> tuple[int, list[str]]:
    """Return how many inputs were tried, and the first undocumented errors."""
    dice = random.Random(f"{name} {seed}")
    examples = [*(target.examples() or [b"x" * 64]), *NASTY]
    end, count, failures = time.monotonic() + seconds, 0, list[str]()
    while time.monotonic() < end and len(failures) < 3:
        drawn = dice.getrandbits(64)
        data = mutate(examples, drawn)
        count += 1
        try:
            target.parse(data)
        except target.errors:
            continue
        except Exception as error:  # noqa: BLE001 -- this is what is looked for
            failures.append(f"{type(error).__name__}: {error!s:.200} by input {drawn} of {data[:120]!r}")
    return count, failures


def _apart(name: str, seconds: float, seed: int) -> tuple[int, list[str]]:
    """Run the guided fuzzer in a process of its own, which ends with its work."""
    command = [sys.executable, "-m", "tests.faults.fuzz", "--inside", "--target", name]
    done = subprocess.run(
        [*command, "--seconds", str(seconds), "--seed", str(seed)], capture_output=True, text=True, check=False
    )
    said = done.stdout + done.stderr
    counts = [int(line.split()[1]) for line in said.splitlines() if line.startswith("Done ")]
    return (counts[-1] if counts else 0), ([] if done.returncode == 0 and counts else [said.strip()[-1500:]])


def _guided(target: Target, seconds: float, seed: int) -> None:
    """Become the guided fuzzer; never returns."""
    import atheris

    def once(data: bytes) -> None:
        try:
            target.parse(data)
        except target.errors:
            return

    corpus = Path(tempfile.mkdtemp(prefix="kropot-corpus-"))
    for number, example in enumerate(target.examples()):
        (corpus / str(number)).write_bytes(example)
    limits = [f"-max_total_time={max(1, int(seconds))}", "-timeout=20", "-rss_limit_mb=1024", f"-seed={seed}"]
    atheris.Setup([sys.argv[0], *limits, f"-artifact_prefix={corpus}/", str(corpus)], once)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
