"""Restore files: read each object, check it, open it, and only then give the file its name."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kropot.durable.errors import StorageError
from kropot.durable.refusals import InTheWayError, NoRoomError, TooLargeError, UnplaceableError
from kropot.objects.store import ObjectMissingError
from kropot.replay.copies import held_json
from kropot.restore.journal import content_of, show_name
from kropot.restore.opener import Content, DamagedError, copy_content
from kropot.restore.parallel import in_order
from kropot.restore.plan import Planned, Problem, RestoreProblem
from kropot.securecopy.sealing import BadSealError

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator
    from concurrent.futures import Executor

    from kropot.durable.draft import Draft
    from kropot.durable.target import TargetFolder
    from kropot.errors import KropotError
    from kropot.replay.copies import Copies
    from kropot.restore.journal import Journal

_NS = 1_000_000_000
_PROBLEMS: dict[type[KropotError], Problem] = {
    ObjectMissingError: "missing",
    DamagedError: "damaged",
    BadSealError: "unopened",
    StorageError: "unreadable",
    InTheWayError: "in_the_way",
    TooLargeError: "too_large",
    UnplaceableError: "unplaceable",
}
_PER_FILE = tuple(_PROBLEMS)
"""Errors that stop one file and not the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """A restored file of `size` plain bytes. `existed` is true if it was there before this run."""

    planned: Planned
    size: int
    existed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Written:
    """A file for the journal. `found` is its status on disk; `existed` is true if this run did not write it."""

    planned: Planned
    content: Content
    found: os.stat_result
    existed: bool


def restore(
    plans: Iterable[Planned | RestoreProblem], *, copies: Copies, tree: TargetFolder, journal: Journal, pool: Executor
) -> Iterator[Restored | RestoreProblem]:
    """Write the planned files, several at a time. Yield each result in order.

    Files that an earlier run finished are not written again. Files that are not ours are never changed. If such a file
    already holds exactly the planned content, it counts as restored.

    Raises:
        TreeError: nothing more can be written. Every file that has a name is complete, and a second run continues.

    """
    job = _Job(copies, tree, journal)
    for outcome in in_order(pool, job.work, map(job.prepare, plans), window=64):
        if isinstance(outcome, _Written):
            planned = outcome.planned
            content = outcome.content
            journal.wrote(planned.path, planned.held.identity, outcome.found, content.sha256, _details(planned))
            yield Restored(planned=planned, size=outcome.content.size, existed=outcome.existed)
        else:
            yield outcome
    journal.sync()
    tree.settle()


@dataclass(frozen=True, slots=True)
class _Task:
    """A planned file. `is_taken`: a file has its name already, which may be ours or not."""

    planned: Planned
    is_taken: bool


class _Job:
    def __init__(self, copies: Copies, tree: TargetFolder, journal: Journal) -> None:
        self._copies = copies
        self._tree = tree
        self._journal = journal

    def prepare(self, plan: Planned | RestoreProblem) -> _Task | Restored | RestoreProblem:
        """Check what is already at the path. Only one thread calls this, in order."""
        if isinstance(plan, RestoreProblem):
            return plan
        held, found = plan.held, self._tree.look(plan.path)
        if held.iv is not None and plan.opened.kit is None:
            return _finding(
                "unopened", plan, "the content is encrypted and the form is not: open it with `kropotcli decrypt`"
            )
        if found is None:
            return _Task(plan, is_taken=False)
        if not stat.S_ISREG(found.st_mode):
            return _finding(
                "in_the_way",
                plan,
                "a folder, link or device has this name and was left alone: move it away and run this again",
            )
        if self._journal.is_done(plan.path, held.identity, found):
            return Restored(planned=plan, size=found.st_size, existed=True)
        return _Task(plan, is_taken=True)

    def work(self, task: _Task | Restored | RestoreProblem) -> _Written | Restored | RestoreProblem:
        """Carry out the prepared task. Several threads call this."""
        if not isinstance(task, _Task):
            return task
        plan = task.planned
        try:
            draft = self._tree.draft()
            try:
                return self._write(task, draft)
            finally:
                draft.drop()
        except _PER_FILE as error:
            problem = next(name for kind, name in _PROBLEMS.items() if isinstance(error, kind))
            return _finding(problem, plan, str(error))
        except NoRoomError:
            alone = self._tree.too_large(plan.held.size)
            if alone is None:
                raise
            return _finding("too_large", plan, str(alone))

    def _write(self, task: _Task, draft: Draft) -> _Written | RestoreProblem:
        plan = task.planned
        held, claim = plan.held, plan.opened.claim
        with self._copies.open(held) as source:
            content = copy_content(source, draft.write, held=held, kit=plan.opened.kit)
        if claim.sha256 is not None and claim.sha256 != content.sha256:
            return _finding(
                "bad_content",
                plan,
                "the opened content differs from its form, so the file changed while the server sent it: "
                "open it anyway with `kropotcli decrypt`",
            )
        if task.is_taken and (outcome := self._keep(plan, content)) is not None:
            return outcome
        mtime_ns = claim.mtime_ns if claim.mtime_ns is not None else held.date * _NS
        draft.dress(mode=claim.mode, mtime_ns=mtime_ns)
        found = draft.sync()
        self._tree.place(draft, plan.path, replace=task.is_taken)
        return _Written(planned=plan, content=content, found=found, existed=False)

    def _keep(self, plan: Planned, content: Content) -> _Written | RestoreProblem | None:
        """Return what becomes of the file that has the name already, or None if we wrote it and may replace it.

        A file that already holds exactly the planned content is accepted: an earlier run stopped before recording it.
        """
        try:
            found, sha256 = content_of(self._tree.read(plan.path))
        except OSError as error:
            return _finding(
                "in_the_way",
                plan,
                f"a file that cannot be read has this name ({error.strerror}): move it away and run this again",
            )
        if self._journal.is_ours(plan.path, sha256):
            return None
        if sha256 != content.sha256:
            return _finding(
                "in_the_way",
                plan,
                "a file with other content has this name and was left alone: move it away and run this again",
            )
        return _Written(planned=plan, content=content, found=found, existed=True)


def _finding(problem: Problem, plan: Planned, why: str) -> RestoreProblem:
    return RestoreProblem(problem=problem, key=plan.held.key, name=plan.shown, why=why)


def _details(plan: Planned) -> dict[str, Any]:
    """Return the manifest's fields about a file, apart from its path and content."""
    held, claim = plan.held, plan.opened.claim
    stored = held_json(held)
    return {
        **show_name("name", claim.name),
        "mode": claim.mode,
        "mtime_ns": None if claim.mtime_ns is None else str(claim.mtime_ns),
        "source": stored["source"],
        "type": stored["type"],
        "id": stored["id"],
        "date": stored["date"],
        "tz": stored["tz"],
        "state": stored["state"],
        "object": stored["sha256"],
        "is_older": held.is_older,
        "form": claim.rest,
    }
