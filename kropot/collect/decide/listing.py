"""Decides about listing: when to list, what the entries mean, what is gone, when the listing is complete.

The controller takes entries in by chunks. It records each chunk together with the cursor, and asks for the next page
meanwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kropot.collect.decide import ending, sources, zone_change
from kropot.collect.decide.actions import (
    Action,
    BeginListing,
    CountMissing,
    EndListing,
    FindMissing,
    ListPage,
    LookUp,
    RecordFacts,
    Say,
)
from kropot.collect.decide.observation import ListingRun, observe_chunk
from kropot.collect.decide.plan import SECOND_US, jitter, vanished
from kropot.lister.conversation import ListingFailedError, ListingResult, NewEntries, Trouble
from kropot.lister.drain import Range, drain
from ledger.append import NewFact
from ledger.events import RemoteChanged, RemoteObserved, StreamKey

if TYPE_CHECKING:
    from collections import deque

    from kropot.collect.decide.inputs import (
        Conflicted,
        ListingBegan,
        ListingBusy,
        LookedUp,
        MissingCounted,
        MissingFound,
        Recorded,
    )
    from kropot.collect.decide.progress import Progress
    from kropot.collect.decide.rules import CollectRules
    from kropot.securecopy.wire import Listed, Page
    from ledger.events import Source

CHUNK = 2000
"""So many entries are recorded in one transaction at most, so that finished fetches need not wait long for theirs."""

AHEAD = 2 * CHUNK
"""So many entries may wait to be recorded before no further page is asked for."""

GATHER_US = SECOND_US // 10
"""So long pages are gathered into one chunk after the last: every transaction waits for the disk."""

SWEEP = 500

MAX_CONFLICTS = 20
ONCE_ATTEMPTS = 3
WAYS_OUT = {
    "tls": ": its certificate cannot be trusted; a private authority is named by --ca-file",
    "redirected": ": it sends to elsewhere, where the token was not sent; if that is the server now, give --server-url",
}
"""What only the user can mend is explained, by the reason; what may pass by itself is not."""

FOLLOW_US = 2 * SECOND_US
"""So long a run that is to end waits before it looks again whether another collector's listing is over."""


