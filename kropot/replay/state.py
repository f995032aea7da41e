"""The state digest at a position, and the counts that come with it for nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kropot.replay.counts import Counts
from kropot.replay.fold import image, last_events
from kropot.replay.glance import MISSED, Glance, glance
from kropot.replay.snapshots import pointers_at
from ledger.digest import StateDigest, pack_row

if TYPE_CHECKING:
    from ledger.log import Ledger


def digest_at(ledger: Ledger, position: int, *, snapshots: bool = True) -> tuple[Counts, str]:
    """Return counts and state digest at `position`, both taken from the events that every element stands on.

    Raises:
        StalePointersError: a snapshot, or the ledger's own streams, contradict the events.
        UnknownCriticalEventError, MalformedEventError: as `fold.count`.

    """
    counts, digest = Counts(), StateDigest()
    with pointers_at(ledger, position, snapshots=snapshots) as pointers:
        for key, event in last_events(ledger, pointers, position):
            seen = glance(event)
            if seen is MISSED:
                element = image(ledger, event)
                seen = None if element is None else Glance.of(element)
            if seen is None:
                continue
            counts.take(seen.state, seen.sound)
            row = pack_row(key, seen.date, seen.tz, seen.form, seen.state, seen.sha256, seen.size, seen.iv)
            digest.add_row(key, row)
    return counts, digest.text
