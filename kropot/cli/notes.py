"""The option `--against`, which names checkpoints that were kept elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kropot.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def notes_in(places: tuple[Path, ...]) -> Iterator[tuple[str, bytes]]:
    """Yield (path, note) for each checkpoint in these files and folders. Every file in a folder counts as one.

    Raises: UsageError for a folder without files; KropotError for a file that cannot be read.
    """
    from kropot.checkpoints.folder import read_note

    for place in places:
        files = sorted(path for path in place.iterdir() if path.is_file()) if place.is_dir() else [place]
        if not files:
            raise UsageError(f"the folder {place} holds no checkpoints: name another one with --against")
        for file in files:
            yield str(file), read_note(file)
