"""One element's copy at one moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from kropot.replay.copies import held_at
from kropot.replay.fold import Standing, image
from kropot.restore.history import refuse_altered

if TYPE_CHECKING:
    from kropot.replay.copies import HeldCopy
    from ledger.events import StreamKey
    from ledger.log import Ledger


def held_of(ledger: Ledger, key: StreamKey, position: int) -> HeldCopy | None:
    """Return the copy of one element at `position`, None if it was not known then. This reads only its own stream.

    Raises: AlteredError if its events are not those that were recorded.
    """
    standing = standing_of(ledger, key, position)
    return None if standing is None else judged(ledger, standing)


def standing_of(ledger: Ledger, key: StreamKey, position: int) -> Standing | None:
    """Return the state of one element at `position`, None if it was not known then. This reads only its own stream."""
    standing = None
    for event in ledger.log.stream_events(key.stored):
        if event.seq > position:
            break
        element = image(ledger, event)
        if element is not None:
            standing = Standing(key=key, element=element, position=event.seq, recorded_us=event.recorded_us)
    return standing


def judged(ledger: Ledger, standing: Standing) -> HeldCopy:
    """Compare the events of one element with their headers, and return its copy. Raises: AlteredError."""
    held = next(held_at(ledger, [standing], with_events=True))
    source = ledger.sources().get(standing.key.source)
    refuse_altered(held, None if source is None else source.source.salt)
    return replace(held, events=())
