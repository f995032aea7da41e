"""What a scan of the folder found."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ledger.events import Unserved

if TYPE_CHECKING:
    from kropot.gateway.sources import ScannedFile, SkipKind, Unreadable
    from kropot.gateway.state import NewFile


@dataclass(slots=True, kw_only=True)
class ScanReport:
    """What a scan found: the numbers of all, new, changed, gone and unsettled files, and of unreadable folders.

    `kept` counts files that look different but have the same bytes, `restless` files that are offered as is because
    they never rest, `locked` files that cannot be read, and `skipped` other entries that are not served. `doubtful`
    holds large files that must be read to tell whether they changed.

    `young` holds the paths of files that changed within the settling time, at most 10,000. `misplaced` means that the
    folder is empty and not the one that held files before, or that it was replaced during the scan. The scan then
    stops declaring files gone.
    """

    files: int = 0
    new: int = 0
    changed: int = 0
    gone: int = 0
    kept: int = 0
    unsettled: int = 0
    restless: int = 0
    locked: int = 0
    skipped: Counter[SkipKind] = field(default_factory=Counter)
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

    @property
    def unserved(self) -> Unserved:
        """Counts of what is not served, by kind."""
        return Unserved(
            sockets=self.skipped["sockets"],
            pipes=self.skipped["pipes"],
            devices=self.skipped["devices"],
            links=self.skipped["links"],
            unreadable=self.unreadable_count + self.locked,
            unsettled=self.unsettled,
            excluded=self.skipped["excluded"],
        )
