"""The storage as `status` sees it: whether it is there, has room, and holds what the ledger names. This costs little.

`look` reads; `storage_alarms` judges, and is pure. The cost does not depend on the number of objects or events.
"""

from __future__ import annotations

from contextlib import closing
from itertools import islice
from typing import TYPE_CHECKING, Final

from msgspec import Struct
from msgspec.structs import replace

from kropot.collect.transfer.kept import read_note
from kropot.durable.errors import StorageError
from kropot.durable.filesystem import Room
from kropot.errors import IntegrityError
from kropot.query.alarm import Alarm
from kropot.storage_away import StorageAwayError, demand_objects
from kropot.wording import SECOND_US, amount, number
from ledger.places import PackTotals
from ledger.rows import SOUND

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kropot.objects.opening import Storage
    from ledger.events import StreamKey
    from ledger.log import Ledger

PROBES: Final = 16
"""How many of the objects that the ledger calls sound to look for, evenly spread over all hashes."""

FEW_FILES: Final = 1000
"""A file system that can hold fewer new files than this is nearly full, however many bytes are free."""

MOST_TRANSFERS: Final = 20
"""How many long transfers to show."""

UNKNOWN: Final = Room(bytes=None, files=None)
NO_PACKS: Final = PackTotals(0, 0, 0)

SEGMENTS_LATE_S: Final = 900
"""How long events may be without a segment while listings complete: a collector writes segments once a minute."""


class LongTransfer(Struct, frozen=True, kw_only=True):
    """A content that is arriving or waits for its rest: `received` of `length` bytes, the last ones at `heard_us`."""

    key: StreamKey
    instance: str
    received: int
    length: int
    heard_us: int


class StorageFacts(Struct, frozen=True, kw_only=True):
    """The facts about the storage at `place`.

    `away` and `trouble` say why it cannot be used or looked at, `refusal` why `collect` would refuse this ledger with
    it. Of `probed` objects, `missing` are not there as the ledger names them. `room` is that of the storage,
    `ledger_room` that of an SQLite ledger. The segments reach to event `segments_to`, None if there are none, and
    `unwritten_us` is the time of the first event beyond. `transfers` are some of the long transfers.
    There are `copies` current copies of elements, of `copied_bytes` in total, and `packs` says how many objects of
    any age are in packs.
    """

    place: str
    away: str | None = None
    trouble: str | None = None
    refusal: str | None = None
    probed: int = 0
    missing: int = 0
    room: Room = UNKNOWN
    ledger_room: Room = UNKNOWN
    segments_to: int | None = None
    unwritten_us: int | None = None
    transfers: tuple[LongTransfer, ...] = ()
    copies: int = 0
    copied_bytes: int = 0
    packs: PackTotals = NO_PACKS


class StorageLimits(Struct, frozen=True, kw_only=True):
    """When there is too little room: fewer bytes or fewer files than these."""

    min_free: int = 1 << 30
    min_files: int = FEW_FILES


def look(ledger: Ledger, storage: Storage) -> StorageFacts:
    """Read the facts about a storage, as far as this user can see them."""
    place = storage.objects_place
    database = ledger.database
    ledger_room = Room(bytes=database.free_bytes(), files=database.free_files())
    try:
        demand_objects(storage, ledger)
        room = storage.room()
        probed, missing = _probe(ledger, storage)
        transfers = tuple(_transfers(storage))
    except StorageAwayError as error:
        return StorageFacts(place=place, away=str(error), ledger_room=ledger_room)
    except (StorageError, OSError) as error:
        return StorageFacts(place=place, trouble=str(error), ledger_room=ledger_room)
    current = [tally for tally in ledger.tallies() if tally.state == "current"]
    facts = StorageFacts(
        place=place,
        room=room,
        ledger_room=ledger_room,
        probed=probed,
        missing=missing,
        transfers=transfers,
        copies=sum(tally.elements for tally in current),
        copied_bytes=sum(tally.bytes for tally in current),
        packs=ledger.places.totals(),
    )
    return _with_segments(ledger, storage, facts)


