"""What a collector is told to be: every number that its decisions use, in one place."""

from __future__ import annotations

from dataclasses import dataclass, field

from kropot.collect.plan import SECOND_US, Backoff
from kropot.collect.sources import Thresholds

GIB = 1 << 30

LEASE_US = 300 * SECOND_US
"""So long a collector may be silent before another takes over its work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectRules:
    """How one collector works. `_us` are microseconds, `_s` seconds.

    `once` ends it when everything wanted was tried, `tries` times where it failed; `full` has it begin with a full
    listing. A window reaches `overlap_s` back before the cursor, and a full listing is due every `full_every_us`.
    `outstanding` elements are being fetched or recorded at a time, up to `most_outstanding` where that is quick
    (kropot/collect/window.py), taken in blocks of `block` elements or `block_bytes`; nothing is taken while less
    than `min_free` bytes are free. Leases last `lease_us` unless prolonged.
    """

    instance: str
    once: bool = False
    full: bool = False
    tries: int = 3
    refresh_us: int = 300 * SECOND_US
    full_every_us: int = 24 * 3600 * SECOND_US
    overlap_s: int = 2 * 3600
    page: int = 256
    thresholds: Thresholds = field(default_factory=Thresholds)
    fetch_backoff: Backoff = field(default_factory=Backoff)
    trouble_backoff: Backoff = field(default_factory=lambda: Backoff(base_s=5, cap_s=900))
    once_backoff: Backoff = field(default_factory=lambda: Backoff(base_s=0.5, cap_s=5))
    min_free: int = GIB
    disk_check_us: int = 15 * SECOND_US
    lease_us: int = LEASE_US
    block: int = 500
    block_bytes: int = 64 << 20
    outstanding: int = 2000
    most_outstanding: int = 10000

    @property
    def backoff(self) -> Backoff:
        """How long to wait when the server is in trouble: somebody waits for a run that is to end."""
        return self.once_backoff if self.once else self.trouble_backoff
