"""Record what a policy lets go, and take releases back."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Final, Self

from msgspec.structs import replace

from kropot.objects.store import CHUNK, ObjectMissingError
from kropot.retention.needed import releases_after
from ledger.append import NewFact
from ledger.decoding import entry_of, fact_of
from ledger.errors import ConflictError
from ledger.events import ElementFact, StreamKey
from ledger.retaining import decided_of, freeing_of
from ledger.retention import CopyReleased, LastCopyReleased, ReleaseFact, ReleaseWithdrawn
from ledger.rows import RELEASED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from kropot.objects.store import ObjectStore
    from kropot.retention.deciding import Decider, StreamRelease
    from ledger.events import Copy
    from ledger.log import Ledger
    from ledger.replica import Entry
    from ledger.rows import StoredFact

BATCH: Final = 500


@dataclass(slots=True, kw_only=True)
class ReleaseSum:
    """How many copies of each source (16 bytes) a run let go for each reason, and their bytes; `moved` were skipped."""

    copies: dict[tuple[bytes, str], tuple[int, int]] = field(default_factory=dict)
    moved: int = 0

    def add(self, each: StreamRelease) -> None:
        """Count one."""
        of = each.source, each.release.reason
        copies, size = self.copies.get(of, (0, 0))
        self.copies[of] = copies + 1, size + each.release.size

    @classmethod
    def of(cls, found: Iterable[StreamRelease]) -> Self:
        """Count these."""
        counted = cls()
        for each in found:
            counted.add(each)
        return counted

    def merge(self, other: ReleaseSum) -> None:
        """Add the counts of another one."""
        for of, (copies, size) in other.copies.items():
            before, size_before = self.copies.get(of, (0, 0))
            self.copies[of] = before + copies, size_before + size
        self.moved += other.moved

    @property
    def total(self) -> tuple[int, int]:
        """The copies and bytes of all sources."""
        return sum(each[0] for each in self.copies.values()), sum(each[1] for each in self.copies.values())


class PolicyMovedError(ConflictError):
    """The policy, or a restore point, changed while a release by the old one was to be recorded."""

    def __init__(self) -> None:
        """Name no stream, because the decision itself no longer holds."""
        super().__init__(())


def would_release(decider: Decider) -> ReleaseSum:
    """Count what the decider lets go, and record nothing."""
    counted = ReleaseSum()
    for part in decider.by_range(ReleaseSum.of):
        counted.merge(part)
    return counted


def release(decider: Decider, *, policy: int, by: str, allowed: Callable[[], object]) -> ReleaseSum:
    """Record what the decider lets go. `policy` is the position of the decision that it follows.

    `allowed` is called under the lock before each batch, and can refuse by raising. An element that moved on since the
    decision is left alone. Raises: PolicyMovedError.
    """
    ledger, done = decider.ledger, ReleaseSum()

    def check() -> None:
        allowed()
        if decided_of(ledger).position != policy:
            raise PolicyMovedError

    found = decider.all()
    while page := list(islice(found, BATCH)):
        facts, said = _facts(decider, page, policy=policy, by=by)
        done.moved += len(page) - len(said)
        while facts:
            try:
                ledger.append(facts, check=check)
                break
            except PolicyMovedError:
                raise
            except ConflictError as error:
                moved = set(map(StreamKey.parse, error.keys))
                kept = [at for at, new in enumerate(facts) if new.key not in moved]
                done.moved += len(facts) - len(kept)
                facts, said = [facts[at] for at in kept], [said[at] for at in kept]
        for each in said:
            done.add(each)
    return done


@dataclass(slots=True, kw_only=True)
class UndoSum:
    """How many releases were taken back, and how many could not be, because the object is gone or not sound."""

    copies: int = 0
    bytes: int = 0
    gone: int = 0


def undo(ledger: Ledger, objects: ObjectStore) -> UndoSum:
    """Take back every release whose bytes were not freed yet, after reading its object."""
    done = UndoSum()
    after = freeing_of(ledger).freed.to
    events = releases_after(ledger, after, ledger.head().position)
    while page := list(islice(events, BATCH)):
        keys = dict(ledger.log.streams({event.stream for event in page}))
        for event in page:
            stored = keys.get(event.stream)
            fact = fact_of(event)
            if stored is not None and isinstance(fact, ReleaseFact):
                _undo_one(ledger, objects, StreamKey.parse(stored), event, fact, done)
    return done


# --- helpers ---------------------------------------------------------------------------------------------------------


def _facts(
    decider: Decider, page: Sequence[StreamRelease], *, policy: int, by: str
) -> tuple[list[NewFact], list[StreamRelease]]:
    ledger = decider.ledger
    keys = dict(ledger.log.streams({each.stream for each in page}))
    images = ledger.projection.images([key for key in keys.values() if key is not None])
    entries = {entry.stream: entry for entry in map(entry_of, images)}
    facts: list[NewFact] = []
    said: list[StreamRelease] = []
    now_us = ledger.clock_us()
    more: defaultdict[int, int] = defaultdict(int)
    for each in page:
        entry = entries.get(each.stream)
        if entry is None or entry.element is None or entry.position > decider.position or entry.is_dismissed:
            continue  # it was erased, it moved on, or another event would end what a person decided about it
        sha256, element = each.release.sha256, entry.element
        is_last = element.copy is not None and element.copy.sha256 == sha256
        kind = LastCopyReleased if is_last else CopyReleased
        if is_last:
            element = replace(element, copy=None, damage=None)
            entries[each.stream] = replace(entry, element=element)
        fact = kind(
            element=element,
            sha256=sha256,
            policy=policy,
            decided=decider.position,
            at_us=decider.at_us,
            reason=each.release.reason,
            by=by,
        )
        expected = entry.version + more[each.stream]
        more[each.stream] += 1
        facts.append(NewFact(key=entry.key, fact=fact, observed_us=now_us, expected=expected))
        said.append(each)
    return facts, said


def _undo_one(  # noqa: PLR0917 -- it is a part of `undo`
    ledger: Ledger, objects: ObjectStore, key: StreamKey, event: StoredFact, fact: ReleaseFact, done: UndoSum
) -> None:
    size = sound_size(objects, fact.sha256)
    if size is None:
        done.gone += 1
        return

    def check() -> None:
        # Under the lock: nobody frees it between this look and the commit.
        if freeing_of(ledger).freed.to >= event.seq or objects.size(fact.sha256) != size:
            raise _GoneError

    while True:
        rows = ledger.projection.named([fact.sha256])
        entry = ledger.entries([key]).get(key)
        if entry is None or entry.element is None:
            return
        if not any(row.stream == event.stream and row.state == RELEASED for row in rows):
            return  # it was stored again, or taken back
        element = entry.element
        if isinstance(fact, LastCopyReleased) and element.copy is None:
            element = replace(element, copy=_copy_before(ledger, entry, fact.sha256))
        new = NewFact(
            key=key,
            fact=ReleaseWithdrawn(element=element, sha256=fact.sha256),
            observed_us=ledger.clock_us(),
            expected=entry.version,
        )
        try:
            ledger.append([new], check=check)
        except _GoneError:
            done.gone += 1
            return
        except ConflictError:
            continue
        done.copies += 1
        done.bytes += size
        return


class _GoneError(Exception):
    """The object is no longer there."""


def _copy_before(ledger: Ledger, entry: Entry, sha256: bytes) -> Copy | None:
    """Return the copy of this object from the element's last event that has it."""
    for event in ledger.history(entry.key, newest_first=True):
        if isinstance(event.fact, ElementFact):
            copy = event.fact.element.copy
            if copy is not None and copy.sha256 == sha256:
                return copy
    return None


def sound_size(objects: ObjectStore, sha256: bytes) -> int | None:
    """Read an object and return its size, None if it is missing or does not match its name."""
    digest, size = hashlib.sha256(), 0
    try:
        with objects.open(sha256) as file:
            for data in _chunks(file.read):
                digest.update(data)
                size += len(data)
    except ObjectMissingError:
        return None
    return size if digest.digest() == sha256 else None


def _chunks(read: Callable[[int], bytes | None]) -> Iterator[bytes]:
    while data := read(CHUNK):
        yield data
