"""A collector as a state machine: it hears what happened and when, and answers what to do next.

`Collector.step` is pure except for its own state: no threads, sockets, clock or randomness. The loop carries its
actions out with real ones, the simulation (tests/simulation) with a virtual clock and faults.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, assert_never

from kropot.collect.decide.actions import Abandon, Action, Beat, Finish, Say
from kropot.collect.decide.fetching import FetchController
from kropot.collect.decide.inputs import (
    Abandoned,
    Conflicted,
    Fetched,
    GoneAnswered,
    Input,
    ListingBegan,
    ListingBusy,
    LookedUp,
    MissingCounted,
    MissingFound,
    Ousted,
    PageFailed,
    PageListed,
    PageRefused,
    Prefetched,
    PublishDone,
    Recorded,
    SourceRead,
    Started,
    StopRequested,
    Tick,
    WorkTaken,
)
from kropot.collect.decide.listing import OTHER_VAULT, ListingController
from kropot.collect.decide.progress import Progress
from kropot.errors import Exit

if TYPE_CHECKING:
    from kropot.collect.decide.rules import CollectRules
    from ledger.events import Source


class Collector:
    """The decisions of one collector for one source, from its start to its end."""

    def __init__(self, source_id: bytes, source: Source, rules: CollectRules) -> None:
        """Prepare; nothing happens before `Started`."""
        self.source_id = source_id
        self.progress = Progress()
        self.is_finished = False
        self.is_refused = False
        self._rules = rules
        self._listing = ListingController(source_id, source, rules, self.progress)
        self._fetching = FetchController(rules, self.progress)
        self._stop: Literal["term", "int"] | None = None
        self._is_abandoned = False
        self._round = 1
        self._next_beat_us = 0
        self._is_started = False

    @property
    def source(self) -> Source:
        """The source as it was last read or recorded."""
        return self._listing.source

    @property
    def trouble(self) -> str | None:
        """Why the server does not let the run do its work, as a stable word; None if it does."""
        return "refused" if self.is_refused else self._listing.trouble or self._fetching.trouble

    @property
    def outstanding(self) -> int:
        """How many elements are being fetched or recorded."""
        return self._fetching.outstanding

    @property
    def stage(self) -> Literal["listing", "fetching", "complete"]:
        """How far the round is: never complete after a request to stop, or before a run with --once is over."""
        if self._listing.is_busy:
            return "listing"
        is_over = self.is_finished if self._rules.once else self._fetching.is_idle
        return "complete" if is_over and self._stop is None else "fetching"

    @property
    def failing(self) -> int:
        """How many fetches failed (with --once: in the last round)."""
        return self._fetching.failing

    @property
    def wanted(self) -> int:
        """How many copies this run will have made in the end, as far as is known by now; a second try counts once."""
        progress = self.progress
        return max(progress.taken - progress.failed, progress.new + progress.changed)

    @property
    def wakes_us(self) -> int:
        """When a `Tick` is due at the latest, if nothing else happens before."""
        times = [self._next_beat_us]
        if self._stop is not None:
            return self._next_beat_us
        times += [due_us for due_us in (self._listing.wakes_us, self._fetching.wakes_us) if due_us is not None]
        return min(times)

    def step(self, now_us: int, happened: Input) -> list[Action]:
        """Return what to do, in this order, now that this happened at `now_us`."""
        if self.is_finished:
            return []
        actions = self._react(now_us, happened)
        return actions + self._go_on(now_us)

    def _react(  # noqa: C901, PLR0912 - one case per input: the type checker names a missing one
        self, now_us: int, happened: Input
    ) -> list[Action]:
        listing, fetching = self._listing, self._fetching
        actions: list[Action]
        match happened:
            case Started():
                self._is_started = True
                self._next_beat_us = now_us + self._rules.lease_us // 3
                fetching.open(happened.position)
                actions = []
            case Tick():
                actions = []
            case StopRequested():
                actions = self._request_stop(happened.how)
            case Ousted():
                actions = self._end_ousted()
            case ListingBegan():
                fetching.known = happened.known
                actions = listing.take(now_us, happened)
            case PageListed() | PageFailed() | PageRefused():
                actions = self._answered(now_us, happened)
            case Recorded(about="copies" | "failures"):
                fetching.recorded(now_us, happened)
                actions = []
            case (
                ListingBusy()
                | LookedUp()
                | Prefetched()
                | SourceRead()
                | Recorded()
                | Conflicted()
                | MissingCounted()
                | MissingFound()
            ):
                actions = listing.take(now_us, happened)
            case WorkTaken():
                actions = fetching.taken(now_us, happened)
            case Fetched():
                actions = fetching.fetched(now_us, happened)
            case PublishDone():
                actions = fetching.published(now_us, happened)
            case GoneAnswered():
                actions = fetching.gone_answered(now_us, happened)
            case Abandoned():
                self._is_abandoned = True
                fetching.abandoned(happened.entries)
                actions = []
            case _:
                assert_never(happened)
        if listing.has_news:
            listing.has_news = False
            fetching.news()
        return actions

    def _go_on(self, now_us: int) -> list[Action]:
        """Begin whatever may begin now, or end."""
        if self.is_finished or not self._is_started:
            return []
        actions: list[Action] = []
        if now_us >= self._next_beat_us:
            self._next_beat_us = now_us + self._rules.lease_us // 3
            actions.append(Beat())
        if self._stop is not None:
            is_over = self._is_abandoned and self._fetching.outstanding == 0
            return actions + (self._finish(self._code()) if is_over else [])
        actions += self._listing.tick(now_us) + self._fetching.tick(now_us)
        if self._rules.once and self._listing.is_over and self._fetching.is_idle:
            actions += self._end_round(now_us)
        return actions

    def _answered(self, now_us: int, happened: PageListed | PageFailed | PageRefused) -> list[Action]:
        """Take in an answer to a list request; if that only checked that the server is there, it concerns fetching."""
        listing, fetching = self._listing, self._fetching
        match happened:
            case PageListed():
                said = self._accept()
                if happened.check:
                    return said + fetching.server_is_fine(now_us)
                return said + listing.take(now_us, happened)
            case PageFailed():
                if happened.check:
                    return fetching.server_is_down(now_us, happened.trouble)
                return listing.take(now_us, happened)
            case PageRefused():
                return self._refuse() + fetching.token_is_refused() + listing.take(now_us, happened)
            case _:
                assert_never(happened)

    # --- the token ---

    def _refuse(self) -> list[Action]:
        if self.is_refused:
            return []
        self.is_refused = True
        text = (
            "the server refuses the token (401 or 403), so nothing is fetched: check that the token is valid and has"
            " not expired"
        )
        return [Say(level="error", event="token_refused", text=text)]

    def _accept(self) -> list[Action]:
        if not self.is_refused:
            return []
        self.is_refused = False
        self._fetching.is_closed = self._stop is not None
        return [Say(level="info", event="token_accepted", text="the server accepts the token again")]

    # --- the end ---

    def _request_stop(self, how: Literal["term", "int"]) -> list[Action]:
        if self._stop is not None:
            return []
        self._stop = how
        self._fetching.is_closed = True
        return [*self._listing.abandon(), Abandon()]

    def _end_ousted(self) -> list[Action]:
        text = (
            f"another process has taken over the instance name {self._rules.instance}, so this one stops: give each"
            " collector its own --instance-name"
        )
        return [Say(level="error", event="ousted", text=text), *self._finish(Exit.LOCKED)]

    def _end_round(self, now_us: int) -> list[Action]:
        """End a run with --once, or try again after a pause what failed."""
        fetching = self._fetching
        can_try = not (fetching.is_closed or fetching.has_given_up)
        if fetching.failing and can_try and self._round < self._rules.tries:
            pause_us = self._rules.backoff.delay_us(self._round, 0)
            self._round += 1
            return fetching.next_round(now_us, pause_us)
        return self._finish(self._code())

    def _code(self) -> Exit:
        """Return the exit code of a run that ends now."""
        listing, fetching = self._listing, self._fetching
        if self._stop == "int":
            return Exit.INTERRUPTED
        if not self._rules.once:
            return Exit.DONE
        if self.is_refused:
            return Exit.REFUSED
        if listing.trouble == OTHER_VAULT:
            return Exit.FINDINGS
        if self._stop is None and listing.has_failed and not listing.has_answered and self.progress.copied == 0:
            return Exit.ERROR
        is_partial = (
            self._stop is not None
            or listing.has_failed
            or bool(fetching.failing)
            or fetching.has_given_up
            or self.progress.rejected > 0
            or self.progress.is_half_served
            or bool(listing.source.unlistable)
            or listing.source.surge is not None
            or (listing.source.held is not None and not listing.source.held.is_accepted)
        )
        return Exit.PARTIAL if is_partial else Exit.DONE

    def _finish(self, code: Exit) -> list[Action]:
        self.is_finished = True
        return [Finish(code=code)]
