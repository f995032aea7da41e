"""The copies that a replica had at a moment: the newest copy of each element, and the form of the same revision."""

from __future__ import annotations

import hashlib
import threading
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from msgspec import Struct

from kropot.objects.store import ObjectMissingError
from kropot.replay.fold import PAGE, image, pages
from ledger.events import StreamKey

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
    from typing import BinaryIO

    from kropot.objects.store import ObjectStore
    from kropot.replay.fold import Standing
    from ledger.events import Copy, Element
    from ledger.log import Ledger
    from ledger.places import Placement
    from ledger.rows import StoredEvent


class HeldCopy(Struct, frozen=True, kw_only=True):
    """An element's copy, and what is needed to open it. The form and date are those of the copy's own revision.

    `sha256`, `size` (bytes) and `iv` describe the stored bytes. `sha256` is None if there was no copy yet. `is_older`
    means that the element's newest revision was not stored yet. `is_past` means that its source was past
    (kropot/query/past.py). `file` is the path of an exported copy below the export's folder.

    `events` are the events that say so, if they were requested: the last one about the element, then, if the copy is
    older, the one with the form of the copy's revision. `position` is the last one's position. `refused` says why they
    cannot be trusted, None if nothing is wrong with them (kropot/restore/history.py).
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
    position: int = 0
    events: tuple[StoredEvent, ...] = ()
    refused: str | None = None

    @property
    def identity(self) -> bytes:
        """32 bytes that change whenever the restored or exported file would change."""
        parts = (self.key.stored, self.form, b"%d" % self.date, self.sha256 or b"", self.iv or b"")
        return hashlib.sha256(b"".join(b"%d:%s" % (len(part), part) for part in parts)).digest()

    def __reduce__(self) -> tuple[Callable[..., HeldCopy], tuple[object, ...]]:
        """Pickle as one flat tuple."""
        return _unpickled, flat(self)

    def judged(self, refused: str | None) -> HeldCopy:
        """Return the same copy without its events, and with the reason why it cannot be trusted."""
        return HeldCopy(
            key=self.key,
            form=self.form,
            date=self.date,
            tz=self.tz,
            state=self.state,
            sha256=self.sha256,
            size=self.size,
            iv=self.iv,
            is_older=self.is_older,
            is_past=self.is_past,
            file=self.file,
            position=self.position,
            refused=refused,
        )


flat = attrgetter("key.source", "key.kind", "key.id", *(name for name in HeldCopy.__struct_fields__ if name != "key"))


"""Returns a copy as one tuple. Without events it holds only numbers, texts and bytes."""


def from_flat(parts: tuple[Any, ...]) -> HeldCopy:
    """Return the copy from a tuple that `flat` made."""
    return _unpickled(*parts)


def _unpickled(source: bytes, kind: str, id_: str, *rest: Any) -> HeldCopy:
    form, date, tz, state, sha256, size, iv, is_older, is_past, file, position, events, refused = rest
    return HeldCopy(
        key=StreamKey(source=source, kind=kind, id=id_),
        form=form,
        date=date,
        tz=tz,
        state=state,
        sha256=sha256,
        size=size,
        iv=iv,
        is_older=is_older,
        is_past=is_past,
        file=file,
        position=position,
        events=events,
        refused=refused,
    )


class ReleasedError(ObjectMissingError):
    """The storage holds no object of this name, because retention released it."""

    def __init__(self, sha256: bytes, when_and_why: str) -> None:
        """Say so. `when_and_why` continues a sentence that begins with "released"."""
        super().__init__(sha256)
        self.args = (f"retention released this copy {when_and_why}, so it cannot be restored: choose another moment",)


class Copies(Protocol):
    """Anything that copies can be read from."""

    def open(self, held: HeldCopy) -> BinaryIO:
        """Open the stored bytes of a copy. Raises: ObjectMissingError, StorageError."""
        ...

    def places(self, helds: Sequence[HeldCopy]) -> list[Placement | None]:
        """Return the places of these copies in packs, None for those that are not known to be in one."""
        ...

    def read(self, held: HeldCopy, place: Placement | None) -> bytes:
        """Return all stored bytes of a small copy, unchecked. Any process may ask.

        Raises: ObjectMissingError, also if another process could not ask the ledger; StorageError.
        """
        ...


@runtime_checkable
class PlacedReadable(Protocol):
    """A storage whose objects another process can read without the ledger, if it is given their places."""

    def placed(self, sha256s: Collection[bytes]) -> Mapping[bytes, Sequence[Placement]]:
        """Return the places of objects in packs, according to the ledger."""
        ...

    def read_placed(self, sha256: bytes, place: Placement | None) -> bytes:
        """Return the bytes at a place, or those of the object's own file. They MUST be compared with the SHA-256.

        Raises: ObjectMissingError, also if only the ledger could tell where the object is; StorageError.
        """
        ...


class StoredCopies:
    """The copies in a storage."""

    def __init__(self, objects: ObjectStore, released: Callable[[HeldCopy], str | None] = lambda _: None) -> None:
        """Take the storage to read from. `released` says when and why a missing copy was released."""
        self.objects = objects
        self._released = released
        self._lock = threading.Lock()
        self._placed = objects if isinstance(objects, PlacedReadable) else None

    def places(self, helds: Sequence[HeldCopy]) -> list[Placement | None]:
        """Ask the ledger, for all of them at once."""
        if self._placed is None:
            return [None] * len(helds)
        found = self._placed.placed([held.sha256 for held in helds if held.sha256 is not None])
        return [next(iter(found.get(held.sha256 or b"", ())), None) for held in helds]

    def read(self, held: HeldCopy, place: Placement | None) -> bytes:
        """Read the copy's object. The ledger is never asked."""
        if held.sha256 is None:
            raise ObjectMissingError(b"")
        if self._placed is not None:
            return self._placed.read_placed(held.sha256, place)
        with self.objects.open(held.sha256) as source:
            return source.read()

    def open(self, held: HeldCopy) -> BinaryIO:
        """Open the copy's object. Raises: ObjectMissingError, ReleasedError, StorageError."""
        if held.sha256 is None:
            raise ObjectMissingError(b"")
        try:
            return self.objects.open(held.sha256)
        except ObjectMissingError:
            with self._lock:
                why = self._released(held)
                if why is not None:
                    raise ReleasedError(held.sha256, why) from None
            raise


