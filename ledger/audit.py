"""The audit of the log: every event, commit row and the head against what the stored bytes themselves say.

It reads forward once, page by page; what it remembers of the past is 12 bytes a stream. `ledger/audit_index.py` then
compares the projection with what was learnt here.
"""

from __future__ import annotations

from array import array
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, get_args

from ledger.audit_apart import EventRange, StretchReader
from ledger.audit_event import Flaw, examine
from ledger.audit_names import Names
from ledger.audit_page import copies_in, recognise
from ledger.audit_rows import read_events, read_head, row_fault
from ledger.audit_tree import TreeAudit
from ledger.codec import leaf_hash
from ledger.events import CopyStored, ElementFact, PayloadErased, UnknownFact
from ledger.replica import evolve_source
from ledger.rows import DAMAGED, LOST, RELEASED, SourceRow, StoredEvent
from ledger.spill import CopySpill

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from ledger.audit_apart import RangeAudit, Spread
    from ledger.audit_page import EventPage
    from ledger.audit_rows import Columns, Row
    from ledger.events import Fact
    from ledger.merkle import Frontier
    from ledger.store import EventStore

__all__ = ["Flaw", "Learnt", "LogAudit"]

_PAGE = 1000
_JUDGED = {"CopyDamaged": DAMAGED, "CopyLost": LOST, "CopyReleased": RELEASED}
_ELEMENT = frozenset(cls.TYPE for cls in get_args(ElementFact)) - {PayloadErased.TYPE}


@dataclass(slots=True)
class Learnt:
    """What the log says of each stream, by stream number (0 is no stream), for the audit of the index.

    `versions` counts a stream's events; `newest` is the position of its newest event that says what its element is, 0
    for none. `copies` holds a row for each copy; `sources` and `salts` are by source id.
    """

    versions: array[int] = field(default_factory=lambda: array("Q", [0]))
    newest: array[int] = field(default_factory=lambda: array("Q", [0]))
    copies: CopySpill = field(default_factory=CopySpill)
    sources: dict[bytes, SourceRow] = field(default_factory=dict)
    salts: dict[bytes, bytes] = field(default_factory=dict)


