"""The bytes of segments: files that hold runs of events, so that a ledger can outlive its database (docs/format.md).

Segment k (from 0) holds the events 65,536 k + 1 to 65,536 (k + 1). The newest segment is partial until it is full. The
same events always result in the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import struct
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import msgpack
from msgspec import Struct

from ledger.codec import decode_header, leaf_hash, payload_digest
from ledger.errors import MalformedEventError, MalformedSegmentError
from ledger.merkle import Frontier
from ledger.rows import StoredEvent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ledger.stores import EventLog

SEGMENT_EVENTS: Final = 65_536
MAGIC: Final = b"kropot-segment-1\n"

_MAX_TRAILER = 4096
_MAX_ITEM = 1 << 20
_CHUNK = 1 << 18
_PAGE = 1024
_LENGTH = struct.Struct(">I")


class Reach(Struct, frozen=True, kw_only=True):
    """What a segment commits to: the ledger's id, the first and last position, and the frontier after the last."""

    ledger_id: bytes
    first: int
    frontier: Frontier

    @property
    def last(self) -> int:
        """The last position in the segment."""
        return self.frontier.size


def index_of(position: int) -> int:
    """Return the segment that holds this position (from 1)."""
    return (position - 1) // SEGMENT_EVENTS


def bounds(index: int) -> tuple[int, int]:
    """Return the first and the last position of a full segment."""
    return index * SEGMENT_EVENTS + 1, (index + 1) * SEGMENT_EVENTS


def encode(ledger_id: bytes, log: EventLog, start: Frontier, until: int | None = None) -> Iterator[bytes]:
    """Yield a segment's bytes in chunks. It holds the events after `start`, up to `until`.

    Every leaf is computed from the stored header, so the frontier at the end commits to the segment's content.
    """
    pack = msgpack.Packer(use_bin_type=True).pack
    digest = hashlib.sha256()
    frontier = start
    data = MAGIC + pack([ledger_id, start.size + 1])
    after = start.size
    while page := log.bodies(after, until, _PAGE):
        data += b"".join([pack(row[1:]) for row in page])
        frontier = frontier.extend([leaf_hash(row[2]) for row in page])
        digest.update(data)
        yield data
        data, after = b"", page[-1][0]
    digest.update(data)
    trailer = pack([frontier.size, frontier.stored, digest.digest()])
    yield data + trailer + _LENGTH.pack(len(trailer))


