"""Marks keep the counts and the lanes of the state digest at a position, so that those at any moment follow quickly.

They are snapshots (kropot/replay/snapshots.py): they can be removed at any time, and `kropotcli verify` computes each
of them again from nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgpack

from kropot.replay.counts import Counts
from kropot.replay.kept import MARKS, Checksums, kept
from kropot.replay.state import ReplicaState, move, whole
from ledger.digest import SetDigest
from ledger.errors import MalformedEventError, UnknownCriticalEventError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ledger.log import Ledger

_SOURCE_BYTES = 16
_LARGEST = (1 << 63) - 1
_WHOLE_SHARE = 3
"""It takes about three times as long to move a state by an event as to fold one event in the whole ledger."""


def state_at(
    ledger: Ledger, position: int, *, snapshots: bool = True, digest: bool = True, processes: int | None = None
) -> ReplicaState:
    """Return the state at `position`. With `snapshots`, start from the nearest sound mark, before or after it.

    Raises:
        StalePointersError, UnknownCriticalEventError, MalformedEventError: as `state.whole`.

    """
    marks = [at for kind, at in ledger.blobs.list_snapshots() if kind == MARKS] if snapshots else []
    return _state(ledger, position, marks, digest=digest, processes=processes)


def save_mark(ledger: Ledger, position: int) -> bool:
    """Save the state at `position`, computed from earlier marks only. Return False if an erasure came in between."""
    as_of = ledger.log.head().position
    state = _state(ledger, position, kept(ledger, MARKS, position - 1), digest=True)
    body = encode(state)
    chunk = Checksums(ledger, MARKS, position).sign(0, body)
    return ledger.blobs.save_snapshot(MARKS, position, [chunk], as_of=as_of)


def load_mark(ledger: Ledger, position: int) -> ReplicaState | None:
    """Return the state of a mark, None if the mark is not sound."""
    if position > ledger.log.head().position:
        return None
    chunks = list(ledger.blobs.load_snapshot(MARKS, position))
    body = Checksums(ledger, MARKS, position).check(0, chunks[0]) if len(chunks) == 1 else None
    return None if body is None else decode(body, position)


def encode(state: ReplicaState) -> bytes:
    """Return a state as canonical msgpack: the counts by name, and the lanes by source."""
    body: bytes = msgpack.packb([dict(sorted(state.counts.plain().items())), state.digest.lanes], use_bin_type=True)
    return body


def decode(body: bytes, position: int) -> ReplicaState | None:
    """Return the state that `encode` turned into these bytes, as that of a mark; None if it made no such bytes."""
    try:
        counts, lanes = msgpack.unpackb(body, strict_map_key=False)
        # Somebody who forges a mark can put anything into it, with a valid checksum.
        if not all(type(number) is int and 0 <= number <= _LARGEST for number in counts.values()):
            return None
        if not all(type(source) is bytes and len(source) == _SOURCE_BYTES for source in lanes):
            return None
        state = ReplicaState(counts=Counts(**counts), digest=SetDigest(lanes), mark=position)
        return state if encode(state) == body else None
    except (ValueError, TypeError, AttributeError):
        return None


def _state(
    ledger: Ledger, position: int, marks: Sequence[int], *, digest: bool, processes: int | None = None
) -> ReplicaState:
    for at in sorted(marks, key=lambda at: abs(at - position)):
        if abs(at - position) > position // _WHOLE_SHARE:
            break
        state = load_mark(ledger, at)
        if state is None:
            continue
        try:
            move(ledger, state, at, position, digest=digest)
        except (UnknownCriticalEventError, MalformedEventError):
            # This position might not depend on that event. The whole fold will tell.
            break
        return state
    return whole(ledger, position, digest=digest, processes=processes)
