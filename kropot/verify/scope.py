"""What a verification is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kropot.objects.opening import Storage
    from kropot.segments import SegmentFolder
    from kropot.verify.checkpoints import Note
    from kropot.verify.source import Lists
    from ledger.note import VerifierKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What is asked for; ledger, index and the names and sizes of copies are always looked at.

    `quick` reads no contents. `budget_s` ends the reading of contents after so many seconds, `max_age_us` passes over
    what was read less than so long ago, `rate` is in bytes a second. `record` is whether findings about copies, and how
    far contents were read, go into the ledger. `against` are checkpoints that the user brings, beside those in the
    database, and `key` is what all of them are verified with. `repair` sets damaged objects aside. `source` is whose
    listing is compared with the index, by asking `client`. `segments` is where the history beside the objects is, and
    `storage` the storage in which they lie.
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
