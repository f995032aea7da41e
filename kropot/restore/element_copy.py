"""One element's copy at one moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kropot.replay.copies import held_at
from kropot.replay.fold import Standing, image

if TYPE_CHECKING:
    from kropot.replay.copies import HeldCopy
    from ledger.events import StreamKey
    from ledger.log import Ledger


def held_of(ledger: Ledger, key: StreamKey, position: int) -> HeldCopy | None:
    """Return the copy of one element at `position`, None if it was not known then. This reads only its own stream."""
    standing = None
    for event in ledger.log.stream_events(key.stored):
        if event.seq > position:
            break
        element = image(ledger, event)
        if element is not None:
            standing = Standing(key=key, element=element, position=event.seq, recorded_us=event.recorded_us)
    return None if standing is None else next(held_at(ledger, [standing]))
