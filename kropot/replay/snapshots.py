"""Snapshots keep the pointers and counts at a position, so that a later fold reads only the events after it.

They can be removed at any time, and nothing trusts them alone. Each has a checksum over itself and the Merkle root at
its position. A snapshot with a wrong checksum is ignored. A walk checks its pointers, and `check_snapshots` folds all
events again and compares.
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgpack

from kropot.replay.counts import Counts
from kropot.replay.fold import count, pointers_for
from kropot.replay.pointers import SLOT, Pointers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ledger.log import Ledger

COUNTS = "counts"
POINTERS = "pointers"
COUNTS_EVERY = 50_000
"""The number of events between two snapshots of counts. Reading that many takes about a second."""

POINTERS_EVERY = 1_000_000
"""The number of events between two snapshots of pointers. These grow with the number of elements."""

_CHUNK = 1 << 16
_DELTA_SHARE = 3
"""It takes about three times as long to read an event since a snapshot as to look up a stream's last event."""

_SUM_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotFinding:
    """A snapshot that is wrong. `why` is the reason in words."""

    kind: str
    position: int
    why: str


def count_at(ledger: Ledger, position: int, *, snapshots: bool = True) -> Counts:
    """Return the counts at `position`. With `snapshots`, start from the newest sound snapshot up to it.

    Raises:
        UnknownCriticalEventError, MalformedEventError: as `fold.count`.

    """
    return _count(ledger, position, position if snapshots else 0)


def pointers_at(ledger: Ledger, position: int, *, snapshots: bool = True) -> Pointers:
    """Return the pointers at `position`. With `snapshots`, start from the newest sound snapshot up to it."""
    return _point(ledger, position, position if snapshots else 0)


def take_snapshot(ledger: Ledger, position: int) -> tuple[str, ...]:
    """Save the counts and pointers at `position`. Return the kinds that were saved, none at position 0."""
    if position == 0:
        return ()
    _save_counts(ledger, position)
    _save_pointers(ledger, position)
    return (COUNTS, POINTERS)


