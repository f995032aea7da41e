"""What happened to each element between two moments. This reads only the streams that changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from kropot.replay.fold import PAGE, StalePointersError, image, pages, pointers_for
from ledger.digest import row
from ledger.events import StreamKey

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ledger.events import Element
    from ledger.log import Ledger

Change = Literal["added", "changed", "stored", "vanished", "reappeared", "damaged", "lost"]
CHANGES: tuple[Change, ...] = ("added", "changed", "stored", "vanished", "reappeared", "damaged", "lost")


_SERIOUS: dict[str, Change] = {"vanished": "vanished", "damaged": "damaged", "lost": "lost"}


class Difference(Struct, frozen=True, kw_only=True):
    """An element that has changed: its state at the earlier moment (None if unknown then) and at the later one.

    `position` is the position of its last event between the two moments.
    """

    change: Change
    key: StreamKey
    before: Element | None
    after: Element
    position: int


def diff(ledger: Ledger, earlier: int, later: int, *, behind: bytes = b"") -> Iterator[Difference]:
    """Yield what changed between the positions `earlier` and `later`, in bytewise key order.

    Only elements whose stored key comes after `behind` are looked at.

    Raises:
        StalePointersError: the ledger lacks an event that another one points to.
        UnknownCriticalEventError, MalformedEventError: as `state.whole`.

    """
    with pointers_for(ledger) as moved:
        moved.fill(ledger.log.pointers(after=earlier, until=later))
        keyed = ((key, stream) for key, stream in ledger.log.streams_by_key(after=behind) if moved[stream])
        for page in pages(keyed, PAGE):
            streams = [stream for _, stream in page]
            was = {stream: at for at, stream in ledger.log.last_positions(earlier, streams)}
            wanted = sorted([*was.values(), *(moved[stream] for stream in streams)])
            events = {event.seq: event for event in ledger.log.events_at(wanted)}
            if len(events) < len(set(wanted)):
                raise StalePointersError("the ledger lacks events that other events point to: run `kropotcli verify`")
            for stored, stream in page:
                key = StreamKey.parse(stored)
                after = image(ledger, events[moved[stream]])
                if not key.is_element or after is None:
                    continue
                before = image(ledger, events[was[stream]]) if stream in was else None
                change = classify(key, before, after)
                if change is not None:
                    yield Difference(change=change, key=key, before=before, after=after, position=moved[stream])


def classify(key: StreamKey, before: Element | None, after: Element) -> Change | None:
    """Return the most serious change of an element, None if its row in the state digest is the same."""
    if before is None:
        return "vanished" if after.state == "vanished" else "added"
    if row(key, before) == row(key, after):
        return None
    if after.state != before.state and after.state in _SERIOUS:
        return _SERIOUS[after.state]
    if before.state == "vanished" and after.present:
        return "reappeared"
    is_stored = after.revision == before.revision and after.copy != before.copy
    return "stored" if is_stored else "changed"
