"""Counts and state digest, from the events: of a whole state, or of what changed between two positions.

Both can be added and subtracted. So the state at one position follows from that at another and the change between.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from kropot.replay.counts import Counts
from kropot.replay.fold import LARGE_PAGE, StalePointersError, image, pages
from kropot.replay.kept import MARKS_EVERY
from kropot.replay.processes import in_processes
from ledger.digest import SetDigest, head_of, pack_tail, tail_of
from ledger.quick import plain_types, quick_element
from ledger.rows import StoredFact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from ledger.log import Ledger

STEP = MARKS_EVERY
"""How many events to compute a change from at a time, so that memory does not grow with the number of events."""


class Part(NamedTuple):
    """What some streams contribute to a state: counts, lanes of the digest by source, and their number of events."""

    counts: Counts
    lanes: dict[bytes, bytes]
    events: int


@dataclass(slots=True, kw_only=True)
class ReplicaState:
    """What a replica holds at a position. The digest stays empty if it was not asked for.

    `mark` is the position of the mark that it was computed from, None if it was computed from all events.
    """

    counts: Counts = field(default_factory=Counts)
    digest: SetDigest = field(default_factory=SetDigest)
    mark: int | None = None

    def merge(self, part: Part, times: int = 1) -> None:
        """Add a part. With `times` -1, subtract it."""
        self.counts.merge(part.counts, times)
        self.digest.add_all(part.lanes, times)


def whole(
    ledger: Ledger,
    position: int,
    *,
    digest: bool = True,
    processes: int | None = None,
    progress: Callable[[int], None] = lambda _events: None,
) -> ReplicaState:
    """Return the state at `position`, computed from each stream's last event.

    The fold checks itself: each event has its number in its stream, so the numbers of all last events add up to the
    position. `processes` is as for `in_processes`. `progress` is called with the sum of the numbers so far.

    Raises:
        StalePointersError: the numbers do not add up to the position. Without `digest` this is not checked.
        UnknownCriticalEventError: an event that must not be skipped is of a type unknown here.
        MalformedEventError: an event cannot be read.

    """
    state, events = ReplicaState(), 0
    work = _with_digest if digest else _without_digest
    found = pages((at for at, _ in ledger.log.last_positions(position)), LARGE_PAGE)
    for part in in_processes(work, ledger, position, found, processes=processes):
        state.merge(part)
        events += part.events
        progress(events)
    if digest and events != position:
        raise StalePointersError(
            f"the events up to position {position} are incomplete: run `kropotcli verify` to see what was altered"
        )
    return state


def move(ledger: Ledger, state: ReplicaState, start: int, end: int, *, digest: bool = True) -> None:
    """Turn the state at `start` into that at `end`, which can be earlier or later. Raises: as `whole`."""
    for after, until in steps(*sorted((start, end))):
        state.merge(change(ledger, after, until, digest=digest), 1 if start < end else -1)


def steps(after: int, until: int) -> Iterator[tuple[int, int]]:
    """Yield (`after`, `until`] in parts of at most `STEP` events."""
    for start in range(after, until, STEP):
        yield start, min(start + STEP, until)


def change(ledger: Ledger, after: int, until: int, *, digest: bool = True) -> Part:
    """Return the difference from the state at `after` to that at `until`. Raises: as `whole`.

    This reads the events between the two, and the earlier states of the streams that they belong to.
    """
    last: dict[int, int] = {}
    times: dict[int, int] = {}
    for at, stream in ledger.log.pointers(after=after, until=until):
        last[stream] = at
        times[stream] = times.get(stream, 0) + 1
    keys = dict(ledger.log.streams(last)) if digest else {}
    counts, changed, rows, known = Counts(), SetDigest(), {}, []
    for stream, version, row in _read(ledger, sorted(last.values()), keys, counts, 1):
        if version > times[stream]:
            known.append(stream)
        if row is not None:
            rows[stream] = row
    before = sorted(at for at, _ in ledger.log.last_positions(after, known))
    for stream, _, row in _read(ledger, before, keys, counts, -1):
        if row is None:
            continue
        if rows.get(stream) == row:
            del rows[stream]
        else:
            changed.remove(row)
    for row in rows.values():
        changed.add(row)
    return Part(counts, changed.lanes, until - after)


def _with_digest(ledger: Ledger, _: int, positions: Sequence[int]) -> Part:
    """Return what the states after the events at these positions contribute."""
    counts, digest, events = Counts(), SetDigest(), 0
    facts = ledger.log.facts_at(positions)
    keys = dict(ledger.log.streams([fact[1] for fact in facts]))
    for _, version, row in _rows(ledger, facts, keys, counts, 1):
        events += version
        if row is not None:
            digest.add(row)
    return Part(counts, digest.lanes, events)


def _without_digest(ledger: Ledger, _: int, positions: Sequence[int]) -> Part:
    counts = Counts()
    events = sum(version for _, version, _ in _read(ledger, positions, {}, counts, 1))
    return Part(counts, {}, events)


def _read(
    ledger: Ledger, positions: Sequence[int], keys: Mapping[int, bytes | None], counts: Counts, times: int
) -> Iterator[tuple[int, int, bytes | None]]:
    return _rows(ledger, ledger.log.facts_at(positions), keys, counts, times)


def _rows(
    ledger: Ledger, facts: Sequence[tuple[object, ...]], keys: Mapping[int, bytes | None], counts: Counts, times: int
) -> Iterator[tuple[int, int, bytes | None]]:
    """Yield (stream, its version, row) for each fact, and add its state to `counts` `times` times.

    The row is None if the fact is not about an element, if it was erased, or if `keys` does not have its stream.
    """
    plain = plain_types()
    for fact in map(StoredFact._make, facts):
        _, stream, version, kind, schema, _, _, payload = fact
        key = keys.get(stream)
        if payload is None:
            yield stream, version, None
            continue
        row = None
        # The ledger's own streams have an "@" where an element has its type.
        head = None if key is None or key[16:17] == b"@" else head_of(key)
        seen = quick_element(payload) if (kind, schema) in plain else None
        if seen is not None:
            state, sound, date, tz, form, sha256, size, iv, _, _ = seen
            counts.take(state, sound, times)
            if head is not None:
                row = head + tail_of(date, tz, form, state, sha256, size, iv)
        elif (element := image(ledger, fact)) is not None:
            counts.add(element, times)
            if head is not None:
                row = head + pack_tail(element)
        yield stream, version, row
