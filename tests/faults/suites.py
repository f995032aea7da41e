"""The tests that belong to the fault laboratory without being crash points: run whole, and counted for the report."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from pathlib import Path

from tests.faults.report import save

ROOT = Path(__file__).parents[2]
SUITES: dict[str, tuple[str, ...]] = {
    "a server that does everything wrong": (
        "tests/faults/test_hostile_server.py",
        "tests/faults/test_quirks.py",
        "tests/kropot/test_client.py",
        "tests/kropot/test_transfer.py",
        "tests/kropot/test_transfer_oldserver.py",
        "tests/kropot/test_collect_lister.py",
    ),
    "parsers under hostile bytes (Hypothesis)": ("tests/faults/test_hostile_input.py",),
    "disks that are full, writes that fail": ("tests/faults/test_disk_full.py", "tests/kropot/test_restore_faults.py"),
    "power cuts of a real XFS volume": ("tests/faults/test_real_power_cut.py",),
    "collectors killed, database and bucket away": ("tests/faults/test_many_collectors.py",),
    "object store: every step killed, failed, cut": ("tests/contract/test_objects_crash.py",),
    "packs: every step of gathering killed, cut": ("tests/kropot/test_packs_storage.py",),
    "ledger writers killed, databases restarted": (
        "tests/ledger/test_sql_killed.py",
        "tests/ledger/test_sql_outages.py",
    ),
    "the gateway under attack": (
        "tests/gateway/test_attacks.py",
        "tests/attack/test_gateway_silence.py",
        "tests/attack/test_gateway_tokens.py",
    ),
    "secrets and TLS": ("tests/cli/test_secrets.py", "tests/cli/test_tls.py"),
    "ledgers tampered with": ("tests/tamper",),
}


def run_suites() -> int:
    """Run each suite, keep what came out; return how many tests failed."""
    bad = 0
    for name, files in SUITES.items():
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="kropot-suite-") as folder:
            told = Path(folder) / "told.xml"
            done = subprocess.run(
                [sys.executable, "-m", "pytest", "-n", "2", f"--junitxml={told}", *files],
                cwd=ROOT,
                env={**os.environ, "KROPOT_TEST_FAULTS": "all"},
                capture_output=True,
                text=True,
                check=False,
            )
            root = ET.parse(told).getroot() if told.exists() else ET.Element("none")  # noqa: S314 -- pytest's own
        counts = next(root.iter("testsuite"), root).attrib
        tests, skipped = int(counts.get("tests", 0)), int(counts.get("skipped", 0))
        failed = int(counts.get("failures", 0)) + int(counts.get("errors", 0)) or int(done.returncode != 0)
        bad += failed
        out = f"{failed} failed" + (f", {skipped} skipped" if skipped else "")
        print(f"{name:<48} {tests:>6} tests, {out}, {time.monotonic() - began:.0f} s", flush=True)
        if failed:
            print(done.stdout[-3000:])
        row = {"tried": f"tests: {name}", "count": tests - skipped, "out": out}
        save("suite", name.replace(" ", "-").replace(",", "").replace(":", ""), {"rows": [row]})
    return bad
