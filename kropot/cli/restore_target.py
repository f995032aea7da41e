"""The folder that `kropotcli restore` writes to, compares with, or only examines."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Literal

from kropot.cli.copies import stop_workers
from kropot.durable.dirfd import link_below, look_below, open_below

if TYPE_CHECKING:
    from concurrent.futures import Executor
    from contextlib import ExitStack
    from pathlib import Path

    from kropot.durable.dirfd import Parts
    from kropot.durable.target import TargetFolder
    from kropot.restore.entry import Overwrite
    from kropot.restore.names import NameGiver
    from kropot.restore.plan import Planned

MANIFEST = b"kropot-manifest.jsonl"

Would = Literal["restore", "replace", "keep", "overwrite", "leave"]
WOULD: dict[Would, str] = {
    "restore": "would restore",
    "replace": "would replace",
    "keep": "already restored",
    "overwrite": "would overwrite",
    "leave": "would not overwrite",
}


class Destination:
    """The folder to restore into. It is created only after a kit has opened the first form."""

    def __init__(
        self,
        target: Path | None,
        stack: ExitStack,
        pool: Executor,
        *,
        portable: bool,
        writes: bool,
        overwrite: Overwrite,
    ) -> None:
        """Prepare, but touch nothing yet. Only a run that `writes` ever opens the folder for writing."""
        self.overwrite = overwrite
        self.target = target
        self.opened: TargetFolder | None = None
        self._stack = stack
        self._pool = pool
        self._portable = portable
        self._writes = writes

    def giver(self) -> NameGiver:
        """Open the folder, unless this run writes nothing, and return the object that names its files."""
        from msgspec.structs import replace

        from kropot.durable.target import WORK, NameRules, TargetFolder
        from kropot.restore.fingerprints import Fingerprints
        from kropot.restore.journal import Journal, written_in
        from kropot.restore.names import NameGiver

        rules = NameRules(portable=self._portable or os.name == "nt")
        if self._writes and self.target is not None:
            self.opened = self.tree = self._stack.enter_context(TargetFolder(self.target))
            self.journal = self._stack.enter_context(Journal(self.tree, MANIFEST))
            self._stack.callback(stop_workers, self._pool, self.tree)
            rules = replace(self.tree.rules, portable=rules.portable or self.tree.rules.portable)
        elif self.target is not None:
            self.written = self._stack.enter_context(written_in(self.target, MANIFEST))
        if rules.portable:
            # Systems that need portable names treat `a` and `A` as the same name.
            rules = replace(rules, fold_case=True)
        return NameGiver(rules, Fingerprints(), (WORK, MANIFEST))

    def predict(self, plan: Planned) -> Would:
        """Return what a restore would do with the present file of this name. This writes nothing.

        A restore keeps a file that no restore wrote, unless --overwrite allows replacing it. If that file has the right
        content, it counts as restored.
        """
        from kropot.restore.entry import is_of_kind, may_overwrite
        from kropot.sc2.form import Kind

        found = None if self.target is None else look_below(self.target, plan.path)
        if found is None:
            return "restore"
        if plan.opened.claim.kind is Kind.FOLDER:
            return "keep" if is_of_kind(found, plan) else "leave"
        if self.written.is_done(plan.path, plan.held.identity, found):
            return "keep"
        if is_of_kind(found, plan) and self._is_ours(plan.path):
            return "replace"
        return "overwrite" if may_overwrite(found, plan, self.overwrite) else "leave"

    def _is_ours(self, path: Parts) -> bool:
        """Return whether an earlier restore wrote the present file or symlink of this name, with this content."""
        from kropot.restore.journal import content_of

        try:
            root = os.open(self.target or "", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                target = link_below(root, path)
                found = content_of(open_below(root, path))[1] if target is None else hashlib.sha256(target).digest()
                return self.written.is_ours(path, found)
            finally:
                os.close(root)
        except OSError:
            return False
