"""The ledger: appends facts, reads events, and reads or rebuilds the projection, over any LedgerStore.

`ledger/stores.py` says what a store must promise, and `tests/contract/` tests it.
"""

from __future__ import annotations

import os
import threading
import time
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from ledger.answers import Commit, Head, RebuildReport, SourceEntry, Tally
from ledger.append import (
    AUDIT_KEY,
    LEDGER_KEY,
    AppendContext,
    NewFact,
    check_writer,
    frontier_of,
    instance_key,
    plan_batch,
    source_key,
)
from ledger.clock import MOST_LEAP_US, recorded_time
from ledger.codec import NONCE_BYTES
from ledger.decoding import entry_of, event_of, fact_of, happened, key_of
from ledger.erasing import BlockedElements
from ledger.errors import BrokenChainError, DamagedRowError, LedgerError, LedgerUnavailableError
from ledger.events import NO_SOURCE, AuditAdvanced, LedgerBegan, PayloadErased, UnknownFact
from ledger.merkle import Frontier
from ledger.projection import project
from ledger.replica import evolve_source
from ledger.rows import CopyRow
from ledger.stores import LedgerStore, stored_events
from ledger.succession import refuse_contradictions
from ledger.work import WorkSession

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from ledger.events import AuditRange, StreamKey
    from ledger.places import Placement
    from ledger.replica import Entry, Event
    from ledger.rows import Batch, SourceRow, StoredEvent
    from ledger.stores import Database, Writing

__all__ = ["AUDIT_KEY", "LEDGER_KEY", "Commit", "Head", "Ledger", "LedgerStore", "NewFact"]
__all__ += ["RebuildReport", "SourceEntry", "Tally", "instance_key", "program", "source_key", "utc_now_us"]

_PAGE = 1000

_T = TypeVar("_T")


def utc_now_us() -> int:
    """Return the time in microseconds since 1970 UTC."""
    return time.time_ns() // 1000


def program() -> str:
    """Return the name and version of the program that this package belongs to."""
    # Imported here because only a new ledger or collector needs it, and the import takes longer than most queries.
    import importlib.metadata

    try:
        return f"kropotcli {importlib.metadata.version('kropotcli')}"
    except importlib.metadata.PackageNotFoundError:
        return "kropotcli"


