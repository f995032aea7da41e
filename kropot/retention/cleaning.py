"""Objects in a storage that are not copies: orphans, released objects that came back, and objects set aside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kropot.errors import PartialError
from kropot.query.released import release_of
from ledger.decoding import entry_of
from ledger.events import StreamKey
from ledger.rows import RELEASED, SOUND

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kropot.objects.freeing import Freeable
    from kropot.objects.store import Leftover, ObjectStore
    from ledger.log import Ledger
    from ledger.rows import CopyState


@dataclass(slots=True, kw_only=True)
class Count:
    """A number of objects, and their bytes."""

    objects: int = 0
    bytes: int = 0

    def add(self, size: int) -> None:
        """Count one."""
        self.objects += 1
        self.bytes += size


def unnamed(
    ledger: Ledger, objects: ObjectStore, *, freed_to: int, go_on: Callable[[], object] = lambda: None
) -> Iterator[tuple[bytes, int]]:
    """Yield (SHA-256, size) of the objects that no event names, in order. Memory stays flat.

    `go_on` is called for each object in the storage, and may raise.

    An object whose every copy was released and freed is one, too, because a power cut can bring it back. One whose
    release is newer than `freed_to` is not, because it waits. Raises: StorageError.
    """
    rows = ledger.projection.copies()
    row = next(rows, None)
    for sha256, size in objects.walk():
        go_on()
        while row is not None and row.sha256 < sha256:
            row = next(rows, None)
        if row is None or row.sha256 != sha256:
            yield sha256, size
            continue
        named: list[CopyState] = []
        while row is not None and row.sha256 == sha256:
            named.append(row)
            row = next(rows, None)
        if all(each.state == RELEASED and _released_at(ledger, each) <= freed_to for each in named):
            yield sha256, size


def old_unnamed(
    ledger: Ledger,
    objects: ObjectStore,
    freeing: Freeable,
    *,
    freed_to: int,
    now_us: int,
    grace_us: int,
    young: Count,
    packed: Count,
) -> Iterator[tuple[bytes, int]]:
    """Yield those of `unnamed` that are older than `grace_us`.

    Younger ones are counted in `young`, and those in packs, which are not freed one by one, in `packed`.
    """
    for sha256, size in unnamed(ledger, objects, freed_to=freed_to):
        age_us = freeing.age_us(sha256, now_us)
        if age_us is None:
            packed.add(size)
        elif age_us < grace_us:
            young.add(size)
        else:
            yield sha256, size


def is_dispensable(ledger: Ledger, objects: ObjectStore, leftover: Leftover) -> bool:
    """Return whether an object that was set aside is not needed: all elements that named it have a sound copy again.

    If the ledger still calls such a copy sound, the object itself must be there again.
    Raises: PartialError if the file's name is not that of an object; StorageError.
    """
    name = leftover.path.rpartition("/")[2].partition(".")[0]
    try:
        sha256 = bytes.fromhex(name)
    except ValueError:
        raise PartialError(f"{leftover.path} was not set aside by this program") from None
    rows = ledger.projection.named([sha256])
    keys = dict(ledger.log.streams({row.stream for row in rows}))
    entries = {
        image.stream: image for image in ledger.projection.images([key for key in keys.values() if key is not None])
    }
    for row in rows:
        image = entries.get(row.stream)
        element = None if image is None else entry_of(image).element
        has_another = element is not None and element.copy is not None and element.damage is None
        if row.state == SOUND and objects.size(sha256) is None:
            return False
        if element is not None and row.state not in {SOUND, RELEASED} and not has_another:
            return False
    return True


def _released_at(ledger: Ledger, row: CopyState) -> int:
    """Return the position of the last event that released this copy."""
    key = dict(ledger.log.streams([row.stream])).get(row.stream)
    found = None if key is None else release_of(ledger, StreamKey.parse(key), row.sha256)
    return 0 if found is None else found.position
