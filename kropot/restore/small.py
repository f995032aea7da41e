"""Small files, many at a time: each is read, checked and opened as a whole, all are made durable, then they get names.

Only simple cases are handled here. kropot/restore/job.py does all others one by one, and says what is wrong with them.
So nothing here words a problem or gives up on a file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from kropot.durable.new_files import NewFiles
from kropot.durable.refusals import TreeError
from kropot.durable.target import WORK
from kropot.errors import KropotError
from kropot.restore.claims import Claim
from kropot.restore.entry import details_of, group_of
from kropot.restore.journal import line_of
from kropot.restore.opener import Opened, open_at_once
from kropot.restore.owners import wanted_of
from kropot.restore.plan import FormOpener, Planned
from kropot.restore.problems import bad_content_of, unopened_of
from kropot.sc2.form import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kropot.durable.attributes import Refused
    from kropot.durable.dirfd import Parts
    from kropot.replay.copies import Copies, HeldCopy
    from kropot.restore.opener import Key
    from kropot.restore.owners import Owners
    from ledger.places import Placement

SMALL: Final = 1 << 20
"""A copy with no more bytes than this is read in one piece."""

REMEMBERED: Final = 8000
"""How many opened forms to keep until their files are written: the last ones."""


Task = tuple[int, "HeldCopy | None", "Parts", "Placement | None"]
"""The number of a look at a form, the copy (None if the form is still kept), the file's path, and the copy's place.

