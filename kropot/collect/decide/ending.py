"""The end of a listing: what it means for elements that it did not show, and what is recorded and said about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kropot.collect.decide import sources
from kropot.collect.decide.actions import Say
from kropot.collect.decide.observation import SLACK_S
from kropot.collect.decide.plan import SECOND_US, known_dates
from kropot.wording import moment, number
from ledger.events import ElementFact, Listing, SourceFact

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kropot.collect.decide.listing_run import ListingRun
    from kropot.collect.decide.sources import Thresholds
    from kropot.lister.conversation import ListingResult
    from ledger.append import NewFact
    from ledger.events import Source

SHOWN = 5

EVENT_BYTES = 1000
"""About how many bytes an event takes in the ledger, besides the element's id and form (docs/operations.md)."""


def exempt(run: ListingRun, result: ListingResult, source: Source) -> tuple[tuple[int, int], ...]:
    """Return the date ranges in which no element counts as missing, widened for dates from before a zone change."""
    ways = [abs(way) for ways in known_dates(source).by_epoch for way in ways]
    widest = max(run.shift.moved.furthest, max(ways, default=0) + max(map(abs, run.shift.offsets), default=0))
    return tuple((first - widest, last + widest) for first, last in result.exempt)


def reason_to_hold(run: ListingRun, source: Source, thresholds: Thresholds) -> str:
    """Return why the missing elements are not believed to be gone (a stable word), "" if they are."""
    is_accepted = source.held is not None and source.held.is_accepted
    if run.result is not None and run.result.is_misordered:
        return "misordered"
    if (run.result is None or run.result.seen == 0) and not is_accepted:
        return "empty"
    if not sources.is_believable(source, run.missing.count, run.missing.known, thresholds):
        return "missing"
    return ""


def growth_of(facts: Iterable[NewFact]) -> int:
    """Return about how many bytes these facts will take in the ledger, indexes and projection included."""
    total = 0
    for new in facts:
        fact = new.fact
        total += EVENT_BYTES + len(new.key.id)
        if isinstance(fact, ElementFact):
            total += len(fact.element.form)
        elif isinstance(fact, SourceFact):
            total += 9 * len(fact.source.unlistable)
    return total


def is_disowned(run: ListingRun, result: ListingResult) -> bool:
    """Whether the server no longer says that all before this listing is closed, so that it is not the server it was."""
    return run.is_closed and (result.closed is None or run.start is None or result.closed < run.start)


def closing_facts(run: ListingRun, result: ListingResult, source: Source, now_us: int) -> list[SourceFact]:
    """Return the facts with which a listing ends, in their order."""
    facts: list[SourceFact] = []
    hold = sources.Hold(reason=run.missing.hold, missing=run.missing.count, known=run.missing.known)
    zone = result.zone
    if run.mode == "window" and source.zone is not None:
        # Only a full listing can tell what another zone means; until then dates are read in the known one.
        zone = None
    if run.shift.offsets:
        changed = sources.change_zone(source, run.shift.offsets, zone)
        facts.append(changed)
        source = changed.source
    until = source.cursor
    if result.closed is not None:
        until = min(result.closed, now_us // SECOND_US + SLACK_S)
    listing = Listing(
        mode=run.mode,
        since=run.start,
        until=until,
        seen=result.seen,
        new=run.counts.new,
        changed=run.counts.changed,
        reappeared=run.counts.reappeared,
        vanished=run.counts.vanished,
        rejected=run.rejected,
        unserved=result.unserved,
        unscanned_since=result.unscanned_since,
        closed=result.closed,
    )
    if hold.reason in {sources.TOO_MANY, sources.TOO_LARGE}:
        return [sources.cut_short(source, listing, hold, now_us=now_us)]
    unlistable = result.unlistable
    if hold.reason:
        facts.append(sources.hold_back(source, listing, hold, now_us=now_us, zone=zone, unlistable=unlistable))
    else:
        facts.append(sources.complete(source, listing, now_us=now_us, zone=zone, cursor=until, unlistable=unlistable))
    return facts


def tell(run: ListingRun, result: ListingResult) -> list[Say]:
    """Return what the user is told about a listing that came to its end."""
    fields: dict[str, object] = {
        "mode": run.mode,
        "seen": result.seen,
        "new": run.counts.new,
        "changed": run.counts.changed,
        "vanished": run.counts.vanished,
    }
    text = f"listed the server ({run.mode}): {result.seen} seen, {run.counts.new} new, {run.counts.changed} changed"
    text += f", {run.counts.vanished} vanished" if run.counts.vanished else ""
    said = [Say(level="info", event="listing_completed", text=text, fields=fields)]
    if run.missing.hold in {sources.TOO_MANY, sources.TOO_LARGE}:
        return [tell_cut_short(run.missing.hold, run.lines)]
    if run.missing.hold:
        missing = run.missing
        text = (
            f"{missing.count} of {missing.known} elements are missing from the list ({missing.hold}), so the listing"
            " was held back and nothing was marked as vanished: check the server, then run `kropotcli source accept`"
        )
        said.append(Say(level="warning", event="listing_held_back", text=text, fields={"missing": run.missing.count}))
    if result.unlistable:
        shown = ", ".join(moment(second * SECOND_US) for second in result.unlistable[:SHOWN])
        shown += ", ..." if len(result.unlistable) > SHOWN else ""
        text = (
            f"the server cannot list all elements of {number(len(result.unlistable), 'second')} ({shown}): copies that "
            "were already stored are kept, but nothing else of that time is backed up until the server can list it: "
            "look for broken rows of these dates on the server"
        )
        said.append(Say(level="warning", event="unlistable", text=text, fields={"seconds": result.unlistable[:SHOWN]}))
    if run.rejected:
        lines = (
            "1 line of the list is not a valid entry"
            if run.rejected == 1
            else f"{run.rejected} lines of the list are not valid entries"
        )
        text = (
            f"{lines}: elements behind them are not backed up, but copies that were already stored are kept: look for "
            "these lines on the server"
        )
        said.append(Say(level="warning", event="rejected", text=text))
    if result.unserved is not None and result.unserved.unreadable:
        count = result.unserved.unreadable
        text = (
            f"the server cannot read {number(count, 'folder or file', 'folders or files')} of its source, so they are "
            "not backed up: give its user the right to read them (`kropotcli gateway check` names them)"
        )
        said.append(Say(level="warning", event="unreadable", text=text, fields={"count": count}))
    if result.unscanned_since is not None:
        text = (
            f"since {moment(result.unscanned_since * SECOND_US)} the server has failed to scan its source, so nothing "
            "newer is backed up: the gateway's log says why"
        )
        said.append(Say(level="warning", event="unscanned", text=text))
    if run.shift.offsets:
        seconds = " or ".join(map(str, run.shift.offsets))
        text = f"the server's time zone changed: dates moved by {seconds} seconds, and no content changed"
        said.append(Say(level="warning", event="zone_changed", text=text, fields={"offsets": run.shift.offsets}))
    return said


def tell_cut_short(reason: str, lines: int = 0) -> Say:
    """Return what to tell the user about a listing held back before its end, after `lines` (0: at an earlier time)."""
    option = "--listing-entries" if reason == sources.TOO_MANY else "--listing-growth"
    came = f" after {lines} entries" if lines else ""
    text = (
        f"the list is longer than {option} allows, so it was held back{came}, and the server is not listed again: "
        f"check the server, then run `kropotcli source accept`, and collect with a larger {option} if the list is right"
    )
    return Say(level="warning", event="listing_held_back", text=text, fields={"reason": reason})
