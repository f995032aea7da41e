"""The copies that a replica had at a moment: the newest copy of each element, and the form of the same revision."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from kropot.objects.store import ObjectMissingError
from kropot.replay.fold import image

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import BinaryIO

    from kropot.objects.store import ObjectStore
    from kropot.replay.fold import Standing
    from ledger.events import Copy, Element, StreamKey
    from ledger.log import Ledger


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldCopy:
    """An element's copy, and what is needed to open it. The form and date are those of the copy's own revision.

    `sha256`, `size` (bytes) and `iv` describe the stored bytes. `sha256` is None if there was no copy yet. `is_older`
    means that the element's newest revision was not stored yet. `is_past` means that its source was past
    (kropot/query/past.py). `file` is the path of an exported copy below the
    export's folder.
    """

    key: StreamKey
    form: bytes
    date: int
    tz: str
    state: str
    sha256: bytes | None
    size: int
    iv: bytes | None
    is_older: bool
    is_past: bool = False
    file: tuple[bytes, ...] | None = None

    @property
    def identity(self) -> bytes:
        """32 bytes that change whenever the restored or exported file would change."""
        parts = (self.key.stored, self.form, b"%d" % self.date, self.sha256 or b"", self.iv or b"")
        return hashlib.sha256(b"".join(b"%d:%s" % (len(part), part) for part in parts)).digest()


class Copies(Protocol):
    """Anything that copies can be read from."""

    def open(self, held: HeldCopy) -> BinaryIO:
        """Open the stored bytes of a copy. Raises: ObjectMissingError, StorageError."""
        ...


class StoredCopies:
    """The copies in a storage."""

    def __init__(self, objects: ObjectStore) -> None:
        """Take the storage to read from."""
        self._objects = objects

    def open(self, held: HeldCopy) -> BinaryIO:
        """Open the copy's object. Raises: ObjectMissingError, StorageError."""
        if held.sha256 is None:
            raise ObjectMissingError(b"")
        return self._objects.open(held.sha256)


def held_at(
    ledger: Ledger, standings: Iterable[Standing], *, past: frozenset[bytes] = frozenset()
) -> Iterator[HeldCopy]:
    """Yield the newest copy of each element, in the order of `standings`. `past` are the ids of the past sources."""
    for standing in standings:
        element, copy = standing.element, standing.element.copy
        if copy is not None and copy.revision != element.revision:
            form, date, tz = _of_revision(ledger, standing, copy)
        else:
            form, date, tz = element.form, element.date, element.tz
        yield HeldCopy(
            key=standing.key,
            form=form,
            date=date,
            tz=tz,
            state=element.state,
            sha256=None if copy is None else copy.sha256,
            size=0 if copy is None else copy.size,
            iv=None if copy is None else copy.iv,
            is_older=copy is not None and copy.revision != element.revision,
            is_past=standing.key.source in past,
        )


def held_json(held: HeldCopy) -> dict[str, Any]:
    """Return the copy as JSON fields, for manifests of exports and for findings."""
    return {
        "source": held.key.source.hex(),
        "type": held.key.kind,
        "id": held.key.id,
        "date": held.date,
        "tz": held.tz,
        "state": held.state,
        "sha256": None if held.sha256 is None else held.sha256.hex(),
        "size": held.size,
        "iv": None if held.iv is None else held.iv.hex(),
    }


def _of_revision(ledger: Ledger, standing: Standing, copy: Copy) -> tuple[bytes, int, str]:
    """Return the form, date and zone of the copy's revision, as they were when the copy was stored."""
    found: Element = standing.element
    for event in ledger.log.stream_events(standing.key.stored):
        if event.seq > standing.position:
            break
        element = image(ledger, event)
        if element is not None and element.revision == copy.revision:
            found = element
    return found.form, found.date, found.tz
