"""What a verification must check."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from kropot.further.healing import Healer
    from kropot.further.joining import Surroundings
    from kropot.objects.opening import Storage
    from kropot.objects.stores.address import StorageAddress
    from kropot.segments import SegmentFolder
    from kropot.verify.checkpoints import Note
    from kropot.verify.source import Lists
    from ledger.note import VerifierKey


class Scope(Struct, frozen=True, kw_only=True):
    """What to check. The ledger, the projection, and the names and sizes of copies are always checked.

    `quick` reads no contents. `budget_s` (seconds) limits the time for reading contents. `max_age_us` (microseconds)
    skips contents that were read more recently. `rate` limits reading, in bytes per second. `record` says whether to
    record findings about copies, and how far contents were read, in the ledger.

    `against` are checkpoints that the user gives, in addition to those in the database. `key` verifies all of them.
    `repair` sets damaged objects aside. `source` (16 bytes) is the source whose listing is compared with the
    projection; `client` asks for that listing. `segments` is the folder of segments, and `storage` holds the objects.

    `further` are the addresses of further storages to check as well, reached through `surroundings`. `healer` repairs
    objects of `storage` from any further storage that has them.
    """

    quick: bool = False
    budget_s: float | None = None
    max_age_us: int | None = None
    rate: int | None = None
    record: bool = True
    against: tuple[Note, ...] = ()
    key: VerifierKey | None = None
    repair: bool = False
    source: bytes | None = None
    client: Lists | None = None
    segments: SegmentFolder | None = None
    storage: Storage | None = None
    surroundings: Surroundings | None = None
    further: tuple[StorageAddress, ...] = ()
    healer: Healer | None = None
