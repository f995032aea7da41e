"""Files and folders as options name them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


class NamedPath(click.Path):
    """A path that has a name: an unset variable of a script (`--to "$DIR"`) must not mean the working directory."""

    def __init__(self) -> None:
        """Convert to `pathlib.Path`; whether anything is there is for the command to see."""
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path. Raises: click.BadParameter if it is empty."""
        if value == "":
            self.fail("it is empty; write . for the working directory", param, ctx)
        return super().convert(value, param, ctx)


PATH = NamedPath()
