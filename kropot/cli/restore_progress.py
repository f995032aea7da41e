"""Show the progress of a restore, in the same way as kropot/cli/work_progress.py shows all long work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kropot.cli.work_progress import WorkProgress as RestoreProgress
from kropot.cli.work_progress import work_progress

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from kropot.cli.settings import Settings

__all__ = ["PER_FILE", "RestoreProgress", "restore_progress"]

PER_FILE = 256 << 10
"""The overhead of each file, however small, takes about as long as this many bytes."""


def restore_progress(
    settings: Settings, *, files: int | None, size: int | None
) -> AbstractContextManager[RestoreProgress]:
    """Return a progress display for files that are written or compared."""
    return work_progress(settings, "files", count=files, size=size, each=PER_FILE)
