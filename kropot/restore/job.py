"""Restore files: read each object, check it, open it, and only then give the file its name.

Folders and symlinks come back the same way. Files with several names come last (kropot/restore/links.py), and then
folders get their modes and times (kropot/restore/folders.py).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from kropot.durable.attributes import Attributes
from kropot.durable.errors import StorageError
from kropot.durable.refusals import InTheWayError, NoRoomError, TooLargeError, UnplaceableError
from kropot.objects.store import ObjectMissingError
from kropot.restore.authentic import DamagedError
from kropot.restore.entry import (
    details_of,
    group_of,
    is_of_kind,
    is_same,
    may_overwrite,
    size_of,
    target_of,
    time_of,
)
from kropot.restore.folders import Folders
from kropot.restore.journal import content_of
from kropot.restore.links import LinkGroup, LinkGroups
from kropot.restore.opener import Content, copy_content
from kropot.restore.owners import Owners, attributes_of
from kropot.restore.parallel import in_order
from kropot.restore.plan import Planned, Problem, RestoreProblem
from kropot.restore.spool import Spool
from kropot.sc2.form import Kind
from kropot.sc2.refused import RefusedError
from kropot.securecopy.sealing import BadSealError

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from concurrent.futures import Executor

    from kropot.durable.dirfd import Parts
    from kropot.durable.draft import Draft
    from kropot.durable.target import TargetFolder
    from kropot.errors import KropotError
    from kropot.replay.copies import Copies
    from kropot.restore.entry import Overwrite
    from kropot.restore.journal import Journal

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
    """A restored file of `size` plain bytes, a folder, or a symlink. `existed` is true if it was there before this run.

    `overwrote` is true if it replaced a file that restore had not written, and `unlinked` if it should be one file with
    others and is one of its own.
    """

    planned: Planned
    size: int
    existed: bool = False
    overwrote: bool = False
    unlinked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Written:
    """What came under its name. `existed` is true if this run did not write it.

    `found` is its status on disk, for the journal; None for a folder, which has `wanted` for its end instead.
    """

    planned: Planned
    content: Content
    found: os.stat_result | None = None
    wanted: Attributes | None = None
    existed: bool = False
    overwrote: bool = False
    unlinked: bool = False


def restore(
    plans: Iterable[Planned | RestoreProblem],
    *,
    copies: Copies,
    tree: TargetFolder,
    journal: Journal,
    pool: Executor,
    overwrite: Overwrite = "never",
    owners: Owners | None = None,
    keys: Sequence[object] = (),
    moved: Callable[[int], None] = lambda _: None,
) -> Iterator[Restored | RestoreProblem]:
    """Write what is planned, several at a time. Yield each result in order.

    Files that an earlier run finished are not written again. Files that are not ours are changed only as `overwrite`
    allows. If such a file already holds exactly the planned content, it counts as restored. Any thread calls `moved`
    with the number of bytes that it wrote, or that an earlier run had written. `keys` are the keys in the plans: they
    are never written to the disk. What the target refuses beside contents is counted in `tree.refused`.

    Raises:
        TreeError: nothing more can be written. Every file that has a name is complete, and a second run continues.

    """
    with Folders(tree, journal) as folders, Spool[Planned](kept=keys) as linked:
        job = _Job(
            copies=copies,
            tree=tree,
            journal=journal,
            overwrite=overwrite,
            moved=moved,
            owners=owners or Owners(numeric=False),
            folders=folders,
        )

        def done(some: Iterable[Planned | RestoreProblem]) -> Iterator[Restored | RestoreProblem]:
            for outcome in in_order(pool, job.work, map(job.prepare, some), window=64):
                yield job.record(outcome) if isinstance(outcome, _Written) else outcome

        yield from done(_apart(plans, linked))
        yield from done(linked.in_order())
        folders.dress()
        journal.sync()
        tree.settle()


def _apart(plans: Iterable[Planned | RestoreProblem], linked: Spool[Planned]) -> Iterator[Planned | RestoreProblem]:
    """Yield the plans, and put those that are one file with others into `linked`, where they come together."""
    for plan in plans:
        if isinstance(plan, Planned) and (group := group_of(plan)) is not None:
            linked.add(group, plan)
        else:
            yield plan


@dataclass(frozen=True, slots=True)
class _Task:
    """A planned entry. `is_taken`: something of its kind has its name already, which may be ours or not."""

    planned: Planned
    is_taken: bool
    group: LinkGroup | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    copies: Copies
    tree: TargetFolder
    journal: Journal
    overwrite: Overwrite
    moved: Callable[[int], None]
    owners: Owners
    folders: Folders
    groups: LinkGroups = field(default_factory=LinkGroups)

    def prepare(self, plan: Planned | RestoreProblem) -> _Task | Restored | RestoreProblem:
        """Check what is already at the path. Only one thread calls this, in order."""
        if isinstance(plan, RestoreProblem):
            return plan
        if plan.opened.claim.sealed is not None:
            self.folders.expect()
        held, found = plan.held, self.tree.look(plan.path)
        if (unopened := unopened_of(plan)) is not None:
            return unopened
        group = self.groups.of(group_of(plan))
        if found is None:
            return _Task(plan, is_taken=False, group=group)
        if not is_of_kind(found, plan):
            return finding(
                "in_the_way",
                plan,
                f"something else than a {plan.opened.claim.kind} (a folder, link or device, say) has this name and "
                "was left alone: move it away and run this again",
            )
        if group is None and self.journal.is_done(plan.path, held.identity, found):
            self.moved(found.st_size)
            return Restored(planned=plan, size=size_of(plan, found), existed=True)
        return _Task(plan, is_taken=True, group=group)

    def work(self, task: _Task | Restored | RestoreProblem) -> _Written | Restored | RestoreProblem:
        """Carry out the prepared task. Several threads call this."""
        if not isinstance(task, _Task):
            return task
        plan = task.planned
        try:
            return self._restore(task)
        except PER_FILE as error:
            return problem_of(error, plan)
        except NoRoomError:
            alone = self.tree.too_large(plan.held.size)
            if alone is None:
                raise
            return finding("too_large", plan, str(alone))

    def _restore(self, task: _Task) -> _Written | Restored | RestoreProblem:
        match task.planned.opened.claim.kind:
            case Kind.FOLDER:
                return self._make_folder(task)
            case Kind.SYMLINK:
                return self._make_symlink(task)
            case Kind.FILE:
                return self._write(task) if task.group is None else self._write_one_of(task, task.group)

    def record(self, written: _Written) -> Restored:
        """Remember what came under its name. Only one thread calls this, in order."""
        plan, content = written.planned, written.content
        if written.wanted is not None:
            self.folders.add(plan.path, written.wanted)
        if written.found is not None:
            self.journal.wrote(plan.path, plan.held.identity, written.found, content.sha256, details_of(plan))
        return Restored(
            planned=plan,
            size=content.size,
            existed=written.existed,
            overwrote=written.overwrote,
            unlinked=written.unlinked,
        )

    # --- files --------------------------------------------------------------------------------------------------------

    def _write(self, task: _Task) -> _Written | RestoreProblem:
        draft = self.tree.draft()
        try:
            return self._fill(task, draft)
        finally:
            draft.drop()

    def _fill(self, task: _Task, draft: Draft) -> _Written | RestoreProblem:
        plan = task.planned

        def write(data: memoryview) -> None:
            draft.write(data)
            self.moved(len(data))

        content = self._read(plan, write, draft.skip)
        if isinstance(content, RestoreProblem):
            return content
        kept = self._keep(plan, content) if task.is_taken else None
        may_overwrite = isinstance(kept, RestoreProblem) and self._may_overwrite(plan)
        if kept is not None and not may_overwrite:
            return kept
        self.tree.note(draft.dress(self._attributes(plan, content)))
        found = draft.sync()
        self.tree.place(draft, plan.path, replace=task.is_taken)
        return _Written(planned=plan, content=content, found=found, overwrote=may_overwrite)

    def _read(
        self, plan: Planned, write: Callable[[memoryview], object], skip: Callable[[int], object] | None = None
    ) -> Content | RestoreProblem:
        """Read the object to its end, and pass its plain bytes on."""
        with self.copies.open(plan.held) as source:
            content = copy_content(source, write, held=plan.held, kit=plan.opened.kit, skip=skip)
        return bad_content_of(plan, content) or content

    def _check(self, plan: Planned) -> Content | RestoreProblem:
        """Read the object to its end, and keep nothing of it."""
        return self._read(plan, lambda data: self.moved(len(data)))

    def _attributes(self, plan: Planned, content: Content) -> Attributes:
        """Return what the entry gets beside its content."""
        listed = plan.opened.claim.sealed
        if listed is None:
            return Attributes(mode=plan.opened.claim.mode, mtime_ns=time_of(plan))
        if self.owners.is_lost(listed):
            self.tree.note(("owner",))
        return attributes_of(listed, content.form, self.owners, time_of(plan))

    def _write_one_of(self, task: _Task, group: LinkGroup) -> _Written | Restored | RestoreProblem:
        """Write a file that has several names, or link it to the name that is there already."""
        plan = task.planned
        with group.lock:
            found = self.tree.look(plan.path)
            if found is not None and self.journal.is_done(plan.path, plan.held.identity, found):
                lead = None if group.path is None else self.tree.look(group.path)
                if lead is None or is_same(lead, found):
                    group.path = group.path or plan.path
                    self.moved(found.st_size)
                    return Restored(planned=plan, size=found.st_size, existed=True)
            outcome = self._write(task) if group.path is None else self._link(task, group.path, group.sha256)
            if group.path is None and isinstance(outcome, _Written):
                group.path, group.sha256 = plan.path, outcome.content.sha256
            return outcome

    def _link(self, task: _Task, lead: Parts, sha256: bytes | None) -> _Written | RestoreProblem:
        """Make another name of the file at `lead` if the contents agree, else a file of its own."""
        plan = task.planned
        content = self._check(plan)
        if isinstance(content, RestoreProblem):
            return content
        kept = self._keep(plan, content) if task.is_taken else None
        may_overwrite = isinstance(kept, RestoreProblem) and self._may_overwrite(plan)
        if isinstance(kept, _Written):
            there = self.tree.look(lead)
            return replace(kept, unlinked=there is None or kept.found is None or not is_same(there, kept.found))
        if kept is not None and not may_overwrite:
            return kept
        if self._hash_of(lead, sha256) == content.sha256 and self.tree.place_link(
            lead, plan.path, replace=task.is_taken
        ):
            return _Written(planned=plan, content=content, found=self.tree.look(plan.path), overwrote=may_overwrite)
        outcome = self._write(task)
        return outcome if isinstance(outcome, RestoreProblem) else replace(outcome, unlinked=True)

    def _hash_of(self, path: Parts, known: bytes | None) -> bytes | None:
        """Return the SHA-256 of a file that is there, None if it cannot be read."""
        if known is not None:
            return known
        try:
            return content_of(self.tree.read(path))[1]
        except OSError:
            return None

    # --- folders and symlinks -----------------------------------------------------------------------------------------

    def _make_folder(self, task: _Task) -> _Written | RestoreProblem:
        content = self._check(task.planned)
        if isinstance(content, RestoreProblem):
            return content
        self.tree.make_folder(task.planned.path)
        wanted = self._attributes(task.planned, content)
        existed = task.is_taken and not self.folders.was_made(task.planned.path)
        return _Written(planned=task.planned, content=content, wanted=wanted, existed=existed)

    def _make_symlink(self, task: _Task) -> _Written | RestoreProblem:
        plan = task.planned
        content = self._check(plan)
        if isinstance(content, RestoreProblem):
            return content
        target = target_of(plan)
        content = replace(content, sha256=hashlib.sha256(target).digest())
        overwrote = False
        if task.is_taken and (there := self._target_at(plan.path)) is not None:
            if there == target:
                return _Written(planned=plan, content=content, found=self.tree.look(plan.path), existed=True)
            overwrote = not self.journal.is_ours(plan.path, hashlib.sha256(there).digest())
            if overwrote and not self._may_overwrite(plan):
                return finding(
                    "in_the_way",
                    plan,
                    "a symlink to somewhere else has this name and was left alone: move it away, or allow it with "
                    "--overwrite, and run this again",
                )
        self.tree.place_symlink(target, self._attributes(plan, content), plan.path, replace=task.is_taken)
        return _Written(planned=plan, content=content, found=self.tree.look(plan.path), overwrote=overwrote)

    def _target_at(self, path: Parts) -> bytes | None:
        try:
            return self.tree.read_link(path)
        except OSError:
            return None

    # --- what has the name already ------------------------------------------------------------------------------------

    def _may_overwrite(self, plan: Planned) -> bool:
        """Return whether the file that has the name, which is not ours, may be replaced."""
        found = self.tree.look(plan.path)
        return found is not None and may_overwrite(found, plan, self.overwrite)

    def _keep(self, plan: Planned, content: Content) -> _Written | RestoreProblem | None:
        """Return what becomes of the file that has the name already, or None if we wrote it and may replace it.

        A file that already holds exactly the planned content is accepted: an earlier run stopped before recording it.
        """
        try:
            found, sha256 = content_of(self.tree.read(plan.path))
        except OSError as error:
            return finding(
                "in_the_way",
                plan,
                f"a file that cannot be read has this name ({error.strerror}): move it away and run this again",
            )
        if self.journal.is_ours(plan.path, sha256):
            return None
        if sha256 != content.sha256:
            return finding(
                "in_the_way",
                plan,
                "a file with other content has this name and was left alone: move it away, or allow it with "
                "--overwrite, and run this again",
            )
        return _Written(planned=plan, content=content, found=found, existed=True)


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
