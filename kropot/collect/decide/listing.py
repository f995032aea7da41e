"""Decides about listing: when to list, what the entries mean, what is gone, when the listing is complete.

The controller is always in one phase. `TRANSITIONS` says what each input does in each phase. The controller takes
entries in chunk by chunk (kropot/collect/decide/chunks.py). It records each chunk together with the cursor, and
meanwhile asks for the next page.
"""

from __future__ import annotations

from enum import Enum, auto
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from kropot.collect.decide import ending, sources, zone_change
from kropot.collect.decide.actions import (
    Action,
    BeginListing,
    CountMissing,
    EndListing,
    FindMissing,
    FlushPrefetched,
    ListPage,
    LookUp,
    Prefetch,
    ReadSource,
    RecordFacts,
    Say,
)
from kropot.collect.decide.chunks import CHUNK, ChunksOnTheWay, Stage
from kropot.collect.decide.inputs import (
    Conflicted,
    ListingBegan,
    ListingBusy,
    LookedUp,
    MissingCounted,
    MissingFound,
    PageFailed,
    PageListed,
    PageRefused,
    Prefetched,
    Recorded,
    SourceRead,
)
from kropot.collect.decide.listing_run import ListingRun, Shift
from kropot.collect.decide.observation import observe_chunk
from kropot.collect.decide.plan import SECOND_US, jitter, vanished
from kropot.lister.conversation import ListingFailedError, ListingResult, NewEntries
from kropot.lister.drain import Range, drain
from kropot.securecopy.trouble import sentence
from ledger.append import NewFact
from ledger.events import CopyStored, ElementFact, RemoteChanged, RemoteCopied, RemoteObserved, SourceFact, VaultNamed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kropot.collect.decide.chunks import Chunk
    from kropot.collect.decide.progress import Progress
    from kropot.collect.decide.rules import CollectRules
    from kropot.lister.conversation import Trouble
    from kropot.securecopy.wire import Page
    from ledger.events import Source, StreamKey

GATHER_US = SECOND_US // 10
"""How long to gather pages into one chunk after the last chunk: every transaction waits for the disk."""

SWEEP = 500
"""At most this many elements are declared gone in one transaction."""

MAX_CONFLICTS = 20
"""How many times in a row another writer may be faster before the listing is abandoned."""

ONCE_ATTEMPTS = 3
"""How many times a run with --once tries to list the server."""

OTHER_VAULT = "other_vault"
"""Why a list is not read: its vault is not the source's."""

_COPIES: Final = (RemoteCopied, CopyStored)

FOLLOW_US = 2 * SECOND_US
"""How long a run with --once waits before it checks again whether another collector's listing is complete."""


class Phase(Enum):
    """Where a controller is.

    IDLE until the next listing is due; OPENING while it tries to get the lease to list; DRAINING while pages come and
    are recorded; COUNTING what the listing did not show; SWEEPING, to declare that gone; CLOSING while the listing's
    end is recorded; OVER when a run with --once needs no further listing.
    """

    IDLE = auto()
    OPENING = auto()
    DRAINING = auto()
    COUNTING = auto()
    SWEEPING = auto()
    CLOSING = auto()
    OVER = auto()


