"""The rule for commits and the tree: each position is in one commit, and each stored frontier matches the leaves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.audit.finding import Finding
from ledger.audit.rows import commit_fault
from ledger.merkle import Frontier
from ledger.rows import CommitRow

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ledger.rows import StoredEvent, StoredHead
    from ledger.stores import EventLog

_NO_COMMIT = CommitRow(0, 0, 0, None, None)
_MOST_SUSPECTS = 1000


class TreeAudit:
    """Follows the leaves of a log. `commit` is the row that covers the current position.

    The tree cannot be followed past a gap (`is_gapless`). If a stored frontier does not match, only a later one shows
    whether the leaves or that frontier are wrong. Until then that frontier is a suspect.
    """

    def __init__(self, log: EventLog, head: StoredHead) -> None:
        """Begin before the first commit."""
        self._commits = log.commits()
        self._head = head
        self._fitting = 0
        self._suspects: list[int] = []
        self._is_covered = True
        self.commit = _NO_COMMIT
        self.frontier = Frontier()
        self.leaves: list[bytes] = []
        self.is_gapless = True

    def grow(self) -> Frontier:
        """Add the collected leaves to the tree, and return its frontier."""
        self.frontier = self.frontier.extend(self.leaves)
        self.leaves.clear()
        return self.frontier

    def covers(self, event: StoredEvent) -> bool:
        """Whether the commit row covers this event."""
        return self.commit.first <= event.seq <= self.commit.last

    def next_commit(self, seq: int, recorded_us: int, position: int) -> Iterator[Finding]:
        """End the commit that contains `position`, and begin the next, whose first event must be at `seq`."""
        yield from self._end_commit(position)
        self.commit = next(self._commits, _NO_COMMIT)
        fault = commit_fault(self.commit)
        if fault is not None or self.commit is _NO_COMMIT:
            detail = "no commit covers it and the events after it" if fault is None else f"its commit is {fault}"
            yield Finding(kind="commit_mismatch", detail=detail, position=seq)
            # Report this only once: treat the rest as one commit.
            self.commit = CommitRow(self._head.position, seq, recorded_us, None, None)
            self._is_covered = False
        elif self.commit.first != seq or self.commit.last < seq:
            detail = f"its commit should begin with it, but covers {self.commit.first} to {self.commit.last}"
            yield Finding(kind="commit_mismatch", detail=detail, position=seq)

    def end(self, position: int, *, is_whole: bool, first_bad: int | None) -> Iterator[Finding]:
        """Compare the log up to `position` with the head. `is_whole` says that every row could be used."""
        head = self._head.position
        self.grow()
        yield from self._end_commit(position)
        if self._is_covered and is_whole and self.commit.last != head == position:
            detail = f"the last commit ends at position {self.commit.last}, but the head is at {head}"
            yield Finding(kind="commit_mismatch", detail=detail, position=min(self.commit.last, head))
        if not self.is_gapless:
            return
        if self.frontier.stored == self._head.frontier:
            yield from self._clear(position)
        elif self._fitting == head:
            yield Finding(kind="head_mismatch", detail="the head's frontier is not the tree's", position=head)
        elif first_bad is None or first_bad <= self._fitting:
            # An earlier finding after the last matching frontier already explains the mismatch, and is more precise.
            span = f"positions {self._fitting + 1} to {(self._suspects or [head])[0]}"
            detail = f"an event in {span} is not the one that the head commits to, or the head was changed"
            yield Finding(kind="root_mismatch", detail=detail, position=self._fitting + 1)

    def beyond(self, position: int) -> Iterator[Finding]:
        """Check the commit after those read. The head at `position` must cover it."""
        row = next(self._commits, None)
        if row is not None and commit_fault(row) is None and row.last > position:
            detail = f"a commit covers positions up to {row.last}, which are after the head"
            yield Finding(kind="commit_mismatch", detail=detail, position=row.first)

    # --- helpers ---

    def _end_commit(self, position: int) -> Iterator[Finding]:
        """Compare the stored frontier of the commit with the tree."""
        row = self.commit
        if row is _NO_COMMIT or not self._is_covered:
            return
        if row.frontier is None:
            yield Finding(kind="commit_mismatch", detail="the commit's frontier is missing", position=row.last)
        if row.frontier is None or not self.is_gapless or row.last != position:
            return
        if row.frontier == self.grow().stored:
            yield from self._clear(position)
        elif len(self._suspects) < _MOST_SUSPECTS:
            self._suspects.append(row.last)

    def _clear(self, position: int) -> Iterator[Finding]:
        """Accept the tree up to here. So the suspects, whose frontiers did not match it, are wrong themselves."""
        for suspect in self._suspects:
            yield Finding(kind="commit_mismatch", detail="the commit's frontier is not the tree's", position=suspect)
        self._suspects.clear()
        self._fitting = position