class Ledger:
    """A ledger. `append` records facts; most other methods read.

    Consumers that need only one part can use it directly: `log`, `projection`, `blobs` and `places` of the store, and
    `work`, this process's session at the work queue.

    `writer` is the writer's name in this process's events. `clock` returns microseconds since 1970 UTC, and is used if
    the store has no clock of its own. `entropy` returns random bytes.
    """

    most_leap_us: int | None = MOST_LEAP_US

    def __init__(
        self,
        store: LedgerStore,
        *,
        writer: str = "",
        clock: Callable[[], int] = utc_now_us,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """Use this store. Nothing is read yet."""
        check_writer(writer)
        self.store = store
        self.writer = writer
        self.log = store.log
        self.projection = store.projection
        self.blobs = store.blobs
        self.places = store.places
        self.database: Database = store
        self.work = WorkSession(store, entropy(16), self.clock_us)
        self._clock = clock
        self._entropy = entropy
        self._identity: LedgerBegan | None = None
        self._sources: dict[bytes, SourceRow] = {}
        self._salts: dict[bytes, bytes] = {}
        self._lock = threading.Lock()
        self.blocked = BlockedElements(self)

    # --- writing ---

    def begin(self) -> LedgerBegan:
        """Return the ledger's identity. If the ledger is empty, write the identity as its first event."""
        if self.log.head().position == 0:
            began = LedgerBegan(ledger_id=self._entropy(16), salt=self._entropy(32), program=program())
            with self._lock, self.store.writing() as tx:
                if tx.head.position == 0:
                    now = self._now(tx.now_us)
                    ground = AppendContext(
                        head=tx.head, recorded_us=now, keys=[LEDGER_KEY.stored], streams={}, sources={}, salts={}
                    )
                    first = [NewFact(key=LEDGER_KEY, fact=began, observed_us=now)]
                    tx.write(plan_batch(first, ground, writer=self.writer, nonces=self._entropy(NONCE_BYTES)))
        return self.identity()

    def append(
        self,
        facts: Sequence[NewFact],
        *,
        batch_key: bytes | None = None,
        release: str | None = None,
        places: Sequence[Placement] = (),
        check: Callable[[], object] | None = None,
    ) -> Commit:
        """Record the facts in one transaction, all or none, at the positions after the head.

        `release` names an instance of this session. Its leases on the facts' streams are given back in the same
        transaction, and `places` are added to the placements. `check` is called once the head is locked, when nobody
        else can append, and can still refuse by raising. With `batch_key` (at most 64 bytes), any process can repeat
        the call if its answer was lost, and gets the first call's commit. If the connection is lost during the call,
        this method tries once more.

        Raises:
            ConflictError: if an `expected` version is not the stream's, or an element is blocked; nothing was written.
            ClockAheadError: if a fact claims a time more than a day ahead; nothing was written.
            LedgerUnavailableError: if the database cannot be reached. Without `batch_key` or `expected` it is unknown
                whether the facts were recorded.
        """
        if not facts:
            raise LedgerError("an append needs at least one fact")
        if self._identity is None:
            self.begin()
        nonces = self._entropy(NONCE_BYTES * len(facts))
        planned: Batch | None = None
        for last_try in (False, True):
            try:
                with self._lock, self.store.writing() as tx:
                    done = self._done(tx, batch_key, planned)
                    if done is not None:
                        return done
                    if check is not None:
                        check()
                    ground = self._ground(tx, facts)
                    self.blocked.refuse(facts, ground)
                    planned = plan_batch(facts, ground, writer=self.writer, nonces=nonces, batch_key=batch_key)
                    refuse_contradictions(facts, ground, self.log, tx)
                    tx.write(planned)
                    if places:
                        tx.place(places)
                    if release is not None:
                        tx.release(release, self.work.id, {event.stream for event in planned.events})
            except LedgerUnavailableError:
                if last_try:
                    raise
                continue
            commit = planned.commits[-1]
            return Commit(first=commit.first, last=commit.last, recorded_us=commit.recorded_us)
        raise AssertionError("unreachable")

    def rebuild(self) -> RebuildReport:
        """Drop the projection and fold all events into it again, in one transaction and with constant memory.

        Writers wait until this is done. Readers see the old projection until then.

        Raises:
            UnknownCriticalEventError: if an event of an unknown type MUST NOT be skipped. The projection is unchanged.
        """
        events = entries = skipped = 0
        with self._lock, self.store.writing() as tx:
            position = tx.head.position
            tx.clear_projection()
            for page in _pages(stored_events(self.log, until=position)):
                keys = dict(self.log.streams({event.stream for event in page}))
                taken = [happened(event, keys[event.stream]) for event in page]
                sources = {row.id: row for row in tx.sources()}
                changes = project(taken, tx.entries({event.stream for event in page}), sources)
                tx.change(changes)
                events += len(page)
                skipped += sum(isinstance(one.fact, UnknownFact) for one in taken)
                entries += sum(row.elements for row in changes.tallies)
        return RebuildReport(position=position, events=events, entries=entries, skipped=skipped)

    def reopener(self) -> Callable[[], Ledger] | None:
        """Return a function that opens this ledger for reading in a forked process, or None if that is impossible."""
        reopen = self.store.reopener()
        return None if reopen is None else lambda: Ledger(reopen())

    # --- reading: the log ---

    def identity(self) -> LedgerBegan:
        """Return the ledger's first fact: its id and salt.

        Raises:
            LedgerError: if nothing was recorded yet.
            BrokenChainError: if the first event is something else.
        """
        if self._identity is None:
            first = self.log.events_at([1])
            if not first:
                raise LedgerError("this ledger is empty: nothing was recorded yet")
            fact = fact_of(first[0])
            if not isinstance(fact, LedgerBegan):
                raise BrokenChainError(1, "the first event is not a LedgerBegan")
            self._salts[NO_SOURCE] = fact.salt
            self._identity = fact
        return self._identity

    def head(self) -> Head:
        """Return the end of the log."""
        head = self.log.head()
        return Head(position=head.position, recorded_us=head.recorded_us, frontier=frontier_of(head))

    def now_us(self) -> int:
        """Return the ledger's time in microseconds since 1970 UTC: the clock's, but never before the head's."""
        return max(self.clock_us(), self.log.head().recorded_us)

    def clock_us(self) -> int:
        """Return the time of the database's clock if it has one, else of this machine's."""
        return self._now(self.store.now_us())

    def stored(self, *, after: int = 0, until: int | None = None) -> Iterator[StoredEvent]:
        """Yield the raw events at positions in (`after`, `until`], in order."""
        return stored_events(self.log, after=after, until=until)

    def events(self, *, after: int = 0, until: int | None = None) -> Iterator[Event]:
        """Yield the events at positions in (`after`, `until`], decoded, in order."""
        for page in _pages(stored_events(self.log, after=after, until=until)):
            keys = dict(self.log.streams({event.stream for event in page}))
            for event in page:
                yield event_of(event, key_of(keys.get(event.stream)))

    def history(self, key: StreamKey, *, newest_first: bool = False) -> Iterator[Event]:
        """Yield the events of one stream, in order or newest first."""
        for event in self.log.stream_events(key.stored, newest_first=newest_first):
            yield event_of(event, key)

    def erasures(self) -> Iterator[StoredEvent]:
        """Yield the events that erased their stream, in the order of streams.

        This reads only erased streams, so it costs nothing if nothing was erased.
        """
        head = self.log.head().position
        for page in _pages(self.log.streams(erased=True)):
            last = self.log.last_positions(head, [number for number, _ in page])
            events = self.log.events_at(sorted(position for position, _ in last))
            yield from sorted(
                (each for each in events if each.type == PayloadErased.TYPE), key=lambda each: each.stream
            )

    def position_at(self, us: int) -> int:
        """Return the last position recorded before `us` (microseconds since 1970 UTC, exclusive), or 0."""
        return self.log.position_before(us)

    def frontier_at(self, position: int) -> Frontier:
        """Return the tree's frontier over the first `position` events.

        Raises:
            LedgerError: if the log is shorter.
        """
        frontier = Frontier.parse(0, b"")
        for commit in self.log.commits(until=position, newest_first=True):
            if commit.frontier is not None:
                frontier = Frontier.parse(commit.last, commit.frontier)
                break
        while frontier.size < position:
            leaves = self.log.leaves(frontier.size, min(position, frontier.size + _PAGE))
            if not leaves:
                raise DamagedRowError(f"the ledger ends at position {frontier.size}, before {position}")
            frontier = frontier.extend(leaves)
        return frontier

    # --- reading: the projection ---

    def entries(self, keys: Iterable[StreamKey]) -> dict[StreamKey, Entry]:
        """Return the entries that exist among these keys."""
        found = (entry_of(image) for image in self.projection.images([key.stored for key in keys]))
        return {entry.key: entry for entry in found}

    def scan(
        self,
        *,
        source: bytes | None = None,
        states: Collection[str] | None = None,
        after: StreamKey | None = None,
        wanted: bool | None = None,
    ) -> Iterator[Entry]:
        """Yield the entries after `after` that match every given filter, in the order of their stored keys."""
        start = None if after is None else after.stored
        return map(entry_of, self.projection.scan(source=source, states=states, after=start, wanted=wanted))

    def next_due_us(self, source: bytes | None = None) -> int | None:
        """Return when the next wanted entry is due (possibly in the past), or None if nothing is wanted."""
        return self.projection.next_due_us(source)

    def sources(self) -> dict[bytes, SourceEntry]:
        """Return all sources by id, in the order in which they began."""
        rows = self.projection.sources()
        events = {event.seq: event for event in self.log.events_at(sorted(row.seq for row in rows))}
        found = {}
        for row in rows:
            event = events.get(row.seq)
            source = None if event is None else evolve_source(fact_of(event))
            if source is None:
                raise BrokenChainError(row.seq, "the projection treats it as an event about a source, but it is not")
            found[row.id] = SourceEntry(id=row.id, version=row.version, source=source)
        return found

    def tallies(self) -> list[Tally]:
        """Return how many elements of each source are in each state. These sums are maintained, not counted."""
        ids = {row.no: row.id for row in self.projection.sources()}
        rows = self.projection.tallies()
        unknown = {row.source for row in rows} - ids.keys()
        if unknown:
            raise DamagedRowError(f"the projection counts elements of source {min(unknown)}, which it does not have")
        return [Tally(source=ids[row.source], state=row.state, elements=row.elements, bytes=row.bytes) for row in rows]

    def copies(self, *, start: bytes = b"", end: bytes | None = None) -> Iterator[CopyRow]:
        """Yield every object with `start` <= SHA-256 <= `end` that an event names, in the order of SHA-256."""
        rows = self.projection.copies(start=start, end=end)
        while page := list(islice(rows, _PAGE)):
            keys = dict(self.log.streams({row.stream for row in page}))
            for row in page:
                key = keys.get(row.stream)
                if key is not None:
                    yield CopyRow(row.sha256, row.size, key, row.seq, row.state)

    def audit(self) -> tuple[AuditRange, ...]:
        """Return the last audit's map of what was read when."""
        event = next(self.log.stream_events(AUDIT_KEY.stored, newest_first=True), None)
        fact = None if event is None else fact_of(event)
        return fact.ranges if isinstance(fact, AuditAdvanced) else ()

    # --- helpers ---

    def _now(self, store_us: int | None) -> int:
        return self._clock() if store_us is None else store_us

    def _done(self, tx: Writing, batch_key: bytes | None, planned: Batch | None) -> Commit | None:
        """Return the commit of an earlier try of this append whose answer was lost, or None."""
        commit = None if batch_key is None else tx.commit_of(batch_key)
        if commit is None and planned is not None:
            # The nonces make the leaf unique. If it is at the position where this batch begins, the batch was written.
            first = planned.events[0]
            if tx.leaf(first.seq) == first.leaf:
                commit = planned.commits[-1]
        return None if commit is None else Commit(first=commit.first, last=commit.last, recorded_us=commit.recorded_us)

    def _ground(self, tx: Writing, facts: Sequence[NewFact]) -> AppendContext:
        """Read what planning these facts needs, under the head's lock."""
        keys = [new.key.stored for new in facts]
        ids = {new.key.source for new in facts}
        if not self._salts.keys() >= ids:
            # Known sources never change their number or salt. Another process might have begun an unknown one.
            self._learn(tx)
        return AppendContext(
            head=tx.head,
            recorded_us=recorded_time(tx.head, self._now(tx.now_us), self.most_leap_us),
            keys=keys,
            streams=tx.streams(set(keys)),
            sources=self._sources,
            salts=self._salts,
        )

    def _learn(self, tx: Writing) -> None:
        for row in tx.sources():
            if row.id not in self._salts:
                (event,) = self.log.events_at([row.seq])
                source = evolve_source(fact_of(event))
                if source is None:
                    raise BrokenChainError(
                        row.seq, "the projection treats it as an event about a source, but it is not"
                    )
                self._sources[row.id] = row
                self._salts[row.id] = source.salt


# --- helpers ---------------------------------------------------------------------------------------------------------


def _pages(events: Iterator[_T]) -> Iterator[list[_T]]:
    while page := list(islice(events, _PAGE)):
        yield page