The number counts the looks of one `SmallFiles` from 0; it is -1 for a form that was opened elsewhere. The copy's place
is its place in a pack, if it is in one.
"""


class Glance(NamedTuple):
    """What is needed to name a small file: path, time, the number of its key, and whether its id was compared."""

    path: Parts
    name: bytes
    mtime_ns: int | None
    key: int | None
    is_bound: bool


class Wrote(NamedTuple):
    """A small file that has its name: its plain size in bytes, its line for the journal, and what was refused."""

    size: int
    line: bytes
    refused: tuple[Refused, ...]


class WrittenBatch(NamedTuple):
    """Small files that have no names yet: their paths, and for each its name in the workroom and its `Wrote`."""

    files: NewFiles
    paths: list[Parts]
    written: list[tuple[bytes, Wrote] | None]


def opened_from(glance: Glance, keys: Sequence[Key], kept: tuple[int, int]) -> Opened:
    """Return an opened form that knows only what a glance shows. `kept` says which worker has the form open."""
    claim = Claim(
        path=glance.path, name=glance.name, mtime_ns=glance.mtime_ns, mode=None, sha256=None, size=None, rest={}
    )
    key = None if glance.key is None else keys[glance.key]
    return Opened(claim=claim, form=b"", kit=key, is_bound=glance.is_bound, is_glance=True, kept=kept)


class SmallFiles:
    """Opens the forms of small files, and writes the files. Each worker process has one."""

    def __init__(self, copies: Copies, keys: Sequence[Key], owners: Owners) -> None:
        """Take the copies to read from, the keys, and the owners to restore."""
        self._copies = copies
        self._keys = tuple(keys)
        self._owners = owners
        self._forms = FormOpener(keys, keep=True)
        self._opened: dict[int | bytes, tuple[HeldCopy, Opened]] = {}
        self._looked = 0
        self._files: NewFiles | None = None
        self._root = ""

    def close(self) -> None:
        """Close the target."""
        if self._files is not None:
            self._files.__exit__()
            self._files = None

    def remember(self, held: HeldCopy, opened: Opened) -> None:
        """Keep an opened form until the file is written, or until there are too many."""
        self._keep(held.key.stored, held, opened)

    def look(self, helds: Sequence[HeldCopy]) -> list[Glance | None]:
        """Open forms. The answers are in order; None stands for one that is not a small file, or that no key opens."""
        glances: list[Glance | None] = []
        for held in helds:
            glances.append(self._look(held))
            self._looked += 1
        return glances

    def write(
        self, root: str, tasks: Sequence[Task], *, goes_on: Callable[[], bool] = lambda: True
    ) -> list[Wrote | None]:
        """Write small files whose folders exist, unless something has their names already.

        The answers are in order, None for a file that was not written. When this returns, the files are whole and
        durable, and their names as `NewFiles.sync_names` says. Once `goes_on` returns false, no more files get names.

        Raises: TreeError if nothing more can be written; then no file of this batch has a name.
        """
        batch = self.begin(root, tasks)
        try:
            self.sync(batch)
        except TreeError:
            self.abandon(batch)
            raise
        return self.name(batch, goes_on=goes_on)

    def begin(self, root: str, tasks: Sequence[Task]) -> WrittenBatch:
        """Write small files without their names. Raises: TreeError if nothing more can be written."""
        if self._files is None or self._root != root:
            self.close()
            self._files, self._root = NewFiles(root, WORK), root
        files = self._files
        batch = WrittenBatch(files, [path for _, _, path, _ in tasks], [None] * len(tasks))
        try:
            # In the order of the packs, so that a disk reads each from beginning to end.
            for at in sorted(range(len(tasks)), key=lambda at: _order(tasks[at][3])):
                try:
                    batch.written[at] = self._write(files, *tasks[at])
                except TreeError:
                    raise
                except KropotError:
                    continue
        except TreeError:
            self.abandon(batch)
            raise
        return batch

    @staticmethod
    def sync(batch: WrittenBatch) -> None:
        """Make durable what was written in this batch and all earlier ones. Another thread may do this.

        Raises: TreeError; then all of them MUST be abandoned.
        """
        batch.files.sync()

    @staticmethod
    def abandon(batch: WrittenBatch) -> None:
        """Remove the files of a batch that get no names."""
        for each in batch.written:
            if each is not None:
                batch.files.drop(each[0])

    def name(self, batch: WrittenBatch, *, goes_on: Callable[[], bool]) -> list[Wrote | None]:
        """Give the files of a durable batch their names, as `write` does. Raises: TreeError."""
        placed = [
            None if each is None else self._place(batch.files, path, *each, goes_on=goes_on)
            for path, each in zip(batch.paths, batch.written, strict=True)
        ]
        batch.files.sync_names()
        return placed

    # --- helpers ---

    def _keep(self, name: int | bytes, held: HeldCopy, opened: Opened) -> None:
        while len(self._opened) >= REMEMBERED:
            del self._opened[next(iter(self._opened))]
        self._opened[name] = held, opened

    def _kept(self, number: int, held: HeldCopy | None) -> tuple[HeldCopy, Opened] | None:
        """Return a copy and its opened form; None if it cannot be opened."""
        kept = self._opened.pop(number if held is None else held.key.stored, None)
        if kept is not None or held is None:
            return kept
        opened = self._forms.open(held)
        return (held, opened) if isinstance(opened, Opened) else None

    def _look(self, held: HeldCopy) -> Glance | None:
        if held.refused is not None or held.sha256 is None or held.size > SMALL:
            return None
        opened = self._forms.open(held)
        if not isinstance(opened, Opened):
            self._forms.failed(held)
            return None
        claim = opened.claim
        if claim.kind is not Kind.FILE or (claim.sealed is not None and claim.sealed.link_group is not None):
            return None
        self._keep(self._looked, held, opened)
        number = None if opened.kit is None else next(at for at, key in enumerate(self._keys) if key is opened.kit)
        return Glance(claim.path, claim.name, claim.mtime_ns, number, opened.is_bound)

    def _write(
        self, files: NewFiles, number: int, copy: HeldCopy | None, path: Parts, place: Placement | None
    ) -> tuple[bytes, Wrote] | None:
        kept = self._kept(number, copy)
        if kept is None:
            return None
        held, found = kept
        plan = Planned(held=held, opened=found, path=path)
        if found.claim.kind is not Kind.FILE or group_of(plan) is not None or unopened_of(plan) is not None:
            return None
        opened = open_at_once(self._copies.read(held, place), held=held, opened=found)
        if opened is None or bad_content_of(plan, opened[0]) is not None:
            return None
        content, plain = opened
        if content.form is not None and content.form.holes:
            return None
        wanted, lost = wanted_of(plan, content.form, self._owners)
        name, status, refused = files.write(plain, wanted)
        line = line_of(path, held.identity, status, content.sha256, details_of(plan))
        return name, Wrote(content.size, line, (*lost, *refused))

    def _place(
        self, files: NewFiles, path: Parts, name: bytes, wrote: Wrote, *, goes_on: Callable[[], bool]
    ) -> Wrote | None:
        try:
            if goes_on():
                files.place(name, path)
                return wrote
        except OSError:
            # The name is taken, or its folder has changed. Restoring the file on its own shows which.
            pass
        files.drop(name)
        return None


def _order(place: Placement | None) -> tuple[bytes, int]:
    return (b"", 0) if place is None else (place.pack, place.offset)