class ListingController:
    """Lists one source, again and again."""

    def __init__(self, source_id: bytes, source: Source, rules: CollectRules, progress: Progress) -> None:
        """Prepare; `progress` is kept up to date."""
        self.source_id = source_id
        self.source = source
        self.version = 0
        self.phase = Phase.IDLE
        self.next_us = 0
        self.trouble: str | None = None
        self.has_answered = False
        self.has_news = False
        self._rules = rules
        self._progress = progress
        self._run: ListingRun | None = None
        self._wants_full = rules.full
        self._believes = False
        self._failures = 0
        self._said_plain = False
        self._said_held = False
        self._numbers = count(1)
        self._followed: tuple[int | None, int | None] | None = None

    @property
    def has_failed(self) -> bool:
        """Whether the last listing failed; `trouble` says why, in a stable word."""
        return self.trouble is not None

    @property
    def is_over(self) -> bool:
        """Whether a run with --once needs no further listing."""
        return self.phase is Phase.OVER

    @property
    def is_busy(self) -> bool:
        """Whether a listing is under way."""
        return self.phase not in {Phase.IDLE, Phase.OVER}

    @property
    def wakes_us(self) -> int | None:
        """When there may be something to do again, None if only an input can tell."""
        if self.phase is Phase.IDLE:
            return self.next_us
        run = self._run
        return run.chunks.began_us + GATHER_US if run is not None and run.chunks.can_begin else None

    def tick(self, now_us: int) -> list[Action]:
        """Begin a listing if one is due; record what was gathered for long enough."""
        if self.phase is Phase.IDLE and now_us >= self.next_us:
            self.phase = Phase.OPENING
            return [BeginListing()]
        if self._run is not None and self._run.chunks.can_begin:
            return self._next_chunk(now_us, self._run)
        return []

    def take(self, now_us: int, happened: ListingInput) -> list[Action]:
        """Take an input in, as `TRANSITIONS` says.

        An input that the table does not name in this phase belongs to an abandoned listing and changes nothing.
        """
        transition = TRANSITIONS.get((self.phase, type(happened)))
        return [] if transition is None else transition(self, now_us, happened)

    def abandon(self) -> list[Action]:
        """Drop the listing under way."""
        run, self._run = self._run, None
        if run is None:
            return []
        run.conversation.close()
        self.phase = Phase.IDLE
        return [EndListing()]

    # --- IDLE and OPENING ---

    def _begin(self, now_us: int, happened: ListingBegan) -> list[Action]:
        """Choose between a window and a full listing, and ask for the first page."""
        self.source, self.version = happened.source, happened.version
        source = self.source
        if self._was_done_by_another(source):
            self.phase = Phase.OVER
            self.has_news = True
            return [EndListing()]
        if sources.is_cut_short(source):
            return self._rest_until_accepted(now_us)
        full_us = source.full_listed_us
        is_full = (
            self._wants_full
            or source.cursor is None
            or full_us is None
            or now_us - full_us >= self._rules.full_every_us
            or (source.held is not None and source.held.is_accepted)
        )
        is_closed = happened.closed is not None and source.cursor is not None and source.cursor <= happened.closed
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
            conversation=drain(wanted),
            shift=Shift(is_believing=self._believes),
            chunks=ChunksOnTheWay(numbers=self._numbers),
            is_closed=is_closed,
            vault=happened.naming.vault,
            # A source that was listed without a vault must not get one later, as its ids and copies would differ.
            is_vault_known=happened.naming.vault is not None or source.opaque is not None,
            is_vault_named=happened.naming.vault is not None,
            is_blank=happened.is_blank,
        )
        self.phase = Phase.DRAINING
        self._wants_full = self._believes = False
        return [*self._say_plain(), *self._converse(now_us, self._run, None)]

    def _rest_until_accepted(self, now_us: int) -> list[Action]:
        """Ask the server for nothing while an earlier listing of it is held back."""
        self.phase = Phase.OVER if self._rules.once else Phase.IDLE
        self.next_us = now_us + self._rules.refresh_us
        held, said = self.source.held, self._said_held
        self._said_held = True
        return [EndListing(), *([] if held is None or said else [ending.tell_cut_short(held.reason)])]

    def _follow(self, now_us: int, happened: ListingBusy) -> list[Action]:
        """Leave the listing to the other collector. A run with --once waits for its end, and fetches meanwhile."""
        self.phase = Phase.IDLE
        self.source = happened.source
        self.has_news = True
        if not self._rules.once:
            self.next_us = now_us + self._rules.refresh_us // 4
            return []
        self.next_us = now_us + FOLLOW_US
        if self._followed is not None:
            return []
        self._followed = self.source.listed_us, self.source.full_listed_us
        text = "another collector is listing the server: this one fetches what it finds"
        return [Say(level="info", event="listing_followed", text=text)]

    def _was_done_by_another(self, source: Source) -> bool:
        """Whether the listing that this one waited for is complete, so that this run needs none of its own."""
        if self._followed is None:
            return False
        listed, fully = self._followed
        return source.full_listed_us != fully if self._rules.full else source.listed_us != listed

    # --- DRAINING: pages ---

    def _take_page(self, now_us: int, happened: PageListed) -> list[Action]:
        run, page = self._running, happened.page
        if not run.is_vault_known:
            run.vault, run.is_vault_known = page.vault, True
        if page.vault != run.vault:
            return self._fail(now_us, OTHER_VAULT)
        self.has_answered = True
        run.chunks.is_bulk = page.is_bulk
        return self._converse(now_us, run, page)

    def _take_trouble(self, now_us: int, happened: PageFailed) -> list[Action]:
        return self._converse(now_us, self._running, happened.trouble)

    def _converse(self, now_us: int, run: ListingRun, answer: Page | Trouble | None) -> list[Action]:
        """Tell the lister what came, and do what it asks for."""
        try:
            said = run.conversation.send(answer)
            while isinstance(said, NewEntries):
                run.lines += len(said.entries) + len(said.rejected)
                if run.lines > self._rules.most_entries:
                    return self._hold(now_us, run, sources.TOO_MANY)
                run.chunks.add(said.entries)
                said = run.conversation.send(None)
            run.request = said
        except StopIteration as end:
            run.result = end.value
        except ListingFailedError as error:
            return self._fail(now_us, error.reason)
        return [*self._request_page(run), *self._next_chunk(now_us, run)]

    def _request_page(self, run: ListingRun) -> list[Action]:
        """Ask for the next page, unless too much of what came still waits to be recorded."""
        if run.request is None or run.chunks.is_long:
            return []
        request, run.request = run.request, None
        return [ListPage(ask=request)]

    # --- DRAINING: recording ---

    def _next_chunk(self, now_us: int, run: ListingRun) -> list[Action]:
        """Move every chunk on as far as it can go; settle when everything is recorded."""
        chunks = run.chunks
        if run.missing.hold:
            # The only one left is being recorded.
            return [] if chunks.head is not None else self._close(now_us, run)
        actions: list[Action] = []
        head = chunks.next_ready()
        if head is not None:
            if not head.is_stale:
                return self._record(now_us, run, head)
            chunks.look_again(head)
            actions.append(LookUp(entries=head.entries))
        while (chunk := chunks.next_prefetch()) is not None:
            actions.append(Prefetch(number=chunk.number, entries=tuple(chunk.entries[at] for at in chunk.wanted)))
        if chunks.can_begin:
            is_worth_it = run.result is not None or run.request is not None or len(chunks.waiting) >= CHUNK
            if is_worth_it or now_us >= chunks.began_us + GATHER_US:
                # A server without bulk requests may list an entry on two pages.
                are_new = run.is_blank and chunks.is_bulk
                return [*actions, LookUp(entries=chunks.begin(now_us).entries, are_new=are_new)]
        if chunks.wants_flush(is_over=run.result is not None):
            actions.append(FlushPrefetched())
        if chunks.is_empty and run.result is not None:
            return self._settle(now_us, run, run.result)
        return actions

    def _looked_up(self, now_us: int, happened: LookedUp) -> list[Action]:
        """Take in what the ledger knows of a chunk's entries."""
        run = self._running
        self.source, self.version = happened.source, happened.version
        if happened.naming.vault not in {None, run.vault}:
            # Another collector was faster, and its server names another vault.
            return self._fail(now_us, OTHER_VAULT)
        run.is_vault_named = run.is_vault_named or happened.naming.vault is not None
        if not run.chunks.looked_up(happened, is_opaque=self.source.opaque, min_free=self._rules.min_free):
            return []
        return [*self._request_page(run), *self._next_chunk(now_us, run)]

    def _take_prefetched(self, now_us: int, happened: Prefetched) -> list[Action]:
        """Take in contents that were prefetched."""
        run = self._running
        run.chunks.prefetched(happened.copies)
        return self._next_chunk(now_us, run)

    def _record(self, now_us: int, run: ListingRun, chunk: Chunk) -> list[Action]:
        """Observe the entries of the oldest chunk, and record the news."""
        facts, advanced = observe_chunk(
            run,
            self.source_id,
            self.source,
            chunk.entries,
            chunk.known,
            now_us=now_us,
            thresholds=self._rules.thresholds,
            copies=chunk.copies,
            instance=self._rules.instance,
        )
        if advanced is not None:
            facts.append(self._about_source(now_us, advanced))
        if run.vault is not None and not run.is_vault_named:
            facts.append(chunk.naming.fact(self.source_id, run.vault, observed_us=now_us))
        if facts and chunk.free is not None and chunk.free < self._rules.min_free:
            return self._fail(now_us, "no_room")
        run.growth += ending.growth_of(facts)
        if run.growth > self._rules.most_growth:
            return self._hold(now_us, run, sources.TOO_LARGE)
        if facts:
            chunk.stage = Stage.APPENDING
            places = tuple(copy.place for copy in chunk.copies.values() if copy.place is not None)
            return [RecordFacts(about="page", facts=tuple(facts), places=places), *self._next_chunk(now_us, run)]
        run.chunks.end()
        return [*self._request_page(run), *self._next_chunk(now_us, run)]

    def _chunk_recorded(self, now_us: int, happened: Recorded) -> list[Action]:
        """Continue with the next chunk."""
        run = self._running
        said = self._adopt(happened)
        run.chunks.conflicts = 0
        run.chunks.end()
        self._count(run, happened)
        return [*said, *self._request_page(run), *self._next_chunk(now_us, run)]

    def _look_again(self, now_us: int, _: Conflicted) -> list[Action]:
        """Look up again what another collector or a person changed in the meantime, and decide again."""
        run = self._running
        run.chunks.conflicts += 1
        if run.chunks.conflicts > MAX_CONFLICTS or run.chunks.head is None:
            return self._fail(now_us, "conflict")
        if run.missing.hold:
            run.chunks.end()
            return self._next_chunk(now_us, run)
        run.chunks.look_again(run.chunks.head)
        return [LookUp(entries=run.chunks.head.entries)]

    def _about_source(self, now_us: int, fact: SourceFact, *, ahead: int = 0) -> NewFact:
        key = sources.source_key(self.source_id)
        return NewFact(key=key, fact=fact, observed_us=now_us, expected=self.version + ahead)

    def _adopt(self, happened: Recorded) -> list[Action]:
        """Take over the source as it was recorded."""
        surge = self.source.surge
        for new in happened.facts:
            if isinstance(new.fact, SourceFact):
                self.source = new.fact.source
                self.version += 1
        after = self.source.surge
        said = self._say_plain()
        if after is not None and surge is None:
            text = (
                f"{after.changed} of {after.known} elements changed within 24 hours, as if ransomware had encrypted"
                " them at the source: check the server, then run `kropotcli source accept`; all earlier copies are kept"
            )
            said.append(Say(level="warning", event="surge", text=text, fields={"changed": after.changed}))
        return said

    def _count(self, run: ListingRun, happened: Recorded) -> None:
        progress, counts = self._progress, run.counts
        for new in happened.facts:
            fact = new.fact
            if not isinstance(fact, ElementFact):
                run.is_vault_named = run.is_vault_named or isinstance(fact, VaultNamed)
                continue
            copy = fact.element.copy
            if copy is not None and isinstance(fact, _COPIES):
                progress.taken += 1
                progress.copied += 1
                progress.bytes += copy.size
            else:
                # Somebody has to fetch it.
                self.has_news = True
            if isinstance(fact, RemoteObserved):
                counts.new += 1
                progress.new += 1
            elif isinstance(fact, RemoteChanged):
                counts.changed += 1
                progress.changed += 1
            elif not isinstance(fact, CopyStored):
                counts.reappeared += 1
                progress.reappeared += 1

    def _hold(self, now_us: int, run: ListingRun, reason: str) -> list[Action]:
        """End the listing early, and drop every chunk that is not being recorded yet."""
        run.conversation.close()
        run.chunks.forget_waiting()
        run.request, run.missing.hold, run.missing.known = None, reason, run.known + run.counts.new
        run.result = run.result or ListingResult(zone=self.source.zone, seen=run.lines)
        self._said_held = True
        return self._next_chunk(now_us, run)

    def _settle(self, now_us: int, run: ListingRun, result: ListingResult) -> list[Action]:
        """Decide what moved dates mean; then look for what is gone."""
        shift = run.shift
        if not shift.is_settled and shift.moved.strange:
            shift.is_settled = True
            offsets = zone_change.changed_by(shift.moved, known=run.present, before=self.source.zone, after=result.zone)
            if run.mode == "full":
                shift.offsets = offsets
            elif offsets or self.source.zone not in {None, result.zone} or shift.moved.strange >= zone_change.FEW:
                # It looks as if the server's zone changed, or too many dates moved for chance: a full listing can tell.
                shift.kept.clear()
                self._wants_full = True
            if shift.kept and not shift.offsets:
                shift.is_believing = True
                run.chunks.add(tuple(shift.kept))
                shift.kept = []
                if not shift.is_kept_whole:
                    self._wants_full = self._believes = True
                return self._next_chunk(now_us, run)
        if run.mode == "full" and result.exempt and not shift.offsets:
            # Elements that the server cannot list keep their dates in the old zone, and must be looked for by those.
            shift.offsets = zone_change.between(self.source.zone, result.zone, now_us // SECOND_US)
        if run.mode == "window" or run.present >= run.known:
            return self._close(now_us, run)
        self.phase = Phase.COUNTING
        run.missing.exempt = ending.exempt(run, result, self.source)
        return [self._count_on(run, None)]

    # --- COUNTING and SWEEPING: what is gone ---

    def _count_on(self, run: ListingRun, after: StreamKey | None) -> CountMissing:
        return CountMissing(seen=run.seen, before=run.position, exempt=run.missing.exempt, after=after)

    def _counted(self, now_us: int, happened: MissingCounted) -> list[Action]:
        """Believe that the missing elements are gone, or hold the listing back."""
        run = self._running
        run.missing.count += happened.missing
        run.missing.known += happened.known
        if happened.after is not None:
            return [self._count_on(run, happened.after)]
        if run.missing.count == 0:
            return self._close(now_us, run)
        run.missing.hold = ending.reason_to_hold(run, self.source, self._rules.thresholds)
        if run.missing.hold:
            return self._close(now_us, run)
        self.phase = Phase.SWEEPING
        return [self._find_on(run, None)]

    def _find_on(self, run: ListingRun, after: StreamKey | None) -> FindMissing:
        return FindMissing(seen=run.seen, before=run.position, exempt=run.missing.exempt, after=after, limit=SWEEP)

    def _found(self, now_us: int, happened: MissingFound) -> list[Action]:
        """Record as vanished the elements that a full listing did not show."""
        facts = tuple(
            NewFact(key=entry.key, fact=vanished(entry.element), observed_us=now_us, expected=entry.version)
            for entry in happened.entries
            if entry.element is not None
        )
        actions: list[Action] = [RecordFacts(about="sweep", facts=facts, drop=True)] if facts else []
        if happened.after is not None:
            return [*actions, self._find_on(self._running, happened.after)]
        self.phase = Phase.CLOSING
        return [*actions, ReadSource()]

    def _swept(self, _: int, happened: Recorded) -> list[Action]:
        """Count what was declared gone."""
        gone = len(happened.facts) - len(happened.dropped)
        self._running.counts.vanished += gone
        self._progress.vanished += gone
        return self._adopt(happened)

    # --- CLOSING ---

    def _close(self, now_us: int, run: ListingRun) -> list[Action]:
        """Record the end of the listing."""
        self.phase = Phase.CLOSING
        result = run.result or ListingResult()
        if run.mode == "window" and (self.source.zone not in {None, result.zone} or ending.is_disowned(run, result)):
            self._wants_full = True
        facts = ending.closing_facts(run, result, self.source, now_us)
        news = tuple(self._about_source(now_us, fact, ahead=n) for n, fact in enumerate(facts))
        return [RecordFacts(about="listing", facts=news)]

    def _source_read(self, now_us: int, happened: SourceRead) -> list[Action]:
        self.source, self.version = happened.source, happened.version
        return self._close(now_us, self._running)

    def _read_again(self, now_us: int, _: Conflicted) -> list[Action]:
        """Read the source again, because a person or another collector changed it in the meantime."""
        run = self._running
        run.chunks.conflicts += 1
        return self._fail(now_us, "conflict") if run.chunks.conflicts > MAX_CONFLICTS else [ReadSource()]

    def _recorded_at_the_end(self, now_us: int, happened: Recorded) -> list[Action]:
        """Rest until the next listing is due, once the end of this one is recorded."""
        if happened.about == "sweep":
            return self._swept(now_us, happened)
        run, said = self._running, self._adopt(happened)
        result = run.result or ListingResult()
        self._run = None
        self._failures = 0
        self.trouble = None
        progress = self._progress
        progress.listings += 1
        progress.seen = max(progress.seen, result.seen)
        progress.rejected += run.rejected
        progress.unserved, progress.unscanned_since = result.unserved, result.unscanned_since
        self.next_us = now_us if self._wants_full else max(now_us, run.began_us + self._rules.refresh_us)
        self.phase = Phase.OVER if self._rules.once and not self._wants_full else Phase.IDLE
        return [*said, EndListing(), *ending.tell(run, result)]

    # --- a listing that fails ---

    def _refused(self, now_us: int, _: PageRefused) -> list[Action]:
        return self._fail(now_us, "refused")

    def _fail(self, now_us: int, reason: str) -> list[Action]:
        """Give this listing up. What was recorded stays, and the next listing begins at the cursor."""
        run, self._run = self._run, None
        if run is not None:
            run.conversation.close()
            self._wants_full = self._wants_full or (run.mode == "full" and self._rules.full)
        self._failures += 1
        self.trouble = reason
        pause_us = self._rules.backoff.delay_us(self._failures, jitter(self.source_id, self._failures))
        self.next_us = now_us + pause_us
        is_final = self._failures >= ONCE_ATTEMPTS or reason in {"refused", OTHER_VAULT}
        is_over = self._rules.once and is_final
        self.phase = Phase.OVER if is_over else Phase.IDLE
        text = f"the server could not be listed: {sentence(reason)}"
        text += "" if is_over else f"; the next attempt is in {pause_us / SECOND_US:.0f} s"
        say = Say(level="warning", event="listing_failed", text=text, fields={"reason": reason})
        return [EndListing(), *([] if reason == "refused" else [say])]

    # --- helpers ---

    @property
    def _running(self) -> ListingRun:
        if self._run is None:
            raise RuntimeError(f"no listing is under way in phase {self.phase.name}")
        return self._run

    def _say_plain(self) -> list[Action]:
        if self._said_plain or self.source.opaque is not False:
            return []
        self._said_plain = True
        text = (
            "this token is not encrypted, so this replica is not zero-knowledge, and holds readable file names and"
            " contents: use an encrypted token if the keeper must not read them"
        )
        return [Say(level="warning", event="not_zero_knowledge", text=text)]


ListingInput = (
    ListingBegan
    | ListingBusy
    | PageListed
    | PageFailed
    | PageRefused
    | LookedUp
    | Prefetched
    | SourceRead
    | Recorded
    | Conflicted
    | MissingCounted
    | MissingFound
)

TRANSITIONS: Final[Mapping[tuple[Phase, type[ListingInput]], Callable[[ListingController, int, Any], list[Action]]]] = {
    (Phase.OPENING, ListingBegan): ListingController._begin,
    (Phase.OPENING, ListingBusy): ListingController._follow,
    (Phase.DRAINING, PageListed): ListingController._take_page,
    (Phase.DRAINING, PageFailed): ListingController._take_trouble,
    (Phase.DRAINING, LookedUp): ListingController._looked_up,
    (Phase.DRAINING, Prefetched): ListingController._take_prefetched,
    (Phase.DRAINING, Recorded): ListingController._chunk_recorded,
    (Phase.DRAINING, Conflicted): ListingController._look_again,
    (Phase.COUNTING, MissingCounted): ListingController._counted,
    (Phase.SWEEPING, MissingFound): ListingController._found,
    (Phase.SWEEPING, Recorded): ListingController._swept,
    (Phase.CLOSING, Recorded): ListingController._recorded_at_the_end,
    (Phase.CLOSING, SourceRead): ListingController._source_read,
    (Phase.CLOSING, Conflicted): ListingController._read_again,
    # The server can refuse the token in any phase, because fetching checks the token too.
    **{(phase, PageRefused): ListingController._refused for phase in Phase},
}
"""What each input does in each phase; every other pair changes nothing."""
