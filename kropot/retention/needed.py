"""Find what was released, what is still needed because a copy that was not released names it, and what is left."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

from ledger.decoding import fact_of
from ledger.retention import CopyReleased, LastCopyReleased, ReleaseFact
from ledger.rows import RELEASED, StoredFact

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from kropot.objects.opening import Storage
    from kropot.objects.packs.packed import PackPlaces
    from ledger.log import Ledger

BATCH: Final = 200
"""How many objects to free under one lock. Collectors wait that long."""

RELEASES: Final = (CopyReleased.TYPE, LastCopyReleased.TYPE)
_PAGE: Final = 1000


def releases_after(ledger: Ledger, after: int, until: int) -> Iterator[StoredFact]:
    """Yield the events that released a copy at positions in (`after`, `until`], in order."""
    while page := ledger.log.of_types(RELEASES, after, until, _PAGE):
        yield from map(StoredFact._make, page)
        after = page[-1][0]


def released_objects(ledger: Ledger, after: int, until: int) -> Iterator[list[bytes]]:
    """Yield the objects (SHA-256) that were released at positions in (`after`, `until`], some at a time."""
    events = releases_after(ledger, after, until)
    while page := list(islice(events, BATCH)):
        facts = [fact_of(event) for event in page if event.payload is not None]
        yield sorted({fact.sha256 for fact in facts if isinstance(fact, ReleaseFact)})


def needed_of(ledger: Ledger, sha256s: Collection[bytes], but: int | None = None) -> set[bytes]:
    """Return those that an unreleased copy of any source names, not counting copies of the stream `but`."""
    rows = ledger.projection.named(sha256s)
    return {row.sha256 for row in rows if row.state != RELEASED and row.stream != but}


def still_in(storage: Storage, places: PackPlaces, wanted: Collection[bytes]) -> list[bytes]:
    """Return those of these objects that a storage still has. `places` knows of those in packs with a damaged index."""
    left: set[bytes] = set()
    for known in (None, places):
        objects = storage.objects(places=known)
        try:
            left |= {sha256 for sha256 in wanted if objects.size(sha256) is not None}
        finally:
            objects.close()
    return sorted(left)


def needed_in(ledger: Ledger) -> Callable[[str], bool]:
    """Return a function that says whether the ledger needs the file at a storage's key, or does not know what it is.

    Objects are needed while an element has a copy of them, packs while the ledger knows them.
    """

    def is_needed(key: str) -> bool:
        name = key.rpartition("/")[2].partition(".")[0]
        try:
            sha256 = bytes.fromhex(name)
        except ValueError:
            return True
        if key.startswith("packs/") or key.endswith(".pack"):
            return any(row.name == sha256 for row in ledger.places.packs())
        is_object = key.startswith(("objects/", "freed/", "quarantine/"))
        return not is_object or any(row.state != RELEASED for row in ledger.projection.named([sha256]))

    return is_needed
