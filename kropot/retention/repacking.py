"""Free unused objects in packs while collectors work: live objects move into new packs, and the old packs are removed.

A pack is removed only under the lock of the ledger's head, after another look at every copy that names an object in it
that would be lost (docs/decisions/0031).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain, islice
from typing import TYPE_CHECKING, Final, NamedTuple

from kropot.restore.fingerprints import FINGERPRINT, Fingerprints
from kropot.retention.needed import releases_after
from ledger.decoding import fact_of
from ledger.retaining import head_locked
from ledger.retention import ReleaseFact
from ledger.rows import RELEASED

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from kropot.objects.packs.rewriting import PackContents, PackRewriter
    from kropot.retention.freeing import FreedSum
    from ledger.log import Ledger

_PAGE: Final = 500


class _Split(NamedTuple):
    """The objects of a pack: those that are needed, those that are not, and the bytes of both kinds."""

    live: set[bytes]
    dead: set[bytes]
    unused: int
    total: int


@dataclass(slots=True, kw_only=True)
class Repacking:
    """Rewrites packs of which more than `max_unused` percent is unused.

    An object is unused if it was released up to position `until`, or if no event names it and its pack is older than
    `orphans_us` (None: never). `allowed` is called under the lock before a removal, and can refuse by raising. What
    only the stream `but` names is unused, too: its element is being erased. Locked packs are then not spared.
    """

    ledger: Ledger
    packs: PackRewriter
    allowed: Callable[[], object]
    until: int
    max_unused: int
    now_us: int
    orphans_us: int | None = None
    but: int | None = None
    rewritten: int = 0
    _waiting: Fingerprints = field(default_factory=Fingerprints)
    _brought: set[bytes] = field(default_factory=set)

    def run(self, names: Iterable[bytes], found: FreedSum, demand_newest: Callable[[], object]) -> None:
        """Rewrite those of these packs that are worth it, and add what was freed. It MUST run while freeing is open.

        `demand_newest` is called under the lock before a pack is removed, and refuses once another process frees.
        Raises: StorageError, LedgerError, what `allowed` and `demand_newest` raise.
        """
        try:
            self._learn()
            for name in chain(sorted(self._brought), (name for name in names if name not in self._brought)):
                self._one(name, found, demand_newest)
        finally:
            self._waiting.close()

    def bring_back(self) -> None:
        """Bring back packs that a crash left put away. `run` looks at them, whatever the ledger knows."""
        for name in list(self.packs.put_away_before()):
            self.packs.bring_back(name)
            self._brought.add(name)

    # --- helpers ---

    def _learn(self) -> None:
        """Remember the releases that still wait, because they can be taken back."""
        events = releases_after(self.ledger, self.until, self.ledger.head().position)
        while page := list(islice(events, _PAGE)):
            for event in page:
                fact = fact_of(event)
                if isinstance(fact, ReleaseFact):
                    self._waiting.add(fact.sha256[:FINGERPRINT])

    def _one(self, name: bytes, found: FreedSum, demand_newest: Callable[[], object]) -> None:
        contents = self.packs.contents(name, self.now_us)
        if contents is None:
            return
        split = self._split(contents)
        is_worth = split.dead and (not split.live or split.unused * 100 > self.max_unused * split.total)
        if not is_worth:
            return
        if split.live and contents.is_spared and self.but is None:
            found.locked += split.unused
            return  # it is written again once its own lock is about to end
        if split.live:
            made = self.packs.copy(name, split.live)
            if made is None:
                return  # a live object is not sound here: `verify --repair` might still need the pack as is
            self.ledger.places.add(made)
        if self._remove(name, split.dead, demand_newest):
            self.rewritten += 1
            found.objects += len(split.dead)
            found.bytes += split.unused
            found.locked += split.unused if contents.is_locked else 0

    def _split(self, contents: PackContents) -> _Split:
        sizes = {entry.sha256: entry.length for entry in contents.entries}
        dead = self._unneeded(sizes, orphans=self.orphans_us is not None and contents.age_us >= self.orphans_us)
        return _Split(sizes.keys() - dead, dead, sum(sizes[each] for each in dead), sum(sizes.values()))

    def _unneeded(self, sha256s: Collection[bytes], *, orphans: bool) -> set[bytes]:
        rows = self.ledger.projection.named(sha256s)
        named = {row.sha256 for row in rows}
        others = [row for row in rows if row.stream != self.but]
        needed = {row.sha256 for row in others if row.state != RELEASED}
        needed |= {row.sha256 for row in others if row.sha256[:FINGERPRINT] in self._waiting}
        if not orphans:
            needed |= set(sha256s) - named
        return set(sha256s) - needed

    def _remove(self, name: bytes, dead: set[bytes], demand_newest: Callable[[], object]) -> bool:
        """Remove a pack if no object that is lost with it is needed by now. Return whether it was removed."""
        is_away = False
        try:
            with head_locked(self.ledger):
                self.allowed()
                demand_newest()
                if self._unneeded(dead, orphans=self.orphans_us is not None) == dead:
                    is_away = self.packs.put_away(name)
        except BaseException:
            # The lock might have been lost, and somebody might have named one of its objects since.
            if is_away:
                self.packs.bring_back(name)
            raise
        if is_away:
            self.ledger.places.forget(name)
            self.packs.destroy(name)
        return is_away
