"""What was erased: how many elements and payloads, and since when. It reads erased streams only, never all events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import Struct

from kropot.wording import instant, moment, number
from ledger.answers import Erasure
from ledger.codec import decode_header, stream_digest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ledger.events import StreamKey
    from ledger.log import Ledger
    from ledger.rows import StoredEvent


class Erased(Struct, frozen=True, kw_only=True):
    """The sum of all erasures: `payloads` of `elements`, from event `first` to event `last`, None if there are none."""

    elements: int = 0
    payloads: int = 0
    first: Erasure | None = None
    last: Erasure | None = None

    def __str__(self) -> str:
        """Return the sum in words, for a person."""
        if self.first is None or self.last is None:
            return "nothing"
        when = f"at {moment(self.first.recorded_us)} (event {self.first.position})"
        if self.first != self.last:
            end = f"{moment(self.last.recorded_us)} (event {self.last.position})"
            when = f"from {moment(self.first.recorded_us)} (event {self.first.position}) to {end}"
        return f"{number(self.elements, 'element')} with {number(self.payloads, 'payload')}, {when}"

    def __bool__(self) -> bool:
        """Return whether anything was erased."""
        return self.elements > 0

    @property
    def json(self) -> dict[str, Any]:
        """The fields of the JSON answers."""
        first, last = self.first, self.last
        return {
            "elements": self.elements,
            "payloads": self.payloads,
            "since": None if first is None else instant(first.recorded_us),
            "last": None if last is None else instant(last.recorded_us),
            "last_position": None if last is None else last.position,
        }


def sum_of(erasures: Iterable[Erasure]) -> Erased:
    """Return the sum of these erasures."""
    elements = payloads = 0
    first = last = None
    for each in erasures:
        elements += 1
        payloads += each.payloads
        first = each if first is None else min(first, each)
        last = each if last is None else max(last, each)
    return Erased(elements=elements, payloads=payloads, first=first, last=last)


def erased_in(ledger: Ledger) -> Erased:
    """Return what was erased in this ledger."""
    return sum_of(Erasure(event.seq, event.recorded_us, event.stream_version - 1) for event in ledger.erasures())


def erasures_of(ledger: Ledger, keys: Iterable[StreamKey]) -> dict[StreamKey, list[StoredEvent]]:
    """Return the erasures of these elements, without the elements that were not erased.

    Nothing in the ledger names an erased element, but the digest in its headers still tells whether it is this one.
    """
    sources = ledger.sources()
    wanted = {stream_digest(sources[key.source].source.salt, key): key for key in keys}
    found: dict[StreamKey, list[StoredEvent]] = {}
    for event in ledger.erasures():
        key = wanted.get(decode_header(event.header).stream_digest)
        if key is not None:
            found.setdefault(key, []).append(event)
    return found