class LogAudit:
    """One pass over the log up to a head; `flaws` MUST be exhausted before the results are looked at.

    `position` is the last position read, `frontier` the tree recomputed from the stored headers, `unknown` and `erased`
    count events that were proved and not understood, `first_flaw` is the first bad position.
    """

    def __init__(
        self, store: EventStore, *, marks: Iterable[int] = (), spread: Spread | None = None, page: int = _PAGE
    ) -> None:
        """Pin the present head; what is appended meanwhile is not looked at.

        `marks` are the sizes at which `roots` shall have the tree's root, as far as the log can be followed to there.
        With `spread`, what can be said of a stretch of the log alone is said by others; in stretches of `page` events.
        """
        self._store = store
        self.head, self._head_flaw = read_head(store)
        self.position = 0
        self.learnt = Learnt()
        self.roots: dict[int, bytes] = {}
        self.unknown = 0
        self.erased = 0
        self.first_flaw: int | None = None
        self._marks = sorted({size for size in marks if size <= self.head.position}, reverse=True)
        self._recorded_us = 0
        self._tree = TreeAudit(store, self.head)
        self._erasures: dict[int, tuple[bytes, int]] = {}
        self._lost: set[int] = set()
        self._names = Names()
        self._spread = spread
        self._page_events = page

    @property
    def frontier(self) -> Frontier:
        """The tree over the stored headers that were read."""
        return self._tree.frontier

    def flaws(self) -> Iterator[Flaw]:
        """Yield what does not fit, in the order of positions.

        Raises:
            LedgerUnavailableError: if the database cannot be read to the end.
        """
        for flaw in self._flaws():
            if flaw.position is not None:
                self.first_flaw = flaw.position if self.first_flaw is None else min(self.first_flaw, flaw.position)
            yield flaw

    def _flaws(self) -> Iterator[Flaw]:
        until, count = self.head.position, self._mark()
        if self._spread is not None and self._head_flaw is None:
            yield from self._read(0, until, count)  # it brings salts, without which others recognise nothing
            self._mark()
            yield from self._apart(self._spread)
            count = self._mark()
        while self.position < until:
            before = self.position
            yield from self._read(before, until, count)
            if self.position == before:
                break
            count = self._mark()
        yield from self._end()

    def _mark(self) -> int:
        """Keep the root if a mark is reached; return how many events the next page has, so that it ends at a mark."""
        while self._marks and self._marks[-1] <= self.position:
            size = self._marks.pop()
            if size == self.position and self._tree.is_gapless:
                self.roots[size] = self.frontier.root
        return min(self._page_events, self._marks[-1] - self.position) if self._marks else self._page_events

    # --- stretches read apart ---

    def _apart(self, spread: Spread) -> Iterator[Flaw]:
        """Go on as long as there are events, with what others say of each stretch; what they cannot is done here."""
        sent: deque[EventRange] = deque()
        for told in spread(StretchReader().read, self._stretches(sent)):
            stretch = sent.popleft()
            if told is None or len(self.learnt.salts) != len(stretch.salts):
                yield from self._read(stretch.after, stretch.until, stretch.until - stretch.after)
            elif told.page.seqs:
                page = told.page
                taken = yield from self._take(page, partial(self._row_of, told))
                self._tree.grow()
                self._pass_lost()
                if taken < len(page.seqs):
                    yield from self._read(page.seqs[taken] - 1, stretch.until, stretch.until - page.seqs[taken] + 1)
            else:
                return  # the log has a gap here, or ends
            self._mark()

    def _row_of(self, told: RangeAudit, at: int) -> Row | None:
        """Return an event's row, None if it is no longer there; one that was recognised has to be read again."""
        if at not in told.strange:
            seqs = told.page.seqs
            places = {seq: place for place, seq in enumerate(seqs)}
            rows = self._store.stored_page(seqs[at] - 1, seqs[-1], len(seqs))
            told.strange.update({places[row[0]]: row for row in rows if row[0] in places})
        return told.strange.get(at)

    def _stretches(self, sent: deque[EventRange]) -> Iterator[EventRange]:
        """Yield what is to be read, each with the salts that are known when it is asked for, and keep it in `sent`."""
        after, marks = self.position, list(self._marks)
        while after < self.head.position:
            while marks and marks[-1] <= after:
                marks.pop()
            until = min(after + self._page_events, self.head.position, *marks[-1:])
            sent.append(EventRange(after, until, dict(self.learnt.salts)))
            yield sent[-1]
            after = until

    # --- a page ---

    def _read(self, after: int, until: int, count: int) -> Iterator[Flaw]:
        """Read and check the next `count` events; `position` has moved if there were any."""
        columns, unusable = read_events(self._store, after, until, count)
        yield from unusable
        self._lost.update(flaw.position for flaw in unusable if flaw.position is not None)
        yield from self._page(columns)
        self._pass_lost()

    def _pass_lost(self) -> None:
        """Rows that could not be used at the end of a page are behind it all the same."""
        self.position = max([self.position, *self._lost])

    def _page(self, columns: Columns) -> Iterator[Flaw]:
        """Check what every sound event satisfies for all of them at once; look closely at whatever does not."""
        rest = columns
        while rest and rest[0]:
            self._names.learn(self._store, set(rest[1]), self.learnt.salts)
            page = recognise(rest, self._names.digests)
            taken = yield from self._take(page, partial(_row, rest))
            # A salt that came up in between is needed for the digests of those behind it.
            rest = tuple(column[taken:] for column in rest)
        self._tree.grow()

    def _take(self, page: EventPage, row: Callable[[int], Row | None]) -> Generator[Flaw, None, int]:
        """Take in a page's events, `row` giving those that are to be looked at closely; return where it ended.

        That is before the end behind an event that brings a salt, and where there is no such row.
        """
        salts, at = len(self.learnt.salts), 0
        while at < len(page.seqs) and len(self.learnt.salts) == salts:
            if not page.sound[at] and (stored := row(at)) is not None:
                fault = row_fault(StoredEvent._make(stored))
                if fault is not None:
                    yield fault
                    self._lost.add(page.seqs[at])
                    at += 1
                    continue
            if page.seqs[at] > self._tree.commit.last:
                yield from self._tree.next_commit(page.seqs[at], page.recorded[at], self.position)
            if (taken := self._run(page, at)) > at:
                at = taken
                continue
            if (stored := row(at)) is None:
                break
            event = StoredEvent._make(stored)
            key, exists = self._names.find(self._store, event.stream)
            yield from self._closely(event, key, exists=exists)
            at += 1
        return at

    def _run(self, page: EventPage, at: int) -> int:
        """Take in the recognised events from `at` on that follow one another within a commit; return where they end."""
        commit, position = self._tree.commit, self.position
        due_us = commit.recorded_us
        if due_us < self._recorded_us:
            return at
        end = min(len(page.seqs), at + commit.last - position)
        strange = page.sound.find(0, at, end)
        end = end if strange < 0 else strange
        if (
            page.seqs[at:end] != tuple(range(position + 1, position + 1 + end - at))
            or page.recorded[at:end].count(due_us) != end - at
        ):
            fitting = at
            while fitting < end and (page.seqs[fitting], page.recorded[fitting]) == (position + 1, due_us):
                fitting, position = fitting + 1, position + 1
            end = fitting
        end = self._count(page, at, end)
        if end > at:
            self.position += end - at
            self._recorded_us = due_us
            self._tree.leaves.extend(page.leaves[at:end])
            self.learnt.copies.stored_all(copies_in(page, at, end))
        return end

    def _count(self, page: EventPage, at: int, end: int) -> int:
        """Count events in their streams as long as each is the next of its stream; return where the first is not."""
        versions, newest = self.learnt.versions, self.learnt.newest
        streams, first = page.streams[at:end], len(versions)
        if streams == tuple(range(first, first + end - at)) and page.versions[at:end].count(1) == end - at:
            versions.extend(page.versions[at:end])
            newest.extend(page.seqs[at:end])
            return end
        for stream, version, seq in zip(streams, page.versions[at:end], page.seqs[at:end], strict=True):
            if 0 < stream < first:
                if version != versions[stream] + 1:
                    return at
                versions[stream] = version
                newest[stream] = seq
            elif stream == first and version == 1:
                versions.append(1)
                newest.append(seq)
                first += 1
            else:
                return at
            at += 1
        return end

    def _closely(self, event: StoredEvent, key: bytes | None, *, exists: bool) -> Iterator[Flaw]:
        if event.seq != self.position + 1:
            yield from self._gap(event.seq)
        self.position = event.seq
        flaws, fact, header = examine(event, key, self.learnt.salts, exists=exists)
        yield from flaws
        yield from self._erasure(event, key, None if header is None else header.stream_digest, exists=exists)
        if event.recorded_us < self._recorded_us:
            yield self._flaw(event, "time_reversed", "it was recorded before the event at the position before it")
        elif event.recorded_us != self._tree.commit.recorded_us and self._tree.covers(event):
            yield self._flaw(event, "commit_mismatch", "its recorded time is not that of its commit")
        self._recorded_us = max(event.recorded_us, self._recorded_us)
        yield from self._version(event, sound=not flaws)
        self._tree.leaves.append(leaf_hash(event.header))
        self._learn(event, fact, key)

    def _version(self, event: StoredEvent, *, sound: bool) -> Iterator[Flaw]:
        """Streams are numbered, and their events counted, without gaps; behind a gap of the log only order is asked."""
        versions, stream, found = self.learnt.versions, event.stream, event.stream_version
        # Every stream has an event; a number beyond that is made up, and nothing is allocated for it.
        if stream < 1 or stream > min(max(len(versions), self.head.streams), len(versions) + _PAGE):
            yield self._flaw(event, "bad_version", f"no stream has the number {stream}")
            return
        if stream > len(versions) and self._tree.is_gapless and sound:
            yield self._flaw(event, "bad_version", f"its stream {stream} has a number that was not due yet")
        while stream >= len(versions):
            versions.append(0)
            self.learnt.newest.append(0)
        due = versions[stream] + 1
        if found != due and (self._tree.is_gapless or found < due):
            yield self._flaw(event, "bad_version", f"the stream's event {found} stands where its event {due} is due")
        if sound or found == due:
            versions[stream] = max(found, versions[stream])

    def _erasure(self, event: StoredEvent, key: bytes | None, digest: bytes | None, *, exists: bool) -> Iterator[Flaw]:
        """Allow a payload to be missing only where its whole stream was erased by an event of that stream."""
        if not exists:
            return
        if event.payload is None:
            self.erased += 1
        if key is not None:
            if event.payload is None:
                yield self._flaw(event, "payload_missing", "the payload is gone, and nothing says that it was erased")
            return
        first, since = self._erasures.setdefault(event.stream, (digest or b"", event.seq))
        if digest is not None and digest != first:
            yield self._flaw(event, "stream_mismatch", "the header commits to another stream than those before it")
        if event.type == PayloadErased.TYPE:
            self._erasures[event.stream] = (first, 0)
        elif event.payload is not None:
            yield self._flaw(event, "not_erased", "its stream was erased, and the payload still stands")
        elif since == 0:
            yield self._flaw(event, "payload_missing", "it follows the erasure of its stream")

    def _learn(self, event: StoredEvent, fact: Fact | UnknownFact | None, key: bytes | None) -> None:
        """Take in what the index must say; only a sound log's index is looked at, so that faults may be left out."""
        stream, learnt = event.stream, self.learnt
        if isinstance(fact, UnknownFact):
            self.unknown += 1
        elif isinstance(fact, PayloadErased) and stream < len(learnt.newest):
            learnt.newest[stream] = 0
            learnt.copies.drop(stream)
        elif fact is not None and event.type in _ELEMENT and stream < len(learnt.newest):
            learnt.newest[stream] = event.seq
            if isinstance(fact, CopyStored) and fact.element.copy is not None:
                learnt.copies.stored(fact.element.copy.sha256, stream, fact.element.copy.size, event.seq)
            elif event.type in _JUDGED:
                learnt.copies.judged(getattr(fact, "sha256", b""), stream, _JUDGED[event.type])
        elif key is not None and evolve_source(fact) is not None:
            known = learnt.sources.get(key[:16])
            no = len(learnt.sources) + 1 if known is None else known.no
            learnt.sources[key[:16]] = SourceRow(no, key[:16], stream, event.stream_version, event.seq)

    # --- gaps and the end ---

    def _gap(self, seq: int) -> Iterator[Flaw]:
        first, last = self.position + 1, seq - 1
        self._tree.is_gapless = False
        while first in self._lost:  # said already
            first += 1
        if seq < self.position + 1:
            yield Flaw(kind="disorder", detail="it stands twice, or out of its order", position=seq)
        elif first <= last:
            span = f"the event at position {first} is" if first == last else f"the events {first} to {last} are"
            yield Flaw(kind="missing_event", detail=f"{span} missing", position=first)

    def _end(self) -> Iterator[Flaw]:
        if self._head_flaw is not None:
            yield self._head_flaw
            return
        head = self.head
        if self.position < head.position:
            yield from self._gap(head.position + 1)
        yield from self._tree.end(self.position, is_whole=not self._lost, first_flaw=self.first_flaw)
        if head.recorded_us != self._recorded_us:
            yield Flaw(kind="head_mismatch", detail="the head's time is not the last event's", position=head.position)
        streams = len(self.learnt.versions) - 1
        if head.streams != streams:
            detail = f"the head counts {head.streams} streams, and the events have {streams}"
            yield Flaw(kind="head_mismatch", detail=detail, position=head.position)
        for stream, (_, since) in self._erasures.items():
            if since:
                detail = f"the payloads of stream {stream} are gone, and no event says that they were erased"
                yield Flaw(kind="payload_missing", detail=detail, position=since)
        yield from self._beyond(streams)

    def _beyond(self, streams: int) -> Iterator[Flaw]:
        """Look behind the pinned head: what stands there was appended since, and then the present head covers it."""
        event = next(self._store.stored(after=self.head.position), None)
        stream = next(self._store.streams(after=streams), None)
        now = self._store.head()
        if event is not None and event.seq > now.position:
            yield Flaw(
                kind="beyond_head", detail="it stands behind the head, which does not know it", position=event.seq
            )
        yield from self._tree.beyond(now.position)
        if stream is not None and stream[0] > now.streams:
            yield Flaw(kind="stream_unknown", detail=f"stream {stream[0]} has no event", key=stream[1])

    def _flaw(self, event: StoredEvent, kind: str, detail: str) -> Flaw:
        return Flaw(kind=kind, detail=detail, position=event.seq)


def _row(columns: Columns, at: int) -> Row:
    return tuple(column[at] for column in columns)