def reach_of(file: BinaryIO) -> Reach:
    """Return what a segment claims to hold, from its head and trailer. This does not read its events.

    Raises:
        MalformedSegmentError: if the file does not have the head and trailer of a segment.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(len(MAGIC) + 64)
    ledger_id, first = _head(head)
    trailer, _ = _trailer(file, size)
    return _reach(ledger_id, first, trailer)


def read(file: BinaryIO, start: Frontier) -> Iterator[tuple[StoredEvent, bytes | None]]:
    """Yield (event, stored key) of a segment that begins after `start`. The events' `stream` is 0.

    This checks positions, leaves against the frontier at the end, payloads against their headers, and the digest over
    all bytes. The caller MUST NOT trust any event before the iterator is exhausted.

    Raises:
        MalformedSegmentError: at the first error. It names the position if it is known.
    """
    size = file.seek(0, io.SEEK_END)
    trailer, end = _trailer(file, size)
    file.seek(0)
    body = _Body(file, end)
    ledger_id, first = _head(body.read(len(MAGIC)), body)
    reach = _reach(ledger_id, first, trailer)
    if first != start.size + 1:
        raise MalformedSegmentError(f"it begins at event {first}, but event {start.size + 1} comes next")
    frontier, leaves = start, []
    for position in range(first, reach.last + 1):
        event, key = _event(body.item(position), position)
        leaves.append(event.leaf)
        if len(leaves) == _PAGE:
            frontier, leaves = frontier.extend(leaves), []
        yield event, key
    frontier = frontier.extend(leaves)
    if body.left():
        raise MalformedSegmentError(f"there are bytes after its last event {reach.last}")
    if body.digest() != trailer[2]:
        raise MalformedSegmentError("its bytes do not match the digest at its end")
    if frontier != reach.frontier:
        raise MalformedSegmentError("its events do not lead to the frontier at its end")


def whole_reach(file: BinaryIO) -> Reach:
    """Return what `reach_of` returns, after comparing all bytes with the digest at their end.

    Only `read` checks the events. Raises: MalformedSegmentError.
    """
    reach = reach_of(file)
    trailer, end = _trailer(file, file.seek(0, io.SEEK_END))
    file.seek(0)
    body = _Body(file, end)
    while body.read(_CHUNK):
        pass
    if body.digest() != trailer[2]:
        raise MalformedSegmentError("its bytes do not match the digest at its end")
    return reach


# --- helpers ---------------------------------------------------------------------------------------------------------


class _Body:
    """Reads the bytes before the trailer item by item, and hashes them. An item has at most 1 MiB."""

    def __init__(self, file: BinaryIO, end: int) -> None:
        self._file = file
        self._left = end
        self._digest = hashlib.sha256()
        self._unpacker = msgpack.Unpacker(raw=False, use_list=True, max_buffer_size=_MAX_ITEM + _CHUNK)

    def read(self, count: int) -> bytes:
        data = self._file.read(min(count, self._left))
        self._left -= len(data)
        self._digest.update(data)
        return data

    def item(self, position: int | None = None) -> Any:
        while True:
            try:
                return self._unpacker.unpack()
            except msgpack.OutOfData:
                data = self.read(_CHUNK)
                if not data:
                    raise MalformedSegmentError("it ends within an event", position=position) from None
                try:
                    self._unpacker.feed(data)
                except msgpack.BufferFull:
                    raise MalformedSegmentError("an event is larger than allowed", position=position) from None
            except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
                raise MalformedSegmentError(
                    f"its bytes are not valid msgpack here ({type(error).__name__})", position=position
                ) from None

    def left(self) -> bool:
        try:
            self._unpacker.skip()
        except msgpack.OutOfData:
            return self._left > 0
        except (ValueError, TypeError, RecursionError, msgpack.UnpackException):
            return True
        return True

    def digest(self) -> bytes:
        return self._digest.digest()


def _head(start: bytes, body: _Body | None = None) -> tuple[bytes, int]:
    if start[: len(MAGIC)] != MAGIC:
        raise MalformedSegmentError("it does not begin like a segment")
    if body is not None:
        fields = body.item()
    else:
        unpacker = msgpack.Unpacker(raw=False, max_buffer_size=_MAX_ITEM)
        unpacker.feed(start[len(MAGIC) :])
        try:
            fields = unpacker.unpack()
        except (ValueError, TypeError, RecursionError, msgpack.UnpackException):
            raise MalformedSegmentError("its head is not valid msgpack") from None
    match fields:
        case [bytes(ledger_id), int(first)] if len(ledger_id) == 16 and first >= 1:  # noqa: PLR2004 -- an id's bytes
            return ledger_id, first
        case _:
            raise MalformedSegmentError("its head does not name a ledger and a position")


def _trailer(file: BinaryIO, size: int) -> tuple[tuple[int, bytes, bytes], int]:
    """Return the trailer's fields, and its offset in bytes."""
    tail = min(size, _MAX_TRAILER)
    file.seek(size - tail)
    data = file.read(tail)
    if len(data) < _LENGTH.size:
        raise MalformedSegmentError("it is cut short")
    (length,) = _LENGTH.unpack(data[-_LENGTH.size :])
    if length > len(data) - _LENGTH.size:
        raise MalformedSegmentError("it is cut short, or its end was changed")
    try:
        fields = msgpack.unpackb(data[-_LENGTH.size - length : -_LENGTH.size], raw=False)
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException):
        raise MalformedSegmentError("its trailer is not valid msgpack") from None
    match fields:
        case [int(last), bytes(nodes), bytes(digest)]:
            return (last, nodes, digest), size - _LENGTH.size - length
        case _:
            raise MalformedSegmentError("its trailer does not name a position, a frontier and a digest")


def _reach(ledger_id: bytes, first: int, trailer: tuple[int, bytes, bytes]) -> Reach:
    last, nodes, _ = trailer
    if not first <= last <= bounds(index_of(first))[1]:
        raise MalformedSegmentError(f"it claims to hold the events {first} to {last}, which no segment can hold")
    try:
        frontier = Frontier.parse(last, nodes)
    except ValueError as error:
        raise MalformedSegmentError(str(error)) from None
    return Reach(ledger_id=ledger_id, first=first, frontier=frontier)


def _event(fields: object, position: int) -> tuple[StoredEvent, bytes | None]:
    match fields:
        case [bytes() | None as key, bytes(header), bytes() | None as nonce, bytes() | None as payload]:
            pass
        case _:
            raise MalformedSegmentError("the bytes here are not an event", position=position)
    try:
        head = decode_header(header)
    except MalformedEventError as error:
        raise MalformedSegmentError(error.why, position=position) from None
    if head.seq != position:
        raise MalformedSegmentError(f"the event claims position {head.seq}", position=position)
    if (nonce is None) != (payload is None):
        raise MalformedSegmentError("the event is only half erased", position=position)
    if nonce is not None and payload is not None and payload_digest(nonce, payload) != head.payload_digest:
        raise MalformedSegmentError("the payload is not the one that the header commits to", position=position)
    event = StoredEvent(
        head.seq,
        0,
        head.stream_version,
        head.type,
        head.schema_version,
        head.flags,
        head.recorded_us,
        head.observed_us,
        head.writer,
        header,
        nonce,
        payload,
        leaf_hash(header),
    )
    return event, key
