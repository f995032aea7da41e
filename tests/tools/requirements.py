"""Prints the requirements that pyproject.toml names, one a line: for a pip too old to read dependency groups.

Usage: requirements.py [--dev] [--without NAME]
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from pathlib import Path


def main() -> None:
    """Print the project's requirements, with --dev also those of its tests."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dev", action="store_true")
    parser.add_argument("--without", metavar="NAME", default="")
    wanted = parser.parse_args()
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    lines = [*project["project"]["dependencies"], *(project["dependency-groups"]["dev"] if wanted.dev else [])]
    names = [line for line in lines if re.split(r"[^A-Za-z0-9_.-]", line)[0].lower() != wanted.without.lower()]
    sys.stdout.write("".join(f"{line}\n" for line in names))


if __name__ == "__main__":
    main()
