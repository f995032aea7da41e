"""Rebuilds a ledger only from the events in its segments, and audits the result before anyone trusts it."""

from __future__ import annotations

from itertools import groupby, islice
from typing import TYPE_CHECKING

from ledger.codec import decode_header
from ledger.decoding import happened
from ledger.errors import BrokenChainError, LedgerError
from ledger.merkle import Frontier
from ledger.projection import project
from ledger.rows import Batch, CommitRow, StoredEvent, StoredHead
from ledger.stores import stored_events
from ledger.transfer.copy import CopyReport, erasures, verify_copy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ledger.stores import LedgerStore

KeyedEvent = tuple[StoredEvent, bytes | None]
"""An event whose stream number is not known yet, and its stream's stored key (None once erased)."""

PAGE = 1000


def recover_ledger(
    events: Iterable[KeyedEvent],
    target: LedgerStore,
    *,
    progress: Callable[[int], None] = lambda _position: None,
    page: int = PAGE,
) -> CopyReport:
    """Append `events`, which begin with a ledger's first event, to the empty `target`, and check the result.

    An interrupted recovery continues where it stopped. Segments do not hold batches, so consecutive events with the
    same recorded time become one batch. `progress` is called with the position reached. One transaction writes `page`
    events.

    Raises:
        LedgerError: if the target holds events other than the first of these, or if there are no events.
        BrokenChainError: if the result is not a sound ledger.
    """
    begun = target.log.head().position
    rest = _behind(iter(events), target, begun)
    erased = _erased(target) if begun else {}
    while some := list(islice(rest, page)):
        _append(target, some, erased)
        progress(some[-1][0].seq)
    head = target.log.head()
    if head.position == 0:
        raise LedgerError("there are no events to recover from: check that this is the right storage")
    return verify_copy(target, head, begun)


# --- helpers ---------------------------------------------------------------------------------------------------------


def _behind(events: Iterator[KeyedEvent], target: LedgerStore, begun: int) -> Iterator[KeyedEvent]:
    """Return the events after the target's last one. The last one MUST be among `events`, with the same leaf."""
    if begun == 0:
        return events
    mine = {event.seq: event.leaf for event in target.log.events_at([begun])}
    for event, _ in events:
        if event.seq == begun:
            if event.leaf != mine.get(begun):
                break
            return events
    raise LedgerError("the target holds a different ledger, or a longer one: recover into an empty database")


def _erased(target: LedgerStore) -> dict[bytes, int]:
    """Return the numbers of erased streams, by the stream digests in their headers."""
    numbers = {number for number, key in target.log.streams() if key is None}
    if not numbers:
        return {}
    return {
        decode_header(event.header).stream_digest: event.stream
        for event in stored_events(target.log)
        if event.stream in numbers
    }


def _append(target: LedgerStore, page: list[KeyedEvent], erased: dict[bytes, int]) -> None:
    with target.writing() as tx:
        head = tx.head
        known = tx.streams({key for _, key in page if key is not None})
        numbers = {key: row.stream for key, row in known.items()}
        streams, fresh, events, keys = head.streams, list[tuple[int, bytes | None]](), list[StoredEvent](), {}
        for event, key in page:
            # An erased stream has no key. The digest in its headers identifies it until the subject begins again.
            name = key if key is not None else decode_header(event.header).stream_digest
            among = numbers if key is not None else erased
            number = None if key is None and event.stream_version == 1 else among.get(name)
            if number is None:
                streams += 1
                number = among[name] = streams
                fresh.append((number, key))
            keys[number] = key
            events.append(event._replace(stream=number))
        if events[0].seq != head.position + 1:
            raise BrokenChainError(events[0].seq, f"it does not follow event {head.position}")
        changes = project(
            [happened(event, keys[event.stream]) for event in events],
            tx.entries(set(keys)),
            {row.id: row for row in tx.sources()},
        )
        frontier = Frontier.parse(head.position, head.frontier)
        commits = []
        for recorded_us, group in groupby(events, key=lambda event: event.recorded_us):
            batch = list(group)
            frontier = frontier.extend(event.leaf for event in batch)
            commits.append(CommitRow(batch[-1].seq, batch[0].seq, recorded_us, None, frontier.stored))
        tx.write(
            Batch(
                head=StoredHead(events[-1].seq, events[-1].recorded_us, streams, frontier.stored),
                streams=fresh,
                events=events,
                erased=erasures(events),
                changes=changes,
                commits=commits,
            )
        )
