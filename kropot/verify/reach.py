"""Which sources can still be asked for a copy, as far as the ledger knows: `verify` asks only here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kropot.collect.decide.sources import source_key
from kropot.collect.failed_run import REFUSED
from kropot.query.past import sources_at
from ledger.events import RunFailed

if TYPE_CHECKING:
    from kropot.verify.ways_out import Reach
    from ledger.log import Ledger


def reach_of(ledger: Ledger) -> dict[bytes, Reach]:
    """Return the sources (16 bytes) that cannot be asked any more, and why. All others are open."""
    found: dict[bytes, Reach] = {}
    for source, known in sources_at(ledger).items():
        if known.past is not None:
            found[source] = "retired" if known.past.why == "retired" else "past"
        elif _is_refused(ledger, source):
            found[source] = "refused"
    return found


def _is_refused(ledger: Ledger, source: bytes) -> bool:
    """Whether the last thing that happened to the source is a run whose token the server refused."""
    last = next(ledger.history(source_key(source), newest_first=True), None)
    return last is not None and isinstance(last.fact, RunFailed) and last.fact.reason == REFUSED
