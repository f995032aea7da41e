"""Compute the older state digest, `sd1`, at a position. It has to read every element, whatever is already known."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from kropot.replay.counts import Counts
from kropot.replay.fold import LARGE_PAGE, image, pages, prove, stale
from kropot.replay.processes import in_processes
from kropot.replay.snapshots import pointers_at
from ledger.digest import StateDigest, head_of, pack_tail, tail_of
from ledger.quick import plain_types, quick_element
from ledger.rows import StoredFact

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kropot.replay.pointers import Pointers
    from ledger.log import Ledger


Last = tuple[bytes, int, int]
"""A stream's stored key, its number, and the position of its last event. A plain tuple is the fastest to send."""


class DigestedPage(NamedTuple):
    """The result for a page of streams: the rows of its elements, their counts, and the number of events."""

    rows: bytes
    counts: Counts
    events: int


def digest_at(
    ledger: Ledger, position: int, *, snapshots: bool = True, processes: int | None = None
) -> tuple[Counts, str]:
    """Return the counts and the `sd1` at `position`, both computed from each element's last event.

    `processes` is the number of other processes that make the rows. By default a ledger with few streams uses none, and
    a large ledger uses one for each processor.

    Raises:
        StalePointersError: a snapshot contradicts the events, or the ledger's streams do.
        UnknownCriticalEventError, MalformedEventError: as `state.whole`.

    """
    counts, digest, events = Counts(), StateDigest(), 0
    with pointers_at(ledger, position, snapshots=snapshots) as pointers:

        def looked(page: Sequence[Last]) -> Sequence[Last]:
            digest.look([key for key, _, _ in page])
            return page

        for made in in_processes(make, ledger, position, map(looked, _pages(ledger, pointers)), processes=processes):
            digest.add_rows(made.rows)
            counts.merge(made.counts)
            events += made.events
        prove(ledger, pointers, position, events)
    return counts, digest.text


def make(ledger: Ledger, position: int, page: Sequence[Last]) -> DigestedPage:
    """Return the result for these streams at `position`, in bytewise key order. Raises: as `digest_at`."""
    counts, events, rows, plain = Counts(), 0, [], plain_types()
    facts = {fact[0]: fact for fact in ledger.log.facts_at([at for _, _, at in page])}
    for key, stream, at in page:
        fact = facts.get(at)
        if fact is None or at > position:
            raise stale(position)
        _, of, version, kind, schema, _, _, payload = fact
        if of != stream:
            raise stale(position)
        events += version
        if key[16:17] == b"@":
            continue
        if payload is None:
            continue
        seen = quick_element(payload) if (kind, schema) in plain else None
        if seen is None:
            element = image(ledger, StoredFact._make(fact))
            if element is not None:
                counts.add(element)
                rows.append(head_of(key) + pack_tail(element))
            continue
        state, sound, date, tz, form, sha256, size, iv, _, _ = seen
        counts.take(state, sound)
        rows += (head_of(key), tail_of(date, tz, form, state, sha256, size, iv))
    return DigestedPage(b"".join(rows), counts, events)


def _pages(ledger: Ledger, pointers: Pointers) -> Iterator[list[Last]]:
    for page in pages(ledger.log.streams_by_key(), LARGE_PAGE):
        yield [(key, stream, at) for key, stream in page if (at := pointers[stream])]
