"""Single elements of a ledger that is not read as a whole: each event is proved against the root of the tree.

This shows that an event is in the history, and that the history extends what a kit remembers. It does not show
that the event is the last one about its element: only a reader of all headers knows that (`History`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from kropot.restore.history import AlteredError, header_of
from ledger.codec import leaf_hash, stream_digest
from ledger.merkle import verify_consistency, verify_inclusion

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kropot.afar.replica import AfarReplica, RemoteTree
    from kropot.replay.copies import HeldCopy
    from kropot.restore.seen import SeenTree


class ProvedTree:
    """A tree as `Trust` compares it: its size, its frontier, and the roots that it is proved to have grown from."""

    def __init__(self, replica: AfarReplica, tree: RemoteTree, seen: Sequence[SeenTree]) -> None:
        """Ask for the proof that the tree extends each one that was seen before. Raises: as `AfarReplica.growth`."""
        self._claimed = tree
        self.tree = tree.frontier
        self.roots: dict[int, bytes] = {}
        for each in seen:
            size, root = each.tree.size, each.tree.root
            if 0 < size <= self.size and self._has_grown(replica, size, root):
                self.roots[size] = root
        self.has_first = self._has_grown(replica, 1, leaf_hash(tree.first.header)) and self._is_itself()

    @property
    def size(self) -> int:
        """The number of events."""
        return self.tree.size

    def judged(self, held: HeldCopy, paths: Sequence[tuple[bytes, ...]]) -> HeldCopy:
        """Return a copy without its events. If they are not in the tree, or about another element, it is refused."""
        try:
            self._judge(held, paths)
        except AlteredError as error:
            return replace(held, refused=str(error), events=())
        return replace(held, events=())

    def _judge(self, held: HeldCopy, paths: Sequence[tuple[bytes, ...]]) -> None:
        salt = self._claimed.salts.get(held.key.source)
        if held.refused is not None:
            raise AlteredError(held.refused)
        if salt is None or not held.events or len(paths) != len(held.events):
            raise AlteredError("no event says what it is")
        digest = stream_digest(salt, held.key)
        for event, path in zip(held.events, paths, strict=True):
            if header_of(event).stream_digest != digest:
                raise AlteredError(f"event {event.seq} is about another element")
            leaf = leaf_hash(event.header)
            if not verify_inclusion(leaf, event.seq - 1, self.size, path, self.tree.root):
                raise AlteredError(f"event {event.seq} is not in the ledger's history")

    def _has_grown(self, replica: AfarReplica, size: int, root: bytes) -> bool:
        path = replica.growth(size, self.size)
        return verify_consistency(size, self.size, root, self.tree.root, path)

    def _is_itself(self) -> bool:
        try:
            header_of(self._claimed.first)
        except AlteredError:
            return False
        return self._claimed.first.seq == 1
