"""Carries out the ledger's part of a collector's actions: each at once, and returns the result.

The loop and the simulation share it, so that the simulation tests the code that runs.
"""

from __future__ import annotations

from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, get_args

from msgspec import Struct, field

from kropot.collect.decide.actions import (
    Beat,
    BeginListing,
    CountMissing,
    EndListing,
    FindMissing,
    GiveBack,
    LookUp,
    ReadSource,
    RecordFacts,
    TakeWork,
)
from kropot.collect.decide.inputs import (
    Conflicted,
    Input,
    ListingBegan,
    ListingBusy,
    LookedUp,
    MissingCounted,
    MissingFound,
    Ousted,
    Recorded,
    SourceRead,
    WorkTaken,
)
from kropot.collect.decide.plan import is_missing
from kropot.collect.decide.sources import source_key
from ledger.errors import ConflictError, InstanceBusyError
from ledger.events import ElementFact, ListingCompleted, RunFailed, StreamKey
from ledger.replica import Entry
from ledger.retaining import is_freed_since
from ledger.vaults import naming_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ledger.append import NewFact
    from ledger.events import Source
    from ledger.log import Ledger
    from ledger.places import Placement

STRETCH = 5000
"""How many entries to read at a time. That takes as long as a few listed pages."""

MOST_FAILED_RUNS = 100
"""After more failed runs in a row than this, the search for what the server called closed stops."""

PRESENT = ("current", "damaged", "lost", "pending")
HORIZON_US = 10 * 366 * 24 * 3600 * 1_000_000

LedgerAction = (
    BeginListing
    | EndListing
    | LookUp
    | ReadSource
    | RecordFacts
    | CountMissing
    | FindMissing
    | TakeWork
    | GiveBack
    | Beat
)
LEDGER_ACTIONS = get_args(LedgerAction)