def held_at(
    ledger: Ledger, standings: Iterable[Standing], *, past: frozenset[bytes] = frozenset(), with_events: bool = False
) -> Iterator[HeldCopy]:
    """Yield the newest copy of each element, in the order of `standings`. `past` are the ids of the past sources."""
    for page in pages(standings, PAGE if with_events else 1):
        positions = sorted(standing.position for standing in page if standing.event is None) if with_events else []
        events = {event.seq: event for event in ledger.log.events_at(positions)} if positions else {}
        for standing in page:
            yield _held(ledger, standing, events, past)


def _held(ledger: Ledger, standing: Standing, events: Mapping[int, StoredEvent], past: frozenset[bytes]) -> HeldCopy:
    element, copy = standing.element, standing.element.copy
    used = standing.event or events.get(standing.position)
    listed = element
    proofs: tuple[StoredEvent, ...] = () if used is None else (used,)
    is_older = copy is not None and copy.revision != element.revision
    if copy is not None and is_older:
        listed, event = _of_revision(ledger, standing, copy)
        proofs = (*proofs, event) if proofs and event is not None else proofs
    # If the state was read before its event, both must agree: a database must not give two answers.
    is_same = used is None or used is standing.event or image(ledger, used) == element
    refused = None if is_same else "the ledger says two things about it"
    return HeldCopy(
        key=standing.key,
        form=listed.form,
        date=listed.date,
        tz=listed.tz,
        state=element.state,
        sha256=None if copy is None else copy.sha256,
        size=0 if copy is None else copy.size,
        iv=None if copy is None else copy.iv,
        is_older=is_older,
        is_past=standing.key.source in past,
        position=standing.position,
        events=proofs,
        refused=refused,
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


def _of_revision(ledger: Ledger, standing: Standing, copy: Copy) -> tuple[Element, StoredEvent | None]:
    """Return the element as it was when the copy of this revision was stored, and the event that says so."""
    found, at = standing.element, None
    for event in ledger.log.stream_events(standing.key.stored):
        if event.seq > standing.position:
            break
        element = image(ledger, event)
        if element is not None and element.revision == copy.revision:
            found, at = element, event
    return found, at
