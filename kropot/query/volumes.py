"""How many copies were stored in a range of positions, and their bytes, without reading most of a long range's events.

A long range is read as whole blocks from the sums that the database makes of its copies, and the two ends from events.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from ledger.decoding import fact_of
from ledger.events import CopyStored, RemoteCopied
from ledger.rows import StoredEvent

if TYPE_CHECKING:
    from ledger.log import Ledger

BLOCK: Final = 1024
_PAGE: Final = 1000
_FURTHER: Final = 64
_COPIES: Final = frozenset({CopyStored.TYPE, RemoteCopied.TYPE})


class _Sums(NamedTuple):
    """The copies and bytes by source and block, of all blocks before block number `end`."""

    end: int
    blocks: dict[tuple[bytes, int], tuple[int, int]]


@dataclass(slots=True)
class StoredVolumes:
    """Answers for one ledger. It keeps one pair of numbers for each source and block of 1,024 positions.

    While it is kept, it makes the sums again only after many further blocks. Up to then, it counts the events after
    the sums. Events that were erased since the sums were made still count.
    """

    ledger: Ledger
    _sums: _Sums | None = None

    def between(self, source: bytes, after: int, until: int) -> tuple[int, int]:
        """Return how many copies of the source were stored in (`after`, `until`], and their bytes."""
        first, end = -(-(after + 1) // BLOCK), (until + 1) // BLOCK
        if end - first < 2:  # noqa: PLR2004 - making the sums costs a look at every copy of the ledger
            return self._counted(source, after, until)
        sums = self._sums
        if sums is None or end > sums.end + _FURTHER:
            sums = self._sums = self._made()
        end = min(end, sums.end)
        if end <= first:
            return self._counted(source, after, until)
        parts = [
            self._counted(source, after, first * BLOCK - 1),
            *(sums.blocks.get((source, block), (0, 0)) for block in range(first, end)),
            self._counted(source, end * BLOCK - 1, until),
        ]
        return sum(copies for copies, _ in parts), sum(size for _, size in parts)

    # --- helpers ---

    def _made(self) -> _Sums:
        end = (self.ledger.log.head().position + 1) // BLOCK
        ids = {row.no: row.id for row in self.ledger.projection.sources()}
        blocks = {
            (ids[row.source], row.block): (row.copies, row.bytes)
            for row in self.ledger.projection.volumes(BLOCK)
            if row.source in ids
        }
        return _Sums(end, blocks)

    def _counted(self, source: bytes, after: int, until: int) -> tuple[int, int]:
        """Count by reading the events themselves."""
        copies = size = 0
        while after < until:
            page = self.ledger.log.page(after, until, _PAGE)
            stored = [event for event in map(StoredEvent._make, page) if event.type in _COPIES]
            mine = self._of(source, {event.stream for event in stored})
            for event in stored:
                fact = fact_of(event) if event.stream in mine and event.payload is not None else None
                if isinstance(fact, CopyStored | RemoteCopied) and fact.element.copy is not None:
                    copies, size = copies + 1, size + fact.element.copy.size
            if len(page) < _PAGE:
                break
            after = page[-1][0]
        return copies, size

    def _of(self, source: bytes, streams: set[int]) -> set[int]:
        """Return which of these streams are about elements of the source."""
        found = self.ledger.log.streams(streams) if streams else ()
        return {number for number, key in found if key is not None and key.startswith(source)}
