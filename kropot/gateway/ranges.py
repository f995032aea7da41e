"""Single byte ranges (RFC 9110 section 14), for resuming a transfer. All functions are pure."""

from __future__ import annotations

import re

from msgspec import Struct

_RANGE = re.compile(r"bytes[ \t]*=[ \t]*(?:([0-9]{1,19})-([0-9]{0,19})|-([0-9]{1,19}))[ \t]*", re.IGNORECASE)


class Span(Struct, frozen=True, kw_only=True):
    """The bytes from `start` up to, but not including, `stop`."""

    start: int
    stop: int


def wanted_span(range_header: str | None, if_range: str | None, *, etag: str, size: int) -> Span | None:
    """Return the part that the client asks for, or None if the whole content must be sent.

    A range counts only together with an If-Range that holds the current strong tag. Without the tag, the client's bytes
    might come from another version. A start at or after the end gives an empty span at the end: it is unsatisfiable.
    """
    if range_header is None or if_range is None or if_range.strip() != etag:
        return None
    found = _RANGE.fullmatch(range_header.strip())
    if found is None:
        return None
    if found[3] is not None:
        length = min(int(found[3]), size)
        return Span(start=size - length, stop=size)
    start = int(found[1])
    last = int(found[2]) if found[2] else size - 1
    if found[2] and last < start:
        return None
    if start >= size:
        return Span(start=size, stop=size)
    return Span(start=start, stop=min(last + 1, size))
