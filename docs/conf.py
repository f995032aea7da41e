"""Makes the handbook and the pages of this folder a site: `make docs`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT: Final = Path(__file__).parents[1]

project = "KropotCLI"
author = "The KropotCLI founders"
copyright = "The KropotCLI founders"  # noqa: A001 - Sphinx's name
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "KropotCLI"
html_copy_source = False
html_show_sphinx = False
# Links to headings are written as a repository's page shows them, so both take the same ones.
myst_heading_anchors = 6
myst_enable_extensions = ["colon_fence"]
# Links to source files work in the repository; some transcripts are in no language that a lexer knows.
suppress_warnings = ["misc.highlighting_failure"]
nitpicky = False


def setup(app: Sphinx) -> None:
    """Have links out of this folder lead nowhere: the pages are read with the source beside them, or without it."""
    app.connect("source-read", _without_outside_links)


def _without_outside_links(_app: Sphinx, _name: str, source: list[str]) -> None:
    import re

    source[0] = re.sub(r"\[([^\]]+)\]\(\.\./(?:\.\./)*(?:ledger|kropot|tests|contrib|[A-Z]+)[^)]*\)", r"\1", source[0])
