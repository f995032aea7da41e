"""The site of docs/ builds without a warning, and no link in it is broken."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("furo")
    # Sphinx warns of broken links, missing pages, and pages that no table of contents names.
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", ROOT / "docs", tmp_path / "html"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    index = (tmp_path / "html" / "index.html").read_text()
    assert "handbook/first-hour.html" in index
    page = (tmp_path / "html" / "handbook" / "disk-full.html").read_text()
    target = re.search(r'href="\.\./(operations\.html)#([^"]+)"', page)
    assert target is not None
    assert f'id="{target[2]}"' in (tmp_path / "html" / target[1]).read_text()


def test_every_chapter_is_in_the_table_of_contents() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    for page in (ROOT / "docs").glob("**/*.md"):
        name = page.relative_to(ROOT / "docs").with_suffix("").as_posix()
        if name != "index" and not name.startswith(("_build", "decisions/")):
            assert f"\n{name}\n" in index, f"docs/index.md does not name {name}"
