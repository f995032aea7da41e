"""Compare the clear header of each sealed object with its element in the ledger, because an object has only one place.

The content of an object is what its SHA-256 says. But an event can name the object of another element, or of another
version. Only the kit could prove whose an object is, but anyone can read whose it claims to be.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from kropot.durable.errors import StorageError
from kropot.objects.store import ObjectMissingError
from kropot.replay.copies import PlacedReadable
from kropot.replay.fold import pages
from kropot.sc2.layout import HEADER_BYTES, parse_header
from kropot.sc2.refused import RefusedError
from kropot.securecopy.sealed_form import sealed_header
from ledger.audit import Finding
from ledger.decoding import fact_of
from ledger.events import CopyStored, RemoteCopied
from ledger.rows import SOUND, StoredFact
from ledger.vaults import namings_of

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Sequence
    from typing import BinaryIO

    from kropot.objects.store import ObjectStore
    from kropot.sc2.layout import ObjectHeader
    from ledger.events import Element
    from ledger.log import Ledger
    from ledger.places import Placement
    from ledger.rows import CopyRow

_PAGE: Final = 10_000
"""How many copies to look at together, in the order of their packs: a bucket fetches each pack once per page."""

_EVENTS: Final = 1000
"""How many events are in memory at once."""
_HINT: Final = (
    "its content is what was stored, but it belongs to something else: do not use it for this element; see with "
    "`kropotcli history` who stored it, and check whether the source still has the right one"
)


class HeaderAudit:
    """Compares headers, range by range, after the contents are read."""

    def __init__(self, ledger: Ledger, objects: ObjectStore) -> None:
        """Find out whether any source has a vault: the copies of all others have no header."""
        self._ledger = ledger
        self._objects = objects
        self._is_needed = any(naming.vault is not None for naming in namings_of(ledger.store).values())
        self._placed = objects if isinstance(objects, PlacedReadable) else None
        self.compared = 0

    def findings(self, start: bytes, end: bytes, *, bad: Container[bytes]) -> Iterator[Finding]:
        """Yield a finding for each wrong header, for start <= SHA-256 <= end. Objects in `bad` are reported already."""
        rows = self._ledger.copies(start=start, end=end) if self._is_needed else iter(())
        for page in pages(rows, _PAGE):
            sound = [row for row in page if row.state == SOUND and row.sha256 not in bad]
            places = self._placed.placed([row.sha256 for row in sound]) if self._placed is not None else {}
            placed = [(row, next(iter(places.get(row.sha256, ())), None)) for row in sound]
            placed.sort(key=lambda pair: (b"", 0) if pair[1] is None else (pair[1].pack, pair[1].offset))
            found: list[Finding] = []
            for few in pages(placed, _EVENTS):
                events = {event.seq: event for event in map(StoredFact._make, self._facts(few))}
                for row, place in few:
                    fact = None if row.position not in events else fact_of(events[row.position])
                    if isinstance(fact, CopyStored | RemoteCopied):
                        found += self._compare(row, fact.element, place)
            yield from sorted(found, key=lambda each: each.object or "")

    def _facts(self, few: Sequence[tuple[CopyRow, Placement | None]]) -> list[tuple[object, ...]]:
        return self._ledger.log.facts_at(sorted({row.position for row, _ in few}))

    def _compare(self, row: CopyRow, element: Element, place: Placement | None) -> Iterator[Finding]:
        listed = sealed_header(element.form)
        if listed is None or element.copy is None:
            return
        self.compared += 1
        key = row.key[16:].partition(b"\0")[2].decode("utf-8", "replace")
        is_newest = element.copy.revision == element.revision
        why = (
            "its form names another element"
            if listed.element_id != key
            else self._wrong(row, listed, place, is_newest=is_newest)
        )
        if why is not None:
            yield Finding(
                kind="wrong_object",
                severity="error",
                detail=why,
                hint=_HINT,
                source=row.key[:16].hex(),
                element=key,
                object=row.sha256.hex(),
                position=row.position,
            )

    def _wrong(self, row: CopyRow, listed: ObjectHeader, place: Placement | None, *, is_newest: bool) -> str | None:
        """Return how the object's header differs, None if it does not or cannot be read: other checks report that."""
        try:
            if self._placed is not None and place is not None:
                data = self._placed.read_placed(row.sha256, place)
                if hashlib.sha256(data).digest() != row.sha256:
                    return None
                found = parse_header(data[:HEADER_BYTES])
            else:
                with self._objects.open(row.sha256) as file:
                    found = parse_header(_beginning(file))
        except (ObjectMissingError, StorageError, OSError):
            return None
        except RefusedError as error:
            return str(error)
        if (found.vault, found.source, found.element) != (listed.vault, listed.source, listed.element):
            return f"the object says that it belongs to element {found.element_id} of vault {found.vault.hex()}"
        if is_newest and found.version != listed.version:
            return "the object says that it is another version of this element"
        return None


def _beginning(file: BinaryIO) -> bytes:
    """Return the bytes of a header, or fewer at the end. Some stores return less than requested before their end."""
    data = b""
    while len(data) < HEADER_BYTES and (more := file.read(HEADER_BYTES - len(data))):
        data += more
    return data
