"""What the gateway says about itself in the header of every list: what it does not serve, and that scans fail."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from msgspec.structs import asdict

from ledger.events import Unserved

if TYPE_CHECKING:
    from collections.abc import Callable

    from kropot.gateway.scanreport import ScanReport
    from kropot.gateway.state import State


class ServiceStanding:
    """Remembers what the last scan did not serve, even across restarts, and since when scans have failed.

    `unserved` is None before the first scan. `unscanned_since` is a second, or None if the last scan succeeded. `files`
    and `scanned_s` are those of the last successful scan of this run.
    """

    def __init__(self, state: State, clock_s: Callable[[], int]) -> None:
        """Read what an earlier run kept."""
        self._state = state
        self._clock_s = clock_s
        kept = state.unserved()
        self.unserved = None if kept is None else Unserved(**json.loads(kept))
        self.unscanned_since: int | None = None
        self.files: int | None = None
        self.scanned_s: int | None = None

    def failed(self) -> None:
        """Note that a scan failed."""
        if self.unscanned_since is None:
            self.unscanned_since = self._clock_s()

    def scanned(self, report: ScanReport) -> None:
        """Note what a scan found. A stopped scan changes nothing."""
        if report.stopped:
            return
        if report.misplaced:
            self.failed()
            return
        self.unscanned_since = None
        self.files, self.scanned_s = report.files, self._clock_s()
        if report.unserved != self.unserved:
            self.unserved = report.unserved
            self._state.keep_unserved(json.dumps(asdict(report.unserved)).encode())
