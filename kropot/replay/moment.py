"""Find the position in a ledger that WHEN means, its recorded time, and the Merkle root there."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from msgspec import Struct

from kropot.errors import IntegrityError
from kropot.replay.until import At, Position, When
from kropot.wording import instant
from ledger.checkpoint import Checkpoint, origin_of

if TYPE_CHECKING:
    from ledger.log import Head, Ledger


class Moment(Struct, frozen=True, kw_only=True):
    """A past state of the ledger: what the events up to `position` say.

    `until` is the request (an exclusive time in UTC, or `@position`), None for now. `recorded_us` is the time of the
    last of these events in microseconds since 1970, None if there are no events. `root` is the Merkle root (32 bytes)
    over them. `notes` are sentences for the user.
    """

    until: str | None
    position: int
    recorded_us: int | None
    root: bytes
    notes: tuple[str, ...] = ()


def resolve(ledger: Ledger, when: When | None, *, now_us: int) -> Moment:
    """Return the moment that `when` means in this ledger. None means now, and a time in the future means now too.

    Raises:
        IntegrityError: a checkpoint belongs to another ledger, or covers a history that this ledger does not have.

    """
    head = ledger.head()
    notes: list[str] = []
    match when:
        case None:
            until, position = None, head.position
        case At(us=us, naive=naive):
            until, position = instant(us), min(ledger.position_at(us), head.position)
            if naive:
                notes.append(f"the time has no offset, so it is read as UTC: {until}")
            if us > max(now_us, head.recorded_us):
                notes.append(f"{until} is in the future: this is the state now, at position {position}")
        case Position(position=asked):
            until, position = f"@{asked}", min(asked, head.position)
            if asked > head.position:
                notes.append(f"the ledger ends at position {position}, before {until}: this is the state now")
        case Checkpoint():
            until, position = f"@{when.size}", _covered(ledger, when, head)
        case _:
            assert_never(when)
    return Moment(
        until=until,
        position=position,
        recorded_us=_recorded_us(ledger, position),
        root=head.frontier.root if position == head.position else ledger.frontier_at(position).root,
        notes=tuple(notes),
    )


def _covered(ledger: Ledger, checkpoint: Checkpoint, head: Head) -> int:
    """Return the checkpoint's size. Raises: IntegrityError if this ledger does not have the history that it covers."""
    if head.position and checkpoint.origin != origin_of(ledger.identity().ledger_id):
        raise IntegrityError(
            f"the checkpoint belongs to another ledger, with the origin {checkpoint.origin}: "
            "give a checkpoint of this ledger"
        )
    if checkpoint.size > head.position:
        raise IntegrityError(
            f"the checkpoint covers {checkpoint.size} events, but the ledger has only {head.position}: restore the "
            "database from its newest backup"
        )
    if ledger.frontier_at(checkpoint.size).root != checkpoint.root:
        raise IntegrityError(
            f"the ledger's first {checkpoint.size} events are not those that the checkpoint covers, so the history was "
            "altered: run `kropotcli verify`"
        )
    return checkpoint.size


def _recorded_us(ledger: Ledger, position: int) -> int | None:
    events = ledger.log.events_at([position]) if position else []
    return events[0].recorded_us if events else None
