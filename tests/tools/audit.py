"""Asks whether a release in the lock files has a known fault: python tests/tools/audit.py PIP-AUDIT.

Ends with 1 if one has. The answers come from a package index, which may be away, or be a mirror that does not know.
pip-audit itself ends with 1 in the first case and with 0 in the second. Here both end with 0, and a line that says so.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def audit(program: str, locks: list[Path]) -> int:
    """Print what is known of the releases in `locks`; return 1 if one of them has a known fault, else 0."""
    command = [program, "--format", "json", "--progress-spinner", "off", "--disable-pip", "--require-hashes"]
    for lock in locks:
        command += ["--requirement", str(lock)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        releases = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        print(f"NOT AUDITED: pip-audit got no answers: {done.stderr.strip().rpartition(chr(10))[2]}")
        return 0
    faults = [(each, fault) for each in releases for fault in each.get("vulns", ())]
    for each, fault in faults:
        mended = ", ".join(fault["fix_versions"]) or "no release yet"
        print(f"KNOWN FAULT: {each['name']} {each['version']}: {fault['id']}, mended in: {mended}")
    skipped = [each for each in releases if "skip_reason" in each]
    if skipped:
        print(f"NOT AUDITED: {len(skipped)} of {len(releases)} releases, the first: {skipped[0]['skip_reason']}")
    print(f"audited: {len(releases) - len(skipped)} releases, with {len(faults)} known faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(audit(sys.argv[1], sorted((ROOT / "locks").glob("*.txt"))))
