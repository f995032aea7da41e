"""Restore files: read each object, check it, open it, and only then give the file its name.

Folders and symlinks come back the same way. Files with several names come last (kropot/restore/links.py), and then
folders get their modes and times (kropot/restore/folders.py).
"""

from __future__ import annotations

import hashlib
from collections import deque
from contextlib import nullcontext
from typing import TYPE_CHECKING

from msgspec import Struct, field
from msgspec.structs import replace

from kropot.durable.refusals import NoRoomError
from kropot.restore.batches import Batches
from kropot.restore.crew import Crew
from kropot.restore.entry import (
    details_of,
    group_of,
    is_of_kind,
    is_same,
    may_overwrite,
    size_of,
    target_of,
)
from kropot.restore.folders import Folders
from kropot.restore.journal import content_of
from kropot.restore.links import LinkGroup, LinkGroups
from kropot.restore.new_places import NewPlaces
from kropot.restore.opener import Content, Opened, copy_content
from kropot.restore.owners import Owners, wanted_of
from kropot.restore.plan import FormOpener, Planned, RestoreProblem
from kropot.restore.problems import PER_FILE, bad_content_of, finding, problem_of, unopened_of
from kropot.restore.small import SMALL
from kropot.restore.spool import Spool
from kropot.sc2.form import Kind

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from concurrent.futures import Executor, Future

    from kropot.durable.attributes import Attributes
    from kropot.durable.dirfd import Parts
    from kropot.durable.draft import Draft
    from kropot.durable.target import TargetFolder
    from kropot.replay.copies import Copies
    from kropot.restore.batches import Finished
    from kropot.restore.entry import Overwrite
    from kropot.restore.journal import Journal
    from kropot.restore.opener import Key

_WINDOW = 64
"""How many entries are in progress one by one."""


class Restored(Struct, frozen=True, kw_only=True):
    """A restored file of `size` plain bytes, a folder, or a symlink. `existed` is true if it was there before this run.

    `overwrote` is true if it replaced a file that restore had not written, and `unlinked` if it should be one file with
    others but is a separate file.
    """

    planned: Planned
    size: int
    existed: bool = False
    overwrote: bool = False
    unlinked: bool = False


