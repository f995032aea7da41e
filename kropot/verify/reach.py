"""Which sources can still be asked for a copy, as far as the ledger knows: the one place that says so to `verify`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kropot.query.past import sources_at

if TYPE_CHECKING:
    from kropot.verify.ways_out import Reach
    from ledger.log import Ledger


def reach_of(ledger: Ledger) -> dict[bytes, Reach]:
    """Return the sources (16 bytes) that cannot be asked any more, and why. All others are open."""
    found: dict[bytes, Reach] = {}
    for source, known in sources_at(ledger).items():
        if known.past is not None:
            found[source] = "retired" if known.past.why == "retired" else "past"
    return found
