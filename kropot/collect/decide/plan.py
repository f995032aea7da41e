"""What a look at the server, a fetch or a failure means for one element: pure decisions that yield facts.

A revision of an element is recognised by its date, and by `etag` and `size` if the server gives them. A form of AES-CBC
differs at every listing and says nothing. A form of `sc2` names the version, and this alone decides.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from kropot.securecopy.sealed_form import is_same_content
from ledger.events import (
    Copy,
    CopyStored,
    Element,
    Failure,
    FetchFailed,
    RemoteChanged,
    RemoteObserved,
    RemoteReappeared,
    RemoteVanished,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kropot.securecopy.wire import Listed
    from ledger.events import Source, StreamKey
    from ledger.replica import Entry

SECOND_US = 1_000_000

_UNMOVED = frozenset({0})

Observation = RemoteObserved | RemoteChanged | RemoteReappeared


class Dates(Struct, frozen=True, kw_only=True):
    """How far dates may have moved without anything having changed, by the number of zone changes they have seen."""

    by_epoch: tuple[frozenset[int], ...]

    @property
    def epoch(self) -> int:
        """The number of zone changes so far, all of which a date seen now has seen."""
        return len(self.by_epoch) - 1

    def agree(self, element: Element, date: int) -> bool:
        """Whether the element's date, seen now as `date`, is still the same moment on the server's wall clock."""
        moved = date - element.date
        return moved == 0 or moved in self.ways(element)

    def ways(self, element: Element) -> frozenset[int]:
        """Return how far the element's date may have moved up to now, without anything having changed."""
        return self.by_epoch[element.epoch] if element.epoch < len(self.by_epoch) else _UNMOVED


class Backoff(Struct, frozen=True, kw_only=True):
    """When a failed fetch is tried again: after `base_s` x 2^(n-1) seconds, at most `cap_s`, less up to half of it."""

    base_s: float = 30
    cap_s: float = 6 * 3600

    def delay_us(self, attempts: int, jitter: float) -> int:
        """Return the pause after the attempt of this number (from 1), in microseconds; `jitter` is in [0, 1)."""
        full = min(self.cap_s, self.base_s * 2.0 ** min(attempts - 1, 64))
        return int(full * (1 - jitter / 2) * SECOND_US)


def known_dates(source: Source) -> Dates:
    """Return how far the dates of this source may have moved: every way through the zone changes an element has seen.

    A date that did not move at all agrees too, because for part of the year a changed zone can be what it was.
    """
    ways = [frozenset({0})]
    for offsets in reversed(source.zone_shifts):
        ways.append(frozenset(way + offset for way in ways[-1] for offset in (0, *offsets)))
    return Dates(by_epoch=tuple(reversed(ways)))


def first_sight(listed: Listed, dates: Dates, copy: Copy | None = None) -> Element:
    """Return an element that is seen for the first time, with a copy of its content if that is here already."""
    return Element(
        date=listed.date,
        tz=listed.tz,
        form=listed.form,
        revision=1,
        present=True,
        epoch=dates.epoch,
        size=listed.size,
        etag=listed.etag,
        copy=copy,
        damage=None,
        failure=None,
    )


def observe(element: Element | None, listed: Listed, dates: Dates) -> Observation | None:
    """Return what the sighting of `listed` says about an element as known (None: unknown); None if nothing is new.

    `dates` is how far the dates of the element's source may have moved. If the content is the same (by a strong etag,
    or by the version in a form of `sc2`), another date or form is news about the element, but no new revision, so its
    copy stays current.
    """
    if element is None:
        return RemoteObserved(element=first_sight(listed, dates))
    if _is_same_revision(element, listed, dates):
        return None if element.present else RemoteReappeared(element=replace(element, present=True))
    changed = Element(
        date=listed.date,
        tz=listed.tz,
        form=listed.form,
        revision=element.revision + (not _is_same_content(element, listed)),
        present=True,
        epoch=dates.epoch,
        size=listed.size,
        etag=listed.etag,
        copy=element.copy,
        damage=element.damage,
        failure=None,
    )
    return RemoteChanged(element=changed) if element.present else RemoteReappeared(element=changed)


def is_only_moved(element: Element, listed: Listed) -> bool:
    """Whether the date alone tells the revisions apart, and moved by whole quarter hours, at most 26 hours.

    A change of the server's zone looks like this.
    """
    moved = abs(listed.date - element.date)
    return moved != 0 and moved % 900 == 0 and moved <= 26 * 3600 and _is_unchanged(element, listed)


def stored(element: Element, *, sha256: bytes, size: int, iv: bytes | None, instance: str) -> CopyStored:
    """Return the fact that this element's present revision has a durable copy."""
    return CopyStored(
        element=Element(
            date=element.date,
            tz=element.tz,
            form=element.form,
            revision=element.revision,
            present=element.present,
            epoch=element.epoch,
            size=element.size,
            etag=element.etag,
            copy=Copy(sha256=sha256, size=size, iv=iv, revision=element.revision, instance=instance),
            damage=None,
            failure=None,
        )
    )


def failed(key: StreamKey, element: Element, *, reason: str, now_us: int, backoff: Backoff) -> FetchFailed:
    """Return the fact that a fetch of this element brought no content that can be believed."""
    before = element.failure
    attempts = 1 if before is None else before.attempts + 1
    failure = Failure(
        reason=reason,
        attempts=attempts,
        since_us=now_us if before is None else before.since_us,
        next_try_us=now_us + backoff.delay_us(attempts, jitter(key.stored, attempts)),
    )
    return FetchFailed(element=replace(element, failure=failure))


def vanished(element: Element) -> RemoteVanished:
    """Return the fact that the source no longer has this element; its copies stay."""
    return RemoteVanished(element=replace(element, present=False, failure=None))


def is_missing(entry: Entry, *, before: int, exempt: Sequence[tuple[int, int]]) -> bool:
    """Whether an entry that a full listing did not show is gone from the source.

    It is not if anything happened to it since the listing began, after position `before`, or if its date is in one of
    the `exempt` ranges (first and last second), where the listing could not look.
    """
    element = entry.element
    if element is None or not element.present or entry.position > before:
        return False
    return not any(first <= element.date <= last for first, last in exempt)


def jitter(salt: bytes, number: int) -> float:
    """Return a number in [0, 1) that is the same for the same arguments, so that failures of one moment spread out."""
    digest = hashlib.sha256(b"%d\x00%s" % (number, salt)).digest()
    return int.from_bytes(digest[:7]) / (1 << 56)


def _is_same_revision(element: Element, listed: Listed, dates: Dates) -> bool:
    return dates.agree(element, listed.date) and _is_unchanged(element, listed)


def _is_same_content(element: Element, listed: Listed) -> bool:
    """Whether the server says that the content is still the known one."""
    same = is_same_content(element.form, listed.form)
    return listed.vouches_for(element.etag, element.size) if same is None else same


def _is_unchanged(element: Element, listed: Listed) -> bool:
    """Whether nothing but the date can have changed: forms of `sc2` are the same, and so is every other claim."""
    if element.form != listed.form and is_same_content(element.form, listed.form) is not None:
        return False
    return (element.etag is None or listed.etag is None or element.etag == listed.etag) and (
        element.size is None or listed.size is None or element.size == listed.size
    )
