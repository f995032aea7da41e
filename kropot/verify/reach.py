"""Which sources can still be asked for a copy, as far as the ledger knows: the one place that says so to `verify`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kropot.query.health import superseded_sources

if TYPE_CHECKING:
    from kropot.verify.ways_out import Reach
    from ledger.log import Ledger


def reach_of(ledger: Ledger) -> dict[bytes, Reach]:
    """Return the sources (16 bytes) that cannot be asked any more, and why. All others are open."""
    return {source: "past" for source in superseded_sources(ledger)}  # noqa: C420 -- fromkeys makes it a plain string
