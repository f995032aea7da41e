"""Decides about fetching: what to take on, what to believe, what a failure means, when to pause.

A failure may be the fault of the server or the token. The collector then checks the server before it counts the failure
against an element. Otherwise a server that is down would fail every element it has.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from kropot.collect.decide.actions import (
    Action,
    AskGone,
    Fetch,
    GiveBack,
    ListPage,
    Publish,
    RecordFacts,
    Say,
    TakeWork,
)
from kropot.collect.decide.in_flight import InFlightLimit
from kropot.collect.decide.inputs import NotReceived
from kropot.collect.decide.plan import SECOND_US, failed, jitter, stored, vanished
from kropot.durable.errors import DiscardedError, StorageFullError
from kropot.lister.conversation import FAR, PageRequest
from kropot.objects.store import Published
from kropot.securecopy.trouble import sentence
from kropot.securecopy.wire import wall_clock
from ledger.append import NewFact
from ledger.events import DismissedFetchFailed

if TYPE_CHECKING:
    from kropot.collect.decide.inputs import Fetched, GoneAnswered, PublishDone, Recorded, WorkTaken
    from kropot.collect.decide.progress import Progress
    from kropot.collect.decide.rules import CollectRules
    from kropot.lister.conversation import Trouble
    from ledger.events import StreamKey
    from ledger.replica import Entry

NOT_FOUND = 404
GONE = 410
BUSY = 429
SERVER_ERROR = 500
ASKS_WHETHER_GONE = frozenset({NOT_FOUND, GONE, SERVER_ERROR})

MAX_TOO_LARGE = 1000
"""At most this many elements are remembered because the storage had no room for them or was unavailable."""

IDLE_US = 5 * SECOND_US
"""How long to wait before asking again for work that other collectors hold."""

OUTAGES = 3
"""How many times in a row a run with --once may find the server or the storage unavailable before it ends."""


class FetchController:
    """Fetches the wanted contents of one source."""

    def __init__(self, rules: CollectRules, progress: Progress) -> None:
        """Prepare; `progress` is kept up to date."""
        self.outstanding = 0
        self.failing = 0
        self.is_dry = False
        self.is_closed = True
        self.has_given_up = False
        self.trouble: str | None = None
        self.is_disk_low = False
        self.position = 0
        self.known = 0
        self._rules = rules
        self._progress = progress
        self._window = InFlightLimit(least=rules.outstanding, most=max(rules.outstanding, rules.most_outstanding))
        self._is_taking = False
        self._is_checking = False
        self._is_asking = False
        self._accused: list[NotReceived] = []
        self._to_ask: deque[NotReceived] = deque()
        self._round = 0
        self._next_us = 0
        self._due_us: int | None = None
        self._outages = 0
        self._storage_outages = 0
        self._storage_due_us = 0
        self._gone = 0
        self._too_large: set[StreamKey] = set()
        self._spared: set[StreamKey] = set()

    # --- taking work ---

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way and nothing more can be taken on just now."""
        return self.outstanding == 0 and not self._is_taking and (self.is_dry or self.has_given_up or self.is_closed)

    @property
    def wakes_us(self) -> int | None:
        """When there may be something to do again, None if only news can tell."""
        if self.is_closed or self.has_given_up or self._is_taking:
            return None
        if self.is_dry:
            return self._due_us
        return self._next_us if self._has_room else None

    @property
    def _has_room(self) -> bool:
        return not self._accused and self._window.size - self.outstanding >= self._rules.block

    def open(self, position: int) -> None:
        """Begin to take work; `position` is the ledger's head."""
        self.is_closed = False
        self._round = position

    def news(self) -> None:
        """Note that there may be work: elements are new, changed, or given back."""
        self.is_dry = False

    def next_round(self, now_us: int, pause_us: int) -> list[Action]:
        """Try again, after a pause, what failed in this round."""
        self._round, self.failing, self.is_dry = self.position, 0, False
        self._next_us = now_us + pause_us
        return [GiveBack(keys=None)]

    def tick(self, now_us: int) -> list[Action]:
        """Take more work if there is room for it."""
        if self.is_dry and self._due_us is not None and now_us >= self._due_us:
            self.is_dry = False
        rules = self._rules
        if self.is_closed or self.has_given_up or self.is_dry or self._is_taking or now_us < self._next_us:
            return []
        if not self._has_room:
            return []
        self._is_taking = True
        return [TakeWork(limit=rules.block, max_bytes=rules.block_bytes, min_free=rules.min_free, early=rules.once)]

    def taken(self, now_us: int, happened: WorkTaken) -> list[Action]:
        """Have the leased entries fetched, except those that were already tried in this round."""
        self._is_taking = False
        self.position = happened.position
        if happened.free is not None and happened.free < self._rules.min_free:
            return self._disk_low(now_us, happened.free)
        said = self._disk_fine()
        if not happened.entries:
            self.is_dry = True
            # Others hold what is due. Later, an audit, or the end of a dead collector's lease, may bring more.
            due_us = now_us + self._rules.refresh_us
            if happened.next_due_us is not None:
                due_us = min(due_us, max(happened.next_due_us, now_us + IDLE_US))
            self._due_us = due_us
            return said
        if self.is_closed:
            return [*said, GiveBack(keys=tuple(entry.key for entry in happened.entries))]
        fresh = tuple(entry for entry in happened.entries if not self._was_tried(entry))
        if not fresh:
            return said
        self.outstanding += len(fresh)
        self._window.entered(now_us)
        self._progress.taken += len(fresh)
        return [*said, Fetch(entries=fresh)]

    def _was_tried(self, entry: Entry) -> bool:
        """Whether a run with --once has already tried this entry in the present round, and failed."""
        element = entry.element
        return self._rules.once and element is not None and element.failure is not None and entry.position > self._round

    # --- the storage ---

    def _disk_low(self, now_us: int, free: int | None) -> list[Action]:
        self._next_us = now_us + self._rules.disk_check_us
        self.has_given_up = self._rules.once
        if self.is_disk_low:
            return []
        self.is_disk_low = True
        room = (
            "the storage is full" if free is None else f"only {free >> 20} MiB are free for the storage and the ledger"
        )
        wanted = f"until {self._rules.min_free >> 20} MiB are free (--min-free)" if self._rules.min_free else ""
        text = (
            f"{room}, so fetching has {'stopped' if self._rules.once else 'paused'}: free some space {wanted}".rstrip()
        )
        return [Say(level="warning", event="disk_low", text=text, fields={"free": free})]

    def _disk_fine(self) -> list[Action]:
        if not self.is_disk_low:
            return []
        self.is_disk_low = False
        return [Say(level="info", event="disk_fine", text="there is enough free space again: fetching continues")]

    def _is_spared(self, entry: Entry) -> bool:
        """Whether an element is not to blame for the unavailable storage. It is if others were stored since."""
        if entry.key in self._spared and not self._storage_outages:
            return False
        if len(self._spared) < MAX_TOO_LARGE:
            self._spared.add(entry.key)
        return True

    def _storage_away(self, now_us: int, away: list[NotReceived]) -> list[Action]:
        """Pause, and blame no element: whatever is fetched in the meantime would be fetched in vain."""
        if now_us < self._storage_due_us:
            # These were on their way when the pause began. It is the same outage, which was already reported.
            return [self._give_back(away)]
        self._storage_outages += 1
        pause_us = self._rules.backoff.delay_us(self._storage_outages, jitter(b"storage", self._storage_outages))
        self._storage_due_us = now_us + pause_us
        self._next_us = max(self._next_us, self._storage_due_us)
        self.has_given_up = self._rules.once and self._storage_outages >= OUTAGES
        text = f"{len(away)} objects could not be stored ({away[0].detail})"
        text += "; they are fetched again"
        text += " by the next run" if self.has_given_up else f", and fetching pauses for {pause_us / SECOND_US:.0f} s"
        say = Say(level="warning", event="storage_away", text=text, fields={"objects": len(away)})
        return [say, self._give_back(away)]

    # --- fetches that ended ---

    def fetched(self, now_us: int, happened: Fetched) -> list[Action]:
        """Have good contents published, and judge the failures."""
        actions: list[Action] = []
        if happened.received:
            self._outages = 0
            actions.append(Publish(batch=happened.received))
        if happened.failed:
            actions += self._judge(now_us, happened.failed)
        return actions

    def _judge(self, now_us: int, bad: tuple[NotReceived, ...]) -> list[Action]:
        full = [one for one in bad if one.storage and one.reason == StorageFullError.reason and self._is_new(one)]
        accused = [one for one in bad if not one.storage and _may_be_the_server(one)]
        guilty = [one for one in bad if one not in full and one not in accused]
        actions: list[Action] = []
        if full:
            actions += self._disk_low(now_us, None)
            actions.append(self._give_back(full))
        if guilty:
            actions.append(self._fail(now_us, guilty))
        if accused:
            self._accused += accused
            if not self._is_checking:
                self._is_checking = True
                actions.append(ListPage(ask=PageRequest(since=wall_clock(FAR, "UTC"), limit=1), check=True))
        return actions

    def _is_new(self, bad: NotReceived) -> bool:
        """Whether this element lacks room for the first time; one that never fits must not keep the others waiting."""
        if bad.entry.key in self._too_large or len(self._too_large) >= MAX_TOO_LARGE:
            return False
        self._too_large.add(bad.entry.key)
        return True

    def _give_back(self, bad: list[NotReceived]) -> GiveBack:
        self.outstanding -= len(bad)
        self.is_dry = False
        return GiveBack(keys=tuple(one.entry.key for one in bad))

    def _fail(self, now_us: int, bad: list[NotReceived]) -> RecordFacts:
        return RecordFacts(about="failures", facts=tuple(self._failure(now_us, one) for one in bad), drop=True)

    def _failure(self, now_us: int, bad: NotReceived) -> NewFact:
        entry = bad.entry
        if entry.element is None:
            raise TypeError("an erased element needs no fetching")
        fact = failed(entry.key, entry.element, reason=bad.reason, now_us=now_us, backoff=self._rules.fetch_backoff)
        if entry.is_dismissed:
            fact = DismissedFetchFailed(element=fact.element)
        return NewFact(key=entry.key, fact=fact, observed_us=now_us, expected=entry.version)

    # --- is it the server? ---

    def server_is_fine(self, now_us: int) -> list[Action]:
        """Note that the server answers and accepts the token, so the failures are the elements' own."""
        self._is_checking = False
        self._outages, self.trouble = 0, None
        accused, self._accused = self._accused, []
        self._to_ask.extend(one for one in accused if one.status in ASKS_WHETHER_GONE)
        guilty = [one for one in accused if one.status not in ASKS_WHETHER_GONE]
        return [*([self._fail(now_us, guilty)] if guilty else []), *self._ask_next()]

    def server_is_down(self, now_us: int, trouble: Trouble) -> list[Action]:
        """Note that the server cannot even send an empty page: pause, and blame no element."""
        self._is_checking = False
        self._outages += 1
        accused, self._accused = self._accused, []
        pause_us = self._rules.backoff.delay_us(self._outages, jitter(b"outage", self._outages))
        self._next_us = now_us + pause_us
        self.has_given_up = self._rules.once and self._outages >= OUTAGES
        self.trouble = trouble.reason
        text = f"the server does not answer as expected: {sentence(trouble.reason)}"
        text += "" if self.has_given_up else f"; fetching pauses for {pause_us / SECOND_US:.0f} s"
        say = Say(level="warning", event="server_trouble", text=text, fields={"reason": trouble.reason})
        return [say, self._give_back(accused)]

    def token_is_refused(self) -> list[Action]:
        """Note that the server does not accept the token: fetch nothing more."""
        self._is_checking = False
        self.is_closed = True
        accused, self._accused = self._accused, []
        return [self._give_back(accused)] if accused else []

    def _ask_next(self) -> list[Action]:
        if self._is_asking or not self._to_ask:
            return []
        self._is_asking = True
        return [AskGone(failed=self._to_ask.popleft())]

    def gone_answered(self, now_us: int, happened: GoneAnswered) -> list[Action]:
        """Record that an element is gone, or that fetching it failed.

        Only as many are believed gone as a listing may miss, because a server that denies everything is not trusted.
        """
        self._is_asking = False
        bad, limits = happened.failed, self._rules.thresholds
        entry = bad.entry
        is_believable = self._gone < max(limits.missing_count, limits.missing_share * self.known)
        if happened.gone and is_believable and entry.element is not None:
            self._gone += 1
            new = NewFact(key=entry.key, fact=vanished(entry.element), observed_us=now_us, expected=entry.version)
            return [RecordFacts(about="failures", facts=(new,), drop=True), *self._ask_next()]
        return [self._fail(now_us, [bad]), *self._ask_next()]

    # --- copies ---

    def published(self, now_us: int, happened: PublishDone) -> list[Action]:
        """Record the copies that are durable now."""
        instance = self._rules.instance
        facts: list[NewFact] = []
        bad: list[NotReceived] = []
        if any(isinstance(result, Published) for result in happened.results):
            self._storage_outages = 0
        gone: list[NotReceived] = []
        away: list[NotReceived] = []
        for good, result in zip(happened.batch, happened.results, strict=True):
            entry = good.entry
            if entry.element is None:
                raise TypeError("an erased element needs no fetching")
            if isinstance(result, Published):
                self._spared.discard(entry.key)
                fact = stored(entry.element, sha256=result.sha256, size=result.size, iv=good.iv, instance=instance)
                facts.append(NewFact(key=entry.key, fact=fact, observed_us=now_us, expected=entry.version))
            else:
                error = result.error
                one = NotReceived(entry=entry, reason=error.reason, storage=True, detail=str(error))
                if isinstance(error, DiscardedError):
                    gone.append(one)
                else:
                    (away if error.passes and self._is_spared(entry) else bad).append(one)
        # A content that was discarded because of another is not to blame: no failed attempt, no pause.
        actions: list[Action] = [self._give_back(gone)] if gone else []
        if facts:
            places = tuple(
                one.place for one in happened.results if isinstance(one, Published) and one.place is not None
            )
            actions.append(RecordFacts(about="copies", facts=tuple(facts), drop=True, places=places))
        if bad:
            text = f"{len(bad)} objects could not be stored ({bad[0].detail}): check the disk; they are fetched again"
            actions.append(Say(level="error", event="not_durable", text=text, fields={"objects": len(bad)}))
            actions += self._judge(now_us, tuple(bad))
        if away:
            actions += self._storage_away(now_us, away)
        return actions

    def recorded(self, now_us: int, happened: Recorded) -> None:
        """Count what is in the ledger now."""
        progress = self._progress
        self.outstanding -= len(happened.facts)
        self._window.passed(len(happened.facts), now_us)
        self.position = max(self.position, happened.position)
        for new in happened.facts:
            if new.key in happened.dropped:
                # Somebody else was faster, or the element changed in the meantime, and is then wanted again.
                self.is_dry = False
                continue
            element = getattr(new.fact, "element", None)
            if happened.about == "copies" and element is not None:
                progress.copied += 1
                progress.bytes += element.copy.size
            elif element is not None and element.failure is not None:
                self.failing += not isinstance(new.fact, DismissedFetchFailed)
                progress.failed += 1
                reason = element.failure.reason
                progress.reasons[reason] = progress.reasons.get(reason, 0) + 1
                due_us = element.failure.next_try_us
                self._due_us = due_us if self._due_us is None else min(self._due_us, due_us)
            else:
                progress.vanished += 1

    def abandoned(self, entries: tuple[Entry, ...]) -> None:
        """Forget the fetches that were broken off, and those that were still to be judged."""
        self.outstanding -= len(entries) + len(self._accused) + len(self._to_ask) + (1 if self._is_asking else 0)
        self._accused.clear()
        self._to_ask.clear()
        self._is_asking = False


def _may_be_the_server(bad: NotReceived) -> bool:
    """Whether a failure says more about the server or the token than about the element."""
    return bad.refused or bad.status is None or bad.status >= SERVER_ERROR or bad.status in {NOT_FOUND, GONE, BUSY}