class _Written(Struct, frozen=True, kw_only=True):
    """An entry that has its name. `existed` is true if this run did not write it.

    `found` is its status on disk, for the journal; None for a folder, which gets `wanted` at the end instead.
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
    keys: Sequence[Key] = (),
    crew: Crew | None = None,
    moved: Callable[[int], None] = lambda _: None,
) -> Iterator[Restored | RestoreProblem]:
    """Write what is planned, and yield each result. Small files go to the crew in batches, all others to the pool.

    Files that an earlier run finished are not written again. Files that are not ours are changed only as `overwrite`
    allows. If such a file already holds exactly the planned content, it counts as restored. Any thread can call
    `moved`, with the number of bytes that it wrote, or that an earlier run had written. `keys` are the keys in the
    plans: they are never written to the disk. Without a crew, this thread writes the small files. `tree.refused` counts
    what the target refuses besides contents.

    Raises:
        TreeError: nothing more can be written. Every file that has a name is complete, and a second run continues.

    """
    owners = owners or Owners(numeric=False)
    with (
        Folders(tree, journal) as folders,
        Spool[Planned](kept=keys) as linked,
        nullcontext(crew) if crew is not None else Crew(copies, keys, owners, workers=0) as small,
    ):
        tree.let_names_wait()
        job = _Job(
            copies=copies,
            tree=tree,
            journal=journal,
            overwrite=overwrite,
            moved=moved,
            owners=owners,
            folders=folders,
            forms=FormOpener(keys),
            places=NewPlaces(tree, is_top_new=journal.is_new and tree.was_empty(journal.name)),
        )
        yield from job.outcomes(_apart(plans, linked), small, pool)
        yield from job.outcomes(linked.in_order(), small, pool)
        folders.dress()
        journal.sync()
        tree.settle()


def _apart(plans: Iterable[Planned | RestoreProblem], linked: Spool[Planned]) -> Iterator[Planned | RestoreProblem]:
    """Yield the plans, but put names of files with several names into `linked`, which groups them."""
    for plan in plans:
        if isinstance(plan, Planned) and (group := group_of(plan)) is not None:
            linked.add(group, plan)
        else:
            yield plan


class _Task(Struct, frozen=True):
    """A planned entry. `is_taken` is true if something of its kind already has its name, ours or not."""

    planned: Planned
    is_taken: bool
    group: LinkGroup | None = None


class _Job(Struct, frozen=True, kw_only=True):
    copies: Copies
    tree: TargetFolder
    journal: Journal
    overwrite: Overwrite
    moved: Callable[[int], None]
    owners: Owners
    folders: Folders
    forms: FormOpener
    places: NewPlaces
    groups: LinkGroups = field(default_factory=LinkGroups)

    def outcomes(
        self, plans: Iterable[Planned | RestoreProblem], crew: Crew, pool: Executor
    ) -> Iterator[Restored | RestoreProblem]:
        """Carry out the plans: small files in batches, others one by one. Yield the outcomes."""
        batches = Batches(crew, self.copies, str(self.tree.root))
        singles = deque["Future[_Written | Restored | RestoreProblem]"]()
        try:
            for plan in plans:
                if isinstance(plan, RestoreProblem):
                    yield plan
                    continue
                if plan.opened.sealing == "sc2":
                    self.folders.expect()
                if self._is_small(plan) and self.places.are_free(plan.path):
                    batches.add(plan)
                    yield from self._done(batches.finished())
                else:
                    singles.append(pool.submit(self.work, self.prepare(plan)))
                    if len(singles) > _WINDOW:
                        yield self._single_done(singles.popleft().result())
            yield from self._done(batches.rest())
            while singles:
                yield self._single_done(singles.popleft().result())
        finally:
            for single in singles:
                single.cancel()

    def _done(self, batches: Iterable[Finished]) -> Iterator[Restored | RestoreProblem]:
        """Record each batch in one go, and restore one by one the files that it did not write."""
        for batch in batches:
            written = [wrote for _, wrote in batch if wrote is not None]
            self.journal.wrote_lines([wrote.line for wrote in written])
            self.moved(sum(wrote.size for wrote in written))
            for plan, wrote in batch:
                if wrote is None:
                    yield self._single_done(self.work(self.prepare(plan)))
                else:
                    if wrote.refused:
                        self.tree.note(wrote.refused)
                    yield Restored(planned=plan, size=wrote.size)

    def _single_done(self, outcome: _Written | Restored | RestoreProblem) -> Restored | RestoreProblem:
        return self.record(outcome) if isinstance(outcome, _Written) else outcome

    def _is_small(self, plan: Planned) -> bool:
        """Return whether this is a file that is read as a whole, and has no other names."""
        is_file = plan.opened.claim.kind is Kind.FILE and group_of(plan) is None
        return is_file and plan.held.size <= SMALL and unopened_of(plan) is None

    def prepare(self, plan: Planned) -> _Task | Restored | RestoreProblem:
        """Check what is already at the path. Only one thread calls this, in order."""
        if plan.opened.is_glance:
            opened = self.forms.open(plan.held)
            if not isinstance(opened, Opened):
                return finding("refused", plan, str(opened))
            plan = replace(plan, opened=opened)
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
                f"something that is not a {plan.opened.claim.kind} (for example a folder, link or device) has this "
                f"name and was not changed: move it away and run this again",
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
        """Record an entry that has its name. Only one thread calls this, in order."""
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
        """Return what the entry gets besides its content."""
        wanted, lost = wanted_of(plan, content.form, self.owners)
        self.tree.note(lost)
        return wanted

    def _write_one_of(self, task: _Task, group: LinkGroup) -> _Written | Restored | RestoreProblem:
        """Write a file that has several names, or link it to the name that already exists."""
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
        """Make another name for the file at `lead` if the contents agree, else a separate file."""
        plan = task.planned
        content = self._check(plan)
        if isinstance(content, RestoreProblem):
            return content
        kept = self._keep(plan, content) if task.is_taken else None
        if isinstance(kept, _Written):
            return self._join(task, kept, lead, sha256)
        may_overwrite = isinstance(kept, RestoreProblem) and self._may_overwrite(plan)
        if kept is not None and not may_overwrite:
            return kept
        if self._hash_of(lead, sha256) == content.sha256 and self.tree.place_link(
            lead, plan.path, replace=task.is_taken
        ):
            return _Written(planned=plan, content=content, found=self.tree.look(plan.path), overwrote=may_overwrite)
        outcome = self._write(task)
        return outcome if isinstance(outcome, RestoreProblem) else replace(outcome, unlinked=True)

    def _join(self, task: _Task, kept: _Written, lead: Parts, sha256: bytes | None) -> _Written:
        """Replace an existing file that has the right content with another name for the file at `lead`.

        A run that was killed before it knew the other names leaves such a separate file.
        """
        there, path = self.tree.look(lead), task.planned.path
        if there is not None and kept.found is not None and is_same(there, kept.found):
            return kept
        is_one = self._hash_of(lead, sha256) == kept.content.sha256 and self.tree.place_link(lead, path, replace=True)
        return replace(kept, found=self.tree.look(path)) if is_one else replace(kept, unlinked=True)

    def _hash_of(self, path: Parts, known: bytes | None) -> bytes | None:
        """Return the SHA-256 of an existing file, None if it cannot be read."""
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
                    "a symlink with a different target has this name and was not changed: move it away or use "
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
                "a file with different content has this name and was not changed: move it away or use --overwrite, "
                "and run this again",
            )
        return _Written(planned=plan, content=content, found=found, existed=True)
