"""Snapshots keep the state at a position, so that a later fold reads only the events after it.

There are two kinds: marks, which keep counts and state digest (kropot/replay/marks.py), and pointers. They can be
removed at any time. Each has a checksum over itself and the Merkle root at its position, and a snapshot with a wrong
checksum is ignored. A walk checks its pointers, and kropot/replay/check.py folds all events again and compares.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from kropot.replay.fold import pointers_for
from kropot.replay.kept import MARKS, MARKS_EVERY, Checksums, kept, next_due
from kropot.replay.marks import save_mark
from kropot.replay.pointers import SLOT, Pointers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ledger.log import Ledger

POINTERS = "pointers"
OLD_COUNTS = "counts"
"""A kind that earlier versions kept. Nothing reads it any more."""

POINTERS_EVERY = 1_000_000
"""The number of events between two snapshots of pointers. These grow with the number of elements."""

_CHUNK = 1 << 16
_DELTA_SHARE = 3
"""It takes about three times as long to read an event since a snapshot as to look up a stream's last event."""


def pointers_at(ledger: Ledger, position: int, *, snapshots: bool = True) -> Pointers:
    """Return the pointers at `position`. With `snapshots`, start from the newest sound snapshot up to it."""
    return _point(ledger, position, position if snapshots else 0)


def take_snapshot(ledger: Ledger, position: int) -> tuple[str, ...]:
    """Save a mark and the pointers at `position`. Return the kinds that were saved, none at position 0."""
    if position == 0:
        return ()
    return tuple(kind for kind, save in _KINDS.items() if save(ledger, position))


def maybe_snapshot(
    ledger: Ledger, *, marks_every: int = MARKS_EVERY, pointers_every: int = POINTERS_EVERY
) -> tuple[tuple[str, int], ...]:
    """Take the next snapshot of each kind that is due. Return the (kind, position) of each that was taken.

    Snapshots are taken at multiples of `marks_every` and `pointers_every` events. To catch up with a long history, call
    this until it returns nothing. A mark takes about a quarter of a second.
    """
    head = ledger.log.head().position
    taken: list[tuple[str, int]] = []
    for kind, every in ((MARKS, marks_every), (POINTERS, pointers_every)):
        due = next_due(ledger, kind, every)
        if due <= head and _KINDS[kind](ledger, due):
            taken.append((kind, due))
    if taken and kept(ledger, OLD_COUNTS, head):
        ledger.blobs.drop_snapshots(OLD_COUNTS)
    return tuple(taken)


def drop_snapshots(ledger: Ledger) -> int:
    """Remove every snapshot, and return how many there were. This changes no result."""
    found = ledger.blobs.list_snapshots()
    for kind in {kind for kind, _ in found}:
        ledger.blobs.drop_snapshots(kind)
    return len(found)


# --- pointers --------------------------------------------------------------------------------------------------------


def _point(ledger: Ledger, position: int, limit: int) -> Pointers:
    """Return the pointers at `position`, starting from the newest sound snapshot up to `limit`."""
    pointers, after = pointers_for(ledger), 0
    for at in kept(ledger, POINTERS, limit):
        if _load_pointers(ledger, at, pointers):
            after = at
            break
        pointers.clear()
    if position - after <= position // _DELTA_SHARE:
        pointers.fill(ledger.log.pointers(after=after, until=position))
    else:
        pointers.fill(ledger.log.last_positions(position))
    return pointers


def _save_pointers(ledger: Ledger, position: int) -> bool:
    """Save the pointers at `position`, computed from earlier ones only. Return False if an erasure came in between."""
    as_of = ledger.log.head().position
    with _point(ledger, position, position - 1) as pointers:
        chunks = _pack(Checksums(ledger, POINTERS, position), pointers)
        return ledger.blobs.save_snapshot(POINTERS, position, chunks, as_of=as_of)


_KINDS: dict[str, Callable[[Ledger, int], bool]] = {MARKS: save_mark, POINTERS: _save_pointers}


def _pack(sums: Checksums, pointers: Pointers) -> Iterator[bytes]:
    """Yield chunks with their checksums: first the number of slots, then 65,536 slots each.

    Bytes of the same weight are stored together, because they compress well that way.
    """
    yield sums.sign(0, len(pointers).to_bytes(SLOT, "big"))
    for number, start in enumerate(range(0, len(pointers), _CHUNK), 1):
        data = pointers.chunk(start, start + _CHUNK)
        shuffled = b"".join(data[weight::SLOT] for weight in range(SLOT))
        yield sums.sign(number, zlib.compress(shuffled, 1))


def _load_pointers(ledger: Ledger, position: int, pointers: Pointers) -> bool:
    """Write a snapshot's pointers into `pointers`. Return False if it is not sound; `pointers` is then useless."""
    for start, data in _unpack(ledger, position):
        if data is None:
            return False
        pointers.put(start, data)
    return True


def is_same(ledger: Ledger, position: int, pointers: Pointers) -> bool:
    """Return whether a snapshot holds exactly these pointers, and none for later streams."""
    end = 0
    for start, data in _unpack(ledger, position):
        if data is None or data != pointers.chunk(start, start + len(data) // SLOT):
            return False
        end = start + len(data) // SLOT
    return not any(any(pointers.chunk(at, at + _CHUNK)) for at in range(end, len(pointers), _CHUNK))


def _unpack(ledger: Ledger, position: int) -> Iterator[tuple[int, bytes | None]]:
    """Yield each chunk as (first stream, slots as bytes). For a chunk that is not sound, yield None and stop."""
    sums = Checksums(ledger, POINTERS, position)
    chunks = ledger.blobs.load_snapshot(POINTERS, position)
    head = sums.check(0, next(chunks, b""))
    slots = -1 if head is None else int.from_bytes(head, "big")
    start = 0
    for number, chunk in enumerate(chunks, 1):
        data = _expand(sums.check(number, chunk), min(_CHUNK, slots - start))
        if data is None:
            yield start, None
            return
        yield start, data
        start += len(data) // SLOT
    if start != slots:
        yield start, None


def _expand(body: bytes | None, slots: int) -> bytes | None:
    """Return the slots of a chunk as bytes, None if it does not hold exactly `slots` of them."""
    if body is None or slots <= 0:
        return None
    stream = zlib.decompressobj()
    try:
        # This program writes no data that expands to more than that.
        shuffled = stream.decompress(body, slots * SLOT)
    except zlib.error:
        return None
    if len(shuffled) != slots * SLOT or not stream.eof or stream.unused_data:
        return None
    data = bytearray(len(shuffled))
    for weight in range(SLOT):
        data[weight::SLOT] = shuffled[weight * slots : (weight + 1) * slots]
    return bytes(data)