class LedgerEffects(Struct, frozen=True, kw_only=True):
    """Carries out what concerns the ledger, for one instance and one source.

    `free_bytes` tells how much room the storage has, None if that is unknown. `holds` tells whether an object is in it,
    by SHA-256, size, and its place in a pack if it was just put there. `_taken` has, for work under way, the ledger's
    position when it was taken.
    """

    ledger: Ledger
    source_id: bytes
    instance: str
    lease_us: int
    free_bytes: Callable[[], int | None]
    holds: Callable[[bytes, int, Placement | None], bool] | None = None
    _taken: dict[StreamKey, int] = field(default_factory=dict)

    def perform(self, action: LedgerAction) -> Input | None:
        """Carry an action out and return what happened, None if nothing answers.

        Raises: LedgerError, StorageError.
        """
        try:
            return self._perform(action)
        except InstanceBusyError:
            return Ousted()

    def _perform(  # noqa: C901 - one case per action: the type checker names a missing one
        self, action: LedgerAction
    ) -> Input | None:
        answer: Input | None = None
        match action:
            case BeginListing():
                answer = self._begin_listing()
            case EndListing():
                self.ledger.work.unreserve(self._reservation)
            case LookUp():
                answer = self._look_up(action)
            case ReadSource():
                source, version = self._source()
                answer = SourceRead(source=source, version=version)
            case RecordFacts():
                answer = self._record(action)
            case CountMissing():
                answer = self._count_missing(action)
            case FindMissing():
                answer = self._find_missing(action)
            case TakeWork():
                answer = self._take(action)
            case GiveBack():
                self._forget(action.keys)
                self.ledger.work.release(self.instance, action.keys)
            case Beat():
                self.ledger.work.beat(self.instance, lease_us=self.lease_us)
        return answer

    @property
    def _reservation(self) -> str:
        return f"list:{self.source_id.hex()}"

    def _source(self) -> tuple[Source, int]:
        found = self.ledger.sources()[self.source_id]
        return found.source, found.version

    def _begin_listing(self) -> Input:
        ledger = self.ledger
        is_mine = ledger.work.reserve(self._reservation, lease_us=self.lease_us)
        source, version = self._source()
        if not is_mine:
            return ListingBusy(source=source)
        tallies = [each for each in ledger.tallies() if each.source == self.source_id and each.elements]
        known = sum(each.elements for each in tallies if each.state != "vanished")
        naming, position = naming_of(ledger.log, self.source_id), ledger.head().position
        return ListingBegan(
            source=source,
            version=version,
            known=known,
            position=position,
            closed=self._closed(),
            naming=naming,
            is_blank=not tallies,
        )

    def _closed(self) -> int | None:
        """Return what the source's newest fact says is closed. Failed runs do not change that."""
        key = source_key(self.source_id)
        for event in islice(self.ledger.history(key, newest_first=True), MOST_FAILED_RUNS):
            if isinstance(event.fact, ListingCompleted):
                return event.fact.listing.closed
            if not isinstance(event.fact, RunFailed):
                break
        return None

    def _look_up(self, action: LookUp) -> Input:
        keys = (StreamKey(source=self.source_id, kind=one.type, id=one.id) for one in action.entries)
        found: dict[StreamKey, Entry] = {}
        if not action.are_new:
            wanted = set(keys)
            found = self.ledger.entries(wanted)
            keys = (key for key in wanted if key not in found)
        # An element that was erased and blocked is reported as known, so that nothing is recorded about it.
        for key in self.ledger.blocked.among(keys):
            found[key] = Entry(key=key, stream=0, version=0, position=0, element=None)
        source, version = self._source()
        return LookedUp(
            known={(key.kind, key.id): entry for key, entry in found.items()},
            source=source,
            version=version,
            free=self.ledger.database.free_bytes(),
            naming=naming_of(self.ledger.log, self.source_id),
        )

    def _record(self, action: RecordFacts) -> Input:
        facts, dropped = action.facts, set[StreamKey]()
        # Leases for fetching are given back in the transaction that records the results.
        release = self.instance if action.about in {"copies", "failures"} else None
        position = 0
        while facts:
            try:
                check = partial(self._look_again, facts, action.places) if action.about == "copies" else None
                position = self.ledger.append(facts, release=release, places=action.places, check=check).last
                break
            except ConflictError as error:
                moved = frozenset(map(StreamKey.parse, error.keys))
                if not action.drop:
                    return Conflicted(about=action.about, keys=moved)
                dropped |= moved
                facts = tuple(new for new in facts if new.key not in moved)
        if release is not None:
            self._forget([new.key for new in action.facts])
        if action.places and not facts:
            # Every fact was left out, but the objects are there all the same, and a later fact may name them.
            self.ledger.places.add(action.places)
        if release is not None and dropped:
            self.ledger.work.release(release, dropped)
        return Recorded(about=action.about, facts=action.facts, dropped=frozenset(dropped), position=position)

    def _look_again(self, facts: tuple[NewFact, ...], places: tuple[Placement, ...]) -> None:
        """Check that the objects of new copies are still there, if any were freed since the work was taken.

        This runs under the ledger's lock, and objects are freed only under it. If a copy's object was another copy's
        before, and was freed in the meantime, it is fetched again. Raises: ConflictError, which names those elements.
        """
        since = min(self._taken.get(new.key, 0) for new in facts)
        if self.holds is None or not is_freed_since(self.ledger, since):
            return
        placed = {place.sha256: place for place in places}
        copies = [(new, new.fact.element.copy) for new in facts if isinstance(new.fact, ElementFact)]
        gone = [
            new.key.stored
            for new, copy in copies
            if copy is not None and not self.holds(copy.sha256, copy.size, placed.get(copy.sha256))
        ]
        if gone:
            raise ConflictError(tuple(gone))

    def _forget(self, keys: Iterable[StreamKey] | None) -> None:
        for key in list(self._taken) if keys is None else keys:
            self._taken.pop(key, None)

    def _count_missing(self, action: CountMissing) -> Input:
        known = missing = 0
        stretch = self._stretch(action.after)
        for entry in stretch:
            element = entry.element
            if element is None or not element.present:
                continue
            known += 1
            if entry.stream not in action.seen and is_missing(entry, before=action.before, exempt=action.exempt):
                missing += 1
        return MissingCounted(missing=missing, known=known, after=_end(stretch))

    def _find_missing(self, action: FindMissing) -> Input:
        stretch = self._stretch(action.after)
        found: list[Entry] = []
        for entry in stretch:
            if entry.stream not in action.seen and is_missing(entry, before=action.before, exempt=action.exempt):
                found.append(entry)
                if len(found) == action.limit:
                    return MissingFound(entries=tuple(found), after=entry.key)
        return MissingFound(entries=tuple(found), after=_end(stretch))

    def _stretch(self, after: StreamKey | None) -> list[Entry]:
        return list(islice(self.ledger.scan(source=self.source_id, states=PRESENT, after=after), STRETCH))

    def _take(self, action: TakeWork) -> Input:
        ledger = self.ledger
        rooms = (self.free_bytes(), ledger.database.free_bytes())
        free = min((room for room in rooms if room is not None), default=None)
        position = ledger.head().position
        if free is not None and free < action.min_free:
            return WorkTaken(entries=(), next_due_us=None, free=free, position=position)
        entries = ledger.work.take(
            instance=self.instance,
            lease_us=self.lease_us,
            limit=action.limit,
            max_bytes=action.max_bytes,
            source=self.source_id,
            due_us=ledger.now_us() + HORIZON_US if action.early else None,
        )
        self._taken.update((entry.key, position) for entry in entries)
        next_due_us = None if entries else ledger.next_due_us(self.source_id)
        return WorkTaken(entries=tuple(entries), next_due_us=next_due_us, free=free, position=position)


def _end(stretch: list[Entry]) -> StreamKey | None:
    return stretch[-1].key if len(stretch) == STRETCH else None
