"""Restore files: read each object, check it, open it, and only then give the file its name."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from kropot.durable.errors import StorageError
from kropot.durable.refusals import InTheWayError, NoRoomError, TooLargeError, UnplaceableError
from kropot.objects.store import ObjectMissingError
from kropot.replay.copies import held_json
from kropot.restore.authentic import DamagedError
from kropot.restore.journal import content_of, show_name
from kropot.restore.opener import Content, copy_content
from kropot.restore.parallel import in_order
from kropot.restore.plan import Planned, Problem, RestoreProblem
from kropot.sc2.refused import RefusedError
from kropot.securecopy.sealing import BadSealError

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Executor

    from kropot.durable.draft import Draft
    from kropot.durable.target import TargetFolder
    from kropot.errors import KropotError
    from kropot.replay.copies import Copies
    from kropot.restore.journal import Journal

Overwrite = Literal["never", "older", "always"]
"""When a file that restore did not write is replaced. "older": if it is older than the file that comes back."""

_NS = 1_000_000_000
_PROBLEMS: dict[type[KropotError], Problem] = {
    ObjectMissingError: "missing",
    DamagedError: "damaged",
    RefusedError: "refused",
    BadSealError: "unopened",
    StorageError: "unreadable",
    InTheWayError: "in_the_way",
    TooLargeError: "too_large",
    UnplaceableError: "unplaceable",
}
PER_FILE = tuple(_PROBLEMS)
"""Errors that stop one file and not the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """A restored file of `size` plain bytes. `existed` is true if it was there before this run.

    `overwrote` is true if it replaced a file that restore had not written.
    """

    planned: Planned
    size: int
    existed: bool = False
    overwrote: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Written:
    """A file for the journal. `found` is its status on disk; `existed` is true if this run did not write it."""

    planned: Planned
    content: Content
    found: os.stat_result
    existed: bool
    overwrote: bool = False


def restore(
    plans: Iterable[Planned | RestoreProblem],
    *,
    copies: Copies,
    tree: TargetFolder,
    journal: Journal,
    pool: Executor,
    overwrite: Overwrite = "never",
    moved: Callable[[int], None] = lambda _: None,
) -> Iterator[Restored | RestoreProblem]:
    """Write the planned files, several at a time. Yield each result in order.

    Files that an earlier run finished are not written again. Files that are not ours are changed only as `overwrite`
    allows. If such a file already holds exactly the planned content, it counts as restored. Any thread calls `moved`
    with the number of bytes that it wrote, or that an earlier run had written.

    Raises:
        TreeError: nothing more can be written. Every file that has a name is complete, and a second run continues.

    """
    job = _Job(copies, tree, journal, overwrite, moved)
    for outcome in in_order(pool, job.work, map(job.prepare, plans), window=64):
        if isinstance(outcome, _Written):
            planned = outcome.planned
            content = outcome.content
            journal.wrote(planned.path, planned.held.identity, outcome.found, content.sha256, _details(planned))
            yield Restored(planned=planned, size=content.size, existed=outcome.existed, overwrote=outcome.overwrote)
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
    def __init__(
        self,
        copies: Copies,
        tree: TargetFolder,
        journal: Journal,
        overwrite: Overwrite,
        moved: Callable[[int], None],
    ) -> None:
        self._moved = moved
        self._overwrite = overwrite
        self._copies = copies
        self._tree = tree
        self._journal = journal

    def prepare(self, plan: Planned | RestoreProblem) -> _Task | Restored | RestoreProblem:
        """Check what is already at the path. Only one thread calls this, in order."""
        if isinstance(plan, RestoreProblem):
            return plan
        held, found = plan.held, self._tree.look(plan.path)
        if (unopened := unopened_of(plan)) is not None:
            return unopened
        if found is None:
            return _Task(plan, is_taken=False)
        if not stat.S_ISREG(found.st_mode):
            return finding(
                "in_the_way",
                plan,
                "a folder, link or device has this name and was left alone: move it away and run this again",
            )
        if self._journal.is_done(plan.path, held.identity, found):
            self._moved(found.st_size)
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
        except PER_FILE as error:
            return problem_of(error, plan)
        except NoRoomError:
            alone = self._tree.too_large(plan.held.size)
            if alone is None:
                raise
            return finding("too_large", plan, str(alone))

    def _write(self, task: _Task, draft: Draft) -> _Written | RestoreProblem:
        plan = task.planned
        claim = plan.opened.claim

        def write(data: memoryview) -> None:
            draft.write(data)
            self._moved(len(data))

        with self._copies.open(plan.held) as source:
            content = copy_content(source, write, held=plan.held, kit=plan.opened.kit)
        if (bad := bad_content_of(plan, content)) is not None:
            return bad
        kept = self._keep(plan, content) if task.is_taken else None
        may_overwrite = isinstance(kept, RestoreProblem) and self._may_overwrite(plan)
        if kept is not None and not may_overwrite:
            return kept
        draft.dress(mode=claim.mode, mtime_ns=time_of(plan))
        found = draft.sync()
        self._tree.place(draft, plan.path, replace=task.is_taken)
        return _Written(planned=plan, content=content, found=found, existed=False, overwrote=may_overwrite)

    def _may_overwrite(self, plan: Planned) -> bool:
        """Return whether the file that has the name, which is not ours, may be replaced."""
        found = self._tree.look(plan.path)
        return found is not None and may_overwrite(found, plan, self._overwrite)

    def _keep(self, plan: Planned, content: Content) -> _Written | RestoreProblem | None:
        """Return what becomes of the file that has the name already, or None if we wrote it and may replace it.

        A file that already holds exactly the planned content is accepted: an earlier run stopped before recording it.
        """
        try:
            found, sha256 = content_of(self._tree.read(plan.path))
        except OSError as error:
            return finding(
                "in_the_way",
                plan,
                f"a file that cannot be read has this name ({error.strerror}): move it away and run this again",
            )
        if self._journal.is_ours(plan.path, sha256):
            return None
        if sha256 != content.sha256:
            return finding(
                "in_the_way",
                plan,
                "a file with other content has this name and was left alone: move it away, or allow it with "
                "--overwrite, and run this again",
            )
        return _Written(planned=plan, content=content, found=found, existed=True)


