"""Restore files: read each object, check it, open it, and only then give the file its name."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kropot.durable.draft import InTheWayError, UnplaceableError
from kropot.durable.errors import StorageError
from kropot.objects.store import ObjectMissingError
from kropot.replay.copies import held_json
from kropot.restore.journal import show_name
from kropot.restore.opener import BUFFER, Content, DamagedError, copy_content
from kropot.restore.parallel import in_order
from kropot.restore.plan import Planned, Problem, RestoreProblem
from kropot.securecopy.sealing import BadSealError

if TYPE_CHECKING:
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
            journal.wrote(planned.path, planned.held.identity, outcome.found, _details(planned, outcome.content))
            yield Restored(planned=planned, size=outcome.content.size, existed=outcome.existed)
        else:
            yield outcome
    journal.sync()
    tree.settle()


@dataclass(frozen=True, slots=True)
class _Task:
    """A planned file. `replace`: an older file of ours has its name. `compare`: a file of unknown origin has it."""

    planned: Planned
    replace: bool
    compare: bool


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
            return _Task(plan, replace=False, compare=False)
        if not stat.S_ISREG(found.st_mode):
            return _finding(
                "in_the_way",
                plan,
                "a folder, link or device has this name and was left alone: move it away and run this again",
            )
        return self._judge(plan, found)

    def work(self, task: _Task | Restored | RestoreProblem) -> _Written | Restored | RestoreProblem:
        """Carry out the prepared task. Several threads call this."""
        if not isinstance(task, _Task):
            return task
        plan = task.planned
        draft = self._tree.draft()
        try:
            return self._write(task, draft)
        except _PER_FILE as error:
            problem = next(name for kind, name in _PROBLEMS.items() if isinstance(error, kind))
            return _finding(problem, plan, str(error))
        finally:
            draft.drop()

    def _judge(self, plan: Planned, found: os.stat_result) -> _Task | Restored:
        """Decide what to do about a file that already has the name."""
        if self._journal.is_done(plan.path, plan.held.identity, found):
            return Restored(planned=plan, size=found.st_size, existed=True)
        ours = self._journal.is_ours(plan.path, found)
        return _Task(plan, replace=ours, compare=not ours)

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
        if task.compare:
            return self._adopt(plan, content)
        mtime_ns = claim.mtime_ns if claim.mtime_ns is not None else held.date * _NS
        draft.dress(mode=claim.mode, mtime_ns=mtime_ns)
        found = draft.sync()
        self._tree.place(draft, plan.path, replace=task.replace)
        return _Written(planned=plan, content=content, found=found, existed=False)

    def _adopt(self, plan: Planned, content: Content) -> _Written | RestoreProblem:
        """Accept a file that already holds exactly this content: an earlier run stopped before recording it."""
        try:
            with os.fdopen(self._tree.read(plan.path), "rb", buffering=0) as file:
                found = os.fstat(file.fileno())
                digest = hashlib.sha256()
                while found.st_size == content.size and (data := file.read(BUFFER)):
                    digest.update(data)
        except OSError as error:
            return _finding(
                "in_the_way",
                plan,
                f"a file that cannot be read has this name ({error.strerror}): move it away and run this again",
            )
        if found.st_size != content.size or digest.digest() != content.sha256:
            return _finding(
                "in_the_way",
                plan,
                "a file with other content has this name and was left alone: move it away and run this again",
            )
        return _Written(planned=plan, content=content, found=found, existed=True)


def _finding(problem: Problem, plan: Planned, why: str) -> RestoreProblem:
    return RestoreProblem(problem=problem, key=plan.held.key, name=plan.shown, why=why)


def _details(plan: Planned, content: Content) -> dict[str, Any]:
    """Return the manifest's fields about a file, apart from its path."""
    held, claim = plan.held, plan.opened.claim
    stored = held_json(held)
    return {
        **show_name("name", claim.name),
        "sha256": content.sha256.hex(),
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
