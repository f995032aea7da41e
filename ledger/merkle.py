"""The RFC 6962 Merkle tree over the leaves of a ledger: its frontier, its root and proofs (docs/format.md, "Tree").

Leaves are numbered from 0 here: the leaf of the event at position p has index p - 1.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    Leaves = Callable[[int, int], Sequence[bytes]]
    """(start, stop) -> the leaf hashes with start <= index < stop, in order."""

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()

_CHUNK = 1024
"""How many leaves are in memory at a time."""


class Frontier(Struct, frozen=True):
    """A tree of `size` leaves in at most 64 hashes: the roots of its complete subtrees, the largest first.

    The literature on transparency logs calls it the compact range [0, size).
    """

    size: int = 0
    nodes: tuple[bytes, ...] = ()

    def extend(self, leaves: Iterable[bytes]) -> Frontier:
        """Return the frontier after more leaf hashes, in order. This takes about one hash per leaf, level by level."""
        row = list(leaves)
        if not row:
            return self
        added, old, kept = len(row), list(self.nodes), []
        rest = self.size
        sha256 = hashlib.sha256
        while row or rest:
            if rest & 1:
                row.insert(0, old.pop())
            if len(row) & 1:
                kept.append(row.pop())
            pairs = iter(row)
            row = [sha256(b"\x01" + left + right).digest() for left, right in zip(pairs, pairs, strict=True)]
            rest >>= 1
        return Frontier(self.size + added, tuple(reversed(kept)))

    @property
    def root(self) -> bytes:
        """The root hash (32 bytes). For the empty tree it is the SHA-256 of no bytes."""
        if not self.nodes:
            return EMPTY_ROOT
        *larger, root = self.nodes
        for node in reversed(larger):
            root = _parent(node, root)
        return root

    @property
    def stored(self) -> bytes:
        """The nodes in one byte string, the largest subtree first, 32 bytes each."""
        return b"".join(self.nodes)

    @classmethod
    def parse(cls, size: int, stored: bytes) -> Frontier:
        """Parse `stored`.

        Raises:
            ValueError: if a tree of this size has another number of nodes.
        """
        if size < 0 or len(stored) != size.bit_count() * HASH_BYTES:
            raise ValueError(f"a frontier of {len(stored)} bytes does not belong to {size} leaves")
        return cls(size, tuple(stored[at : at + HASH_BYTES] for at in range(0, len(stored), HASH_BYTES)))


def inclusion_path(
    index: int, size: int, leaves: Leaves, frontier_at: Callable[[int], Frontier] | None = None
) -> tuple[bytes, ...]:
    """Return the audit path of the leaf at `index` in the tree of the first `size` leaves (RFC 6962, 2.1.1).

    `frontier_at` returns the frontier after a number of leaves. With it, this reads only some thousand leaves. Without
    it, this reads all leaves, in chunks.

    Raises:
        ValueError: if that tree has no such leaf.
    """
    if not 0 <= index < size:
        raise ValueError(f"a tree of {size} leaves has no leaf {index}")
    path = []
    start, stop = 0, size
    while stop - start > 1:
        middle = start + _split(stop - start)
        if index < middle:
            path.append(_subtree(middle, stop, leaves, frontier_at))
            stop = middle
        else:
            path.append(_subtree(start, middle, leaves, frontier_at))
            start = middle
    return tuple(reversed(path))


def consistency_path(
    old: int, new: int, leaves: Leaves, frontier_at: Callable[[int], Frontier] | None = None
) -> tuple[bytes, ...]:
    """Return the proof that the tree of `new` leaves extends the tree of its first `old` leaves (RFC 6962, 2.1.2).

    The proof is empty for equal sizes and for an empty old tree. `frontier_at` is as for `inclusion_path`.

    Raises:
        ValueError: if the old tree is larger.
    """
    if not 0 <= old <= new:
        raise ValueError(f"a tree of {new} leaves does not extend one of {old}")
    if old in (0, new):
        return ()
    path = []
    start, stop = 0, new
    while old != stop:
        middle = start + _split(stop - start)
        if old <= middle:
            path.append(_subtree(middle, stop, leaves, frontier_at))
            stop = middle
        else:
            path.append(_subtree(start, middle, leaves, frontier_at))
            start = middle
    if start:  # else the old tree is a complete subtree of the new one, and the verifier knows its root
        path.append(_subtree(start, stop, leaves, frontier_at))
    return tuple(reversed(path))


def verify_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Whether the path proves that this leaf hash is at `index` in the tree with this size and root (RFC 9162)."""
    if not 0 <= index < size or not _are_hashes((leaf, *path)):
        return False
    at, last, node = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            return False
        if at & 1 or at == last:
            node = _parent(sibling, node)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            node = _parent(node, sibling)
        at, last = at >> 1, last >> 1
    return last == 0 and node == root


def verify_consistency(old: int, new: int, old_root: bytes, new_root: bytes, path: Sequence[bytes]) -> bool:
    """Whether the path proves that the new tree begins with all leaves of the old one (RFC 9162, 2.1.4.2)."""
    if not 0 <= old <= new or not _are_hashes(path):
        return False
    if old in (0, new):
        return not path and old_root == (new_root if old == new else EMPTY_ROOT)
    nodes = [old_root, *path] if old.bit_count() == 1 else list(path)
    if not nodes:
        return False
    at, last = old - 1, new - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    was = now = nodes[0]
    for node in nodes[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            was, now = _parent(node, was), _parent(node, now)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            now = _parent(now, node)
        at, last = at >> 1, last >> 1
    return last == 0 and was == old_root and now == new_root


# --- helpers ---------------------------------------------------------------------------------------------------------


def _parent(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def _split(width: int) -> int:
    """Return the largest power of two below `width`: the number of leaves in the left subtree."""
    return 1 << (width - 1).bit_length() - 1


def _are_hashes(nodes: Iterable[bytes]) -> bool:
    return all(len(node) == HASH_BYTES for node in nodes)


def _subtree(start: int, stop: int, leaves: Leaves, frontier_at: Callable[[int], Frontier] | None) -> bytes:
    """Return the root over the leaves [start, stop). `start` is aligned like the tree's own subtrees."""
    if frontier_at is not None and stop - start > _CHUNK:
        middle = start + _split(stop - start)
        # The frontier after `middle` leaves ends with exactly the subtree [start, middle). `start` is a multiple of
        # twice its width, so no larger subtree contains it yet.
        left = frontier_at(middle).nodes[-1]
        return _parent(left, _subtree(middle, stop, leaves, frontier_at))
    frontier = Frontier()
    for at in range(start, stop, _CHUNK):
        chunk = leaves(at, min(at + _CHUNK, stop))
        frontier = frontier.extend(chunk)
    return frontier.root