def storage_alarms(facts: StorageFacts, limits: StorageLimits, *, listed_us: int | None) -> Iterator[Alarm]:
    """Yield the alarms about the storage. The last listing of any source was completed at `listed_us`."""
    for judge in STORAGE_ALARMS:
        yield from judge(facts, limits)
    late_us = facts.unwritten_us
    if late_us is not None and listed_us is not None and listed_us - late_us > SEGMENTS_LATE_S * SECOND_US:
        text = (
            f"the history beside the objects ends at event {facts.segments_to}, so the storage alone is not a complete "
            "backup: the collector's log says why it writes no segments"
        )
        yield Alarm(name="segments_stale", source=None, text=text, since_us=late_us)


# --- reading ---------------------------------------------------------------------------------------------------------


def _probe(ledger: Ledger, storage: Storage) -> tuple[int, int]:
    """Return how many sound objects were looked for, and how many of them are not there. Raises: StorageError."""
    sizes: dict[bytes, int] = {}
    for first in range(0, 256, 256 // PROBES):
        # Look at a few, because some can be released or lost.
        for row in islice(ledger.projection.copies(start=bytes([first])), PROBES):
            if row.state == SOUND:
                sizes[row.sha256] = row.size
                break
    with closing(storage.objects(places=ledger.places)) as objects:
        missing = sum(objects.size(sha256) != size for sha256, size in sizes.items())
    return len(sizes), missing


def _transfers(storage: Storage) -> Iterator[LongTransfer]:
    """Yield long transfers, at most MOST_TRANSFERS. Raises: StorageError."""
    for partial in islice(storage.partials(), MOST_TRANSFERS):
        note = read_note(partial.mark.note)
        if note is not None:
            yield LongTransfer(
                key=note.stream,
                instance=partial.instance,
                received=partial.mark.size,
                length=note.length,
                heard_us=int(partial.marked_s * SECOND_US),
            )


def _with_segments(ledger: Ledger, storage: Storage, facts: StorageFacts) -> StorageFacts:
    """Return the facts with those about the history next to the objects."""
    segments = storage.segments()
    try:
        segments.check(ledger)
        reach = segments.newest()
    except IntegrityError as error:
        return replace(facts, refusal=str(error))
    except StorageError as error:
        return replace(facts, trouble=str(error))
    if reach is None:
        return facts
    beyond = next(ledger.stored(after=reach.last, until=reach.last + 1), None)
    return replace(facts, segments_to=reach.last, unwritten_us=None if beyond is None else beyond.recorded_us)


# --- judging ---------------------------------------------------------------------------------------------------------


def _away(facts: StorageFacts, _limits: StorageLimits) -> Iterator[Alarm]:
    if facts.away is not None:
        yield Alarm(name="storage_away", source=None, text=facts.away)
    if facts.trouble is not None:
        text = f"cannot look at the storage ({facts.trouble}): run `status` as the user who collects"
        yield Alarm(name="storage_unknown", source=None, text=text)


def _refused(facts: StorageFacts, _limits: StorageLimits) -> Iterator[Alarm]:
    if facts.refusal is not None:
        yield Alarm(name="history_differs", source=None, text=f"`collect` refuses this ledger: {facts.refusal}")


def _missing(facts: StorageFacts, _limits: StorageLimits) -> Iterator[Alarm]:
    if facts.missing:
        text = (
            f"{facts.missing} of {number(facts.probed, 'object')} that were looked for are not in {facts.place} as the "
            "ledger names them: check --storage-path, then run `kropotcli verify --quick`"
        )
        yield Alarm(name="objects_missing", source=None, text=text)


def _full(facts: StorageFacts, limits: StorageLimits) -> Iterator[Alarm]:
    for what, room in (("storage", facts.room), ("file system of the ledger", facts.ledger_room)):
        if room.bytes is not None and room.bytes < limits.min_free:
            text = (
                f"the {what} has {amount(room.bytes)} free, less than {amount(limits.min_free)} (--min-free), so "
                f"nothing new is fetched: free some space"
            )
            yield Alarm(name="storage_full", source=None, text=text)
        elif room.files is not None and room.files < limits.min_files:
            text = (
                f"the {what} can take only {number(room.files, 'more file')} (inodes): remove files, or use a larger "
                f"file system"
            )
            yield Alarm(name="storage_full", source=None, text=text)


STORAGE_ALARMS: Final[tuple[Callable[[StorageFacts, StorageLimits], Iterator[Alarm]], ...]] = (
    _away,
    _refused,
    _missing,
    _full,
)