def time_of(plan: Planned) -> int:
    """Return the time that the file gets, in nanoseconds since 1970: its own, or the server's date for it."""
    mtime_ns = plan.opened.claim.mtime_ns
    return plan.held.date * _NS if mtime_ns is None else mtime_ns


def may_overwrite(found: os.stat_result, plan: Planned, overwrite: Overwrite) -> bool:
    """Return whether a file that restore did not write may be replaced. A folder, link or device never may."""
    if not stat.S_ISREG(found.st_mode):
        return False
    return overwrite == "always" or (overwrite == "older" and found.st_mtime_ns < time_of(plan))


def unopened_of(plan: Planned) -> RestoreProblem | None:
    """Return the problem of a content that nothing given here opens, None if there is none."""
    sealing = plan.opened.sealing
    if sealing == "cbc" and plan.held.iv is None:
        return finding("refused", plan, "its form is sealed, and its content is not: somebody exchanged it")
    if plan.held.iv is None or sealing != "plain":
        return None
    return finding("unopened", plan, "the content is encrypted and the form is not: open it with `kropotcli decrypt`")


def bad_content_of(plan: Planned, content: Content) -> RestoreProblem | None:
    """Return the problem of a content that is not what its form says, None if it is."""
    claim = plan.opened.claim
    is_restless = claim.rest.get("restless") is True
    has_size = claim.size is None or is_restless or claim.size == content.size
    if has_size and claim.sha256 in {None, content.sha256}:
        return None
    return finding(
        "bad_content",
        plan,
        "the opened content differs from its form: the file changed while the server sent it, or somebody exchanged "
        "it; open it anyway with `kropotcli decrypt`",
    )


def problem_of(error: KropotError, plan: Planned) -> RestoreProblem:
    """Return the problem of one file that such an error means. `error` MUST be one of `PER_FILE`."""
    problem = next(name for kind, name in _PROBLEMS.items() if isinstance(error, kind))
    return finding(problem, plan, str(error))


def finding(problem: Problem, plan: Planned, why: str) -> RestoreProblem:
    """Return a problem of a planned file."""
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
