"""When nothing may be released or freed: while clocks disagree, and while an alarm about the source is open."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

from kropot.errors import IntegrityError, PartialError
from kropot.query.names import short_name
from kropot.query.past import labels_in, sources_at
from kropot.wording import SECOND_US, moment, span
from ledger.append import source_key
from ledger.clock import DAY_US
from ledger.events import ListingCompleted, Source

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kropot.query.past import KnownSource
    from ledger.log import Ledger

_MOST_EVENTS: Final = 1000
"""How far back to look for the newest listing of a source."""


def time_of(ledger: Ledger) -> int:
    """Return the time from which ages count: the earlier of the clock and the ledger (us).

    Raises: IntegrityError if clock, ledger and a source in use are more than a day apart.
    """
    clock_us, recorded_us = ledger.clock_us(), ledger.head().recorded_us
    if abs(clock_us - recorded_us) > DAY_US:
        raise IntegrityError(
            f"the clock says {moment(clock_us)}, and the last event was recorded at {moment(recorded_us)}, so the age "
            "of copies is unknown, and nothing was released or freed: check the clock, and that the collector runs"
        )
    known = sources_at(ledger)
    labels = labels_in(known)
    for id_, each in known.items():
        why = None if each.past is not None else _apart(ledger, each, clock_us)
        if why is not None:
            raise IntegrityError(
                f"source {short_name(labels, id_)} {why}, so the age of its copies is unknown, and nothing was "
                f"released or freed: collect from it first, check the server's clock, or retire the source"
            )
    return min(clock_us, recorded_us)


def demand_quiet(ledger: Ledger) -> None:
    """Raise PartialError while an alarm is open: a listing that is held back, or a surge of changes."""
    alarmed = {id_: why for id_, entry in ledger.sources().items() if (why := alarm_of(entry.source)) is not None}
    if alarmed:
        id_, why = next(iter(alarmed.items()))
        raise PartialError(
            f"source {id_.hex()} has an open alarm ({why}), so nothing was released or freed: check the server, then "
            f"run `kropotcli source accept`"
        )


def alarm_of(source: Source) -> str | None:
    """Return which alarm about a source is open, None if there is none."""
    if source.surge is not None:
        return "a surge of changes"
    if source.held is not None and not source.held.is_accepted:
        return "a listing that is held back"
    return None


def was_alarmed(known: Mapping[bytes, KnownSource]) -> bool:
    """Return whether an alarm was open in this state of the sources."""
    return any(alarm_of(each.source) is not None for each in known.values())


# --- helpers ---------------------------------------------------------------------------------------------------------


def _apart(ledger: Ledger, each: KnownSource, clock_us: int) -> str | None:
    listed_us = each.source.listed_us
    if listed_us is None:
        return None
    if abs(clock_us - listed_us) > DAY_US:
        return f"was listed {span(abs(clock_us - listed_us))} before or after this moment"
    for event in islice(ledger.history(source_key(each.id), newest_first=True), _MOST_EVENTS):
        if isinstance(event.fact, ListingCompleted):
            closed = event.fact.listing.closed
            if closed is not None and abs(closed * SECOND_US - event.observed_us) > DAY_US:
                return f"has a server whose clock said {moment(closed * SECOND_US)} at {moment(event.observed_us)}"
            break
    return None