class ListingController:
    """Lists one source, again and again."""

    def __init__(self, source_id: bytes, source: Source, rules: CollectRules, progress: Progress) -> None:
        """Prepare; `progress` is kept up to date."""
        self.source_id = source_id
        self.source = source
        self.version = 0
        self.next_us = 0
        self.is_over = False
        self.has_failed = False
        self.has_answered = False
        self.has_news = False
        self.reason = ""
        self._rules = rules
        self._progress = progress
        self._run: ListingRun | None = None
        self._is_opening = False
        self._wants_full = rules.full
        self._believes = False
        self._failures = 0
        self._closed: int | None = None
        self._said_plain = False
        self._followed: tuple[int | None, int | None] | None = None

    # --- when to list ---

    @property
    def is_busy(self) -> bool:
        """Whether a listing is under way."""
        return self._run is not None or self._is_opening

    @property
    def wakes_us(self) -> int | None:
        """When there may be something to do again, None if only news can tell."""
        if self._run is not None:
            return self._run.chunk_us + GATHER_US if self._run.backlog and not self._run.is_recording else None
        return None if self.is_busy or self.is_over else self.next_us

    def tick(self, now_us: int) -> list[Action]:
        """Begin a listing if one is due; have recorded what was gathered for long enough."""
        if self._run is not None:
            return self._next_chunk(now_us, self._run) if self._run.backlog else []
        if self.is_busy or self.is_over or now_us < self.next_us:
            return []
        self._is_opening = True
        return [BeginListing()]

    def began(self, now_us: int, happened: ListingBegan) -> list[Action]:
        """Choose between a window and everything, and ask for the first page."""
        self._is_opening = False
        self.source, self.version = happened.source, happened.version
        source = self.source
        if self._was_done_by_another(source):
            self.is_over = self.has_news = True
            return [EndListing()]
        full_us = source.full_listed_us
        is_full = (
            self._wants_full
            or source.cursor is None
            or full_us is None
            or now_us - full_us >= self._rules.full_every_us
            or (source.held is not None and source.held.is_accepted)
        )
        is_closed = self._closed is not None and source.cursor is not None and source.cursor <= self._closed
        start = None
        if not is_full and source.cursor is not None:
            start = source.cursor - (0 if is_closed else self._rules.overlap_s)
        wanted = Range(start=start, cursor=source.cursor, zone=source.zone, is_closed=is_closed, page=self._rules.page)
        self._run = ListingRun(
            mode="full" if is_full else "window",
            start=start,
            position=happened.position,
            known=happened.known,
            began_us=now_us,
            is_believing=self._believes,
            talk=drain(wanted),
        )
        self._wants_full = self._believes = False
        return [*self._say_plain(), *self._talk(now_us, self._run, None)]

    def busy(self, now_us: int, happened: ListingBusy) -> list[Action]:
        """Leave the listing to the other collector; a run that is to end waits for its end, and fetches meanwhile."""
        self._is_opening = False
        self.source = happened.source
        self.has_news = True
        if not self._rules.once:
            self.next_us = now_us + self._rules.refresh_us // 4
            return []
        self.next_us = now_us + FOLLOW_US
        if self._followed is not None:
            return []
        self._followed = self.source.listed_us, self.source.full_listed_us
        text = "another collector is listing the server: what it finds is fetched here, too, until it is through"
        return [Say(level="info", event="listing_followed", text=text)]

    def _was_done_by_another(self, source: Source) -> bool:
        """Whether the listing that this one waited for came to its end, so that this run needs none of its own."""
        if self._followed is None:
            return False
        listed, fully = self._followed
        return source.full_listed_us != fully if self._rules.full else source.listed_us != listed

    # --- pages ---

    def page(self, now_us: int, answer: Page | Trouble) -> list[Action]:
        """Take in a page, or that none came."""
        run = self._run
        if run is None:
            return []
        self.has_answered = self.has_answered or not isinstance(answer, Trouble)
        return self._talk(now_us, run, answer)

    def refused(self, now_us: int) -> list[Action]:
        """Give up this listing, since the server does not accept the token."""
        return self._fail(now_us, "refused")

    def _talk(self, now_us: int, run: ListingRun, answer: Page | Trouble | None) -> list[Action]:
        try:
            said = run.talk.send(answer)
            while isinstance(said, NewEntries):
                run.backlog.extend(said.entries[i : i + CHUNK] for i in range(0, len(said.entries), CHUNK))
                said = run.talk.send(None)
            run.ask = said
        except StopIteration as end:
            run.drained = end.value
        except ListingFailedError as error:
            return self._fail(now_us, error.reason)
        return [*self._ask_on(run), *self._next_chunk(now_us, run)]

    def _ask_on(self, run: ListingRun) -> list[Action]:
        """Ask for the next page, unless what came is still waiting to be recorded."""
        if run.ask is None or _waiting(run) > AHEAD:
            return []
        ask, run.ask = run.ask, None
        return [ListPage(ask=ask)]

    def _next_chunk(self, now_us: int, run: ListingRun) -> list[Action]:
        """Have the next chunk looked up, once there is enough of it; settle when all is recorded."""
        if run.is_recording:
            return []
        if run.backlog:
            is_worth_it = run.drained is not None or run.ask is not None or _waiting(run) >= CHUNK
            if not is_worth_it and now_us < run.chunk_us + GATHER_US:
                return []
            run.is_recording, run.chunk_us = True, now_us
            return [LookUp(entries=_gather(run.backlog))]
        if run.drained is not None:
            return self._settle(now_us, run, run.drained)
        return []

    def looked_up(self, now_us: int, happened: LookedUp) -> list[Action]:
        """Observe the entries that were looked up, and have the news recorded."""
        run = self._run
        if run is None:
            return []
        self.source, self.version = happened.source, happened.version
        if not run.backlog:
            return self._close(now_us, run)
        facts, advanced = observe_chunk(
            run,
            self.source_id,
            self.source,
            run.backlog[0],
            happened.known,
            now_us=now_us,
            thresholds=self._rules.thresholds,
        )
        if advanced is not None:
            facts.append(self._about_source(now_us, advanced))
        run.facts = tuple(facts)
        if run.facts:
            return [RecordFacts(about="page", facts=run.facts)]
        run.backlog.popleft()
        run.is_recording = False
        return [*self._ask_on(run), *self._next_chunk(now_us, run)]

    def _about_source(self, now_us: int, fact: sources.SourceFact, *, ahead: int = 0) -> NewFact:
        key = sources.source_key(self.source_id)
        return NewFact(key=key, fact=fact, observed_us=now_us, expected=self.version + ahead)

    # --- what was recorded ---

    def recorded(self, now_us: int, happened: Recorded) -> list[Action]:
        """Go on after facts of this listing were recorded."""
        run = self._run
        if run is None:
            return []
        said = self._adopt(happened)
        run.conflicts = 0
        if happened.about == "page":
            run.facts = ()
            run.is_recording = False
            run.backlog.popleft()
            self._count(run, happened)
            return [*said, *self._ask_on(run), *self._next_chunk(now_us, run)]
        if happened.about == "sweep":
            gone = len(happened.facts) - len(happened.dropped)
            run.vanished += gone
            self._progress.vanished += gone
            return said
        return [*said, *self._over(now_us, run)]

    def conflicted(self, now_us: int, happened: Conflicted) -> list[Action]:
        """Look again at what another collector or a person changed meanwhile, and decide anew."""
        run = self._run
        if run is None:
            return []
        run.conflicts += 1
        if run.conflicts > MAX_CONFLICTS:
            return self._fail(now_us, "conflict")
        return [LookUp(entries=run.backlog[0] if happened.about == "page" and run.backlog else ())]

    def _adopt(self, happened: Recorded) -> list[Action]:
        """Take over the source as it was recorded."""
        surge = self.source.surge
        for new in happened.facts:
            if isinstance(new.fact, sources.SOURCE_FACTS):
                self.source = new.fact.source
                self.version += 1
        after = self.source.surge
        said = self._say_plain()
        if after is not None and surge is None:
            text = (
                f"{after.changed} of {after.known} elements changed within 24 hours, as if something had encrypted them"
                " at the source; every earlier version is kept: look at the server, then `kropotcli source accept`"
            )
            said.append(Say(level="warning", event="surge", text=text, fields={"changed": after.changed}))
        return said

    def _count(self, run: ListingRun, happened: Recorded) -> None:
        progress = self._progress
        for new in happened.facts:
            fact = new.fact
            if isinstance(fact, RemoteObserved):
                run.new += 1
                progress.new += 1
            elif isinstance(fact, RemoteChanged):
                run.changed += 1
                progress.changed += 1
            elif new.key.is_element:
                run.reappeared += 1
                progress.reappeared += 1
            else:
                continue
            self.has_news = True

    # --- the end of a listing ---

    def _settle(self, now_us: int, run: ListingRun, drained: ListingResult) -> list[Action]:
        """Decide what moved dates mean; then look for what is gone."""
        if not run.is_settled and run.moved.strange:
            run.is_settled = True
            offsets = zone_change.changed_by(run.moved, known=run.present, before=self.source.zone, after=drained.zone)
            if run.mode == "full":
                run.offsets = offsets
            elif offsets:
                # It looks as if the server's zone changed: only a full listing can tell.
                run.kept.clear()
                self._wants_full = True
            if run.kept and not run.offsets:
                run.is_believing = True
                run.backlog.extend(tuple(run.kept[i : i + CHUNK]) for i in range(0, len(run.kept), CHUNK))
                run.kept = []
                if not run.is_kept_whole:
                    self._wants_full = self._believes = True
                return self._next_chunk(now_us, run)
        if run.mode == "full" and drained.exempt and not run.offsets:
            # What the server cannot list is known by its date in the old zone, and must be looked for by that.
            run.offsets = zone_change.between(self.source.zone, drained.zone, now_us // SECOND_US)
        if run.mode == "window" or run.present >= run.known:
            return self._close(now_us, run)
        run.exempt = ending.exempt(run, drained, self.source)
        run.known = 0
        return [CountMissing(seen=run.seen, before=run.position, exempt=run.exempt, after=None)]

    def counted(self, now_us: int, happened: MissingCounted) -> list[Action]:
        """Believe that the missing elements are gone, or hold that back."""
        run = self._run
        if run is None or run.drained is None:
            return []
        run.missing += happened.missing
        run.known += happened.known
        if happened.after is not None:
            return [CountMissing(seen=run.seen, before=run.position, exempt=run.exempt, after=happened.after)]
        if run.missing == 0:
            return self._close(now_us, run)
        run.hold = ending.reason_to_hold(run, run.drained, self.source, self._rules.thresholds)
        if run.hold:
            return self._close(now_us, run)
        return [self._find(run, None)]

    def found(self, now_us: int, happened: MissingFound) -> list[Action]:
        """Declare the elements vanished that a full listing did not show."""
        run = self._run
        if run is None:
            return []
        facts = tuple(
            NewFact(key=entry.key, fact=vanished(entry.element), observed_us=now_us, expected=entry.version)
            for entry in happened.entries
            if entry.element is not None
        )
        actions: list[Action] = [RecordFacts(about="sweep", facts=facts, drop=True)] if facts else []
        if happened.after is not None:
            return [*actions, self._find(run, happened.after)]
        return [*actions, LookUp(entries=())]

    def _find(self, run: ListingRun, after: StreamKey | None) -> FindMissing:
        return FindMissing(seen=run.seen, before=run.position, exempt=run.exempt, after=after, limit=SWEEP)

    def _close(self, now_us: int, run: ListingRun) -> list[Action]:
        """Have the end of the listing recorded."""
        drained = run.drained or ListingResult()
        if run.mode == "window" and self.source.zone not in {None, drained.zone}:
            self._wants_full = True
        facts = ending.closing_facts(run, drained, self.source, now_us)
        news = tuple(self._about_source(now_us, fact, ahead=n) for n, fact in enumerate(facts))
        return [RecordFacts(about="listing", facts=news)]

    def _over(self, now_us: int, run: ListingRun) -> list[Action]:
        """Rest until the next listing is due."""
        drained = run.drained or ListingResult()
        self._run = None
        self._closed = drained.closed
        self._failures = 0
        self.has_failed = False
        progress = self._progress
        progress.listings += 1
        progress.seen += drained.seen
        progress.rejected += run.rejected
        self.next_us = now_us if self._wants_full else max(now_us, run.began_us + self._rules.refresh_us)
        self.is_over = self._rules.once and not self._wants_full
        return [EndListing(), *ending.tell(run, drained)]

    def _fail(self, now_us: int, reason: str) -> list[Action]:
        """Give this listing up; what was recorded stays, and the next one begins at the cursor."""
        run, self._run = self._run, None
        if run is not None:
            run.talk.close()
            self._wants_full = self._wants_full or (run.mode == "full" and self._rules.full)
        self._failures += 1
        self.has_failed = True
        self.reason = reason
        pause_us = self._rules.backoff.delay_us(self._failures, jitter(self.source_id, self._failures))
        self.next_us = now_us + pause_us
        self.is_over = self._rules.once and (self._failures >= ONCE_ATTEMPTS or reason == "refused")
        text = f"the server could not be listed ({reason}{WAYS_OUT.get(reason, '')})"
        text += "" if self.is_over else f"; it is asked again in {pause_us / SECOND_US:.0f} s"
        say = Say(level="warning", event="listing_failed", text=text, fields={"reason": reason})
        return [EndListing(), *([] if reason == "refused" else [say])]

    def abandon(self) -> list[Action]:
        """Drop the listing under way."""
        run, self._run = self._run, None
        if run is None:
            return []
        run.talk.close()
        return [EndListing()]

    def _say_plain(self) -> list[Action]:
        if self._said_plain or self.source.opaque is not False:
            return []
        self._said_plain = True
        text = (
            "this token is not an encrypted one: this replica is not zero-knowledge, it holds file names and contents"
            " as they are"
        )
        return [Say(level="warning", event="not_zero_knowledge", text=text)]


def _waiting(run: ListingRun) -> int:
    return sum(map(len, run.backlog))


def _gather(backlog: deque[tuple[Listed, ...]]) -> tuple[Listed, ...]:
    """Make one chunk of what waits, as far as it fits into one, and return it: a transaction costs more than a page."""
    count = size = 0
    for waiting in backlog:
        if count and size + len(waiting) > CHUNK:
            break
        count, size = count + 1, size + len(waiting)
    if count > 1:
        backlog.appendleft(tuple(entry for _ in range(count) for entry in backlog.popleft()))
    return backlog[0]
