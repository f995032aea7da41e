"""Makes the description of the package from README.md: on an index, links into the source tree lead nowhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

LINK = re.compile(r"\[([^\]]+)\]\((?![a-z]+:)[^)]+\)")


class DescriptionHook(MetadataHookInterface):
    """Sets the field `readme`, which pyproject.toml calls dynamic."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Put the README there, its links into this tree replaced by their words."""
        text = LINK.sub(r"\1", Path(self.root, "README.md").read_text(encoding="utf-8"))
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
