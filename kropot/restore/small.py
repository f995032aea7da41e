"""Small files, many at a time: each is read, checked and opened as a whole, all are made durable, then they get names.

Only what goes smoothly is done here. Whatever else an element is or needs, kropot/restore/job.py does it one by one,
and says what is wrong with it. So nothing here words a problem, and nothing is given up here.
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
"""A copy with no more bytes is read as a whole."""

_REMEMBERED: Final = 8000
"""How many opened forms are kept until their files are written."""


Task = tuple["HeldCopy", "Parts", "Placement | None"]
"""A copy, where its file belongs, and where in a pack it lies, if it does."""


class Glance(NamedTuple):
    """What is needed to name a small file: path, time, the number of its key, and whether its id was compared."""

    path: Parts
    name: bytes
    mtime_ns: int | None
    key: int | None
    is_bound: bool


class Wrote(NamedTuple):
    """A small file that has its name: its plain size in bytes, its line for the journal, and what it did not get."""

    size: int
    line: bytes
    refused: tuple[Refused, ...]


def opened_from(glance: Glance, keys: Sequence[Key]) -> Opened:
    """Return what a glance says as an opened form that knows no more."""
    claim = Claim(
        path=glance.path, name=glance.name, mtime_ns=glance.mtime_ns, mode=None, sha256=None, size=None, rest={}
    )
    key = None if glance.key is None else keys[glance.key]
    return Opened(claim=claim, form=b"", kit=key, is_bound=glance.is_bound, is_glance=True)


class SmallFiles:
    """Opens the forms of small files, and writes the files. Each worker process has one."""

    def __init__(self, copies: Copies, keys: Sequence[Key], owners: Owners) -> None:
        """Take where copies are read from, the keys, and how owners come back."""
        self._copies = copies
        self._keys = tuple(keys)
        self._owners = owners
        self._forms = FormOpener(keys, keep=True)
        self._opened: dict[bytes, Opened] = {}
        self._files: NewFiles | None = None
        self._root = ""

    def close(self) -> None:
        """Let go of the target."""
        if self._files is not None:
            self._files.__exit__()
            self._files = None

    def remember(self, held: HeldCopy, opened: Opened) -> None:
        """Keep an opened form until the file is written, or until there are too many."""
        if len(self._opened) >= _REMEMBERED:
            self._opened.clear()
        self._opened[held.key.stored] = opened

    def look(self, helds: Sequence[HeldCopy]) -> list[Glance | None]:
        """Open forms. The answers are in order; None stands for what is no small file, and what no key opens."""
        return [self._look(held) for held in helds]

    def write(
        self, root: str, tasks: Sequence[Task], *, goes_on: Callable[[], bool] = lambda: True
    ) -> list[Wrote | None]:
        """Write small files whose folders are there, unless something has their names already.

        The answers are in order, None for a file that was not written. When this returns, the files are whole and
        durable, and their names as `NewFiles.sync_names` says. Nothing gets a name any more once `goes_on` says so.

        Raises: TreeError if nothing further can be written; nothing of this batch has a name then.
        """
        if self._files is None or self._root != root:
            self.close()
            self._files, self._root = NewFiles(root, WORK), root
        files = self._files
        written: list[tuple[bytes, Wrote] | None] = [None] * len(tasks)
        try:
            # In the order of the packs, so that a disk reads them from their beginning to their end.
            for at in sorted(range(len(tasks)), key=lambda at: _order(tasks[at][2])):
                try:
                    written[at] = self._write(files, *tasks[at])
                except TreeError:
                    raise
                except KropotError:
                    continue
            files.sync()
        except TreeError:
            for each in written:
                if each is not None:
                    files.drop(each[0])
            raise
        placed = [
            None if each is None else self._place(files, path, *each, goes_on=goes_on)
            for (_, path, _), each in zip(tasks, written, strict=True)
        ]
        files.sync_names()
        return placed

    # --- helpers ---

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
        self.remember(held, opened)
        number = None if opened.kit is None else next(at for at, key in enumerate(self._keys) if key is opened.kit)
        return Glance(claim.path, claim.name, claim.mtime_ns, number, opened.is_bound)

    def _write(
        self, files: NewFiles, held: HeldCopy, path: Parts, place: Placement | None
    ) -> tuple[bytes, Wrote] | None:
        found = self._opened.pop(held.key.stored, None) or self._forms.open(held)
        if not isinstance(found, Opened):
            return None
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
            # The name is taken, or its folder is not what it was: the one by one way says which.
            pass
        files.drop(name)
        return None


def _order(place: Placement | None) -> tuple[bytes, int]:
    return (b"", 0) if place is None else (place.pack, place.offset)
