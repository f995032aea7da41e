"""Compares every snapshot with the events, by folding the whole ledger again from nothing."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from msgspec import Struct

from kropot.replay.fold import pointers_for
from kropot.replay.kept import MARKS
from kropot.replay.marks import encode, load_mark
from kropot.replay.processes import in_processes
from kropot.replay.snapshots import OLD_COUNTS, POINTERS, is_same
from kropot.replay.state import Part, ReplicaState, change, steps, whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ledger.log import Ledger


class SnapshotFinding(Struct, frozen=True, kw_only=True):
    """A snapshot that is wrong. `why` is the reason in words."""

    kind: str
    position: int
    why: str


class SnapshotAudit:
    """Compares the snapshots up to `position` with the events.

    Once `findings` has ended, `compared` counts the snapshots, and `state` is the state at `position`. If `has_moved`
    is true, something was erased meanwhile, so this can be the state before or after that.
    """

    def __init__(
        self,
        ledger: Ledger,
        position: int | None = None,
        *,
        progress: Callable[[int], None] = lambda _events: None,
    ) -> None:
        """Start before the first snapshot. `position` defaults to the head.

        `progress` is called with the number of events folded so far.
        """
        self._ledger = ledger
        self._progress = progress
        self._position = ledger.log.head().position if position is None else position
        self.compared = 0
        self.has_moved = False
        self.state = ReplicaState()

    def findings(self) -> Iterator[SnapshotFinding]:
        """Yield a finding for each snapshot that differs from the events.

        An erasure removes the snapshots after what it erased. If one happens meanwhile, the next check does the rest.

        Raises:
            UnknownCriticalEventError, MalformedEventError: as `state.whole`.

        """
        marks: list[int] = []
        pointers: list[int] = []
        for kind, position in self._ledger.blobs.list_snapshots():
            if kind == OLD_COUNTS or self._position < position <= self._ledger.log.head().position:
                continue
            self.compared += 1
            if position > self._ledger.log.head().position:
                yield SnapshotFinding(kind=kind, position=position, why="it lies beyond the end of the ledger")
            elif kind == MARKS:
                marks.append(position)
            elif kind == POINTERS:
                pointers.append(position)
            else:
                yield SnapshotFinding(kind=kind, position=position, why="this version does not know its kind")
        for finding in chain(self._marks(marks), self._pointers(pointers)):
            if self._has_erased():
                break
            yield finding
        self.has_moved = self._has_erased()

    def _marks(self, marks: list[int]) -> Iterator[SnapshotFinding]:
        """Compare each mark with the state at the one before plus the changes since. Then continue to the end."""
        if not marks:
            self.state = whole(self._ledger, self._position, progress=self._progress)
            return
        ends = sorted({*marks, self._position})
        parts = (part for start, end in zip([0, *ends], ends, strict=False) for part in steps(start, end))
        due, reached = iter(marks), 0
        mark = next(due, None)
        for part in in_processes(_change, self._ledger, self._position, parts):
            self.state.merge(part)
            reached += part.events
            self._progress(reached)
            if reached == mark:
                found = load_mark(self._ledger, mark)
                if found is None or encode(found) != encode(self.state):
                    yield SnapshotFinding(kind=MARKS, position=mark, why=_why(found, self.state))
                mark = next(due, None)

    def _pointers(self, positions: list[int]) -> Iterator[SnapshotFinding]:
        pointed = 0
        with pointers_for(self._ledger) as pointers:
            for position in positions:
                pointers.fill(self._ledger.log.pointers(after=pointed, until=position))
                pointed = position
                if not is_same(self._ledger, position, pointers):
                    yield SnapshotFinding(kind=POINTERS, position=position, why="its pointers differ from the events")

    def _has_erased(self) -> bool:
        return any(event.seq > self._position for event in self._ledger.erasures())


def _change(ledger: Ledger, _: int, part: tuple[int, int]) -> Part:
    return change(ledger, *part)


def _why(found: ReplicaState | None, due: ReplicaState) -> str:
    if found is None:
        return "it is incomplete, or belongs to another history"
    if found.counts != due.counts:
        return "its counts differ from the events"
    return "its state digest differs from the events"
