"""Finds files at a keeper by their exact names, without reading its list: kit and name give the id."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kropot.afar.client import NotAtKeeperError
from kropot.errors import KropotError
from kropot.query.names import FILE_KIND
from kropot.restore.naming import ids_of
from kropot.restore.opener import open_claim
from kropot.sc2.form import Kind
from kropot.wording import as_written
from ledger.events import StreamKey

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kropot.afar.proved import ProvedTree
    from kropot.afar.replica import AfarReplica
    from kropot.replay.copies import HeldCopy
    from kropot.restore.opener import Key


class RemoteLookUp:
    """Looks elements up, one request for each id and source."""

    def __init__(
        self,
        replica: AfarReplica,
        tree: ProvedTree,
        keys: Sequence[Key],
        *,
        sources: Sequence[bytes],
        position: int,
        vanished: bool = False,
    ) -> None:
        """Look in these sources, in this order, as they were at `position`, and at vanished ones only if asked to."""
        self._vanished = vanished
        self._replica = replica
        self._tree = tree
        self._keys = keys
        self._sources = sources
        self._position = position

    def named(self, texts: Sequence[str]) -> list[HeldCopy] | None:
        """Return the files and symlinks with exactly these names, and the folders that they are in.

        Return None if one of the texts is not the exact name of a file, because it can then mean anything.
        """
        found: dict[StreamKey, HeldCopy] = {}
        for text in texts:
            wanted = text.strip("/")
            if not wanted or not ids_of(b"", self._keys):
                return None
            ways = dict.fromkeys((as_written(wanted), wanted.encode(errors="surrogateescape")))
            helds = [held for path in ways for held in self._at(path)]
            if not helds or any(self._is_folder(held) for held in helds):
                return None
            for path in ways:
                for above in _above(path):
                    found |= {held.key: held for held in self._at(above) if self._is_folder(held)}
            found |= {held.key: held for held in helds}
        return list(found.values())

    def ids(self, text: str) -> list[StreamKey]:
        """Return the existing elements that a name can mean, files and folders alike."""
        wanted = text.strip("/")
        ways = dict.fromkeys((as_written(wanted), wanted.encode(errors="surrogateescape")))
        return [held.key for path in ways for held in self._at(path)]

    def _at(self, path: bytes) -> Iterator[HeldCopy]:
        for id_ in ids_of(path, self._keys):
            for source in self._sources:
                key = StreamKey(source=source, kind=FILE_KIND, id=id_)
                try:
                    held, paths = self._replica.element(key, self._position, self._tree.size)
                except NotAtKeeperError:
                    continue
                if self._vanished or held.state != "vanished":
                    yield self._tree.judged(held, paths)

    def _is_folder(self, held: HeldCopy) -> bool:
        """Whether this is a folder, as its form says. What cannot be opened counts as a file, and is reported later."""
        try:
            return open_claim(held, self._keys).claim.kind is Kind.FOLDER
        except KropotError:
            return False


def _above(path: bytes) -> Iterator[bytes]:
    """Yield the folders that a path is in, the outermost first."""
    parts = path.split(b"/")
    for count in range(1, len(parts)):
        yield b"/".join(parts[:count])
