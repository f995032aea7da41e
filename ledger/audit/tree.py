"""The rule of commits and tree: every position lies in one commit, and every kept frontier is that of the leaves."""

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
    """Follows the leaves of a log; `commit` is the row that covers the present position.

    The tree cannot be followed past a gap (`is_gapless`). Where a kept frontier does not fit, only a later one can tell
    whether the leaves or that frontier are wrong: until then it is a suspect.
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
        """Take in the leaves that came, and return the tree's frontier."""
        self.frontier = self.frontier.extend(self.leaves)
        self.leaves.clear()
        return self.frontier

    def covers(self, event: StoredEvent) -> bool:
        """Whether the commit row covers this event; a row that begins later belongs to another commit."""
        return self.commit.first <= event.seq <= self.commit.last

    def next_commit(self, seq: int, recorded_us: int, position: int) -> Iterator[Finding]:
        """End the commit that `position` was in, and begin the one that the event at `seq` must be the first of."""
        yield from self._end_commit(position)
        self.commit = next(self._commits, _NO_COMMIT)
        fault = commit_fault(self.commit)
        if fault is not None or self.commit is _NO_COMMIT:
            detail = "no commit covers it and what follows" if fault is None else f"its commit is {fault}"
            yield Finding(kind="commit_mismatch", detail=detail, position=seq)
            # Say it once: treat the rest as one commit, with each event's own time.
            self.commit = CommitRow(self._head.position, seq, recorded_us, None, None)
            self._is_covered = False
        elif self.commit.first != seq or self.commit.last < seq:
            detail = f"the commit that should begin with it covers {self.commit.first} to {self.commit.last}"
            yield Finding(kind="commit_mismatch", detail=detail, position=seq)

    def end(self, position: int, *, is_whole: bool, first_bad: int | None) -> Iterator[Finding]:
        """Compare what was read up to `position` with the head; `is_whole` says that every row could be used."""
        head = self._head.position
        self.grow()
        yield from self._end_commit(position)
        if self._is_covered and is_whole and self.commit.last != head == position:
            detail = f"the last commit ends at position {self.commit.last}, and the head stands at {head}"
            yield Finding(kind="commit_mismatch", detail=detail, position=min(self.commit.last, head))
        if not self.is_gapless:
            return
        if self.frontier.stored == self._head.frontier:
            yield from self._clear(position)
        elif self._fitting == head:
            yield Finding(kind="head_mismatch", detail="the head's frontier is not the tree's", position=head)
        elif first_bad is None or first_bad <= self._fitting:
            # A finding after the last fitting frontier is the reason why this one does not fit, and says more.
            span = f"somewhere in positions {self._fitting + 1} to {(self._suspects or [head])[0]}"
            detail = f"{span} the events are not those that the head commits to, or the head was changed"
            yield Finding(kind="root_mismatch", detail=detail, position=self._fitting + 1)

    def beyond(self, position: int) -> Iterator[Finding]:
        """Look at the commit behind those read, which the head at `position` must know."""
        row = next(self._commits, None)
        if row is not None and commit_fault(row) is None and row.last > position:
            detail = f"a commit of positions that the head does not know, up to {row.last}"
            yield Finding(kind="commit_mismatch", detail=detail, position=row.first)

    # --- helpers ---

    def _end_commit(self, position: int) -> Iterator[Finding]:
        """Compare the frontier that a commit keeps."""
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
        """Take the tree as right up to here: the kept frontiers that did not fit before were wrong themselves."""
        for suspect in self._suspects:
            yield Finding(kind="commit_mismatch", detail="the commit's frontier is not the tree's", position=suspect)
        self._suspects.clear()
        self._fitting = position
