"""Reads a bulk answer frame by frame, and believes contents that pass all checks (docs/protocol.md, section 8). Pure.

A server can send anything. So only what the request asked for is read, no frame is longer than a content may be, and
all of them together are no longer than an answer may be. An error in one content spoils only that content. An error in
the order of the frames ends the answer, and the whole frames before it are kept.
"""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

import msgpack

from kropot.errors import KropotError
from kropot.sc2.layout import HEADER_BYTES
from kropot.securecopy.bulkwire import MAX_ANSWER, MAX_CONTENT, FrameKind
from kropot.securecopy.content import TAIL_BYTES, UnbelievableError, check_tail
from kropot.securecopy.iv import BLOCK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

MAX_HEAD: Final = 2048
"""The longest head of a frame, in bytes: an id, an entity tag and a few numbers."""

_LENGTH: Final = struct.Struct(">I")
_SHA256: Final = 32


class BadBulkAnswerError(KropotError):
    """From here on, the answer is not a bulk answer; `reason` is a stable word."""

    def __init__(self, reason: str) -> None:
        """Keep the reason."""
        super().__init__(f"the server's bulk answer cannot be read: {reason}")
        self.reason = reason


class BulkWanted(NamedTuple):
    """A content to ask for, as the list describes it.

    `size` is that of the content as it is sent, in bytes. `is_opaque` says whether it is sealed. `header` is what an
    object of `sc2` has to begin with (144 bytes), None for other contents.
    """

    id: str
    etag: str
    size: int
    is_opaque: bool
    header: bytes | None


class BulkContent(NamedTuple):
    """A believed content: its place in the request, its IV (16 bytes) if it has one, its bytes and their SHA-256."""

    at: int
    iv: bytes | None
    data: bytes
    sha256: bytes


def read_frames(read: Callable[[int], bytes], wanted: Sequence[BulkWanted], *, first: int = 0) -> Iterator[BulkContent]:
    """Yield the believable contents in an answer, in the order of the request. Refusals yield nothing.

    `read` returns exactly as many bytes as it is asked for, or raises an error that the caller handles. Places count
    from `first`.

    Raises:
        BadBulkAnswerError: the answer breaks the protocol. The contents yielded before are whole.
    """
    left = MAX_ANSWER
    unpack, size_of = msgpack.unpackb, _LENGTH.unpack
    for index, one in enumerate(wanted):
        (length,) = size_of(read(4))
        head = _head(unpack, read, length)
        if head[0] == FrameKind.REFUSAL:
            if head[1:2] != [index] or head[3:4] != [one.id]:
                raise BadBulkAnswerError("other_frame")
            continue
        iv, size, digest = _claims(head, index, one.id)
        if size > left or size > MAX_CONTENT:
            raise BadBulkAnswerError("too_long")
        left -= size
        data = read(size)
        if is_believable(one, head[2], iv, data) and hashlib.sha256(data).digest() == digest:
            yield BulkContent(first + index, iv, data, digest)
    (length,) = size_of(read(4))
    if _head(unpack, read, length) != [FrameKind.END, len(wanted)]:
        raise BadBulkAnswerError("no_end")


def is_believable(wanted: BulkWanted, etag: object, iv: bytes | None, data: bytes) -> bool:
    """Return whether this is the content that was listed, as far as can be told without its digest."""
    size = len(data)
    if etag != wanted.etag or size != wanted.size:
        return False
    if wanted.header is not None:
        if iv is not None or data[:HEADER_BYTES] != wanted.header:
            return False
    elif wanted.is_opaque != (iv is not None) or (iv is not None and (size == 0 or size % BLOCK)):
        return False
    try:
        check_tail(
            data[-TAIL_BYTES:], size, opaque=wanted.is_opaque, sc2=wanted.header is not None, expected=wanted.size
        )
    except UnbelievableError:
        return False
    return True


def _head(unpack: Callable[[bytes], object], read: Callable[[int], bytes], length: int) -> list[object]:
    """Return the head of a frame. Raises: BadBulkAnswerError."""
    if length > MAX_HEAD:
        raise BadBulkAnswerError("bad_head")
    try:
        head = unpack(read(length))
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException):
        raise BadBulkAnswerError("bad_head") from None
    if type(head) is not list or not head:
        raise BadBulkAnswerError("bad_head")
    return head


def _claims(head: list[object], index: int, id_: str) -> tuple[bytes | None, int, bytes]:
    """Return the IV, size and SHA-256 that a content's head states. Raises: BadBulkAnswerError."""
    try:
        kind, at, _, iv, size, digest, element = head
    except ValueError:
        raise BadBulkAnswerError("bad_head") from None
    if kind != FrameKind.CONTENT or at != index or element != id_:
        raise BadBulkAnswerError("other_frame")
    if type(size) is not int or size < 0 or type(digest) is not bytes or len(digest) != _SHA256:
        raise BadBulkAnswerError("bad_head")
    if iv is not None and (type(iv) is not bytes or len(iv) != BLOCK):
        raise BadBulkAnswerError("bad_head")
    return iv, size, digest
