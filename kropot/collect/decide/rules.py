"""The rules of one collector: every number that its decisions use, in one place."""

from __future__ import annotations

from msgspec import Struct, field

from kropot.collect.decide.plan import SECOND_US, Backoff
from kropot.collect.decide.sources import Thresholds

GIB = 1 << 30

MOST_ENTRIES = 20_000_000
MOST_GROWTH = 24 * GIB
"""How long a list may be, and how much of it may be new to the ledger, before a person has to look. A source of ten
million elements passes, even if some entries are listed twice."""

LEASE_US = 300 * SECOND_US
"""How long a collector may be silent before another one takes over its work."""


class CollectRules(Struct, frozen=True, kw_only=True):
    """How one collector works. `_us` are microseconds, `_s` seconds.

    `once` ends it when everything wanted was tried, `tries` times if it failed; `full` makes it begin with a full
    listing. A window begins `overlap_s` before the cursor, and a full listing is due every `full_every_us`. A collector
    holds `outstanding` elements at a time, and up to `most_outstanding` if they pass quickly
    (kropot/collect/decide/in_flight.py). It leases them in blocks of `block` elements or `block_bytes`. It leases and
    observes nothing while less than `min_free` bytes are free. Leases last `lease_us` unless prolonged. A listing is
    held back if it shows more than `most_entries`, or would add more than `most_growth` bytes to the ledger.
    """

    instance: str
    once: bool = False
    full: bool = False
    tries: int = 3
    refresh_us: int = 300 * SECOND_US
    full_every_us: int = 24 * 3600 * SECOND_US
    overlap_s: int = 2 * 3600
    page: int = 256
    most_entries: int = MOST_ENTRIES
    most_growth: int = MOST_GROWTH
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
        """How long to wait when the server is in trouble: less with --once, because somebody waits for that run."""
        return self.once_backoff if self.once else self.trouble_backoff
