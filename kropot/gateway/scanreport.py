"""What a scan of the folder found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kropot.gateway.sources import ScannedFile, Unreadable
    from kropot.gateway.state import NewFile


@dataclass(slots=True, kw_only=True)
class ScanReport:
    """What a scan found: how many files, new files, changed files, vanished files, unsettled files, unreadable folders.

    `kept` counts files that only look different and have the same bytes, `restless` those that are offered as they are
    because they never rest, and `links` the symlinks that are not followed. `doubtful` holds large files that must be
    read before anything can be said.

    `young` holds the paths of files that changed within the settling time, at most 10,000. `misplaced` means that the
    folder is empty and not the one that held files before, or that it was exchanged during the scan. The scan then
    stops declaring files gone.
    """

    files: int = 0
    new: int = 0
    changed: int = 0
    gone: int = 0
    kept: int = 0
    unsettled: int = 0
    restless: int = 0
    links: int = 0
    doubtful: list[ScannedFile] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)
    unreadable_count: int = 0
    young: list[bytes] = field(default_factory=list)
    stopped: bool = False
    misplaced: bool = False

    def count(self, version: NewFile) -> None:
        """Count a version that is recorded."""
        self.new += version.id is None
        self.kept += version.is_silent
        self.changed += version.id is not None and not version.is_silent
