"""The audit of the log: reads it once, page by page, and applies the rules to every event, commit and the head.

It remembers 16 bytes per stream. `index.py` then compares the projection with what was learnt here.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from ledger.audit.fast.page import recognise
from ledger.audit.fast.ranges import EventRange, EventRangeReader
from ledger.audit.fast.run import accept_run
from ledger.audit.finding import Finding, finding_in
from ledger.audit.log_rule import LogRule
from ledger.audit.rows import read_events, read_head, row_fault
from ledger.audit.streams import StreamNames
from ledger.rows import StoredEvent
from ledger.stores import stored_events

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from ledger.answers import Erasure
    from ledger.audit.fast.page import EventPage
    from ledger.audit.fast.ranges import RangeAudit, RunRanges
    from ledger.audit.log_rule import Learnt
    from ledger.audit.rows import Columns, Row
    from ledger.merkle import Frontier
    from ledger.rows import StoredHead
    from ledger.stores import EventLog

_PAGE = 1000


class LogAudit:
    """One pass over the log up to a head. Exhaust `findings` before you use the results.

    `roots` has the tree's root at each of the `root_sizes` that the audit reached. `first_bad` is the first bad
    position, or None.
    """

    def __init__(
        self,
        log: EventLog,
        *,
        root_sizes: Iterable[int] = (),
        run_ranges: RunRanges | None = None,
        page_events: int = _PAGE,
        progress: Callable[[int], None] = lambda _position: None,
    ) -> None:
        """Pin the current head. The audit ignores events that are appended meanwhile.

        `progress` is called after each page with the last position read.
        With `run_ranges`, other processes read the log in ranges of `page_events` events, and recognise what they can.
        """
        self._log = log
        head, self._head_finding = read_head(log)
        self._rule = LogRule(log, head)
        self._names = StreamNames()
        self._root_sizes = sorted({size for size in root_sizes if size <= head.position}, reverse=True)
        self._run_ranges = run_ranges
        self._page_events = page_events
        self._progress = progress
        self.roots: dict[int, bytes] = {}
        self.first_bad: int | None = None

    @property
    def head(self) -> StoredHead:
        """The pinned head."""
        return self._rule.head

    @property
    def position(self) -> int:
        """The last position read."""
        return self._rule.position

    @property
    def learnt(self) -> Learnt:
        """What the projection must say."""
        return self._rule.learnt

    @property
    def frontier(self) -> Frontier:
        """The frontier of the tree over the stored headers that were read."""
        return self._rule.tree.frontier

    @property
    def unknown(self) -> int:
        """How many events were proved although this version does not know their type."""
        return self._rule.unknown

    @property
    def erased(self) -> int:
        """How many events were proved although their payload was erased."""
        return self._rule.erased

    @property
    def erasures(self) -> list[Erasure]:
        """Every event that erased its stream, in the order of positions."""
        return self._rule.erasures

    def findings(self) -> Iterator[Finding]:
        """Yield the findings, in the order of positions.

        Raises:
            LedgerUnavailableError: if the database cannot be read to the end.
        """
        for finding in self._read_all():
            if finding.position is not None:
                self.first_bad = finding.position if self.first_bad is None else min(self.first_bad, finding.position)
            yield finding

    def _read_all(self) -> Iterator[Finding]:
        until, count = self.head.position, self._next_count()
        if self._run_ranges is not None and self._head_finding is None:
            # The first page contains the salts. Without them, other processes recognise nothing.
            yield from self._read(0, until, count)
            self._next_count()
            yield from self._read_ranges(self._run_ranges)
            count = self._next_count()
        while self.position < until:
            before = self.position
            yield from self._read(before, until, count)
            if self.position == before:
                break
            count = self._next_count()
        if self._head_finding is not None:
            yield self._head_finding
            return
        yield from self._rule.end(self.first_bad)
        yield from self._beyond()

    def _next_count(self) -> int:
        """Keep the root if its size is reached. Return how many events to read until the next size, at most a page."""
        sizes = self._root_sizes
        while sizes and sizes[-1] <= self.position:
            size = sizes.pop()
            if size == self.position and self._rule.tree.is_gapless:
                self.roots[size] = self.frontier.root
        return min(self._page_events, sizes[-1] - self.position) if sizes else self._page_events

    def _beyond(self) -> Iterator[Finding]:
        """Look past the pinned head: events there were appended since, and the current head must cover them."""
        streams = len(self.learnt.versions) - 1
        event = next(stored_events(self._log, after=self.head.position), None)
        stream = next(self._log.streams(after=streams), None)
        now = self._log.head()
        if event is not None and event.seq > now.position:
            detail = "it comes after the head, which does not cover it"
            yield Finding(kind="beyond_head", detail=detail, position=event.seq)
        yield from self._rule.tree.beyond(now.position)
        if stream is not None and stream[0] > now.streams:
            yield finding_in(stream[1], kind="stream_unknown", detail=f"stream {stream[0]} has no event")

    # --- pages -------------------------------------------------------------------------------------------------------

    def _read(self, after: int, until: int, count: int) -> Iterator[Finding]:
        """Read and check the next `count` events. `position` advances if there are any."""
        columns, unusable = read_events(self._log, after, until, count)
        yield from unusable
        self._rule.unusable.update(finding.position for finding in unusable if finding.position is not None)
        rest = columns
        while rest and rest[0]:
            self._names.learn(self._log, set(rest[1]), self.learnt.salts)
            taken = yield from self._take(recognise(rest, self._names.digests), partial(_row, rest))
            # Events after a new salt need it for the digests of their streams.
            rest = tuple(column[taken:] for column in rest)
        self._end_page()

    def _end_page(self) -> None:
        self._rule.tree.grow()
        self._rule.pass_unusable()
        self._progress(self.position)

    def _take(self, page: EventPage, row: Callable[[int], Row | None]) -> Generator[Finding, None, int]:
        """Check a page's events: runs on the fast path, others by the plain rule. Return where this stopped.

        It stops early after an event that carries a salt, and where `row` no longer returns the event's row.
        """
        rule = self._rule
        salts, at = len(rule.learnt.salts), 0
        while at < len(page.seqs) and len(rule.learnt.salts) == salts:
            if not page.sound[at] and (stored := row(at)) is not None:
                fault = row_fault(StoredEvent._make(stored))
                if fault is not None:
                    yield fault
                    rule.unusable.add(page.seqs[at])
                    at += 1
                    continue
            if page.seqs[at] > rule.tree.commit.last:
                yield from rule.tree.next_commit(page.seqs[at], page.recorded[at], rule.position)
            if (taken := accept_run(rule, page, at)) > at:
                at = taken
                continue
            if (stored := row(at)) is None:
                break
            event = StoredEvent._make(stored)
            key, exists = self._names.find(self._log, event.stream)
            yield from rule.check(event, key, exists=exists)
            at += 1
        return at

    # --- ranges that other processes read ----------------------------------------------------------------------------

    def _read_ranges(self, run_ranges: RunRanges) -> Iterator[Finding]:
        """Continue with the events that other processes recognised in each range. Read the rest here."""
        sent: deque[EventRange] = deque()
        for answer in run_ranges(EventRangeReader().read, self._ranges(sent)):
            part = sent.popleft()
            if answer is None or len(self.learnt.salts) != len(part.salts):
                yield from self._read(part.after, part.until, part.until - part.after)
            elif answer.page.seqs:
                page = answer.page
                taken = yield from self._take(page, partial(self._row_of, answer))
                self._end_page()
                if taken < len(page.seqs):
                    yield from self._read(page.seqs[taken] - 1, part.until, part.until - page.seqs[taken] + 1)
            else:
                return  # the log has a gap or ends here
            self._next_count()

    def _row_of(self, answer: RangeAudit, at: int) -> Row | None:
        """Return an event's row, or None if it is no longer there. A recognised event's row must be read again."""
        if at not in answer.unrecognised:
            seqs = answer.page.seqs
            places = {seq: place for place, seq in enumerate(seqs)}
            rows = self._log.page(seqs[at] - 1, seqs[-1], len(seqs))
            answer.unrecognised.update({places[row[0]]: row for row in rows if row[0] in places})
        return answer.unrecognised.get(at)

    def _ranges(self, sent: deque[EventRange]) -> Iterator[EventRange]:
        """Yield the ranges to read, each with the salts known at that time, and keep each in `sent`."""
        after, sizes = self.position, list(self._root_sizes)
        while after < self.head.position:
            while sizes and sizes[-1] <= after:
                sizes.pop()
            until = min(after + self._page_events, self.head.position, *sizes[-1:])
            sent.append(EventRange(after, until, dict(self.learnt.salts)))
            yield sent[-1]
            after = until


def _row(columns: Columns, at: int) -> Row:
    return tuple(column[at] for column in columns)
