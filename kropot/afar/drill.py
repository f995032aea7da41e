"""Draws copies for a drill from a keeper or from an export. A keeper cannot tell which ones before they are drawn."""

from __future__ import annotations

from collections import Counter
from itertools import chain, islice
from typing import TYPE_CHECKING, Final

from kropot.afar.replica import held_of_row
from kropot.query.names import FILE_KIND
from kropot.restore.history import AlteredError, refuse_altered
from kropot.restore.plan import RestoreProblem

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from random import Random

    from kropot.afar.replica import AfarReplica, RemoteSources, RemoteTree
    from kropot.replay.copies import HeldCopy
    from kropot.restore.read_export import ExportedCopies

_PROBES: Final = 4
_FEW: Final = 10
"""How many elements after a random id to ask for."""


class RemoteDrawn:
    """The copies at a keeper."""

    def __init__(self, replica: AfarReplica, tree: RemoteTree, sources: RemoteSources, position: int) -> None:
        """Draw from a keeper's replica at this position."""
        self._replica = replica
        self._tree = tree
        self._sources = sources
        self._position = position

    def elements(self) -> Mapping[bytes, int]:
        """Return how many elements each source has, according to the keeper."""
        counts = Counter[bytes](dict.fromkeys(self._sources.known, 0))
        for tally in self._sources.tallies:
            counts[tally.source] += tally.elements
        return counts

    def pick(self, source: bytes, wanted: int, count: int, chance: Random) -> Iterator[HeldCopy | RestoreProblem]:
        """Yield up to `wanted` copies: for each random id, the copy of the next element that has one."""
        seen: set[str] = set()
        for _ in range(_PROBES * wanted):
            if len(seen) >= min(wanted, count):
                return
            # The ids of sealed elements are digests, so any beginning of one is as likely as any other.
            start = f"{source.hex()}/{FILE_KIND}/{chance.randbytes(32).hex()}"
            behind = islice(self._replica.rows(source, self._position, after=start, limit=_FEW), _FEW)
            # After the last id, continue at the first one.
            around = chain(behind, islice(self._replica.rows(source, self._position, limit=_FEW), _FEW))
            helds = (held_of_row(row, is_past=False) for row in around if row["id"] not in seen)
            held = next((each for each in helds if each.sha256 is not None or each.refused is not None), None)
            if held is not None:
                seen.add(held.key.id)
                yield checked(held, self._tree.salts.get(source))


class ExportDrawn:
    """The copies in an export. It is read once for each question, because it is not ordered by id."""

    def __init__(self, copies: ExportedCopies, salts: Mapping[bytes, bytes] | None) -> None:
        """Draw from this export. `salts` are those of its sources, None for an older export without history."""
        self._copies = copies
        self._salts = salts

    def elements(self) -> Mapping[bytes, int]:
        """Return how many elements of each source the export has."""
        return Counter(held.key.source for held in self._copies.helds())

    def pick(self, source: bytes, wanted: int, count: int, chance: Random) -> Iterable[HeldCopy | RestoreProblem]:
        """Return up to `wanted` copies, each as likely as any other."""
        places = set(chance.sample(range(count), min(wanted, count)))
        of_source = (held for held in self._copies.helds() if held.key.source == source)
        picked = [held for at, held in enumerate(of_source) if at in places]
        return [held if self._salts is None else checked(held, self._salts.get(source)) for held in picked]


def checked(held: HeldCopy, salt: bytes | None) -> HeldCopy | RestoreProblem:
    """Return a copy whose events agree with their headers, or what is wrong with it."""
    try:
        refuse_altered(held, salt)
    except AlteredError as error:
        return RestoreProblem(problem="refused", key=held.key, name=None, why=str(error))
    return held
