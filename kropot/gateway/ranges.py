"""Single byte ranges, as RFC 9110 section 14 has them, for resuming a transfer; pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

_RANGE = re.compile(r"bytes[ \t]*=[ \t]*(?:([0-9]{1,19})-([0-9]{0,19})|-([0-9]{1,19}))[ \t]*", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Bytes `start` to `stop`, the latter not included."""

    start: int
    stop: int


def wanted_span(range_header: str | None, if_range: str | None, *, etag: str, size: int) -> Span | None:
    """Return the part that is asked for, None where the whole has to be sent.

    A range counts only beside an If-Range with the present strong tag: without it, nobody vouches that what the client
    has is the beginning of this version. A start at or behind the end gives an empty span at the end: unsatisfiable.
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
