"""The bulk request and the frames of its answer, as bytes (docs/protocol.md, section 8). Pure.

A frame is the length of its head (4 bytes, big-endian), the head (a msgpack array), and the content that it announces.
"""

from __future__ import annotations

import struct
from enum import StrEnum
from typing import Final

import orjson

from kropot.errors import KropotError
from kropot.msgpacked import pack

PATH: Final = "/secure-copy/file/bulk"
MEDIA_TYPE: Final = "application/vnd.kropot.bulk"
VERSION: Final = 1
"""The value of the field `bulk` in a list's header."""

MAX_ELEMENTS: Final = 1000
MAX_CONTENT: Final = 1 << 20
"""The longest content that is sent in a frame, in bytes, as given in the list."""

MAX_ANSWER: Final = 32 << 20
"""The most bytes of contents in one answer."""

MAX_BODY: Final = 1 << 20
"""The longest request body, in bytes."""

_MAX_ID: Final = 512
_MAX_ETAG: Final = 256
_PAIR: Final = 2
_LENGTH: Final = struct.Struct(">I")


class FrameKind:
    """The first item of a frame's head."""

    CONTENT: Final = 0
    REFUSAL: Final = 1
    END: Final = 2


class Refusal(StrEnum):
    """Why an element is not sent."""

    GONE = "gone"
    CHANGED = "changed"
    UNREADABLE = "unreadable"
    BUSY = "busy"
    LARGE = "large"


class BadBulkRequestError(KropotError):
    """A body that is not a bulk request."""

    http_status = 400


class TooManyElementsError(BadBulkRequestError):
    """A body that asks for too many elements."""

    http_status = 413


def encode_request(elements: list[tuple[str, str]]) -> bytes:
    """Return the body that asks for elements, each as (id, etag)."""
    return orjson.dumps({"elements": elements})


def parse_request(body: bytes | bytearray) -> list[tuple[str, str]]:
    """Return the elements that a body asks for, each as (id, etag).

    Raises:
        BadBulkRequestError: it is not such a body.
    """
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise BadBulkRequestError("The request body is not valid JSON: send a JSON object") from None
    elements = found.get("elements") if type(found) is dict else None
    if type(elements) is not list:
        raise BadBulkRequestError('The request body has no list "elements" of pairs [id, etag]')
    if len(elements) > MAX_ELEMENTS:
        raise TooManyElementsError(f"The request asks for too much: send at most {MAX_ELEMENTS} elements")
    for each in elements:
        if type(each) is not list or len(each) != _PAIR or type(each[0]) is not str or type(each[1]) is not str:
            raise BadBulkRequestError('Each of "elements" is a pair [id, etag] of two texts')
        if not 0 < len(each[0]) <= _MAX_ID or len(each[1]) > _MAX_ETAG:
            raise BadBulkRequestError(f"An id has 1 to {_MAX_ID} characters, and an etag at most {_MAX_ETAG}")
    return [(element, etag) for element, etag in elements]


def content_head(index: int, element: str, etag: str, *, iv: bytes | None, size: int, sha256: bytes) -> bytes:
    """Return the beginning of a frame with a content. `size` bytes of content with this SHA-256 MUST follow."""
    return _framed([FrameKind.CONTENT, index, etag, iv, size, sha256, element])


def refusal_frame(index: int, element: str, reason: Refusal) -> bytes:
    """Return the frame for an element that is not sent."""
    return _framed([FrameKind.REFUSAL, index, reason.value, element])


def end_frame(count: int) -> bytes:
    """Return the last frame. An answer without it was cut."""
    return _framed([FrameKind.END, count])


def _framed(head: list[object]) -> bytes:
    packed = pack(head)
    return _LENGTH.pack(len(packed)) + packed
