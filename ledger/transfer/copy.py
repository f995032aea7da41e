"""Copies a ledger to another database. Events are copied byte for byte. The projection is folded again and checked."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from msgspec import Struct

from ledger.audit import IndexAudit, LogAudit
from ledger.decoding import happened
from ledger.errors import BrokenChainError, LedgerError
from ledger.events import PayloadErased
from ledger.merkle import Frontier
from ledger.projection import project
from ledger.rows import Batch, StoredHead
from ledger.stores import stored_events

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ledger.audit import Finding
    from ledger.rows import CommitRow, StoredEvent
    from ledger.stores import LedgerStore

PLACES = 50_000
"""How many placements one transaction writes."""

PAGE = 1000
"""About how many events one transaction writes. A batch is never split."""


class CopyReport(Struct, frozen=True, kw_only=True):
    """What a copy did: events written in this run, and the position, root and state digest that the ledgers share."""

    events: int
    position: int
    root: bytes
    state: str


def copy_ledger(
    source: LedgerStore, target: LedgerStore, *, progress: Callable[[int, int], None] = lambda _done, _all: None
) -> CopyReport:
    """Copy every event, commit and checkpoint of `source` up to its current head, and check the result.

    An interrupted copy continues where it stopped. At the end this reads the target's events again. Hashes, tree,
    commits and projection MUST agree with the log, and the root with the source's. `progress` is called with
    (position reached, last position).

    Raises:
        LedgerError: if the target holds events other than the source's first ones. Nothing was written.
        BrokenChainError: if the copy differs from the source, or the source contradicts its own hashes.
    """
    head = source.log.head()
    begun = target.log.head().position
    _demand_prefix(source, target)
    for commits in _pages(source.log.commits(after=begun), head.position):
        _write(source, target, commits)
        progress(commits[-1].last, head.position)
    for size, note in source.blobs.checkpoints():
        target.blobs.save_checkpoint(size, note)
    copy_places(source, target)
    return verify_copy(target, head, begun)


def copy_places(source: LedgerStore, target: LedgerStore) -> None:
    """Copy the first storage's placements and the list of further storages: working state that is still needed."""
    places = source.places.walk()
    while page := list(islice(places, PLACES)):
        target.places.add(page)
    for row in source.work.further():
        target.work.keep_further(row)


def verify_copy(target: LedgerStore, head: StoredHead, begun: int) -> CopyReport:
    """Read the target again, and check it against itself and the source's head. `begun` is where this run started.

    Raises:
        BrokenChainError: at the first finding.
    """
    log = LogAudit(target.log)
    _demand_none(log.findings())
    if log.position != head.position or log.frontier.stored != head.frontier:
        raise BrokenChainError(head.position, "the copied events do not lead to the source's root")
    index = IndexAudit(target, log, with_state=True)
    _demand_none(index.findings())
    root, state = log.frontier.root, index.state.text
    return CopyReport(events=head.position - begun, position=head.position, root=root, state=state)


def erasures(events: list[StoredEvent]) -> list[tuple[int, int]]:
    """Return (stream, position) of the erasures. They also apply to events that an earlier run copied."""
    return list({event.stream: event.seq for event in events if event.type == PayloadErased.TYPE}.items())


# --- helpers ---------------------------------------------------------------------------------------------------------


def _demand_prefix(source: LedgerStore, target: LedgerStore) -> None:
    """Refuse a target that holds anything other than the first events of the source."""
    theirs, mine = target.log.head(), source.log.head()
    if theirs.position == 0:
        return
    last = {event.seq: event.leaf for event in source.log.events_at([1, theirs.position])}
    same = {event.seq: event.leaf for event in target.log.events_at([1, theirs.position])}
    if theirs.position > mine.position or last != same:
        raise LedgerError("the target holds a different ledger, or a longer one: copy into an empty database")


def _pages(commits: Iterator[CommitRow], until: int) -> Iterator[list[CommitRow]]:
    """Yield whole batches up to `until`, about `PAGE` events at a time."""
    page: list[CommitRow] = []
    for row in commits:
        if row.last > until:
            break
        page.append(row)
        if row.last - page[0].first >= PAGE:
            yield page
            page = []
    if page:
        yield page


def _write(source: LedgerStore, target: LedgerStore, commits: list[CommitRow]) -> None:
    first, last = commits[0].first, commits[-1].last
    events = list(stored_events(source.log, after=first - 1, until=last))
    if [event.seq for event in events] != list(range(first, last + 1)):
        raise BrokenChainError(first, f"events are missing in the batches up to position {last}")
    numbers = {event.stream for event in events}
    keys = dict(source.log.streams(numbers))
    with target.writing() as tx:
        head = tx.head
        if head.position != first - 1:
            raise LedgerError("another process is writing to the target: stop it, then copy again")
        fresh = sorted(number for number in numbers if number > head.streams)
        changes = project(
            [happened(event, keys.get(event.stream)) for event in events],
            tx.entries(numbers),
            {row.id: row for row in tx.sources()},
        )
        frontier = Frontier.parse(head.position, head.frontier).extend(event.leaf for event in events)
        tx.write(
            Batch(
                head=StoredHead(last, commits[-1].recorded_us, max(head.streams, *numbers), frontier.stored),
                streams=[(number, keys.get(number)) for number in fresh],
                events=events,
                erased=erasures(events),
                changes=changes,
                commits=commits,
            )
        )


def _demand_none(findings: Iterator[Finding]) -> None:
    for finding in islice(findings, 1):
        raise BrokenChainError(finding.position or 0, f"{finding.kind}: {finding.detail}")
