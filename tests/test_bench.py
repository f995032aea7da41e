"""The benches still run: each is made as small as it can be, and prints a number for everything that it measures."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SMALL = {
    "verify": ("--repeat", "1", "--divide", "400", "--only", "audit"),
    "retention": ("200", "400"),
    "packs": ("--objects", "40", "--size", "300"),
    "format": ("--elements", "50", "--listings", "1"),
    "endtoend": ("--repeat", "1", "--divide", "1000", "--sets", "small", "--peers", "kropotcli cbc"),
    "sealing": ("--seconds", "0.01"),
    "classes": ("--seconds", "0"),
}


@pytest.mark.parametrize("name", SMALL)
def test_a_bench_runs(name: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", f"tests.bench.{name}", *SMALL[name]],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert len(re.findall(r"\d", ran.stdout)) > 20, ran.stdout
