"""The parameter type of options that take a file or a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


class NamedPath(click.Path):
    """A path that is not empty: an unset variable in a script (`--to "$DIR"`) must not mean the working directory."""

    def __init__(self) -> None:
        """Convert to `pathlib.Path`. The command itself checks whether the path exists."""
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path. Raises: click.BadParameter if it is empty."""
        if value == "":
            self.fail("it is empty: write . for the working directory", param, ctx)
        return super().convert(value, param, ctx)


PATH = NamedPath()
