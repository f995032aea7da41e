"""Counts the lines of the core's reading list in docs/tour.md: python tests/tools/tour.py."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
MOST_LINES = 2200


def reading_list() -> dict[str, int]:
    """Return the files of the numbered list in docs/tour.md, and how many lines each has."""
    text = (ROOT / "docs" / "tour.md").read_text()
    names = re.findall(r"^[0-9]+\. \[`([^`]+)`\]", text, re.MULTILINE)
    return {name: len((ROOT / name).read_text().splitlines()) for name in names}


if __name__ == "__main__":
    lines = reading_list()
    for name, count in lines.items():
        print(f"{count:6,}  {name}")
    print(f"{sum(lines.values()):6,}  together, at most {MOST_LINES:,}")