def maybe_snapshot(
    ledger: Ledger, *, counts_every: int = COUNTS_EVERY, pointers_every: int = POINTERS_EVERY
) -> tuple[tuple[str, int], ...]:
    """Take the next snapshot of each kind that is due. Return the (kind, position) of each that was taken.

    Snapshots are taken at multiples of `counts_every` and `pointers_every` events. To catch up with a long history,
    call this until it returns nothing. While collecting, it takes about a second every `counts_every` events.
    """
    head = ledger.log.head().position
    taken: list[tuple[str, int]] = []
    for kind, every, save in ((COUNTS, counts_every, _save_counts), (POINTERS, pointers_every, _save_pointers)):
        if head < every:
            continue
        newest = max(_kept(ledger, kind, head), default=0)
        due = (newest // every + 1) * every
        if due <= head:
            save(ledger, due)
            taken.append((kind, due))
    return tuple(taken)


def drop_snapshots(ledger: Ledger) -> int:
    """Remove every snapshot, and return how many there were. This changes no result."""
    kept = ledger.blobs.list_snapshots()
    for kind in {kind for kind, _ in kept}:
        ledger.blobs.drop_snapshots(kind)
    return len(kept)


def check_snapshots(ledger: Ledger) -> Iterator[SnapshotFinding]:
    """Fold the whole ledger again without snapshots, and yield a finding for each snapshot that differs."""
    kept = sorted(ledger.blobs.list_snapshots(), key=lambda pair: pair[1])
    counts, counted, pointed = Counts(), 0, 0
    with pointers_for(ledger) as pointers:
        for kind, position in kept:
            if position > ledger.log.head().position:
                yield SnapshotFinding(kind=kind, position=position, why="it lies beyond the end of the ledger")
            elif kind == COUNTS:
                counts, counted = count(ledger, position, base=counts, after=counted), position
                if _load_counts(ledger, position) != counts:
                    yield SnapshotFinding(kind=kind, position=position, why="its counts differ from the events")
            elif kind == POINTERS:
                pointers.fill(ledger.log.pointers(after=pointed, until=position))
                pointed = position
                if not _is_same(ledger, position, pointers):
                    yield SnapshotFinding(kind=kind, position=position, why="its pointers differ from the events")
            else:
                yield SnapshotFinding(kind=kind, position=position, why="this version does not know its kind")


# --- counts ----------------------------------------------------------------------------------------------------------


def _count(ledger: Ledger, position: int, limit: int) -> Counts:
    """Return the counts at `position`, starting from the newest sound snapshot up to `limit`."""
    for at in _kept(ledger, COUNTS, limit):
        if (base := _load_counts(ledger, at)) is not None:
            return count(ledger, position, base=base, after=at)
    return count(ledger, position)


def _save_counts(ledger: Ledger, position: int) -> None:
    """Save the counts at `position`, computed without any snapshot that is already there."""
    body = msgpack.packb(dict(sorted(_count(ledger, position, position - 1).plain().items())))
    sums = _Checksums(ledger, COUNTS, position)
    ledger.blobs.save_snapshot(COUNTS, position, [sums.sign(0, body)])


def _load_counts(ledger: Ledger, position: int) -> Counts | None:
    """Return the counts of a snapshot, None if the snapshot is not sound."""
    chunks = list(ledger.blobs.load_snapshot(COUNTS, position))
    body = _Checksums(ledger, COUNTS, position).check(0, chunks[0]) if len(chunks) == 1 else None
    try:
        fields = None if body is None else msgpack.unpackb(body)
        counts = Counts(**fields) if isinstance(fields, dict) else None
    except (ValueError, TypeError):
        return None
    if counts is None or any(type(number) is not int for number in counts.plain().values()):
        return None
    return counts


# --- pointers --------------------------------------------------------------------------------------------------------


def _point(ledger: Ledger, position: int, limit: int) -> Pointers:
    """Return the pointers at `position`, starting from the newest sound snapshot up to `limit`."""
    pointers, after = pointers_for(ledger), 0
    for at in _kept(ledger, POINTERS, limit):
        if _load_pointers(ledger, at, pointers):
            after = at
            break
        pointers.clear()
    if position - after <= position // _DELTA_SHARE:
        pointers.fill(ledger.log.pointers(after=after, until=position))
    else:
        pointers.fill(ledger.log.last_positions(position))
    return pointers


def _save_pointers(ledger: Ledger, position: int) -> None:
    """Save the pointers at `position`, computed without any snapshot that is already there."""
    with _point(ledger, position, position - 1) as pointers:
        ledger.blobs.save_snapshot(POINTERS, position, _pack(_Checksums(ledger, POINTERS, position), pointers))


def _pack(sums: _Checksums, pointers: Pointers) -> Iterator[bytes]:
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


def _is_same(ledger: Ledger, position: int, pointers: Pointers) -> bool:
    """Return whether a snapshot holds exactly these pointers, and none for later streams."""
    end = 0
    for start, data in _unpack(ledger, position):
        if data is None or data != pointers.chunk(start, start + len(data) // SLOT):
            return False
        end = start + len(data) // SLOT
    return not any(any(pointers.chunk(at, at + _CHUNK)) for at in range(end, len(pointers), _CHUNK))


def _unpack(ledger: Ledger, position: int) -> Iterator[tuple[int, bytes | None]]:
    """Yield each chunk as (first stream, slots as bytes). For a chunk that is not sound, yield None and stop."""
    sums = _Checksums(ledger, POINTERS, position)
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


# --- checksums -------------------------------------------------------------------------------------------------------


def _kept(ledger: Ledger, kind: str, limit: int) -> list[int]:
    """Return the positions of the snapshots of one kind up to `limit`, the newest first."""
    if limit == 0:
        return []
    return sorted((at for each, at in ledger.blobs.list_snapshots() if each == kind and 0 < at <= limit), reverse=True)


class _Checksums:
    """Checksums over a chunk, its number, and its snapshot's kind, position and Merkle root."""

    def __init__(self, ledger: Ledger, kind: str, position: int) -> None:
        root = ledger.frontier_at(position).root
        self._label = b"kropot snapshot 1\x00" + kind.encode() + b"\x00" + position.to_bytes(SLOT, "big") + root

    def sign(self, number: int, body: bytes) -> bytes:
        """Return the checksum followed by the body."""
        return hashlib.sha256(self._label + number.to_bytes(SLOT, "big") + body).digest() + body

    def check(self, number: int, chunk: object) -> bytes | None:
        """Return the body, None if the checksum does not fit this chunk, snapshot and history."""
        if not isinstance(chunk, bytes):  # a column of a tampered database can hold anything
            return None
        body = chunk[_SUM_BYTES:]
        return body if chunk == self.sign(number, body) else None
