"""Compare a history with signed checkpoints, and with what kits have seen of it before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from kropot.errors import IntegrityError
from kropot.wording import moment, number
from ledger.checkpoint import open_checkpoint, origin_of
from ledger.errors import BadCheckpointError
from ledger.merkle import Frontier

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Protocol

    from kropot.restore.seen import SeenTree
    from ledger.checkpoint import Checkpoint
    from ledger.note import VerifierKey

    class KnownTree(Protocol):
        """A tree of events, and its roots at some sizes: a `History`, or one proved without reading all events."""

        @property
        def size(self) -> int:
            """The number of events."""

        @property
        def tree(self) -> Frontier:
            """The frontier over all events."""

        @property
        def roots(self) -> Mapping[int, bytes]:
            """The roots that are known, by size."""


class SignedTree(Struct, frozen=True, kw_only=True):
    """A checkpoint whose signature was verified, and where it was found."""

    where: str
    checkpoint: Checkpoint


def open_notes(notes: Iterable[tuple[str, bytes]], key: VerifierKey) -> list[SignedTree]:
    """Return the checkpoints in these notes, given as (where it was found, note). Raises: IntegrityError."""
    found = []
    for where, note in notes:
        try:
            found.append(SignedTree(where=where, checkpoint=open_checkpoint(note, key)))
        except BadCheckpointError as error:
            raise IntegrityError(
                f"{where}: {error.why}; it proves nothing, so nothing was written: check --public-key, and find out "
                f"who put this file there"
            ) from None
    return found


def compare_with(history: KnownTree, signed: Sequence[SignedTree], ledger_id: bytes, *, what: str) -> int:
    """Return the size of the largest of these checkpoints. `what` names the ledger or export for messages.

    Raises: IntegrityError if the history is not the one that they cover.
    """
    for each in signed:
        checkpoint = each.checkpoint
        if checkpoint.origin != origin_of(ledger_id):
            raise IntegrityError(
                f"{each.where} belongs to another ledger ({checkpoint.origin}), so nothing was written: check that "
                f"{what} is the right one"
            )
        if checkpoint.size > history.size:
            raise IntegrityError(
                f"{each.where} covers {number(checkpoint.size, 'event')}, but {what} has only {history.size:,}, so "
                f"nothing was written: it is an older copy, or its end was cut off; the last "
                f"{number(checkpoint.size - history.size, 'event')} would be missing"
            )
        if checkpoint.size and history.roots.get(checkpoint.size) != checkpoint.root:
            raise IntegrityError(
                f"the first {number(checkpoint.size, 'event')} of {what} are not those that {each.where} covers, so "
                "nothing was written: somebody rewrote the history; run `kropotcli verify --against` to see where"
            )
    return max(each.checkpoint.size for each in signed)


def lost_since(history: KnownTree, seen: SeenTree) -> str | None:
    """Return in words what this history lacks of a tree that was seen before, None if it lacks nothing."""
    size = seen.tree.size
    if size == 0 or history.roots.get(size) == seen.tree.root:
        return None
    when = f"at {moment(seen.at_us)} this kit saw {number(size, 'event')}"
    if history.size < size:
        return f"{when}, and now there are {history.size:,}: the last {number(size - history.size, 'event')} are gone"
    kept = _agreeing(history, seen)
    return f"{when}, and now the first {size:,} are different: only the first {kept:,} are certain to be the same"


def marks_of(seen: SeenTree) -> set[int]:
    """Return the sizes at which the tree's root shows how much of the seen tree is still there."""
    sizes, at = set(), 0
    for power in reversed(range(seen.tree.size.bit_length())):
        if seen.tree.size >> power & 1:
            at += 1 << power
            sizes.add(at)
    return sizes


def _agreeing(history: KnownTree, seen: SeenTree) -> int:
    """Return how many events at the beginning are certainly the same. The tree was kept in parts of falling size."""
    kept = 0
    for nodes, size in enumerate(sorted(marks_of(seen)), 1):
        if history.roots.get(size) != Frontier(size, seen.tree.nodes[:nodes]).root:
            break
        kept = size
    return kept
