"""The folders of a restore. They get their modes and times once nothing more goes into them, the deepest first."""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Self

from kropot.durable.attributes import Attributes
from kropot.durable.dirfd import Parts
from kropot.durable.refusals import InTheWayError, UnplaceableError
from kropot.restore.fingerprints import FINGERPRINT, Fingerprints
from kropot.restore.spool import Spool

if TYPE_CHECKING:
    from kropot.durable.target import TargetFolder
    from kropot.restore.journal import Journal

_OURS = hashlib.sha256(b"folder").digest()
_DEEPEST = 0xFFFF


class Folders:
    """The folders that a restore makes or finds. Memory stays flat however many there are.

    Once a folder that has a mode is expected, new folders are made for this user alone, so that nobody sees what the
    source keeps private. Folders about which nothing is known get the usual mode at the end.
    """

    def __init__(self, tree: TargetFolder, journal: Journal) -> None:
        """Start with no folders."""
        self._tree = tree
        self._journal = journal
        self._spool = Spool[tuple[Parts, Attributes | None]]()
        self._made: deque[Parts] = deque()
        self._ever_made = Fingerprints()
        self._lock = threading.Lock()
        self._knows = False

    def __enter__(self) -> Self:
        """Return itself; the end of the block frees the temporary files."""
        return self

    def __exit__(self, *_: object) -> None:
        """Forget the folders."""
        self._spool.__exit__()
        self._ever_made.close()

    def expect(self) -> None:
        """Prepare for folders that have modes. Only one thread calls this.

        The top folder gets its mode only if it was empty when the first restore began. Otherwise it is somebody's.
        """
        if self._knows:
            return
        self._knows = True
        self._tree.keep_private(self._note_made)
        if self._journal.is_new and self._tree.was_empty(self._journal.name):
            self._journal.wrote_content((), _OURS)
            self._journal.sync()
            self._ever_made.add(_mark(()))

    def was_made(self, path: Parts) -> bool:
        """Return whether this run made the folder. Any thread may ask."""
        with self._lock:
            return _mark(path) in self._ever_made

    @property
    def is_top_ours(self) -> bool:
        """Whether the top folder was empty when the first restore began."""
        return self._journal.is_ours((), _OURS)

    def add(self, path: Parts, wanted: Attributes) -> None:
        """Take a folder that exists. Only one thread calls this."""
        self._spool.add(_key(path), (path, wanted))
        self._take_made()

    def dress(self) -> None:
        """Give each folder its attributes. Raises: TreeError."""
        self._take_made()
        usual = Attributes(mode=self._tree.usual_mode, is_folder=True)
        for path, same in groupby(self._spool.in_order(), key=itemgetter(0)):
            wanted = next((each for _, each in same if each is not None), usual)
            if not path and not self.is_top_ours:
                continue
            try:
                self._tree.dress_folder(path, wanted)
            except (InTheWayError, UnplaceableError):
                self._tree.note(("mode",))

    def _note_made(self, path: Parts) -> None:
        """Take a folder that was just made. Any thread may call this."""
        with self._lock:
            self._ever_made.add(_mark(path))
            self._made.append(path)

    def _take_made(self) -> None:
        while self._made:
            path = self._made.popleft()
            self._spool.add(_key(path), (path, None))


def _mark(path: Parts) -> bytes:
    return hashlib.sha256(b"/".join(path)).digest()[:FINGERPRINT]


def _key(path: Parts) -> bytes:
    """Return a key that sorts the deepest folders first."""
    return (_DEEPEST - len(path)).to_bytes(2, "big") + b"/".join(path)
